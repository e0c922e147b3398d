"""The state on one node, written from others while its process is killed, and stopped and continued.

What is recorded must be what one register, or one set, could have answered; nothing that was acknowledged may be
lost; and who follows sees every change once and in order.
"""

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

import state_holder
from ollamamax.adapters.state.remote_state import RemoteState
from ollamamax.core.types import NodeRecord
from ollamamax.testing.engine import Watched
from peer_world import A, B, C, Cluster, linked, record
from state_history import OPS, WORKERS, History, Worker, check, follow, reached

FAULTS = ("kill", "stop", "kill", "stop", "kill")


class Holder:
    """The process that has the state; always at the same port."""

    def __init__(self, home: Path, cluster: Cluster) -> None:
        self._home = home
        self._papers = home / "papers"
        self._papers.write_bytes(msgspec.msgpack.encode(cluster.keys(A)))
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def record(self) -> NodeRecord:
        return record(A, self._port)

    async def start(self) -> None:
        script = str(Path(state_holder.__file__))
        arguments = (script, str(self._home / "state.db"), str(self._papers), str(self._port))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        self._port = int(await self._process.stdout.readline())

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def finish(self) -> int:
        """End it as a person would; its exit code."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        return await self._process.wait()


async def break_holder(holder: Holder, history: History, fault: str) -> None:
    """In the midst of a round."""
    begun = history.finished
    await history.until(lambda: history.finished >= begun + WORKERS * OPS // 4)
    if fault == "kill":
        await holder.kill()
        await holder.start()
    else:
        holder.signal(signal.SIGSTOP)
        failed = history.failed
        try:
            await history.until(lambda: history.failed > failed)
        finally:
            holder.signal(signal.SIGCONT)


@asynccontextmanager
async def holding(tmp_path: Path, cluster: Cluster) -> AsyncIterator[Holder]:
    holder = Holder(tmp_path, cluster)
    await holder.start()
    try:
        yield holder
    finally:
        await holder.kill()


async def test_nothing_acknowledged_is_lost_and_all_is_linearizable(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    cluster, history, seen = Cluster(), History(), {}
    told = Watched()
    async with (
        asyncio.timeout(60),
        holding(tmp_path, cluster) as holder,
        linked(cluster.keys(B)) as one,
        linked(cluster.keys(C)) as other,
    ):
        stores = [
            RemoteState(link, lambda: [holder.record], timeout_ms=400.0, silence_ms=800.0) for link in (one, other)
        ]
        workers = [Worker(number, stores[number % 2], history, seed) for number in range(WORKERS)]
        follower = asyncio.create_task(follow(stores[0], seen, told))
        for number, fault in enumerate(FAULTS):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(break_holder(holder, history, fault))
                for worker in workers:
                    tasks.create_task(worker.work(number))
        whole = await reached(stores[1])
        await told.until(lambda: max(seen, default=0) == whole)
        assert await holder.finish() == 0
        follower.cancel()
        [ended] = await asyncio.gather(follower, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended
    assert history.unknown > 0
    print(f"{history.finished} operations, {history.unknown} of unknown outcome, {whole} changes")
    check(history, seen)
