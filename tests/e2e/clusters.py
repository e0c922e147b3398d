"""Clusters for the tests: nodes on loopback, or on hosts of their own, that join by token."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nodes import LIMIT_S, Node, eventually

from free_ports import free_port

TOKENS = "ollamamax_output_tokens_total"
FAILED = "ollamamax_attempts_failed_total"


def cli(node: Node, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command line against a node, from where the test runs."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OLLAMA_", "OLLAMAMAX_"))}
    environment |= {"OLLAMA_HOST": node.url, "OLLAMAMAX_HOME": str(node.folder / "home")}
    done = subprocess.run(
        [sys.executable, "-m", "ollamamax", *words], env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}\n{node.log[-2000:]}"
    return done


def cli_json(node: Node, *words: str) -> Any:
    return json.loads(cli(node, *words, "--json").stdout)


def states(node: Node) -> dict[str, str]:
    """Each node's state by name, as this node sees it."""
    answer = node.get("/admin/v1/nodes")
    answer.raise_for_status()
    return {one["name"]: one["state"] for one in answer.json()["nodes"]}


def all_ready(nodes: list[Node]) -> bool:
    """Whether each sees at least so many nodes, all of them ready."""
    seen = [list(states(node).values()) for node in nodes]
    return all(len(one) >= len(nodes) and set(one) == {"ready"} for one in seen)


def see_each_other(nodes: list[Node]) -> None:
    eventually(f"{len(nodes)} nodes see each other", lambda: all_ready(nodes))


def is_out(node: Node, name: str) -> bool:
    """Whether a node gives another one nothing to do, because it may not be there."""
    return states(node)[name] in ("suspect", "gone")


def is_out_of(nodes: list[Node], name: str) -> bool:
    """The same for all of these."""
    return all(is_out(node, name) for node in nodes)


def cordon(node: Node, *names: str) -> None:
    """By way of a node; returns when that one knows."""
    for name in names:
        cli(node, "node", "cordon", name)
    eventually(
        f"{names} are cordoned", lambda: {name for name in names if states(node)[name] == "cordoned"} == {*names}
    )


def answer(node: Node, model: str = "tiny", prompt: str = "Hello!", **options: Any) -> dict[str, Any]:
    """A whole answer. Fails with what the node said."""
    body = {"model": model, "prompt": prompt, "stream": False, "options": {"temperature": 0, **options}}
    got = node.ask("POST", "/api/generate", body)
    assert got.status_code == 200, f"{got.status_code} {got.text}\n{node.log[-3000:]}"
    found: dict[str, Any] = got.json()
    return found


def by_engine(node: Node, *counters: str) -> dict[str, float]:
    """Sums of these counters of a node (TOKENS, FAILED) by the engine that they are of."""
    found: dict[str, float] = {}
    for line in node.get("/metrics").text.splitlines():
        if line.startswith(tuple(f"{counter}{{" for counter in counters)):
            engine = line.split('engine="')[1].split('"')[0]
            found[engine] = found.get(engine, 0.0) + float(line.rsplit(" ", 1)[1])
    return found


class Cluster:
    """nodes: the founder first."""

    def __init__(self, make: Callable[[str], Node]) -> None:
        self._make = make
        self._made: list[Node] = []
        self.nodes: list[Node] = []

    def new(self, name: str) -> Node:
        """One that does not run yet, and is not counted."""
        self._made.append(self._make(name))
        return self._made[-1]

    def found(self) -> Node:
        node = self.new("n1").start()
        self.nodes.append(node)
        return node

    def token(self, *options: str) -> str:
        token: str = cli_json(self.nodes[0], "token", "create", *options)["token"]
        return token

    def join(self, wait: bool = True) -> Node:
        """One more node, by a token of the founder."""
        node = self.new(f"n{len(self.nodes) + 1}")
        node.arguments = ("--join", self.token())
        node.start(wait)
        node.arguments = ()
        self.nodes.append(node)
        return node

    def stop(self) -> None:
        for node in reversed(self._made):
            if node.process is not None:
                node.kill()


def on_loopback(folder: Path, **environment: str) -> Cluster:
    """Nodes on loopback with free ports, without multicast."""

    def make(name: str) -> Node:
        home = folder / name
        home.mkdir()
        return Node(
            home,
            free_port(),
            {
                "OLLAMAMAX_PEER__HOST": "127.0.0.1",
                "OLLAMAMAX_PEER__PORT": str(free_port(4)),
                "OLLAMAMAX_PEER__MULTICAST": "false",
                "OLLAMAMAX_PEER__NODE_NAME": name,
                **environment,
            },
        )

    return Cluster(make)
