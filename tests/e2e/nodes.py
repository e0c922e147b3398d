"""A real node in a process of its own, on loopback, with directories of its own."""

import hashlib
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

LIMIT_S = 180.0
"""For all that must come: a slow machine fails no test. How long it takes is for bench/failover.py to tell."""
_LOOK_S = 2.0
_PAUSE_S = 0.02
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Nothing is trusted, and nothing loaded: httpx would read all authorities of the machine for each request."""


def eventually(what: str, condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Returns once `condition` holds; fails with `what` after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(_PAUSE_S)


def request(method: str, url: str, *, timeout_s: float = LIMIT_S, **more: Any) -> httpx.Response:
    """As httpx.request, with patience. Raises: httpx.TransportError."""
    return httpx.request(method, url, timeout=timeout_s, verify=_NO_TLS, **more)


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
            # Its standard input stays open: it ends with this process, however this one ends.
            command = [*self.command(), "--exit-on-stdin-close"]
            self.process = subprocess.Popen(command, env=self.env(), stdin=subprocess.PIPE, stdout=log, stderr=log)
        if wait:
            eventually("the node is ready", self.ready)
        return self

    def ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the node ended: {self.log[-3000:]}"
        return self.answers()

    def answers(self) -> bool:
        try:
            return self.ask("GET", "/readyz", timeout_s=_LOOK_S).status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, method: str, path: str, body: object = None, **more: Any) -> httpx.Response:
        """One request to its public listener. body: sent as JSON."""
        return request(method, self.url + path, json=body, **more)

    def get(self, path: str) -> httpx.Response:
        return self.ask("GET", path)

    def models(self) -> set[str]:
        """The names of what it lists."""
        return {each["name"] for each in self.get("/api/tags").json()["models"]}

    def children(self) -> list[psutil.Process]:
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.ended()

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self) -> int:
        """The exit code, once it has ended."""
        assert self.process is not None
        assert self.process.stdin is not None
        code = self.process.wait(LIMIT_S)
        self.process.stdin.close()
        return code

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.send(signal.SIGTERM)
        try:
            return self.ended()
        except subprocess.TimeoutExpired:
            self.kill()
            raise


def add_model(url: str, name: str, path: Path) -> None:
    """Upload a GGUF as a blob and create a model from it, as `ollama create` does."""
    data = path.read_bytes()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    uploaded = request("POST", f"{url}/api/blobs/{digest}", content=data)
    assert uploaded.status_code in (200, 201), uploaded.text
    created = request("POST", f"{url}/api/create", json={"model": name, "files": {path.name: digest}, "stream": False})
    assert created.status_code == 200, created.text
    assert created.json() == {"status": "success"}
