"""The cluster's state: how long a change takes where it lives on one node (SQLite) and on etcd (1 and 3 voters), by way
of a node that holds it and of one that does not; and for how long nobody can change anything after its leader died.

`--chaos MINUTES`: the leader's etcd is killed every ten seconds while writers write, readers read what was acknowledged
to others, and models answer. Then it tells what was lost (which has to be nothing), the longest time without a change,
and the answers that failed; the exit code is 1 if anything was lost or an answer failed.

Real nodes on loopback; all of them and who looks share the cores. A change is a join token made through the admin API.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import machine, median

sys.path += [
    str(Path(__file__).resolve().parent.parent / "tests"),
    str(Path(__file__).resolve().parent.parent / "tests/e2e"),
]
import httpx
from clusters import Cluster, cli, on_loopback, see_each_other
from nodes import Node, eventually

from etcds import etcd_path

CHANGES = 300
KILLS = 5
_PATH = "/admin/v1/tokens"
_HOUR = {"ttl_ms": 3_600_000}
_KILL_EVERY_S = 10.0
_QUESTION = {"model": "tiny", "prompt": "Hello!", "stream": False, "options": {"num_predict": 4}}
_SWEEP = 200
"""Tokens that are kept at most, so that the state does not grow with the time that it is looked at."""


@contextmanager
def nodes(count: int) -> Iterator[Cluster]:
    """A cluster on loopback whose nodes all see each other."""
    with tempfile.TemporaryDirectory(prefix="ollamamax-bench-") as folder:
        cluster = on_loopback(Path(folder), OLLAMAMAX_STATE__ETCD_PATH=etcd_path(), OLLAMAMAX_LOG__LEVEL="warning")
        try:
            cluster.found()
            for _ in range(count - 1):
                cluster.join()
            see_each_other(cluster.nodes)
            yield cluster
        finally:
            cluster.stop()


def changes_ms(node: Node, count: int) -> list[float]:
    """How long each of so many changes took, one after the other, over one connection."""
    taken: list[float] = []
    with httpx.Client(base_url=node.url, timeout=30.0) as client:
        for _ in range(count):
            began_s = time.perf_counter()
            made = client.post(_PATH, json=_HOUR)
            taken.append((time.perf_counter() - began_s) * 1e3)
            made.raise_for_status()
            client.delete(f"{_PATH}/{made.json()['token_id']}").raise_for_status()
    return taken


def latencies(cluster: Cluster, changes: int) -> list[str]:
    """Lines of a table: SQLite, then etcd with one and with three voters."""
    rows = []
    host, guest = cluster.nodes[0], cluster.nodes[3]
    for name, voters in (("SQLite on one node", 0), ("etcd, 1 voter", 1), ("etcd, 3 voters", 3)):
        if voters:
            cli(host, "cluster", "ha", "enable", "--voters", str(voters))
        for way, node in (("a node that holds it", host), ("one that does not", guest)):
            changes_ms(node, 20)
            taken = changes_ms(node, changes)
            p99 = statistics.quantiles(taken, n=100)[98]
            rows.append(f"| {name} | {way} | {median(taken):.1f} | {p99:.1f} | {max(taken):.1f} |")
        if voters == 1:
            cli(host, "cluster", "ha", "disable", "--node", "n1")
    return rows


def leading(cluster: Cluster) -> Node | None:
    """The node whose etcd leads, as the first one that answers tells."""
    for node in cluster.nodes:
        told = node.get("/admin/v1/cluster/ha").json()
        for host in told["hosts"]:
            if host["is_leader"]:
                return next(
                    one for one in cluster.nodes if one.environment["OLLAMAMAX_PEER__NODE_NAME"] == host["name"]
                )
    return None


def is_whole(cluster: Cluster) -> bool:
    """Whether all members work."""
    told = cluster.nodes[3].get("/admin/v1/cluster/ha").json()
    return not told["trouble"] and sum(host["is_leader"] for host in told["hosts"]) == 1


def kill_leader(cluster: Cluster) -> None:
    """The process of its etcd, at once."""
    node = leading(cluster)
    if node is not None:
        for child in node.children():
            if child.name() == "etcd":
                child.kill()


def failover_s(cluster: Cluster, kills: int) -> list[float]:
    """After each kill: from it to the first change that was taken, by way of a node that holds nothing."""
    gaps = []
    for _ in range(kills):
        eventually("all members work", lambda: is_whole(cluster))
        kill_leader(cluster)
        began_s = time.perf_counter()
        eventually("a change is taken", lambda: cluster.nodes[3].ask("POST", _PATH, _HOUR).status_code == 201)
        gaps.append(time.perf_counter() - began_s)
    return gaps


class Chaos:
    """Writers, readers and askers of all nodes. lost: acknowledged by one node, and not there by another one's read."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._acknowledged: dict[str, float] = {}
        self._last_s = time.perf_counter()
        self.writes = self.reads = self.answers = self.refused = 0
        self.longest_s = 0.0
        self.lost: list[str] = []
        self.failed: list[str] = []
        work = (self._write, self._read, self._ask)
        self._threads = [threading.Thread(target=one, args=(node,)) for node in cluster.nodes for one in work]

    def run(self, seconds: float) -> None:
        """Kill the leader again and again meanwhile."""
        for thread in self._threads:
            thread.start()
        until_s = time.perf_counter() + seconds
        while time.perf_counter() < until_s:
            time.sleep(_KILL_EVERY_S)
            kill_leader(self._cluster)
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _write(self, node: Node) -> None:
        while not self._over.is_set():
            got = node.ask("POST", _PATH, _HOUR)
            if got.status_code != 201:
                self.refused += 1
                continue
            now_s = time.perf_counter()
            with self._lock:
                self.writes += 1
                self.longest_s = max(self.longest_s, now_s - self._last_s)
                self._last_s = now_s
                self._acknowledged[got.json()["token_id"]] = now_s
                old = [one for one, _ in zip(self._acknowledged, range(len(self._acknowledged) - _SWEEP), strict=False)]
                for token_id in old:
                    del self._acknowledged[token_id]
            for token_id in old:
                node.ask("DELETE", f"{_PATH}/{token_id}")

    def _read(self, node: Node) -> None:
        """A linearizable read: a copy of the state as a majority has it."""
        while not self._over.is_set():
            with self._lock:
                expected = set(self._acknowledged)
            got = node.get("/admin/v1/cluster/backup")
            if got.status_code != 200:
                self.refused += 1
                continue
            with self._lock:
                expected &= set(self._acknowledged)  # not those that were taken back meanwhile
            self.reads += 1
            self.lost += [f"{one} by {node.url}" for one in expected if one.encode() not in got.content]
            time.sleep(0.05)

    def _ask(self, node: Node) -> None:
        while not self._over.is_set():
            got = node.ask("POST", "/api/generate", _QUESTION)
            if got.status_code == 200:
                self.answers += 1
            else:
                self.failed.append(got.text)


