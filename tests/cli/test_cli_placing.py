"""`ollamamax place|placements`, `ollamamax node drain|undrain`, `--nodes`, against a fake node."""

import json
from typing import Any

import pytest
from cli_support import Cli, cli
from fake_node import Reply, error, stream

from ollamamax.cli import placing

__all__ = ["cli"]  # the fixture

ADMIN = "/admin/v1"
ONE: dict[str, Any] = {
    "name": "org/tiny:latest",
    "replicas": 2,
    "ready": 2,
    "missing": 0,
    "extra": 1,
    "nodes": [{"node": "alpha", "replicas": 2, "ready": 2}],
    "need_bytes": 5_000_000,
    "is_guess": False,
    "why": ["alpha: runs\x1b there"],
    "changed_ns": 1,
    "decided_ns": 2,
}
LOADING = {**ONE, "ready": 1, "nodes": [{"node": "alpha", "replicas": 2, "ready": 1}]}
MISSING = {**ONE, "missing": 1, "ready": 1, "nodes": [{"node": "alpha", "replicas": 1, "ready": 1}]}
TINY = f"{ADMIN}/placements/org/tiny"
NODE: dict[str, Any] = {"name": "beta", "state": "drained", "replicas": 0, "slots_used": 0, "queued": 0}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "_LOOK_S", 0.0)


def replies(*bodies: Any) -> Any:
    """One after the other, then the last one for ever."""
    left = list(bodies)
    return lambda asked: Reply(body=left.pop(0) if len(left) > 1 else left[0])


def test_a_model_is_placed(cli: Cli) -> None:
    cli.node.answers[f"PUT {TINY}"] = Reply(body={**MISSING, "is_guess": True})
    done = cli("place", "org/tiny", "-r", "2", "--on", "gpu=a", "--pin", "n1", "--max-replicas", "4", "--idle", "10m")
    assert cli.node.asked[-1].json == {
        "replicas": 2, "pins": ["n1"], "labels": {"gpu": "a"}, "max_replicas": 4, "idle_ms": 600_000,
    }  # fmt: skip
    assert done.out.splitlines() == [
        "org/tiny:latest: 1 of 3 replicas ready, alpha",
        "!  alpha: runs there",
        "!  a replica is thought to need 5 MB, by the size of its files",
    ]
    cli("place", "org/tiny", "--pin", "n1", "--pin", "n2", "--json")
    assert cli.node.asked[-1].json["replicas"] == 2, "one for each pin"


def test_it_waits_until_the_replicas_are_ready(cli: Cli) -> None:
    cli.node.answers[f"PUT {TINY}"] = Reply(body=LOADING)
    cli.node.answers[f"GET {TINY}"] = replies({**ONE, "decided_ns": 0}, LOADING, ONE)
    done = cli("place", "org/tiny", "--wait")
    assert (done.code, done.out) == (0, "org/tiny:latest: 2 of 3 replicas ready, alpha x2\n")
    assert "alpha x2 (loading)" in done.err
    cli.node.answers[f"GET {TINY}"] = Reply(body=MISSING)
    assert "1 of the replicas of org/tiny have no place: alpha: runs there" in cli("place", "org/tiny", "--wait").err
    cli.node.answers[f"GET {TINY}"] = Reply(body=LOADING)
    done = cli("place", "org/tiny", "--wait", "--timeout", "1ms")
    assert (done.code, "are not ready after" in done.err) == (1, True)


def test_a_wish_is_explained_or_taken_back(cli: Cli) -> None:
    plan = {"name": "x", "nodes": {}, "missing": 0, "text": "line\n-  why", "moves": ["big: a -> b"]}
    cli.node.answers[f"POST {TINY}/explain"] = Reply(body=plan)
    assert cli("place", "org/tiny", "--explain").out == "line\n-  why\nalso moves  big: a -> b\n"
    assert json.loads(cli("place", "org/tiny", "--explain", "--json").out) == plan
    cli.node.answers[f"DELETE {TINY}"] = Reply(body={"name": "org/tiny"})
    assert cli("place", "org/tiny", "--remove").out == "'org/tiny' is not placed any more\n"
    assert json.loads(cli("place", "org/tiny", "--remove", "--json").out) == {"name": "org/tiny"}


