"""Failed loads, crashes, restarts and shutdown, as those who ask the agent see them."""

import asyncio

import pytest
from agent_world import LIMIT_S, MemoryLibrary, World, chat, first, hold, model, running, settled, text_of

from ollamamax.core.errors import (
    EngineCrashed,
    GgufUnsupported,
    LoadFailed,
    LoadTimeout,
    ShuttingDown,
)
from ollamamax.core.residency.runner import Phase
from ollamamax.services.agent import AgentConfig


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (LoadFailed("no room"), LoadFailed),
        (GgufUnsupported("no such type"), GgufUnsupported),
        (EngineCrashed("odd"), LoadFailed),
        (OSError("no process"), LoadFailed),
    ],
)
async def test_failed_loads(raised: Exception, kind: type[Exception]) -> None:
    async with running(model()) as world:
        world.launcher.failures = [raised]
        with pytest.raises(kind, match=str(raised)):
            await world.ask(chat())
        assert world.meter.loads == [("tiny:latest", 0, kind.code)]  # type: ignore[attr-defined]
        assert text_of(await world.ask(chat())) == "Hello there, how are you?"


async def test_a_launcher_with_a_fault_does_not_end_the_node() -> None:
    async with running(model()) as world:
        world.launcher.failures = [ZeroDivisionError("oops")]
        with pytest.raises(LoadFailed, match="internal error"):
            await world.ask(chat())
        assert text_of(await world.ask(chat())) == "Hello there, how are you?"


async def test_a_load_that_takes_too_long() -> None:
    async with running(model(), load_timeout_ms=1_000) as world:
        world.launcher.gate.clear()
        asked = asyncio.create_task(world.ask(chat()))
        await world.launcher.until(lambda: world.launcher.launching == 1)
        world.advance(1_000)
        with pytest.raises(LoadTimeout, match="not loaded within 1 s"):
            await asked
        await world.launcher.until(lambda: world.launcher.cancelled == 1)
        assert world.meter.loads == [("tiny:latest", 1_000, "load_timeout")]


async def test_a_crash_fails_its_streams_and_the_next_request_is_answered_after_the_wait() -> None:
    async with running(model()) as world:
        world.prepare = hold
        _, rest = await first(world, chat())
        world.launcher.engines[0].crash("killed by signal 9")
        with pytest.raises(EngineCrashed, match="unexpectedly stopped"):
            await rest
        assert world.meter.exits == ["tiny:latest"]
        world.prepare = lambda _engine, _spec: None
        after = asyncio.create_task(world.ask(chat()))
        await asyncio.sleep(0)
        assert len(world.launcher.specs) == 1
        world.advance(1_000)
        assert text_of(await after) == "Hello there, how are you?"
        assert len(world.launcher.specs) == 2


async def test_restarts_that_keep_failing_fail_those_who_wait() -> None:
    async with running(model()) as world:
        await world.ask(chat())
        world.launcher.engines[0].crash()
        await settled(lambda: not world.agent.loaded())
        world.launcher.failures = [LoadFailed("broken")] * 5
        asked = asyncio.create_task(world.ask(chat()))
        for launch in range(5):
            await settled(lambda: world.agent._pool.runners[0].phase is Phase.BACKOFF)
            world.advance(1_000 * 2**launch)
            assert world.agent._pool.runners[0].phase is Phase.LOADING
        with pytest.raises(LoadFailed, match="failed 6 times in a row: broken"):
            await asked


async def test_closing_waits_for_answers_and_takes_no_new_ones() -> None:
    async with running(model()) as world:
        world.prepare = hold
        _, rest = await first(world, chat())
        closing = asyncio.create_task(world.agent.close(grace_ms=60_000))
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDown):
            await world.ask(chat())
        world.launcher.engines[0].next_gate.set()
        assert (await rest)[-1].done_reason == "stop"
        await closing
        assert world.meter.unloads == [("tiny:latest", "shutdown")]
        await world.agent.close()
        with pytest.raises(ShuttingDown):
            await world.ask(chat())


async def test_closing_stops_endless_answers_after_the_grace_time() -> None:
    async with running(model()) as world:
        world.prepare = hold
        _, rest = await first(world, chat())
        await world.agent.close(grace_ms=1)
        with pytest.raises(Exception, match="ended"):
            await rest


async def test_closing_before_the_start() -> None:
    world = World(MemoryLibrary([model()]), AgentConfig())
    async with asyncio.timeout(LIMIT_S):
        await world.agent.close()
        await world.agent.run()


@pytest.mark.parametrize("is_loading", [True, False])
async def test_cancelling_the_loop_leaves_no_engine(is_loading: bool) -> None:
    world = World(MemoryLibrary([model()]), AgentConfig(num_parallel=1))
    async with asyncio.timeout(LIMIT_S):
        loop = asyncio.create_task(world.agent.run())
        world.prepare = hold
        if is_loading:
            world.launcher.gate.clear()
        answers = [asyncio.create_task(world.ask(chat())) for _ in range(2)]
        if is_loading:
            await world.launcher.until(lambda: world.launcher.launching == 1)
        else:
            await world.launcher.until(lambda: bool(world.launcher.engines))
            engine = world.launcher.engines[0]
            await engine.until(lambda: engine.active == 1)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        assert not world.launcher.live
        failures = await asyncio.gather(*answers, return_exceptions=True)
        assert all(isinstance(failure, Exception) for failure in failures)
        assert isinstance(failures[1], ShuttingDown)
        await world.agent.close()