def chaos(minutes: float) -> int:
    """The exit code."""
    with nodes(4) as cluster:
        cli(cluster.nodes[0], "cluster", "ha", "enable")
        eventually("all members work", lambda: is_whole(cluster))
        it = Chaos(cluster)
        it.run(minutes * 60.0)
    print(f"{minutes:g} min, the leader's etcd killed every {_KILL_EVERY_S:g} s")
    print(f"writes {it.writes}, linearizable reads {it.reads}, refused {it.refused}, answers {it.answers}")
    print(f"lost writes {len(it.lost)}, failed answers {len(it.failed)}")
    print(f"longest time without a write {it.longest_s:.1f} s")
    for text in (*it.lost[:5], *it.failed[:5]):
        print(" ", text)
    return 1 if it.lost or it.failed else 0


def main() -> int:
    """Measure, and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=CHANGES, help="changes per figure")
    parser.add_argument("--kills", type=int, default=KILLS, help="how often the leader is killed")
    parser.add_argument("--chaos", type=float, default=0.0, metavar="MINUTES", help="break it all the time instead")
    options = parser.parse_args()
    print(machine())
    if options.chaos:
        return chaos(options.chaos)
    with nodes(4) as cluster:
        print("| state | by way of | median ms | p99 ms | worst ms |\n|---|---|---|---|---|")
        print("\n".join(latencies(cluster, options.changes)))
        gaps = failover_s(cluster, options.kills)
        print(f"\nleader killed {len(gaps)} times: changes go on after {median(gaps):.1f} s, worst {max(gaps):.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
