"""How soon a replica is there again after its machine died, and what emptying a machine costs those who ask.

Three real nodes on loopback, all on the cores of this machine. The goal for a rebuild is the time that the model takes
to load, and five seconds. The node that holds the state is not killed: without it nothing is decided anew.
"""

import argparse
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from common import machine, median

sys.path += [
    str(Path(__file__).resolve().parent.parent / "tests"),
    str(Path(__file__).resolve().parent.parent / "tests/e2e"),
]
from clusters import Cluster, cli, cli_json, on_loopback, see_each_other
from nodes import Node, eventually

CLIENTS = 6
BESIDE_LOADING_S = 5.0
_QUESTION = {"model": "tiny", "prompt": "Hello!", "stream": False, "options": {"num_predict": 20}}


def load_s(node: Node) -> float:
    """What a node takes to load the model, by its own account."""
    node.ask("POST", "/api/generate", {"model": "tiny", "keep_alive": 0})
    eventually("it is unloaded", lambda: not node.get("/api/ps").json()["models"])
    return float(node.ask("POST", "/api/generate", _QUESTION).json()["load_duration"]) / 1e9


def ready(node: Node) -> set[str]:
    """Nodes where a replica answers, as a node sees it."""
    return {one["node"] for one in node.get("/admin/v1/placements/tiny").json()["nodes"] if one["ready"]}


def rebuild_s(cluster: Cluster, victim: Node) -> float:
    """From the kill until two replicas answer elsewhere."""
    first = cluster.nodes[0]
    name = cli_json(victim, "cluster", "status")["this"]
    began_s = time.perf_counter()
    victim.kill()
    eventually("it is rebuilt", lambda: len(ready(first) - {name}) == 2)
    took_s = time.perf_counter() - began_s
    victim.start()
    see_each_other(cluster.nodes)
    return took_s


def drain_under_load(cluster: Cluster) -> tuple[float, int, int]:
    """Seconds until a node with a replica is empty, while six clients ask; answers meanwhile, failed ones."""
    first = cluster.nodes[0]
    is_over, answers = threading.Event(), []

    def ask(number: int) -> None:
        url = cluster.nodes[number % 3].url
        with httpx.Client(timeout=120.0, trust_env=False) as client:
            while not is_over.is_set():
                try:
                    answers.append(client.post(f"{url}/api/generate", json=_QUESTION).status_code)
                except httpx.TransportError:
                    answers.append(0)

    cli(first, "place", "tiny", "--replicas", "2", "--pin", "n2", "--wait")
    with ThreadPoolExecutor(CLIENTS) as pool:
        for number in range(CLIENTS):
            pool.submit(ask, number)
        eventually("answers come", lambda: len(answers) >= 4 * CLIENTS)
        began_s = time.perf_counter()
        cli(first, "node", "drain", "n2")
        took_s = time.perf_counter() - began_s
        wanted = len(answers) + 2 * CLIENTS
        eventually("answers come", lambda: len(answers) >= wanted)
        is_over.set()
    cli(first, "node", "undrain", "n2")
    eventually("the pin is held", lambda: "n2" in ready(first))
    return took_s, len(answers), sum(status != 200 for status in answers)


def main() -> None:
    """Measure, and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        cluster = on_loopback(Path(folder), OLLAMA_CONTEXT_LENGTH="512")
        try:
            first = cluster.found()
            loading_s = max(load_s(first) for _ in range(rounds))
            cluster.join()
            cluster.join()
            see_each_other(cluster.nodes)
            rebuilds = []
            for turn in range(rounds):
                cli(first, "place", "tiny", "--replicas", "2", "--wait")
                victims = sorted(ready(first) - {"n1"})
                rebuilds.append(rebuild_s(cluster, cluster.nodes[int(victims[turn % len(victims)][1:]) - 1]))
            drains = [drain_under_load(cluster) for _ in range(rounds)]
        finally:
            cluster.stop()
    print(machine())
    print(f"\nloading: {loading_s:.2f} s at worst")
    verdict = "" if max(rebuilds) <= loading_s + BESIDE_LOADING_S else " (**missed**)"
    print(f"rebuilt after kill -9: {median(rebuilds):.2f} s, worst {max(rebuilds):.2f} s{verdict}")
    print(f"drained under load: {median([took for took, _, _ in drains]):.2f} s")
    print(f"answers meanwhile: {sum(count for _, count, _ in drains)}, failed: {sum(bad for _, _, bad in drains)}")


if __name__ == "__main__":
    main()
