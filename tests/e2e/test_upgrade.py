"""A cluster is upgraded node by node while it works: from the program of the commit before to this one."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from callers import Callers
from clusters import Cluster, all_ready, answer, cli, cli_json, cordon, on_loopback, see_each_other, states
from nodes import LIMIT_S, Node, add_model, eventually

import ollamamax
from models import write_llama

SOURCES = Path(ollamamax.__file__).parent.parent
FIRST_LEVEL = "1c1e201"
"""The last commit whose program knows the first level of the catalog only."""
NEW_WORDS = (
    ("config", "set", "queue.max_queue", "77"),
    ("place", "tiny", "--replicas", "2"),
    ("node", "drain", "n2", "--no-wait"),
)
"""What the second level is for."""
OLD = "0.0.9"
"""The version that trees of old commits are given, so that nodes tell them apart."""


def git(*words: str) -> str:
    done = subprocess.run(
        ["git", "--no-optional-locks", "-C", str(SOURCES.parent), *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    if done.returncode:
        pytest.skip(f"an upgrade needs the history of this tree: git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def commit_before() -> str:
    """The commit that the tree is a change of."""
    return "HEAD" if git("status", "--porcelain", "--", "src") else "HEAD~1"


def tree_of(commit: str, folder: Path) -> Path:
    """The sources of a commit, as version OLD. Skips the test where there is no such commit."""
    found = git("rev-parse", "--verify", f"{commit}^{{commit}}")
    folder.mkdir()
    archive = folder / "src.tar"
    git("archive", "--output", str(archive), found, "src")
    subprocess.run(["tar", "-xf", str(archive), "-C", str(folder)], check=True, timeout=LIMIT_S)
    init = folder / "src" / "ollamamax" / "__init__.py"
    text = init.read_text()
    assert ollamamax.__version__ in text
    init.write_text(text.replace(ollamamax.__version__, OLD))
    return folder / "src"


def run_from(node: Node, sources: Path) -> None:
    """From its next start on the node is that program."""
    node.environment["PYTHONPATH"] = str(sources)


def upgrade(node: Node, nodes: list[Node], sources: Path, callers: Callers | None = None) -> None:
    """Stop it in order and start it as another program; returns when all are ready."""
    if callers is not None:
        callers.stopping(node)
    node.send(signal.SIGTERM)
    assert node.ended() == 0, node.log[-3000:]
    run_from(node, sources)
    node.start()
    if callers is not None:
        callers.back(node)
    eventually("all nodes are ready", lambda: all_ready(nodes))


def versions(node: Node) -> dict[str, str]:
    return {one["name"]: one["version"] for one in cli_json(node, "nodes")}


def is_waiting_for(node: Node, whom: str) -> bool:
    """Whether something waits for those, and for nobody else."""
    told = f" wait for {whom}"
    text = cli(node, "cluster", "status").stdout
    return any(one.endswith(told) for one in cli_json(node, "cluster", "status")["waits"]) and told in text


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    # Answers under way are finished, however slow the machine is: that is what the grace is for.
    grace = {"OLLAMAMAX_LISTEN__SHUTDOWN_GRACE_S": str(LIMIT_S)}
    made = on_loopback(tmp_path, OLLAMA_CONTEXT_LENGTH="512", **grace)
    yield made
    made.stop()


def three_of(cluster: Cluster, sources: Path) -> list[Node]:
    """Three nodes that run as that program."""
    environment = {**os.environ, "PYTHONPATH": str(sources)}
    where = [sys.executable, "-c", "import ollamamax; print(ollamamax.__file__)"]
    found = subprocess.run(where, env=environment, capture_output=True, text=True, check=True, timeout=LIMIT_S)
    assert Path(found.stdout.strip()).is_relative_to(sources), "it is the old program that runs"
    first = cluster.new("n1")
    run_from(first, sources)
    cluster.nodes.append(first.start())
    for number in (2, 3):
        node = cluster.new(f"n{number}")
        run_from(node, sources)
        node.arguments = ("--join", cluster.token())
        node.start()
        node.arguments = ()
        cluster.nodes.append(node)
    see_each_other(cluster.nodes)
    eventually("all are old", lambda: set(versions(first).values()) == {OLD})
    return cluster.nodes


def test_no_request_fails_while_all_nodes_are_upgraded(cluster: Cluster, tmp_path: Path) -> None:
    old = tree_of(commit_before(), tmp_path / "old")
    nodes = three_of(cluster, old)
    first, second, third = nodes
    write_llama(second.folder / "chain.gguf", chain=True)
    add_model(second.url, "chain", second.folder / "chain.gguf")
    cli(first, "node", "label", "n2", "room=kitchen")
    token = cli_json(first, "token", "create")
    eventually("n3 has heard of the label", lambda: cli_json(third, "node", "show", "n2")["labels"] != {})
    for node in nodes:
        eventually("the model is known", lambda node=node: "chain" in node.get("/api/tags").text)  # type: ignore[misc]
    expected = answer(second, "chain", "a1", num_predict=20)["response"]
    with Callers(nodes, "tiny") as callers:
        callers.one_more_each()
        for node in (third, second, first):
            upgrade(node, nodes, SOURCES, callers)
            callers.one_more_each()
        eventually("all tell that they are new", lambda: set(versions(second).values()) == {ollamamax.__version__})
        upgrade(third, nodes, old, callers)  # and back
        eventually("the one that went back tells so", lambda: versions(first)["n3"] == OLD)
        callers.one_more_each()
        upgrade(third, nodes, SOURCES, callers)
        callers.one_more_each()
    print(f"\n{dict(callers.outcomes)}, failed: {len(callers.failures)}")
    assert not callers.failures, callers.failures[:3]
    assert cli_json(third, "node", "show", "n2")["labels"] == {"room": "kitchen"}
    assert [one["token_id"] for one in cli_json(first, "token", "list")][-1:] == [token["token_id"]]
    for node in nodes:
        assert answer(node, "chain", "a1", num_predict=20)["response"] == expected
    fourth = cluster.new("n4")
    run_from(fourth, SOURCES)
    fourth.arguments = ("--join", token["token"])
    fourth.start()
    see_each_other([*nodes, fourth])


def test_what_all_nodes_must_know_waits_for_the_last_one(cluster: Cluster, tmp_path: Path) -> None:
    nodes = three_of(cluster, tree_of(FIRST_LEVEL, tmp_path / "old"))
    first, second, third = nodes
    for node in (first, second):
        upgrade(node, nodes, SOURCES)
    for node in (first, second):
        eventually("it is told what waits", lambda node=node: is_waiting_for(node, f"n3 ({OLD})"))  # type: ignore[misc]
        for words in NEW_WORDS:
            refused = cli(node, *words, check=False)
            assert refused.returncode != 0, words
            assert f"upgrade n3 ({OLD}) first" in refused.stderr, refused
    upgrade(third, nodes, SOURCES)
    eventually("nothing waits", lambda: not cli_json(second, "cluster", "status")["waits"])
    for words in NEW_WORDS:
        cli(second, *words)
    eventually("it is known to the last one", lambda: "77" in cli(third, "config", "get", "queue.max_queue").stdout)
    eventually("it is emptied", lambda: states(third)["n2"] in ("draining", "drained"))


def test_a_node_that_stops_finishes_what_it_does_for_others(cluster: Cluster) -> None:
    first = cluster.found()
    second = cluster.join()
    see_each_other(cluster.nodes)
    write_llama(second.folder / "chain.gguf", chain=True, context=100_000)
    add_model(second.url, "chain", second.folder / "chain.gguf")
    cordon(first, "n1")
    eventually("the model is known", lambda: "chain" in first.get("/api/tags").text)
    body = {"model": "chain", "prompt": "a1", "raw": True, "options": {"num_predict": 4_000, "num_ctx": 50_000}}
    with httpx.stream("POST", f"{first.url}/api/generate", json=body, timeout=LIMIT_S) as got:
        lines = got.iter_lines()
        assert not json.loads(next(lines)).get("done")
        second.send(signal.SIGTERM)
        eventually("others know at once", lambda: states(first)["n2"] != "ready")
        *_, last = lines
    assert json.loads(last).get("done_reason") == "length", last
    assert second.ended() == 0
