"""The fact sheet: what changed is told at once and seldom, silence costs nothing, and nothing stays untold."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from msgspec.structs import replace

from ollamamax.adapters.system.clock import SystemClock
from ollamamax.core.errors import PeerTimeout
from ollamamax.core.membership.deltas import FactsReader, Reading
from ollamamax.core.types import NodeFacts
from ollamamax.ports import Caller
from ollamamax.services.fact_sheet import FACTS, FactSheet
from ollamamax.testing.mesh import MemoryHub, MemoryMesh

ME = "a" * 16
WAIT_S = 10.0
GAP_MS = 60.0


class Told(MemoryMesh):
    """Keeps what is published, with the time. failures: so many messages are refused first."""

    def __init__(self) -> None:
        super().__init__(MemoryHub())
        self.messages: list[bytes] = []
        self.times_s: list[float] = []
        self.failures = 0
        self.tries = 0
        self._news = asyncio.Event()

    async def publish(self, data: bytes) -> None:
        self.tries += 1
        if self.tries <= self.failures:
            raise PeerTimeout("not now")
        self.messages.append(data)
        self.times_s.append(asyncio.get_running_loop().time())
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not holds():
                self._news.clear()
                await self._news.wait()


class Source:
    def __init__(self) -> None:
        self.looks = 0
        self.facts = NodeFacts(
            node_id=ME,
            instance="i",
            name="node-a",
            version="1",
            protocol_min=1,
            protocol_max=1,
            addresses=(),
            role="router",
        )

    def __call__(self) -> NodeFacts:
        self.looks += 1
        return self.facts

    def change(self, queued: int) -> None:
        self.facts = replace(self.facts, queued=queued)


@asynccontextmanager
async def sheet(
    look_ms: float = 60_000.0, echo_ms: float = 60_000.0, gap_ms: float = GAP_MS
) -> AsyncGenerator[tuple[FactSheet, Source, Told], None]:
    source, mesh = Source(), Told()
    made = FactSheet(source, mesh, SystemClock(), gap_ms=gap_ms, look_ms=look_ms, echo_ms=echo_ms)
    task = asyncio.get_running_loop().create_task(made.run())
    try:
        yield made, source, mesh
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def read(*messages: bytes) -> NodeFacts:
    reader = FactsReader(ME)
    for data in messages:
        reader.read(data)
    assert reader.facts is not None
    return reader.facts


async def test_all_is_told_at_the_start_and_then_what_changes() -> None:
    async with sheet() as (made, source, mesh):
        await mesh.until(lambda: len(mesh.messages) == 1)
        source.change(3)
        made.touch()
        await mesh.until(lambda: len(mesh.messages) == 2)
        assert read(*mesh.messages) == source.facts
        assert len(mesh.messages[1]) < len(mesh.messages[0])


async def test_a_busy_node_tells_at_most_once_per_gap_and_the_last_state_in_the_end() -> None:
    async with sheet() as (made, source, mesh):
        await mesh.until(lambda: len(mesh.messages) == 1)
        for number in range(1, 200):
            source.change(number)
            made.touch()
            await asyncio.sleep(0.001)
        await mesh.until(lambda: read(*mesh.messages).queued == 199)
        gaps_s = [later - sooner for sooner, later in zip(mesh.times_s, mesh.times_s[1:], strict=False)]
        assert min(gaps_s) >= GAP_MS / 1000 * 0.9


async def test_what_is_urgent_waits_for_no_gap() -> None:
    async with sheet(gap_ms=WAIT_S * 1_000) as (made, source, mesh):
        await mesh.until(lambda: len(mesh.messages) == 1)
        source.change(1)
        made.touch()
        source.change(2)
        made.hurry()
        await mesh.until(lambda: read(*mesh.messages).queued == 2)


async def test_a_touch_without_a_change_tells_nothing() -> None:
    async with sheet() as (made, source, mesh):
        await mesh.until(lambda: len(mesh.messages) == 1)
        for _ in range(3):
            looks = source.looks
            made.touch()
            async with asyncio.timeout(WAIT_S):
                while source.looks == looks:
                    await asyncio.sleep(0)
        assert len(mesh.messages) == 1


async def test_a_change_that_nobody_mentions_is_found() -> None:
    async with sheet(look_ms=20.0) as (_, source, mesh):
        await mesh.until(lambda: len(mesh.messages) == 1)
        source.change(9)
        await mesh.until(lambda: read(*mesh.messages).queued == 9)


async def test_all_is_told_again_when_others_may_have_missed_it() -> None:
    async with sheet() as (made, source, mesh):
        await mesh.until(lambda: len(mesh.messages) == 1)
        source.change(1)
        made.retell()
        await mesh.until(lambda: len(mesh.messages) == 2)
        assert read(mesh.messages[1]) == source.facts


async def test_the_last_message_has_one_echo() -> None:
    async with sheet(echo_ms=30.0) as (made, source, mesh):
        await mesh.until(lambda: len(mesh.messages) == 2)
        late = FactsReader(ME)
        assert late.read(mesh.messages[1]) is Reading.GAP
        source.change(1)
        made.touch()
        await mesh.until(lambda: len(mesh.messages) == 4)
        reader = FactsReader(ME)
        assert [reader.read(data) for data in mesh.messages] == [Reading.NEWS, Reading.OLD] * 2


async def test_what_was_not_taken_is_told_later_as_a_whole() -> None:
    async with sheet(look_ms=20.0) as (_, source, mesh):
        mesh.failures = 2
        await mesh.until(lambda: len(mesh.messages) == 1)
        assert read(mesh.messages[0]) == source.facts
        assert mesh.tries == 3


async def test_who_asks_gets_what_was_told() -> None:
    source, mesh = Source(), Told()
    made = FactSheet(source, mesh, SystemClock())
    assert read(made.whole()) == source.facts
    told = source.facts
    source.change(5)
    assert read(made.whole()) == told, "a whole is what all messages so far amount to"
    assert await made.methods().unary[FACTS](Caller("b" * 16), b"") == made.whole()
