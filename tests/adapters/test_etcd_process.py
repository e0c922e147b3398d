"""etcd as a child: found or not, started, killed, stopped, out of disk; and gone when its node is, in any order."""

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

import etcds
from ollamamax.adapters.state import etcd_program
from ollamamax.adapters.state.etcd import LocalEtcd
from ollamamax.adapters.state.etcd_process import Child
from ollamamax.core.errors import StateUnavailable, StoreError, Unsupported
from ollamamax.core.types import EtcdProgram, EtcdSpec, Put, StateTxn
from peer_world import bounded
from tmpfs import grow, tmpfs


def script(folder: Path, text: str) -> str:
    path = folder / "etcd"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.02)


# --- which one ------------------------------------------------------------------------------------------------


@bounded
async def test_the_one_on_the_path_or_the_one_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = script(tmp_path, "echo etcd Version: 3.5.16; echo Git SHA: abc")
    assert await LocalEtcd(path).program() == EtcdProgram(path, "3.5.16")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert await LocalEtcd().program() == EtcdProgram(path, "3.5.16")


@bounded
async def test_none_tells_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for system, has_apt, remedy in (
        ("Linux", True, "apt-get install etcd-server"),
        ("Linux", False, "releases page"),
        ("Darwin", False, "brew install etcd"),
    ):
        monkeypatch.setattr(etcd_program.platform, "system", lambda system=system: system)
        monkeypatch.setattr(etcd_program, "_has_apt", lambda has_apt=has_apt: has_apt)
        with pytest.raises(Unsupported, match=rf"etcd was not found.*{remedy}"):
            await etcd_program.find()
    with pytest.raises(Unsupported, match="can't be started as /nowhere/etcd: No such file"):
        await etcd_program.find("/nowhere/etcd")


@pytest.mark.parametrize("version", ["3.5.0", "3.5.1", "3.5.2", "3.3.27", "2.3.8"])
async def test_versions_that_lose_data_or_are_too_old_are_refused(version: str, tmp_path: Path) -> None:
    path = script(tmp_path, f"echo etcd Version: {version}")
    with pytest.raises(Unsupported, match=f"etcd {version} .*(is refused: .* corrupt data|is too old)"):
        await LocalEtcd(path).start(etcds.specs(tmp_path, 1)[0])
    assert not (tmp_path / "m0").exists()


@bounded
async def test_what_is_no_etcd_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="is it etcd"):
        await etcd_program.find(script(tmp_path, "echo hello"))


# --- one life -------------------------------------------------------------------------------------------------


@bounded
async def test_it_runs_logs_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETCD_NAME", "of another one")  # etcd would end at once
    [spec] = etcds.specs(tmp_path, 1)
    with capture_logs() as lines:
        child = await LocalEtcd(etcds.etcd_path()).start(spec)
        assert child.trouble
        status = await child.ready(etcds.LIMIT_MS)
        assert (child.trouble, child.restarts) == ("", 0)
        assert status.leader_id == status.member_id
        assert status.version.startswith("3.")
        process = psutil.Process(child.pid)
        assert stat.S_IMODE(Path(spec.data_dir).stat().st_mode) == 0o700
        await child.stop()
        await child.stop()
        assert not process.is_running()
        assert child.trouble == "etcd was stopped"
    assert any("became leader" in line["event"] and line["log_level"] == "debug" for line in lines)
    assert {line["member"] for line in lines} == {"m0"}
    assert not [line for line in lines if line["log_level"] not in ("debug", "info")]
    with pytest.raises(StateUnavailable, match=r"was not ready within 0\.2 s: etcd was stopped"):
        await child.ready(200)


@bounded
async def test_one_that_was_killed_is_started_again_with_what_it_had(tmp_path: Path) -> None:
    [spec] = etcds.specs(tmp_path, 1)
    with capture_logs() as lines:
        async with etcds.running(spec) as [child]:
            async with etcds.state(etcds.access(spec), "c") as store:
                await store.txn(StateTxn((), (Put("a", b"1"),)))
            for restarts in (1, 2):
                former = child.pid
                os.kill(former, signal.SIGKILL)
                await until(lambda restarts=restarts: child.restarts == restarts and child.pid != 0)
                await child.ready(etcds.LIMIT_MS)
                assert child.pid != former
            async with etcds.state(etcds.access(spec), "c", None) as store:
                entry = await store.get("a", linearizable=True)
                assert entry is not None
                assert entry.value == b"1"
    ended = [line for line in lines if line["event"] == "etcd ended"]
    assert [(line["reason"], line["again_in_s"]) for line in ended] == [
        ("etcd was killed by signal SIGKILL", 0.2),
        ("etcd was killed by signal SIGKILL", 0.4),
    ]


