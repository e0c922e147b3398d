"""What this node tells of itself, and when."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from gateway_world import LocalTwin, World, in_memory, offer, world
from msgspec.structs import replace
from peers_world import facts_of

from ollamamax.core.errors import EngineUnavailable
from ollamamax.core.routing.predict import Sample
from ollamamax.core.types import EngineKind, EngineModel, NodeFacts
from ollamamax.services.node_facts import STEP_PARTS, NodeFactsSource
from ollamamax.testing.engine import FakeMachine, TwinEngine

TOTAL = 16 << 30


class Told:
    """A source over a world, and how often the fleet's watchers were told of something new."""

    def __init__(self, w: World) -> None:
        self.machine = FakeMachine(8 << 30, TOTAL)
        self.base = facts_of("here", queued=3, role="router")
        self.source = NodeFactsSource(w.fleet, self.machine, lambda: self.base)
        self.times = 0
        w.fleet.watch_own(self._note)

    def _note(self) -> None:
        self.times += 1


async def test_the_whole() -> None:
    left = TwinEngine([offer("big:latest")], kind=EngineKind.OLLAMA)
    async with world(LocalTwin([offer()]), {"left": left}, slots=7) as w:
        told = Told(w)
        await told.source.measure()
        lease = w.lease()
        facts = told.source()
        assert replace(facts, engines=(), loaded=(), free_memory_bytes=0, total_memory_bytes=0) == told.base
        assert (facts.free_memory_bytes, facts.total_memory_bytes, facts.gpu_count) == (8 << 30, TOTAL, 0)
        assert facts.loaded == (in_memory("tiny:latest"),)
        local, attached = facts.engines
        assert (local.name, local.kind, local.slots, local.in_flight) == ("local", EngineKind.LLAMACPP, 4, 1)
        assert (local.busy, local.outstanding_tokens, local.models) == ({"tiny:latest": 1}, 256.0, (offer(),))
        assert (attached.name, attached.kind, attached.slots, attached.busy) == ("left", EngineKind.OLLAMA, 7, None)
        w.fleet.succeeded(lease, Sample(100, 1_000.0, 50, 333.0))
        assert told.source().engines[0].decode_tps == 150.2


async def test_models_are_told_as_the_same_object_until_they_change() -> None:
    row = in_memory("tiny:latest")
    async with world(LocalTwin([replace(offer(), running=row)]), {"left": TwinEngine([offer()])}) as w:
        told = Told(w)
        first, again = told.source(), told.source()
        assert [a.models is b.models for a, b in zip(first.engines, again.engines, strict=True)] == [True, True]
        assert first.engines[0].models[0].running is None
        w.local.offered = (offer("new:latest", loaded=False),)
        await w.fleet.local_changed()
        assert [model.key for model in told.source().engines[0].models] == ["new:latest"]
        await w.fleet.remove("left")
        assert [engine.name for engine in told.source().engines] == ["local"]


async def test_what_is_told_at_once() -> None:
    async with world(LocalTwin([offer(loaded=False)]), {"left": TwinEngine([offer("x:latest")])}) as w:
        told = Told(w)
        await w.ask()
        assert told.times == 3, "the slot was taken, the model loaded, the slot given back"
        w.twins["left"].models_error = EngineUnavailable("gone")
        w.clock.advance(1_000)
        before = told.times
        await w.fleet.refresh("left")
        assert told.times == before + 1
        assert not told.source().engines[1].reachable


async def test_models_that_leave_memory_and_answers_under_way_are_noticed() -> None:
    async with world(LocalTwin([offer()])) as w:
        told = Told(w)
        assert told.source.look()
        assert (told.source.look(), told.times) == (False, 1)
        w.local.in_memory = ()
        assert (told.source.look(), told.times) == (True, 2)
        lease = w.lease()
        assert told.times == 3
        assert (told.source.look(), told.times) == (False, 4)
        w.fleet.abandoned(lease)


async def test_memory_is_told_only_once_it_has_moved() -> None:
    async with world() as w:
        told = Told(w)
        await told.source.measure()
        assert told.times == 1
        told.machine.free_bytes -= TOTAL // STEP_PARTS - 1
        await told.source.measure()
        assert told.times == 1
        assert told.source().free_memory_bytes == 8 << 30
        assert w.fleet.stores()[0].free_memory_bytes == told.machine.free_bytes, "routing here knows better"
        told.machine.free_bytes -= 1
        await told.source.measure()
        assert (told.times, told.source().free_memory_bytes) == (2, told.machine.free_bytes)
        told.machine.gpus = 2
        await told.source.measure()
        assert (told.times, told.source().gpu_count) == (3, 2)


@asynccontextmanager
async def running(source: NodeFactsSource, measure_s: float) -> AsyncIterator[None]:
    runner = asyncio.create_task(source.run(look_s=0.001, measure_s=measure_s))
    try:
        yield
    finally:
        runner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await runner


async def test_memory_is_measured_when_models_come_and_go() -> None:
    async with world(LocalTwin([offer()])) as w:
        told = Told(w)
        async with running(told.source, measure_s=3_600):
            await w.until(lambda: told.source().free_memory_bytes == 8 << 30)
            told.machine.free_bytes, w.local.in_memory = 1 << 30, ()
            await w.until(lambda: told.source().free_memory_bytes == 1 << 30)


@pytest.mark.parametrize("gpus", [0, 1])
async def test_memory_is_measured_now_and_then(gpus: int) -> None:
    async with world() as w:
        told = Told(w)
        told.machine.gpus = gpus
        await told.source.measure()
        async with running(told.source, measure_s=0.002):
            for free_bytes in (5 << 30, 7 << 30):
                told.machine.free_bytes = free_bytes
                await w.until(lambda: told.source().free_memory_bytes == told.machine.free_bytes)


async def test_a_hundred_models_stay_small() -> None:
    models = [EngineModel(f"m{n}:latest", f"m{n}:latest", False, offer(f"m{n}").record) for n in range(100)]
    async with world(LocalTwin(models)) as w:
        told = Told(w)
        whole = msgspec.msgpack.encode(told.source())
        assert msgspec.msgpack.decode(whole, type=NodeFacts) == told.source()
        assert len(whole) < 64_000
