"""`ollamamax token|join|discover|nodes|node|cluster|events` against a fake node, or none."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_support import Cli, cli
from fake_node import Asked, Reply, error, stream

from ollamamax.cli import watching
from ollamamax.core.errors import StoreInUse, TokenRefused
from ollamamax.core.types import FoundCluster, Joined
from ollamamax.settings import Settings

__all__ = ["cli"]  # the fixture

ADMIN = "/admin/v1"
NOWHERE = "http://127.0.0.1:1"
HOUR_NS = 3_600_000_000_000
NODE: dict[str, Any] = {
    "name": "beta",
    "node_id": "b" * 16,
    "state": "ready",
    "addresses": ["10.0.0.2:11435"],
    "joined_ns": 0,
    "version": "0.9.1",
    "role": "client",
    "labels": {"room": "cellar"},
    "facts_age_ms": 1500.0,
    "models": 3,
    "loaded": ["tiny:latest"],
    "slots": 4,
    "slots_used": 1,
}


class OfflineMain(SimpleNamespace):
    """The functions of main that commands call where no node runs."""

    def __init__(self, fault: Exception | None = None) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []
        self.fault = fault

    def join_offline(self, settings: Settings, token: str, name: str, force: bool) -> Joined:
        self.calls.append((settings.home, settings.peer.node_name, token, name, force))
        if self.fault is not None:
            raise self.fault
        return Joined(cluster_id="c" * 16, cluster="home", node=name or "host", node_id="a" * 16)

    def discover_offline(self, settings: Settings, timeout_ms: int) -> Sequence[FoundCluster]:
        self.calls.append((settings.home, timeout_ms))
        return [FoundCluster(addresses=("10.0.0.1:11435",), name="home")]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> OfflineMain:
    main = OfflineMain()
    monkeypatch.setitem(sys.modules, "ollamamax.main", main)  # type: ignore[arg-type]
    return main


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_a_token_stands_alone_on_standard_output(cli: Cli) -> None:
    made = {"token": "omx1.abc", "token_id": "t1", "expires_ns": 9, "uses": 2}
    cli.node.answers[f"POST {ADMIN}/tokens"] = Reply(201, made)
    done = cli("token", "create", "--ttl", "90m", "--uses", "2")
    assert (done.code, done.out) == (0, "omx1.abc\n")
    assert done.err == "On up to 2 other machines, within 1 hour: ollamamax join TOKEN\n"
    assert cli.node.asked[-1].json == {"ttl_ms": 5_400_000, "uses": 2}
    done = cli("token", "create", "--json")
    assert (json.loads(done.out), done.err) == (made, "")
    assert cli.node.asked[-1].json == {"ttl_ms": 3_600_000, "uses": 1}


def test_a_token_that_cannot_be_made(cli: Cli) -> None:
    done = cli("token", "create", "--ttl", "soon")
    assert (done.code, done.out) == (2, "")
    assert "--ttl soon: should be a duration" in done.err
    cli.node.answers[f"POST {ADMIN}/tokens"] = error(503, "the holder 'alpha' can't be reached")
    assert cli("token", "create").err == "Error: the holder 'alpha' can't be reached\n"


def test_tokens_are_listed_and_revoked(cli: Cli) -> None:
    now_ns = time.time_ns()
    tokens = [
        {"token_id": "t1", "created_ns": 0, "expires_ns": now_ns + HOUR_NS * 3, "uses_left": 2},
        {"token_id": "t2", "created_ns": 0, "expires_ns": now_ns - HOUR_NS * 3, "uses_left": 1},
    ]
    cli.node.answers[f"GET {ADMIN}/tokens"] = Reply(body={"tokens": tokens})
    lines = cli("token", "list").out.splitlines()
    assert [line.split(maxsplit=2) for line in lines[1:]] == [["t1", "2", "in 2 hours"], ["t2", "0", "3 hours ago"]]
    assert json.loads(cli("token", "list", "--json").out) == tokens
    cli.node.answers[f"DELETE {ADMIN}/tokens/t1"] = Reply(body={})
    assert cli("token", "revoke", "t1").out == "revoked 't1'\n"
    assert cli.node.asked[-1].method == "DELETE"


def test_something_else_at_that_address_is_told_of(cli: Cli) -> None:
    done = cli("token", "list")
    assert done.code == 1
    assert f"what answers at {cli.node.url} is no OllamaMax" in done.err


# --- joining --------------------------------------------------------------------------------------------------------


def test_the_node_that_runs_here_joins(cli: Cli, offline: OfflineMain) -> None:
    answer = {"cluster": "home", "cluster_id": "c" * 16, "node": "box", "node_id": "a" * 16, "was_member": False}
    cli.node.answers[f"POST {ADMIN}/cluster/join"] = lambda _: Reply(body=answer)
    seen = iter(["b" * 16, "c" * 16])  # it begins anew: first it still is in its old cluster
    cli.node.answers[f"GET {ADMIN}/cluster"] = lambda _: Reply(body={"cluster_id": next(seen)})
    assert cli("join", "omx1.abc", "--name", "box").out == "joined the cluster 'home' as 'box'\n"
    assert cli.node.asked[0].json == {"token": "omx1.abc", "name": "box", "force": False}
    assert next(seen, None) is None
    answer["was_member"] = True
    assert cli("join", "-", "--force", stdin="omx1.abc\n").out == "'box' is a member of the cluster 'home' already\n"
    assert cli.node.asked[-1].json == {"token": "omx1.abc", "name": "", "force": True}
    assert json.loads(cli("join", "T", "--json").out) == answer
    assert offline.calls == []


def test_without_a_node_the_papers_are_fetched(cli: Cli, offline: OfflineMain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", NOWHERE)
    done = cli("join", "T", "--name", "box")
    assert done.out == "joined the cluster 'home' as 'box'\nStart it: ollamamax serve\n"
    assert offline.calls == [(cli.home / ".ollamamax", "box", "T", "box", False)]
    assert json.loads(cli("join", "T", "--json", "--force").out)["node"] == "host"
    assert offline.calls[1][3:] == ("", True)


def test_a_home_that_is_named_is_not_that_of_the_node_that_runs(cli: Cli, offline: OfflineMain) -> None:
    assert cli("join", "T", "--home", "/x").code == 0
    assert offline.calls == [(Path("/x"), "", "T", "", False)]
    assert cli.node.asked == []


def test_joining_fails(cli: Cli, offline: OfflineMain, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.node.answers[f"POST {ADMIN}/cluster/join"] = error(403, "the token has expired; make a new one")
    done = cli("join", "T")
    assert (done.code, done.err) == (1, "Error: the token has expired; make a new one\n")
    assert cli("join", "-", stdin="\n").err.startswith("Error: there is no token")
    monkeypatch.setenv("OLLAMA_HOST", NOWHERE)
    for fault in (TokenRefused("the token was used already"), StoreInUse("a node runs on this home")):
        offline.fault = fault
        done = cli("join", "T")
        assert (done.code, done.out, done.err) == (1, "", f"Error: {fault}\n")


@pytest.mark.parametrize("words", [["join", "T"], ["discover"]])
def test_a_node_elsewhere_is_not_replaced_by_this_machine(
    cli: Cli, offline: OfflineMain, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://node.invalid:1")
    monkeypatch.setenv("NO_PROXY", "*")
    done = cli(*words)
    assert done.code == 1
    assert "no OllamaMax answers at http://node.invalid:1" in done.err
    assert offline.calls == []


def test_discover(cli: Cli, offline: OfflineMain, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        {"name": "home", "cluster_id": "c" * 16, "key_hash": "f" * 64, "addresses": ["a:1", "b:2"], "is_ours": True},
        {"name": "", "cluster_id": "", "key_hash": "", "addresses": ["c:3"]},
    ]
    cli.node.answers[f"GET {ADMIN}/discover?timeout_ms=500"] = Reply(body={"clusters": found})
    lines = cli("discover", "--timeout", "0.5").out.splitlines()
    assert lines[0].split() == ["CLUSTER", "ID", "KEY", "ADDRESSES"]
    assert lines[1].split() == ["home", "(this)", "c" * 16, "f" * 16, "a:1,", "b:2"]
    assert lines[2].split() == ["-", "-", "-", "c:3"]
    assert json.loads(cli("discover", "--timeout", "0.5", "--json").out) == found
    cli.node.answers[f"GET {ADMIN}/discover?timeout_ms=2000"] = Reply(body={"clusters": []})
    done = cli("discover")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("No cluster answered.")
    assert offline.calls == []
    monkeypatch.setenv("OLLAMA_HOST", NOWHERE)
    assert json.loads(cli("discover", "--json").out)[0]["name"] == "home"
    assert offline.calls == [(cli.home / ".ollamamax", 2000)]


# --- nodes ----------------------------------------------------------------------------------------------------------


def test_nodes(cli: Cli) -> None:
    this = {**NODE, "name": "alpha", "is_this": True, "is_holder": True, "role": "router", "loaded": [], "models": 1}
    gone = {"name": "gam\x1bma", "node_id": "c" * 16, "state": "gone", "version": "", "facts_age_ms": None}
    memory = {"free_memory_bytes": 2_500_000_000, "total_memory_bytes": 16_000_000_000}
    nodes = [this, NODE | memory, gone]
    cli.node.answers[f"GET {ADMIN}/nodes"] = Reply(body={"nodes": nodes})
    rows = [line.split("    ") for line in cli("nodes").out.splitlines()]
    rows = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert rows == [
        ["NAME", "STATE", "ROLE", "MODELS", "SLOTS", "MEMORY", "VERSION", "AGE"],
        ["alpha (this)", "ready", "router, holder", "1", "1/4", "-", "0.9.1", "1s"],
        ["beta", "ready", "client", "3 (1 loaded)", "1/4", "2.5 GB of 16 GB free", "0.9.1", "1s"],
        ["gamma", "gone", "-", "0", "0/0", "-", "-", "-"],
    ]
    assert json.loads(cli("nodes", "--json").out) == nodes


def test_one_node(cli: Cli) -> None:
    cli.node.answers[f"GET {ADMIN}/nodes/beta"] = Reply(body=NODE)
    shown = dict(line.split(maxsplit=1) for line in cli("node", "show", "beta").out.splitlines())
    assert (shown["id"], shown["labels"], shown["loaded"]) == ("b" * 16, "room=cellar", "tiny:latest")
    assert shown["slots"] == "1 of 4 in use, 0 waiting"
    assert json.loads(cli("node", "show", "beta", "--json").out) == NODE
    cli.node.answers[f"GET {ADMIN}/nodes/a%2Fb"] = error(404, "no node 'a/b' is in the cluster")
    done = cli("node", "show", "a/b")
    assert (done.code, done.err) == (1, "Error: no node 'a/b' is in the cluster\n")


def test_removing_asks_a_person_and_no_script(cli: Cli) -> None:
    cli.node.answers[f"DELETE {ADMIN}/nodes/beta"] = Reply(body={"name": "beta"})
    for typed in ("", "n\n", "yesterday\n"):
        done = cli("node", "remove", "beta", typed=typed)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("Remove 'beta' from the cluster?")
        assert done.err.endswith("Error: 'beta' was not removed\n")
    assert cli.node.asked == []
    assert cli("node", "remove", "beta", typed="y\n").out == "removed 'beta'\n"
    assert cli("node", "remove", "beta", "--yes").err == ""
    assert cli("node", "remove", "beta", stdin="").err == ""
    assert json.loads(cli("node", "remove", "beta", "--yes", "--json").out) == {"name": "beta"}
    assert len(cli.node.asked) == 4


def test_cordon_uncordon_and_label(cli: Cli) -> None:
    def changed(asked: Asked) -> Reply:
        return Reply(body={**NODE, "asked": asked.json})

    cli.node.answers[f"PATCH {ADMIN}/nodes/beta"] = changed
    assert cli("node", "cordon", "beta").out == "cordoned 'beta'\n"
    assert cli.node.asked[-1].json == {"cordoned": True}
    assert cli("node", "uncordon", "beta").out == "'beta' takes requests again\n"
    assert cli.node.asked[-1].json == {"cordoned": False}
    assert cli("node", "label", "beta", "room=cellar", "gpu-", "url=a=b", "empty=").out == "labelled 'beta'\n"
    assert cli.node.asked[-1].json == {"labels": {"room": "cellar", "gpu": None, "url": "a=b", "empty": ""}}
    for words in (["cordon"], ["uncordon"], ["label", "--json"]):
        done = cli("node", words[0], "beta", *(["a=b"] if words[0] == "label" else []), "--json")
        assert json.loads(done.out)["name"] == "beta"


@pytest.mark.parametrize("words", [["room"], ["=x"], ["-"], ["a=1", "a-"], [""]])
def test_what_is_no_label(cli: Cli, words: list[str]) -> None:
    done = cli("node", "label", "beta", "--", *words)
    assert (done.code, done.out) == (2, "")
    assert "label" in done.err
    assert cli.node.asked == []


# --- the whole ------------------------------------------------------------------------------------------------------


def status_of(**more: Any) -> dict[str, Any]:
    return {
        "cluster_id": "c" * 16,
        "name": "home",
        "created_ns": 0,
        "this": "beta",
        "holder": "alpha",
        "holder_reachable": True,
        "revision": 42,
        "role": "client",
        "certificate_expires_ns": time.time_ns() + HOUR_NS * 80,
        "nodes": {"ready": 2, "gone": 0},
        "versions": {"0.9.1": 2},
        "in_flight": 3,
        "slots": 8,
        "queued": 1,
        **more,
    }


def test_the_status(cli: Cli) -> None:
    status = status_of()
    cli.node.answers[f"GET {ADMIN}/cluster"] = lambda _: Reply(body=status)
    cli.node.answers[f"GET {ADMIN}/nodes"] = Reply(body={"nodes": [NODE]})
    lines = cli("cluster", "status").out.splitlines()
    facts = {line[:15].strip(): line[15:] for line in lines[: lines.index("")]}
    assert facts == {
        "cluster": f"home ({'c' * 16})",
        "this node": "beta, client",
        "nodes": "2 ready",
        "holder": "alpha",
        "revision": "42",
        "versions": "0.9.1 (2)",
        "requests": "3 of 8 slots in use, 1 waiting",
        "certificate": "ends in 3 days",
    }
    assert lines[-1].startswith("beta")
    assert json.loads(cli("cluster", "status", "--json").out) == status
    status |= status_of(
        holder_reachable=False, holder_lost_ms=400_000.0, certificate_expires_ns=1, degraded=["nothing can be changed"]
    )
    said = cli("cluster", "status").out
    assert "alpha, out of reach for 6m" in said
    assert "has expired" in said
    assert "\n! nothing can be changed\n" in said


def test_an_upgrade_that_is_under_way(cli: Cli) -> None:
    status = status_of(versions={"0.9.1": 1, "0.9.2": 1})
    cli.node.answers[f"GET {ADMIN}/cluster"] = lambda _: Reply(body=status)
    cli.node.answers[f"GET {ADMIN}/nodes"] = Reply(body={"nodes": [NODE]})
    said = cli("cluster", "status").out
    assert "0.9.1 (1), 0.9.2 (1)\nupgrade        under way, nothing waits for it\n" in said
    status |= {"waits": ["this waits for beta (0.9.1)", "that, too"]}
    assert "upgrade        this waits for beta (0.9.1); that, too\n" in cli("cluster", "status").out


def test_watching_goes_on_while_the_node_is_away(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.node.answers[f"GET {ADMIN}/cluster"] = Reply(body=status_of())
    cli.node.answers[f"GET {ADMIN}/nodes"] = Reply(body={"nodes": []})
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", nap)
    done = cli("cluster", "status", "--watch")
    assert done.code == 130
    assert done.out.count("this node") == 2
    naps.clear()
    monkeypatch.setenv("OLLAMA_HOST", NOWHERE)
    done = cli("cluster", "status", "--watch", "--json")
    assert done.out.count(f"no OllamaMax answers at {NOWHERE}") == 2


def test_watching_on_a_terminal_stays_in_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    texts = iter(["one\n", "two\n"])
    monkeypatch.setattr(watching.time, "sleep", lambda _: None)

    def render() -> str:
        text = next(texts, "")
        if not text:
            raise KeyboardInterrupt
        return text

    with pytest.raises(KeyboardInterrupt):
        watching.watch(render)
    shown = capsys.readouterr().out
    assert "one" in shown
    assert "\x1b[1A" in shown, "the cursor went up"


def test_events(cli: Cli) -> None:
    events = [
        {"at_ns": 1_800_000_000_000_000_000, "kind": "joined", "node": "beta", "text": "by token\x1b[31m t1\n"},
        {"at_ns": 1_800_000_001_000_000_000, "kind": "holder_lost", "node": "", "text": ""},
    ]
    cli.node.answers[f"GET {ADMIN}/events"] = stream(*events)
    cli.node.answers[f"GET {ADMIN}/events?follow=true"] = stream(b"\n", *events)
    for words in (["events"], ["events", "--follow"]):
        lines = cli(*words).out.splitlines()
        assert len(lines) == 2
        assert lines[0].endswith("  joined  beta  by token[31m t1")
        assert lines[1].endswith("  holder_lost")
        told = cli(*words, "--json").out.splitlines()
        assert [json.loads(line) for line in told] == events
