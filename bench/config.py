"""How soon a setting of the cluster holds on every one of 20 nodes, and how soon going back restores it.

Real nodes on loopback, each a process of its own; they share the cores with each other and with the one who looks,
who asks each node in turn until it shows the new value. Only figures: the exit code is 0 whatever they are. The tests
hold what happens, without a clock.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import machine, median

sys.path += [
    str(Path(__file__).resolve().parent.parent / "tests"),
    str(Path(__file__).resolve().parent.parent / "tests/e2e"),
]
import httpx
from clusters import Cluster, all_ready, on_loopback
from nodes import Node, eventually

NODES = 20
ROUNDS = 10
WAVE = 4
KEY = "queue.max_queue"
DEFAULT = 512
_QUIET_S = 1.5
"""Between two changes: nodes tell at most twice a second what they have taken over."""


class Looker:
    """Asks nodes over connections that stay open."""

    def __init__(self, nodes: list[Node]) -> None:
        self.clients = [httpx.Client(base_url=node.url, trust_env=False, timeout=60) for node in nodes]

    def value(self, client: httpx.Client) -> int:
        """What holds on a node."""
        return int(client.get("/admin/v1/config").json()["settings"][KEY]["value"])

    def until(self, wanted: int) -> float:
        """When the last node shows the value, by the performance counter."""
        for client in self.clients:
            while self.value(client) != wanted:
                continue
        return time.perf_counter()


def started(cluster: Cluster, count: int) -> list[Node]:
    """So many nodes that see each other, started in waves."""
    cluster.found()
    token = cluster.token("--uses", str(count))
    while len(cluster.nodes) < count:
        wave = [
            cluster.new(f"n{len(cluster.nodes) + 1 + number}")
            for number in range(min(WAVE, count - len(cluster.nodes)))
        ]
        for node in wave:
            node.arguments = ("--join", token)
            node.start(wait=False)
        for node in wave:
            eventually("it is ready", node.ready)
        cluster.nodes += wave
    eventually("all see each other", lambda: all_ready(cluster.nodes))
    return cluster.nodes


def measured(looker: Looker, wanted: int, change: Callable[[], httpx.Response]) -> tuple[float, float, int]:
    """Seconds until the last node shows it, seconds until the change is answered, and how many nodes it names."""
    with ThreadPoolExecutor(1) as pool:
        began_s = time.perf_counter()

        def ask() -> tuple[float, int]:
            answer = change().raise_for_status().json()
            return time.perf_counter() - began_s, len(answer["applied"])

        pending = pool.submit(ask)
        last_s = looker.until(wanted) - began_s
        answered_s, applied = pending.result()
    time.sleep(_QUIET_S)
    return last_s, answered_s, applied


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ollamamax-bench-") as folder:
        cluster = on_loopback(Path(folder))
        try:
            rows = run(started(cluster, options.nodes), options.rounds)
        finally:
            cluster.stop()
    print(f"{options.nodes} nodes, {options.rounds} rounds; {machine()}\n")
    print("| what | median s | worst s | goal s |\n|---|---|---|---|")
    for what, taken, goal in rows:
        print(f"| {what} | {median(taken):.3f} | {max(taken):.3f} | {goal} |")


def run(nodes: list[Node], rounds: int) -> list[tuple[str, list[float], str]]:
    """(what, seconds, goal)."""
    looker = Looker(nodes)
    asked = httpx.Client(base_url=nodes[-1].url, trust_env=False, timeout=60)
    sets, backs, answers, named = [], [], [], []
    for number in range(rounds):
        value = 100 + number
        last_s, answered_s, applied = measured(
            looker, value, lambda value=value: asked.put(f"/admin/v1/config/{KEY}", json={"value": str(value)})
        )
        sets.append(last_s)
        answers.append(answered_s)
        named.append(applied)
        last_s, answered_s, applied = measured(
            looker, DEFAULT, lambda: asked.post("/admin/v1/config/rollback", json={"version": 0})
        )
        backs.append(last_s)
        answers.append(answered_s)
        named.append(applied)
    print(f"nodes that had told when the change was answered: {min(named)} at least, of {len(nodes)}")
    return [
        ("set, by way of a node that does not hold the state: the last node shows it", sets, "1"),
        ("rolled back to before: the last node shows it", backs, "1"),
        ("answered, with all nodes' word that they took it over", answers, ""),
    ]


if __name__ == "__main__":
    main()
