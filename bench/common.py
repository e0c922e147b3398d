"""What the benchmarks share: the machine's name, child processes, CPU accounting, synthetic models."""

import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

READY_S = 60


def machine() -> str:
    """One line that names the machine: processor, cores, memory, system, Python."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    memory_gib = psutil.virtual_memory().total / 2**30
    python = f"CPython {platform.python_version()}"
    return f"{name}, {psutil.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.system()}, {python}"


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_ready(url: str, child: subprocess.Popen[bytes]) -> None:
    """Returns when `url` answers 200. Raises: RuntimeError if the child ends or 60 s pass."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise RuntimeError(f"the process for {url} ended with code {child.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"{url} did not answer within {READY_S} s")


@contextmanager
def process(command: list[str], ready_url: str, extra_env: Mapping[str, str] | None = None) -> Iterator[int]:
    """A child process that is ready; gives its pid; ended on leaving."""
    child = subprocess.Popen(
        command,
        env={**os.environ, **(extra_env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_ready(ready_url, child)
        yield child.pid
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextmanager
def node(extra_env: Mapping[str, str] | None = None) -> Iterator[tuple[str, int, Path]]:
    """A node of its own: (base url, pid, models directory)."""
    with tempfile.TemporaryDirectory(prefix="ollamamax-bench-") as folder:
        port = free_port()
        models = Path(folder) / "models"
        env = {
            "OLLAMAMAX_HOME": str(Path(folder) / "home"),
            "OLLAMA_MODELS": str(models),
            "OLLAMA_HOST": f"127.0.0.1:{port}",
            **(extra_env or {}),
        }
        base = f"http://127.0.0.1:{port}"
        with process([sys.executable, "-m", "ollamamax", "serve"], f"{base}/readyz", env) as pid:
            yield base, pid, models


def call(method: str, url: str, body: object = None) -> object:
    """One JSON request outside any measurement."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process so far: by its clock of nanoseconds on Linux (clock_getcpuclockid(3)), else in ticks."""
    if sys.platform == "linux":
        return time.clock_gettime((~pid << 3) | 2)
    return sum(psutil.Process(pid).cpu_times()[:2])


class CpuMeter:
    """CPU seconds (user + system) that a process and its given companions spend while it is open."""

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self.seconds = 0.0

    def _now(self) -> float:
        return sum(_cpu_s(pid) for pid in self._pids)

    def __enter__(self) -> "CpuMeter":
        self._start = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self._now() - self._start


def median(values: list[float]) -> float:
    """The middle value."""
    return statistics.median(values)
