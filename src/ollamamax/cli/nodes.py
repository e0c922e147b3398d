"""Nodes as children of this process: started, waited for, ended with it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from ollamamax.cli.errors import CliError

_INTERPRETER = sys.executable
_START_S = 60.0
_STOP_S = 15.0
_KILLED_S = 5.0
_LOG_TAIL_LINES = 15


def free_port(preferred: int = 0) -> int:
    """The preferred port of loopback if it is free, else another. Somebody else may still be quicker."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise CliError("no TCP port of this machine is free")


class Nodes:
    """Children that each run `ollamamax serve` in a folder of their own.

    A pipe to each one's standard input is held open: when this process ends, however it ends, they end too.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, port: int, join: str = "") -> str:
        """Start one on loopback; its URL. It is not ready yet. join: the token of the cluster that it joins first."""
        home = self._folder / name
        home.mkdir()
        command = [_INTERPRETER, "-m", "ollamamax", "serve", "--exit-on-stdin-close", "--log-format", "console"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--home", str(home), "--models", str(home / "models")]
        command += ["--name", name, "--peer-listen", "127.0.0.1:0", "--set", "peer.multicast=false"]
        command += ["--join", join] if join else []
        with self._log(name).open("wb") as log:
            self._children[name] = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_plain_environment(),
                start_new_session=True,  # Ctrl-C is for us; we then end them in order
            )
        return f"http://127.0.0.1:{port}"

    def wait(self, urls: Iterable[tuple[str, str]]) -> None:
        """Until all of these (name, URL) say that they are ready. Raises: CliError with the log's end."""
        deadline = time.monotonic() + _START_S
        for name, url in urls:
            while not _is_ready(url):
                if self._children[name].poll() is not None:
                    raise CliError(f"the node {name} ended while it started. Its last words:\n{self.last_words(name)}")
                if time.monotonic() > deadline:
                    raise CliError(f"the node {name} was not ready in time. Its last words:\n{self.last_words(name)}")
                time.sleep(0.03)

    def check(self) -> None:
        """Raises: CliError if one has ended."""
        for name, child in self._children.items():
            if child.poll() is not None:
                raise CliError(f"the node {name} has ended. Its last words:\n{self.last_words(name)}")

    def last_words(self, name: str) -> str:
        """The end of a node's log."""
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:]) or "(none)"

    def stop(self) -> None:
        """End all: ask by closing their input, wait, kill those that stay. Idempotent."""
        for child in self._children.values():
            if child.stdin is not None:
                child.stdin.close()
        deadline = time.monotonic() + _STOP_S
        for child in self._children.values():
            try:
                child.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(timeout=_KILLED_S)

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def _plain_environment() -> dict[str, str]:
    """Ours, without settings: each node's come by flags."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("OLLAMA_", "OLLAMAMAX_"))}


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2.0, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
