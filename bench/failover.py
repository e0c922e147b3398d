"""How soon a cluster notices: a node that is killed, falls silent, returns, joins or is removed; the holder of the
state gone; a plug that is pulled, a network that is cut in two.

Three real nodes on loopback, then three on network namespaces of their own where root can make them. Looked at every
20 ms through the nodes' own API. All nodes and the one who looks share the cores. Only figures: the exit code is 0
whatever they are. The tests hold what happens, without a clock.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from common import machine, median

sys.path += [
    str(Path(__file__).resolve().parent.parent / "tests"),
    str(Path(__file__).resolve().parent.parent / "tests/e2e"),
]
from clusters import Cluster, all_ready, cordon, is_out, is_out_of, on_loopback, see_each_other, states
from hosts import Hosts, Lan, heal, partition
from nodes import Node, eventually

ROUNDS = 5
FOUNDERS = ("n1", "n2", "n3")
_QUESTION = {"model": "tiny", "prompt": "Hello!", "stream": False, "options": {"num_predict": 4}}


class Figures:
    """Seconds by what was measured, and the goal of each, if there is one."""

    def __init__(self) -> None:
        self._goals: dict[str, float | None] = {}
        self._taken: dict[str, list[float]] = {}

    def take(
        self, what: str, goal_s: float | None, condition: Callable[[], bool], since_s: float | None = None
    ) -> None:
        """How long it takes until that holds. since_s: by the performance counter; None = now."""
        began_s = time.perf_counter() if since_s is None else since_s
        eventually(what, condition)
        self._goals[what] = goal_s
        self._taken.setdefault(what, []).append(time.perf_counter() - began_s)

    def table(self) -> str:
        """For people, in Markdown."""
        lines = ["| what | median s | worst s | goal s |", "|---|---|---|---|"]
        for what, taken in self._taken.items():
            goal_s = self._goals[what]
            verdict = "" if goal_s is None else f"{goal_s:g}" + ("" if max(taken) <= goal_s else " (**missed**)")
            lines.append(f"| {what} | {median(taken):.2f} | {max(taken):.2f} | {verdict} |")
        return "\n".join(lines)


def is_answered(node: Node) -> bool:
    """Whether a node gives an answer, its own or another's."""
    return node.ask("POST", "/api/generate", _QUESTION).status_code == 200


def kill_and_silence(cluster: Cluster, figures: Figures) -> None:
    """Of the third node, seen by the other two."""
    others, third = cluster.nodes[:2], cluster.nodes[2]
    now_s = time.perf_counter()
    third.kill()
    figures.take("killed: the others give it nothing to do", 1, lambda: is_out_of(others, "n3"), now_s)
    third.start()
    figures.take("it returns: used again, from its own /readyz", 3, lambda: all_ready(cluster.nodes))
    third.send(signal.SIGSTOP)
    figures.take("silent: the others give it nothing to do", 5, lambda: is_out_of(others, "n3"))
    third.send(signal.SIGCONT)
    figures.take("it speaks again: used again", 3, lambda: all_ready(cluster.nodes))


def lose_the_holder(cluster: Cluster, figures: Figures) -> None:
    """Of the cluster's state."""
    holder, *others = cluster.nodes
    now_s = time.perf_counter()
    holder.kill()
    with ThreadPoolExecutor(1) as pool:
        what = "the holder is killed: an answer asked for at once"
        asking = pool.submit(figures.take, what, None, lambda: is_answered(others[0]), now_s)
        figures.take("the holder is killed: both others say so", 2, lambda: not any(map(has_holder, others)), now_s)
        asking.result()
    holder.start()
    figures.take("it returns: a change is taken, from its own /readyz", None, lambda: takes_change(others[0]))
    see_each_other(cluster.nodes)


def has_holder(node: Node) -> bool:
    """Whether it reaches the holder of the state."""
    return bool(node.get("/admin/v1/cluster").json()["holder_reachable"])