@pytest.mark.parametrize("words", [["--on", "gpu"], ["--on", "=a"], ["--on", "a=1", "--on", "a=2"], ["--idle", "x"]])
def test_what_is_no_wish(cli: Cli, words: list[str]) -> None:
    done = cli("place", "tiny", *words)
    assert (done.code, done.out, cli.node.asked) == (2, "", [])


def test_placements_are_listed(cli: Cli) -> None:
    waits = {**MISSING, "decided_ns": 0, "why": [], "extra": 0, "nodes": []}
    cli.node.answers[f"GET {ADMIN}/placements"] = Reply(body={"placements": [ONE, waits]})
    rows = [
        [cell.strip() for cell in line.split("    ") if cell.strip()] for line in cli("placements").out.splitlines()
    ]
    assert rows == [
        ["MODEL", "DESIRED", "READY", "MISSING", "WHERE", "WHY"],
        ["org/tiny:latest", "2+1", "2", "0", "alpha x2", "alpha: runs there"],
        ["org/tiny:latest", "2", "1", "1", "-", "not decided yet"],
    ]
    assert json.loads(cli("placements", "--json").out) == [ONE, waits]
    cli.node.answers[f"GET {TINY}"] = Reply(body={**ONE, "explanation": "all of it"})
    assert cli("placements", "org/tiny").out.endswith("\nall of it\n")
    cli.node.answers[f"GET {TINY}"] = error(404, "nothing is asked of it")
    assert cli("placements", "org/tiny").err == "Error: nothing is asked of it\n"


def test_a_node_is_drained(cli: Cli) -> None:
    path = f"{ADMIN}/nodes/beta"
    busy = {**NODE, "state": "draining", "replicas": 2, "slots_used": 3, "queued": 1}
    cli.node.answers[f"POST {path}/drain"] = Reply(body=busy)
    cli.node.answers[f"GET {path}"] = replies(busy, NODE)
    done = cli("node", "drain", "beta", "--timeout", "30m", "--on-timeout", "keep")
    assert cli.node.asked[0].json == {"timeout_ms": 1_800_000, "on_timeout": "keep"}
    assert (done.code, done.out) == (0, "beta is drained\n")
    left = "beta is draining: 2 replicas to move, 3 answers under way, 1 requests waiting there\n"
    assert left in done.err
    assert cli("node", "drain", "beta", "--no-wait").out == left
    assert json.loads(cli("node", "drain", "beta", "--json").out) == NODE
    cli.node.answers[f"GET {path}"] = Reply(body=busy)
    done = cli("node", "drain", "beta", "--timeout", "1ms")
    assert (done.code, "is not empty after" in done.err) == (1, True)
    cli.node.answers[f"DELETE {path}/drain"] = Reply(body=NODE)
    assert cli("node", "undrain", "beta").out == "'beta' takes work again\n"
    assert json.loads(cli("node", "undrain", "beta", "--json").out) == NODE


def test_a_model_is_pulled_onto_other_nodes(cli: Cli) -> None:
    cli.node.answers["POST /api/pull"] = stream({"status": "success"})
    path = f"POST {ADMIN}/models/org/tiny/spread"
    cli.node.answers[path] = stream({"status": "n2: copying", "total": 2, "completed": 1}, {"status": "success"})
    done = cli("pull", "org/tiny", "--nodes", "all")
    assert (done.code, "n2: copying" in done.err) == (0, True)
    assert cli.node.asked[-1].json == {"nodes": "all"}
    cli.node.answers[path] = stream({"status": "n2: copying"}, {"error": "n2: disk full"})
    assert cli("pull", "org/tiny", "--nodes", "2").err.endswith("Error: n2: disk full\n")
    cli.node.answers[path] = stream({"status": "n2: copying"})
    assert "broke off" in cli("pull", "org/tiny", "--nodes", "2").err
