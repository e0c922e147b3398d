"""A real OCI registry for tests: Debian's docker-registry on loopback, from PATH or fetched by apt (root or not)."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from free_ports import free_port

_START_S = 30
_CONFIG = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http:
  addr: 127.0.0.1:{port}
"""


@contextmanager
def docker_registry(folder: Path) -> Iterator[int]:
    """Its port. folder: where it keeps its blobs. Where it can't be had the test is skipped, or fails if CI is set."""
    program = _program()
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.yml"
    config.write_text(_CONFIG.format(root=folder / "data", port=port))
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait_for(port, process, folder / "registry.log")
        yield port
    finally:
        process.terminate()
        process.wait(timeout=10)


def _program() -> str:
    found = shutil.which("docker-registry")
    if found:
        return found
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ollamamax-tests"
    program = cache / "docker-registry" / "usr/bin/docker-registry"
    if not program.exists():
        _fetch(cache)
    return str(program)


def _fetch(cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", "-qq", "docker-registry"], cwd=cache, check=True, capture_output=True)
        package = next(cache.glob("docker-registry_*.deb"))
        fresh = cache / f"docker-registry.{os.getpid()}"
        subprocess.run(["dpkg", "-x", str(package), str(fresh)], check=True, capture_output=True)
        fresh.rename(cache / "docker-registry")
    except (OSError, subprocess.CalledProcessError, StopIteration) as error:
        reason = f"docker-registry can't be had ({error}); on Debian or Ubuntu: apt-get install docker-registry"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def _wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        assert process.poll() is None, f"docker-registry ended: {log.read_text(errors='replace')[-2000:]}"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "docker-registry does not answer"
            time.sleep(0.02)
