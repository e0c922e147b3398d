"""`ollamamax cluster ha|backup|restore` against a fake node, or none."""

import json
import stat
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_support import Cli, cli
from fake_node import Reply, error, stream

from ollamamax.core.errors import Conflict

__all__ = ["cli"]  # the fixture

PATH = "/admin/v1/cluster/ha"
HOSTS: list[dict[str, Any]] = [
    {"name": "n1", "reachable": True, "etcd": "3.5.9", "is_leader": True, "db_bytes": 25_000_000, "lag": 0},
    {"name": "n2", "reachable": True, "etcd": "3.5.9", "db_bytes": 25_000_000, "lag": 3},
    {"name": "n3", "reachable": False, "trouble": "it can't be reached"},
]
HOME: dict[str, Any] = {
    "kind": "etcd",
    "phase": "steady",
    "generation": 1,
    "hosts": HOSTS,
    "survives": 0,
    "last_backup_ns": 0,
    "trouble": ["n3: it can't be reached"],
}
STEPS = ({"status": "looking at n1, n2, n3"}, {"status": "success"})


def test_how_it_is(cli: Cli) -> None:
    cli.node.answers[f"GET {PATH}"] = Reply(body={**HOME, "last_backup_ns": time.time_ns() - 60_000_000_000})
    told = cli("cluster", "ha", "status").out
    assert told.splitlines() == [
        "state: on etcd, which the cluster runs itself",
        "survives: the loss of 0 more nodes",
        "last copy here: 1 minute ago",
        "",
        "NODE    ROLE      ETCD     DB       LAG",
        "n1      leader    3.5.9    25 MB    0",
        "n2      voter     3.5.9    25 MB    3",
        "n3      away      -        -        -",
        "! n3: it can't be reached",
    ]
    assert json.loads(cli("cluster", "ha", "status", "--json").out)["kind"] == "etcd"


@pytest.mark.parametrize(
    ("home", "text"),
    [
        ({"kind": "sqlite"}, "state: on one node alone"),
        ({"kind": "external", "endpoints": ["etcd:2379"]}, "endpoints: etcd:2379"),
        ({"phase": "moving", "mover": "n1"}, "moving: node n1 copies it"),
        ({"survives": 1}, "survives: the loss of 1 more node\n"),
    ],
)
def test_other_homes(cli: Cli, home: dict[str, Any], text: str) -> None:
    cli.node.answers[f"GET {PATH}"] = Reply(body={**HOME, **home})
    assert text in cli("cluster", "ha", "status").out


def test_it_is_spread(cli: Cli) -> None:
    cli.node.answers[f"POST {PATH}"] = stream(*STEPS)
    cli.node.answers[f"GET {PATH}"] = Reply(body=HOME)
    done = cli("cluster", "ha", "enable", "--nodes", "n1, n2,n3")
    assert (done.code, done.err) == (0, "looking at n1, n2, n3\nsuccess\n")
    assert "n1      leader" in done.out
    assert cli.node.to(PATH)[0].json == {"voters": 3, "nodes": ["n1", "n2", "n3"], "external": False}
    done = cli("cluster", "ha", "enable", "--external", "--json")
    assert (json.loads(done.out)["kind"], done.err) == ("etcd", "")


def test_what_fails_on_the_way(cli: Cli) -> None:
    cli.node.answers[f"POST {PATH}"] = error(409, "n2: etcd was not found")
    assert cli("cluster", "ha", "enable").err == "Error: n2: etcd was not found\n"
    cli.node.answers[f"POST {PATH}"] = stream(STEPS[0])
    done = cli("cluster", "ha", "enable")
    assert done.code == 1
    assert "cluster ha status" in done.err


def test_back_again_and_a_replacement(cli: Cli) -> None:
    cli.node.answers[f"GET {PATH}"] = Reply(body=HOME)
    cli.node.answers[f"DELETE {PATH}?node=n2"] = cli.node.answers[f"DELETE {PATH}"] = stream(*STEPS)
    assert cli("cluster", "ha", "disable", "--node", "n2").code == 0
    cli.node.answers[f"POST {PATH}/replace"] = stream(*STEPS)
    assert cli("cluster", "ha", "replace", "n3", "n4").code == 0
    assert cli.node.to(f"{PATH}/replace")[0].json == {"node": "n3", "by": "n4", "nobody": False}
    assert cli("cluster", "ha", "replace", "n3", "--nobody").code == 0


def test_a_copy_is_whole_or_not_there(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "copy.state"
    cli.node.answers["GET /admin/v1/cluster/backup"] = Reply(body={"any": "bytes"})
    assert cli("cluster", "backup", str(file)).out.startswith(f"wrote {file} (")
    assert json.loads(file.read_bytes()) == {"any": "bytes"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(cli("cluster", "backup", str(file), "--json").out)["file"] == str(file)
    done = cli("cluster", "backup", str(tmp_path / "nowhere" / "x"))
    assert (done.code, "No such file" in done.err) == (1, True)
    assert [one.name for one in tmp_path.iterdir() if one.name.endswith(".part")] == []


def test_a_copy_is_brought_back(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    fault: list[Exception] = []

    def restore(settings: Any, file: Path) -> int:
        asked.append(file)
        if fault:
            raise fault[0]
        return 4

    monkeypatch.setitem(sys.modules, "ollamamax.main", SimpleNamespace(restore_backup_offline=restore))  # type: ignore[arg-type]
    file = str(tmp_path / "copy.state")
    assert cli("cluster", "restore", file, typed="n\n").code == 1
    assert asked == []
    assert "Start it: ollamamax serve" in cli("cluster", "restore", file, typed="y\n").out
    assert json.loads(cli("cluster", "restore", file, "-y", "--json").out) == {"file": file, "generation": 4}
    fault.append(Conflict("another cluster's"))
    assert cli("cluster", "restore", file, "-y").err == "Error: another cluster's\n"
