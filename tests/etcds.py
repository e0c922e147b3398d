"""etcd for tests: where it is, one that all tests of a run share, and members of their own for those who break them."""

import atexit
import functools
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from free_ports import free_port
from ollamamax.adapters.state import etcd_keeper
from ollamamax.adapters.state.etcd_flags import arguments, environment
from ollamamax.adapters.state.etcd_process import Child
from ollamamax.adapters.state.etcd_state import EtcdState
from ollamamax.core.types import EtcdAccess, EtcdProgram, EtcdSpec

UNPACKED = Path(sys.prefix) / "etcd" / "usr" / "bin" / "etcd"
"""Where `make test` puts it."""
LIMIT_MS = 60_000.0


def etcd_path() -> str:
    """Of the program. Where there is none the test is skipped, or fails where CI is set."""
    path = str(UNPACKED) if UNPACKED.exists() else shutil.which("etcd")
    if path:
        return path
    reason = "etcd is not installed; `make test` gets it where apt-get is"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def specs(folder: Path, count: int) -> list[EtcdSpec]:
    """Of members that found a cluster together, without TLS, on loopback; quick to elect."""
    first = free_port(2 * count)
    ports = range(first, first + 2 * count)
    members = {f"m{number}": (f"127.0.0.1:{ports[number]}",) for number in range(count)}
    return [
        EtcdSpec(
            name=name,
            data_dir=str(folder / name),
            client_listen=f"127.0.0.1:{ports[count + number]}",
            peer_listen=addresses[0],
            peer_addresses=addresses,
            members=members,
            token=folder.name,
            heartbeat_ms=50,
            election_ms=500,
        )
        for number, (name, addresses) in enumerate(members.items())
    ]


def access(*members: EtcdSpec) -> EtcdAccess:
    """To them in turn, with the papers of the first."""
    one = members[0]
    return EtcdAccess(
        endpoints=tuple(member.client_listen for member in members), ca=one.ca, certificate=one.certificate, key=one.key
    )


@asynccontextmanager
async def running(
    *members: EtcdSpec, first_pause_s: float = 0.2, paths: Sequence[str] = ()
) -> AsyncGenerator[list[Child], None]:
    """Them, all ready. paths: of other programs than etcd itself, one for each."""
    children: list[Child] = []
    try:
        for spec, path in zip(members, paths or [etcd_path()] * len(members), strict=True):
            children.append(await Child.start(EtcdProgram(path, ""), spec, first_pause_s=first_pause_s))
        for child in children:
            await child.ready(LIMIT_MS)
        yield children
    finally:
        for child in children:
            await child.stop()


@asynccontextmanager
async def state(where: EtcdAccess, cluster_id: str = "", begin: int | None = -1) -> AsyncGenerator[EtcdState, None]:
    """A store; in a place of its own unless one is named. begin: its first revision is after that; None = as it is."""
    store = await EtcdState.open(where, cluster_id or secrets.token_hex(8), heartbeat_ms=50.0)
    try:
        if begin is not None:
            await store.begin(begin)
        yield store
    finally:
        await store.close()


@functools.cache
def shared() -> EtcdAccess:
    """To one that all tests of this run share: begun when it is first asked for, ended with this process."""
    path = etcd_path()
    folder = Path(tempfile.mkdtemp(prefix="etcd-"))
    [spec] = specs(folder, 1)
    command = arguments(EtcdProgram(path, ""), spec, is_first=True)
    log = folder / "log"
    with log.open("wb") as told:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", etcd_keeper.__file__, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=told,
            env=environment(),
            start_new_session=True,
        )
    atexit.register(_end, process, folder)
    until = time.monotonic() + LIMIT_MS / 1000.0
    while not _is_well(spec.client_listen):
        if time.monotonic() > until or process.poll() is not None:
            pytest.fail(f"etcd did not start: {log.read_text()[-2000:]}")
        time.sleep(0.05)
    return access(spec)


def _is_well(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=5) as answer:
            return bool(json.load(answer)["health"] == "true")
    except OSError:
        return False


def _end(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait(30)
    shutil.rmtree(folder, ignore_errors=True)
