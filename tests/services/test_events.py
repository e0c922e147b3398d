"""The log of events: bounded, in order, and nobody who looks on misses one."""

import asyncio

from ollamamax.core.types import ClusterEvent
from ollamamax.services.events import REMEMBERED, EventLog


def event(at_ns: int, text: str = "") -> ClusterEvent:
    return ClusterEvent(at_ns=at_ns, kind="joined", node="n", text=text)


async def test_times_rise_even_if_the_clock_does_not() -> None:
    log = EventLog()
    for at_ns in (5, 5, 3, 10):
        log.add(event(at_ns))
    assert [one.at_ns for one in log.recent()] == [5, 6, 7, 10]


async def test_only_the_last_ones_are_remembered() -> None:
    log = EventLog()
    for at_ns in range(1, REMEMBERED + 11):
        log.add(event(at_ns))
    assert (log.recent()[0].at_ns, len(log.recent())) == (11, REMEMBERED)


async def test_a_reader_gets_old_and_new_ones_once() -> None:
    log = EventLog()
    for at_ns in (1, 2, 3):
        log.add(event(at_ns))
    seen: list[int] = []

    async def read() -> None:
        async for one in log.follow(1):
            seen.append(one.at_ns)
            if one.at_ns == 3:
                log.add(event(4))  # while it reads

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        while seen[-1:] != [4]:
            await asyncio.sleep(0)
        log.add(event(5))
        while seen[-1:] != [5]:
            await asyncio.sleep(0)
        log.close()
    assert seen == [2, 3, 4, 5]