def takes_change(node: Node) -> bool:
    """Whether the cluster's state can be changed by way of it."""
    return set_cordon(node, "n3", False)


def set_cordon(node: Node, name: str, cordoned: bool) -> bool:
    """Whether that could be done by way of a node."""
    return node.ask("PATCH", f"/admin/v1/nodes/{name}", {"cordoned": cordoned}).status_code == 200


def join_and_remove(cluster: Cluster, figures: Figures, name: str) -> None:
    """A fourth node."""
    first = cluster.nodes[0]
    fourth = cluster.new(name)
    fourth.arguments = ("--join", cluster.token())
    cordon(first, *FOUNDERS)
    fourth.start()
    figures.take("a fourth has joined: its first answer, by way of another, from its own /readyz", 5,
                 lambda: is_answered(first))  # fmt: skip
    for one in FOUNDERS:
        set_cordon(first, one, False)
    now_s = time.perf_counter()
    first.ask("DELETE", f"/admin/v1/nodes/{name}")
    figures.take(
        "it is removed: nobody knows it any more",
        2,
        lambda: not any(name in states(node) for node in cluster.nodes),
        now_s,
    )
    figures.take("it is removed: it knows", None, lambda: "removed" in fourth.get("/readyz").text, now_s)
    fourth.kill()
    see_each_other(cluster.nodes)


def cut(cluster: Hosts, figures: Figures) -> None:
    """The second host from the others, then the third."""
    first, second, third = cluster.nodes
    cluster.hosts[1].unplug()
    figures.take("a plug is pulled: the others give it nothing to do", 5, lambda: is_out_of([first, third], "n2"))
    cluster.hosts[1].plug_in()
    figures.take("it is plugged in: all use each other", 10, lambda: all_ready(cluster.nodes))
    partition(cluster.hosts[:2], cluster.hosts[2:])
    figures.take("a network is cut in two: each side knows", 5,
                 lambda: is_out_of([first, second], "n3") and is_out(third, "n1") and is_out(third, "n2"))  # fmt: skip
    heal(cluster.hosts[:2], cluster.hosts[2:])
    figures.take("it heals: all use each other", 15, lambda: all_ready(cluster.nodes))


@contextmanager
def running(cluster: Cluster) -> Iterator[None]:
    """Three nodes of it."""
    try:
        cluster.found()
        cluster.join()
        cluster.join()
        see_each_other(cluster.nodes)
        yield
    finally:
        cluster.stop()


def on_one_machine(figures: Figures, rounds: int) -> None:
    """All that needs no network to be cut."""
    with tempfile.TemporaryDirectory(prefix="ollamamax-bench-") as folder:
        cluster = on_loopback(Path(folder), OLLAMA_CONTEXT_LENGTH="512")
        with running(cluster):
            for number in range(rounds):
                kill_and_silence(cluster, figures)
                lose_the_holder(cluster, figures)
                join_and_remove(cluster, figures, f"extra{number}")


def on_hosts(figures: Figures, rounds: int) -> str:
    """Cut links. Returns why that can't be measured here, else ""."""
    lan = Lan()
    try:
        lan.open()
    except (AssertionError, OSError) as error:
        lan.close()
        return str(error)
    try:
        with tempfile.TemporaryDirectory(prefix="ollamamax-bench-") as folder:
            cluster = Hosts(lan, Path(folder))
            with running(cluster):
                for _ in range(rounds):
                    cut(cluster, figures)
    finally:
        lan.close()
    return ""


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of each (default {ROUNDS})")
    options = parser.parse_args()
    figures = Figures()
    on_one_machine(figures, options.rounds)
    obstacle = on_hosts(figures, options.rounds)
    print(f"machine: {machine()}; {options.rounds} rounds\n")
    print(figures.table())
    if obstacle:
        print(f"\nCut links were not measured: {obstacle}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
