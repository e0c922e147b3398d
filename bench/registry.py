"""A large blob to and from a registry: a node's push and pull against curl of the same blob and sha256sum of it.

A real node and a real registry (docker-registry) on loopback, in alternation with the baseline. What a pull does beyond
it: the file is checked, synced to the disk, and can be gone on with at any moment.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from common import machine, median

sys.path += [
    str(Path(__file__).resolve().parent.parent / "tests"),
    str(Path(__file__).resolve().parent.parent / "tests/e2e"),
]
from nodes import Node

from docker_registry import docker_registry
from free_ports import free_port

LIMIT_S = 900
GOAL = 0.8
GOAL_MB = 100


class Memory:
    """The most that a process had in memory, in bytes, beyond what it had at the start."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._start = self._process.memory_info().rss
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.grown = 0

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.grown = max(self.grown, self._process.memory_info().rss - self._start)


@contextmanager
def serving(folder: Path) -> Iterator[Node]:
    """A node with its store in the folder."""
    (folder / "node").mkdir()
    node = Node(folder / "node", free_port()).start()
    try:
        yield node
    finally:
        node.stop()


def make_model(node: Node, folder: Path, size_bytes: int, name: str) -> str:
    """A model whose weights are noise, straight into the store; their digest."""
    blobs = Path(node.env()["OLLAMA_MODELS"]) / "blobs"
    digest = hashlib.sha256()
    with (folder / "noise").open("wb") as file:
        for _ in range(0, size_bytes, 1 << 20):
            piece = os.urandom(1 << 20)
            digest.update(piece)
            file.write(piece)
    weights = f"sha256:{digest.hexdigest()}"
    (folder / "noise").rename(blobs / weights.replace(":", "-"))
    config = f"sha256:{hashlib.sha256(b'{}').hexdigest()}"
    (blobs / config.replace(":", "-")).write_bytes(b"{}")
    prefix = "application/vnd.docker"
    manifest = (
        f'{{"schemaVersion":2,"mediaType":"{prefix}.distribution.manifest.v2+json",'
        f'"config":{{"mediaType":"{prefix}.container.image.v1+json","digest":"{config}","size":2}},'
        f'"layers":[{{"mediaType":"application/vnd.ollama.image.model","digest":"{weights}","size":{size_bytes}}}]}}'
    )
    path = blobs.parent / "manifests" / name.replace(":v1", "/v1")
    path.parent.mkdir(parents=True)
    path.write_text(manifest)
    return weights


def ask(node: Node, method: str, path: str, name: str) -> float:
    """Seconds that it takes."""
    os.sync()
    started = time.monotonic()
    body = {"model": name, "insecure": True, "stream": False}
    reply = httpx.request(method, f"{node.url}{path}", json=body, timeout=LIMIT_S)
    assert reply.status_code == 200, reply.text
    return time.monotonic() - started


def baseline(url: str, target: Path) -> float:
    """curl and sha256sum, one after the other."""
    os.sync()
    started = time.monotonic()
    subprocess.run(["curl", "--silent", "--fail", "--output", str(target), url], check=True)
    subprocess.run(["sha256sum", str(target)], check=True, stdout=subprocess.DEVNULL)
    took_s = time.monotonic() - started
    target.unlink()
    return took_s


def main() -> None:
    """Print the table; fails where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where all files go; default: the folder for temporary ones")
    options = parser.parse_args()
    size_bytes = options.megabytes << 20
    pulls: list[float] = []
    baselines: list[float] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        with docker_registry(folder / "registry") as port, serving(folder) as node:
            name = f"127.0.0.1:{port}/bench/noise:v1"
            digest = make_model(node, folder, size_bytes, name)
            assert node.process is not None
            with Memory(node.process.pid) as memory:
                push_s = ask(node, "POST", "/api/push", name)
                for _ in range(options.rounds):
                    ask(node, "DELETE", "/api/delete", name)
                    pulls.append(ask(node, "POST", "/api/pull", name))
                    url = f"http://127.0.0.1:{port}/v2/bench/noise/blobs/{digest}"
                    baselines.append(baseline(url, folder / "curl"))
    print(f"Machine: {machine()}\n\n| what | MB/s, median | ratio |\n|---|---|---|")
    for what, took_s in (("curl and sha256sum", median(baselines)), ("pull", median(pulls)), ("push", push_s)):
        print(f"| {what} | {size_bytes / 1e6 / took_s:.0f} | {median(baselines) / took_s:.2f} |")
    print(f"\nThe node's memory grew by {memory.grown / 1e6:.0f} MB.")
    assert median(baselines) / median(pulls) >= GOAL, "the pull is too slow"
    assert memory.grown < GOAL_MB * 1e6, "the node's memory grew too much"


if __name__ == "__main__":
    main()
