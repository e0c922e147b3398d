"""Three voters of etcd, written by way of all of them, while the one that leads is broken again and again."""

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from itertools import count

import etcds
from ollamamax.adapters.state.etcd_members import Members
from ollamamax.adapters.state.etcd_process import Child
from ollamamax.adapters.state.etcd_state import EtcdState
from ollamamax.core.errors import StateUnavailable
from ollamamax.core.types import EtcdAccess, EtcdSpec, StateEntry
from ollamamax.testing.engine import Watched
from state_history import OPS, WORKERS, History, Worker, check, follow, reached

Break = Callable[[int], Awaitable[None]]
"""Breaks, or mends, the voter of that number."""


async def leader_of(specs: Sequence[EtcdSpec]) -> int:
    """The number of the voter that leads."""
    while True:
        for number, spec in enumerate(specs):
            members = await Members.open(etcds.access(spec))
            try:
                status = await members.status()
            except StateUnavailable:
                continue
            finally:
                await members.close()
            if status.leader_id == status.member_id:
                return number
        await asyncio.sleep(0.05)


def killing(children: Sequence[Child]) -> tuple[Break, Break]:
    """kill -9; its keeper starts it again."""

    async def kill(number: int) -> None:
        os.kill(children[number].pid, signal.SIGKILL)

    async def mend(number: int) -> None:
        await children[number].ready(etcds.LIMIT_MS)

    return kill, mend


def stopping(children: Sequence[Child]) -> tuple[Break, Break]:
    """SIGSTOP, and SIGCONT."""

    async def stop(number: int) -> None:
        os.kill(children[number].pid, signal.SIGSTOP)

    async def go_on(number: int) -> None:
        os.kill(children[number].pid, signal.SIGCONT)

    return stop, go_on


async def one_fault(specs: Sequence[EtcdSpec], history: History, fault: tuple[Break, Break]) -> None:
    """In the midst of a round: the leader is broken, writes go on by way of the others, and it is mended."""
    begun = history.finished
    await history.until(lambda: history.finished >= begun + WORKERS * OPS // 4)
    former = await leader_of(specs)
    destroy, mend = fault
    await destroy(former)
    try:
        written = len(history.written) + WORKERS * 2  # more than those that were just being acknowledged
        await history.until(lambda: len(history.written) > written)
    finally:
        await mend(former)


async def run(specs: Sequence[EtcdSpec], faults: Sequence[tuple[Break, Break]]) -> None:
    """A round for each fault; then nothing may be lost, told twice, or out of order."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    history, seen, told = History(), dict[int, StateEntry](), Watched()
    place = f"{seed:016x}"
    async with etcds.state(etcds.access(*specs), place) as everywhere:
        # As nodes have it: each by way of one voter first. Writes are repeated elsewhere only if they were never sent.
        stores = [await EtcdState.open(turned(specs, number), place) for number in range(len(specs))]
        workers = [Worker(number, stores[number % len(stores)], history, seed) for number in range(WORKERS)]
        follower = asyncio.create_task(follow(everywhere, seen, told))
        for number, fault in enumerate(faults):
            breaking = asyncio.create_task(one_fault(specs, history, fault))
            async with asyncio.TaskGroup() as tasks:
                for worker in workers:
                    tasks.create_task(keep_working(worker, number, breaking))
            await breaking
        whole = await reached(stores[-1])
        await told.until(lambda: max(seen, default=0) == whole)
        follower.cancel()
        [ended] = await asyncio.gather(follower, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended
        for store in stores:
            await store.close()
    print(f"{history.finished} operations, {history.unknown} of unknown outcome, {whole} changes")
    check(history, seen)


async def keep_working(worker: Worker, round_number: int, breaking: "asyncio.Task[None]") -> None:
    """Until the fault is over."""
    for part in count():
        await worker.work(f"{round_number}-{part}")
        if breaking.done():
            return


def turned(specs: Sequence[EtcdSpec], number: int) -> EtcdAccess:
    """To all of them, one of them first."""
    return etcds.access(*specs[number:], *specs[:number])
