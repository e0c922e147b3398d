"""A real node in a process of its own, on loopback, with directories of its own."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

READY_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(what: str, condition: Callable[[], bool], limit_s: float = 15.0) -> None:
    """Returns once `condition` holds; fails with `what` after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.02)


@dataclass
class Node:
    """A running `ollamamax serve`."""

    folder: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "node.log").read_text(errors="replace")

    def command(self) -> list[str]:
        return [sys.executable, "-m", "ollamamax", "serve", *self.arguments]

    def env(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("OLLAMA_", "OLLAMAMAX_"))}
        return {
            **inherited,
            "OLLAMAMAX_HOME": str(self.folder / "home"),
            "OLLAMA_MODELS": str(self.folder / "models"),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMAMAX_PEER__HOST": "127.0.0.1",
            "OLLAMAMAX_PEER__PORT": "0",
            "OLLAMAMAX_PEER__MULTICAST": "false",
            **self.environment,
        }

    def start(self, wait: bool = True) -> "Node":
        with (self.folder / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), env=self.env(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if wait:
            eventually("the node is ready", self.ready, READY_S)
        return self

    def ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the node ended: {self.log[-3000:]}"
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def children(self) -> list[psutil.Process]:
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def add_model(url: str, name: str, path: Path) -> None:
    """Upload a GGUF as a blob and create a model from it, as `ollama create` does."""
    data = path.read_bytes()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    uploaded = httpx.post(f"{url}/api/blobs/{digest}", content=data, timeout=60)
    assert uploaded.status_code in (200, 201), uploaded.text
    created = httpx.post(
        f"{url}/api/create", json={"model": name, "files": {path.name: digest}, "stream": False}, timeout=60
    )
    assert created.status_code == 200, created.text
    assert created.json() == {"status": "success"}
