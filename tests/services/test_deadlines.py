"""How long anything may take, and what happens after that."""

import asyncio
import math

import pytest
from gateway_world import TEXT, LocalTwin, chat, offer, pair, text_of, world

from ollamamax.core.errors import (
    EngineCrashed,
    EngineTimeout,
)
from ollamamax.core.types import Chunk, OutcomeKind
from ollamamax.services.dispatch import DispatchConfig
from ollamamax.services.patrol import Patrol
from ollamamax.services.watchdog import Watchdog
from ollamamax.testing.engine import TwinEngine

HASTY = DispatchConfig(first_token_timeout_ms=30, load_timeout_ms=0, stall_timeout_ms=30)


async def test_an_engine_that_hangs_before_the_first_token_is_given_up() -> None:
    async with world(LocalTwin(), pair(), dispatch=HASTY) as w:
        w.twins["a"].first_gate.clear()
        assert await w.ask() == "from b"
        assert w.meter.failed_attempts == [("a", "engine_timeout")]
        assert w.twins["a"].cancelled == 1
        w.check_idle()


async def test_an_engine_that_hangs_in_the_middle_fails_the_answer() -> None:
    async with world(LocalTwin(), pair(), dispatch=HASTY) as w:
        w.twins["a"].next_gate.clear()
        with pytest.raises(EngineTimeout, match=r"engine 'a' sent nothing for 0\.03 s"):
            await w.ask()
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
        assert w.outcome.error_code == "engine_timeout"
        w.check_idle()


async def test_a_slow_reader_is_not_the_engines_fault() -> None:
    async with world(dispatch=HASTY) as w:
        stream = w.gateway.chat(w.context(), chat())
        got = await anext(stream) + await anext(stream)
        later = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, later.set)
        await later.wait()
        got += [chunk async for read in stream for chunk in read]
        assert text_of(got) == TEXT


async def test_a_long_answer_outlives_many_deadlines() -> None:
    async with world(dispatch=HASTY) as w:
        w.local.hold_after = 1
        w.local.next_gate.clear()
        stream = w.gateway.chat(w.context(), chat())
        async for read in stream:
            if read[-1].done_reason:
                break
            w.local.next_gate.clear()
            asyncio.get_running_loop().call_later(0.02, w.local.next_gate.set)
        await stream.aclose()
        assert w.outcome.kind is OutcomeKind.OK


@pytest.mark.parametrize(
    ("config", "is_local", "loaded", "ttft_ms", "expected_s"),
    [
        (DispatchConfig(), False, True, 10, 60),
        (DispatchConfig(), False, True, 9_000, 90),
        (DispatchConfig(), False, False, 10, 360),
        (DispatchConfig(), True, True, 10, 360),
        (DispatchConfig(load_timeout_ms=0), False, True, 10, 60),
        (DispatchConfig(load_timeout_ms=0), True, False, 10, math.inf),
    ],
)
async def test_the_first_tokens_deadline(
    config: DispatchConfig, is_local: bool, loaded: bool, ttft_ms: float, expected_s: float
) -> None:
    local = LocalTwin([offer(loaded=loaded)] if is_local else [])
    async with world(local, {} if is_local else {"a": TwinEngine([offer(loaded=loaded)])}, dispatch=config) as w:
        lease = w.lease()
        lease.ttft_ms = ttft_ms
        assert w.dispatcher._first_limit_s(lease) == expected_s
        w.fleet.abandoned(lease)


async def test_an_endless_load_of_our_own_is_waited_for() -> None:
    async with world(LocalTwin([offer(loaded=False)]), dispatch=HASTY) as w:
        w.local.first_gate.clear()
        asyncio.get_running_loop().call_later(0.1, w.local.first_gate.set)
        assert await w.ask() == TEXT


async def test_an_engine_that_closes_slowly_does_not_hold_the_slot() -> None:
    class Stuck(TwinEngine):
        async def generate(self, request, served_as):  # type: ignore[no-untyped-def]
            try:
                yield [Chunk(text="x")]
                yield [Chunk(text="y")]
            finally:
                await asyncio.Event().wait()

    async with world(LocalTwin(), {"a": Stuck([offer()])}) as w:
        stream = w.gateway.chat(w.context(), chat())
        await anext(stream)
        async with asyncio.timeout(3):
            await stream.aclose()
        w.check_idle()


@pytest.mark.parametrize("error", [None, EngineCrashed("died")])
async def test_what_comes_after_the_last_chunk_changes_nothing(error: Exception | None) -> None:
    class Lingering(TwinEngine):
        async def generate(self, request, served_as):  # type: ignore[no-untyped-def]
            yield [Chunk(text="x", done_reason="stop")]
            if error is not None:
                raise error
            await asyncio.Event().wait()

    async with world(LocalTwin(), {"a": Lingering([offer()])}) as w:
        async with asyncio.timeout(5):
            assert await w.ask() == "x"
        assert (w.outcome.kind, w.outcome.output_tokens) == (OutcomeKind.OK, 1)
        w.check_idle()


async def test_an_outer_cancellation_wins_over_the_watchdogs() -> None:
    watchdog = Watchdog(Patrol())

    async def waits() -> bool:
        watchdog.watch(0.0)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return watchdog.has_barked()
        return True

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    assert not await task
    watchdog.close()
    assert await asyncio.create_task(waits())


async def test_other_deadlines_are_for_what_begins_from_then_on() -> None:
    async with world(LocalTwin(), pair()) as w:
        w.dispatcher.reconfigure(HASTY)
        w.twins["a"].next_gate.clear()
        with pytest.raises(EngineTimeout, match=r"engine 'a' sent nothing for 0\.03 s"):
            await w.ask()
        lease = w.lease()
        assert w.dispatcher._first_limit_s(lease) == pytest.approx(HASTY.first_token_timeout_ms / 1000)
        w.fleet.abandoned(lease)