@bounded
async def test_one_that_can_not_start_tells_why_and_is_tried_again(tmp_path: Path) -> None:
    [one, other] = etcds.specs(tmp_path, 2)
    one = replace(one, members={one.name: one.peer_addresses})
    clash = replace(other, members={other.name: one.peer_addresses}, peer_listen=one.peer_listen)
    clash = replace(clash, peer_addresses=one.peer_addresses)
    async with etcds.running(one) as [child]:
        later = await Child.start(EtcdProgram(etcds.etcd_path(), ""), clash, first_pause_s=0.1)
        await until(lambda: later.restarts > 0 and "is taken by another program" in later.trouble)
        with pytest.raises(StateUnavailable, match="taken by another program"):
            await later.ready(300)
        await child.stop()
        await later.ready(etcds.LIMIT_MS)
        await later.stop()
    with pytest.raises(StoreError, match="can't make /proc/etcd"):
        await Child.start(EtcdProgram(etcds.etcd_path(), ""), replace(one, data_dir="/proc/etcd"))


@bounded
async def test_a_program_that_vanished_is_told_of(tmp_path: Path) -> None:
    [spec] = etcds.specs(tmp_path, 1)
    child = await Child.start(EtcdProgram("/nowhere/etcd", ""), spec, first_pause_s=0.1)
    await until(lambda: "/nowhere/etcd can't be started: No such file" in child.trouble)
    await child.stop()


async def test_a_disk_that_is_full_is_told_of_and_room_heals_it(tmp_path: Path) -> None:
    [spec] = etcds.specs(tmp_path, 1)
    with tmpfs(tmp_path / "disk", 160 << 20) as disk:  # two of its logs of 64 MB, and some
        spec = replace(spec, data_dir=str(disk / "etcd"))
        written = 0

        async def fill() -> None:
            nonlocal written
            async with etcds.state(etcds.access(spec), "c") as store:
                while True:
                    value = b"%d " % (written + 1) + b"v" * 200_000
                    await store.txn(StateTxn((), (Put("a", value),)))
                    written += 1

        async with asyncio.timeout(120), etcds.running(spec) as [child]:
            with pytest.raises(StateUnavailable):
                await fill()
            await until(lambda: "disk that its data lie on is full" in child.trouble)
            grow(disk, 600 << 20)
            await child.ready(etcds.LIMIT_MS)
            async with etcds.state(etcds.access(spec), "c", None) as store:
                entry = await store.get("a", linearizable=True)
                assert entry is not None
                assert int(entry.value.split()[0]) >= written > 100


# --- deaths ---------------------------------------------------------------------------------------------------

NODE = """
import asyncio, sys, msgspec, psutil, structlog
from ollamamax.adapters.state.etcd_process import Child
from ollamamax.core.types import EtcdProgram, EtcdSpec
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
async def main():
    child = await Child.start(EtcdProgram(sys.argv[1], ""), msgspec.json.decode(sys.argv[2], type=EtcdSpec))
    await child.ready(60_000)
    print(psutil.Process(child.pid).ppid(), child.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


class Node:
    """A process that runs an etcd. keeper, etcd: below it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        assert process.stdout is not None
        words = process.stdout.readline().split()
        self.keeper, self.etcd = (psutil.Process(int(word)) for word in words)


@contextlib.contextmanager
def node(spec: EtcdSpec) -> Iterator[Node]:
    command = [sys.executable, "-c", NODE, etcds.etcd_path(), msgspec.json.encode(spec).decode()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Node(process)
        finally:
            process.kill()


@pytest.mark.parametrize("order", ["node", "keeper, node", "node, keeper", "stopped etcd, node"])
async def test_no_death_leaves_an_etcd_behind(order: str, tmp_path: Path) -> None:
    [spec] = etcds.specs(tmp_path, 1)
    with node(spec) as one:
        for victim in order.split(", "):
            if victim == "stopped etcd":
                one.etcd.suspend()
            elif victim == "node":
                one.process.kill()
            else:
                one.keeper.kill()
        await until(lambda: not one.etcd.is_running() and not one.keeper.is_running())


@bounded
async def test_a_keeper_that_is_killed_takes_etcd_along_and_both_come_again(tmp_path: Path) -> None:
    [spec] = etcds.specs(tmp_path, 1)
    async with etcds.running(spec) as [child]:
        former = psutil.Process(child.pid)
        psutil.Process(former.ppid()).kill()
        await until(lambda: not former.is_running())
        await until(lambda: child.restarts == 1)
        await child.ready(etcds.LIMIT_MS)


@bounded
async def test_one_that_stands_still_is_ended_all_the_same(tmp_path: Path) -> None:
    [spec] = etcds.specs(tmp_path, 1)
    async with etcds.running(spec) as [child]:
        process = psutil.Process(child.pid)
        process.suspend()
        await child.stop()
        assert not process.is_running()
