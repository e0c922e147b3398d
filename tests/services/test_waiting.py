"""The waiting room: order, fairness, its limit, and clients that leave."""

import asyncio

import pytest
from gateway_world import TEXT, LocalTwin, chat, offer, text_of, world

from ollamamax.core.errors import (
    EngineUnavailable,
    NoCandidate,
    QueueFull,
)
from ollamamax.core.types import Chunk, OutcomeKind
from ollamamax.testing.engine import TwinEngine


async def test_requests_wait_for_a_slot_in_order() -> None:
    async with world(LocalTwin([offer()], slots=1)) as w:
        w.local.next_gate.clear()
        answers = [asyncio.create_task(w.ask(content=str(n))) for n in range(5)]
        await w.until(lambda: w.gateway.load() == (4, 1))
        w.clock.advance(50)
        w.local.next_gate.set()
        assert await asyncio.gather(*answers) == [TEXT] * 5
        assert [request.messages[0].content for request, _ in w.local.requests] == list("01234")
        assert w.local.max_active == 1
        assert [outcome.queued_ms for outcome in w.meter.outcomes] == [0, 50, 50, 50, 50]
        w.check_idle()


async def test_the_513th_waiting_request_is_turned_away() -> None:
    async with world(LocalTwin([offer()], slots=1)) as w:
        w.local.next_gate.clear()
        answers = [asyncio.create_task(w.ask()) for _ in range(513)]
        await w.until(lambda: w.gateway.load() == (512, 1))
        with pytest.raises(QueueFull) as caught:
            await w.ask()
        assert str(caught.value) == "server busy, please try again.  maximum pending requests exceeded"
        assert (w.outcome.kind, w.outcome.error_code) == (OutcomeKind.REJECTED, "queue_full")
        w.local.next_gate.set()
        assert set(await asyncio.gather(*answers)) == {TEXT}
        assert w.kinds.count(OutcomeKind.OK) == 513
        w.check_idle()


async def test_a_flood_for_one_model_does_not_starve_another() -> None:
    twin = TwinEngine([offer("flood:latest"), offer("rare:latest")])
    async with world(LocalTwin(), {"left": twin}, slots=1) as w:
        twin.next_gate.clear()
        answers = [asyncio.create_task(w.ask("flood")) for _ in range(20)]
        await w.until(lambda: w.gateway.load() == (19, 1))
        answers += [asyncio.create_task(w.ask("rare")) for _ in range(2)]
        await w.until(lambda: w.gateway.load() == (21, 1))
        twin.next_gate.set()
        await asyncio.gather(*answers)
        assert [name for _, name in twin.requests].index("rare:latest") <= 2
        assert [name for _, name in twin.requests[:5]].count("rare:latest") == 2


async def test_a_model_of_our_own_does_not_wait_for_another_ones_slots() -> None:
    async with world(LocalTwin([offer(), offer("other:latest")], slots=1)) as w:
        w.local.next_gate.clear()
        answers = [asyncio.create_task(w.ask(name)) for name in ("tiny", "tiny", "other")]
        await w.until(lambda: w.local.active == 2)
        assert w.gateway.load() == (1, 2)
        w.local.next_gate.set()
        await asyncio.gather(*answers)


async def test_slots_that_come_with_loading_are_used_at_once() -> None:
    local = LocalTwin([offer(loaded=False)], slots=1)
    async with world(local) as w:
        local.first_gate.clear()
        local.next_gate.clear()
        answers = [asyncio.create_task(w.ask()) for _ in range(4)]
        await w.until(lambda: w.gateway.load() == (3, 1))
        local.slots = 4
        local.first_gate.set()
        await local.until(lambda: local.active == 4)
        local.next_gate.set()
        assert await asyncio.gather(*answers) == [TEXT] * 4
        w.check_idle()


async def test_a_client_that_leaves_while_it_waits() -> None:
    async with world(LocalTwin([offer()], slots=1)) as w:
        w.local.next_gate.clear()
        first, second, third = (asyncio.create_task(w.ask(content=n)) for n in "123")
        await w.until(lambda: w.gateway.load() == (2, 1))
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert w.gateway.load() == (1, 1)
        assert (w.outcome.kind, w.outcome.error_code) == (OutcomeKind.CLIENT_GONE, "client_gone")
        w.local.next_gate.set()
        assert await asyncio.gather(first, third) == [TEXT] * 2
        assert [request.messages[0].content for request, _ in w.local.requests] == ["1", "3"]
        w.check_idle()


async def test_a_client_that_leaves_in_the_moment_its_turn_comes() -> None:
    async with world(LocalTwin([offer()], slots=1)) as w:
        lease = w.lease()
        waits = asyncio.create_task(w.ask())
        await w.until(lambda: w.gateway.load() == (1, 0))
        w.fleet.abandoned(lease)
        assert w.gateway.load() == (0, 1)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert w.local.requests == []
        assert await w.ask() == TEXT
        w.check_idle()


async def test_a_slot_that_frees_in_the_moment_a_client_leaves_goes_to_the_next() -> None:
    async with world(LocalTwin([offer()], slots=1)) as w:
        lease = w.lease()
        first, second = (asyncio.create_task(w.ask(content=n)) for n in "12")
        await w.until(lambda: w.gateway.load() == (2, 0))
        first.cancel()
        w.fleet.abandoned(lease)
        assert await second == TEXT
        assert [request.messages[0].content for request, _ in w.local.requests] == ["2"]
        await asyncio.gather(first, return_exceptions=True)
        w.check_idle()


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_a_client_that_leaves_in_the_middle_frees_the_slot(how: str) -> None:
    async with world(LocalTwin([offer()], slots=1)) as w:
        w.local.next_gate.clear()
        stream = w.gateway.chat(w.context(), chat())
        assert text_of(await anext(stream)) == "Hello"
        waits = asyncio.create_task(w.ask())
        await w.until(lambda: w.gateway.load() == (1, 1))
        if how == "cancel":
            reader: asyncio.Future[list[Chunk]] = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        await stream.aclose()
        assert w.local.cancelled == 1
        assert (w.outcome.kind, w.outcome.output_tokens) == (OutcomeKind.CLIENT_GONE, 1)
        w.local.next_gate.set()
        assert await waits == TEXT
        w.check_idle()


async def test_a_client_that_leaves_before_the_first_token() -> None:
    async with world() as w:
        w.local.first_gate.clear()
        waits = asyncio.create_task(w.ask())
        await w.local.until(lambda: w.local.active == 1)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert w.outcome.kind is OutcomeKind.CLIENT_GONE
        assert w.outcome.ttft_ms is None
        assert w.fleet.held_back("tiny:latest") == {}
        w.check_idle()


async def test_a_client_that_leaves_after_the_last_chunk_has_its_answer() -> None:
    async with world() as w:
        stream = w.gateway.chat(w.context(), chat())
        async for read in stream:
            if read[-1].done_reason:
                break
        await stream.aclose()
        assert w.outcome.kind is OutcomeKind.OK
        w.check_idle()


async def test_who_waits_is_told_when_the_last_engine_goes() -> None:
    twin = TwinEngine([offer()])
    async with world(LocalTwin(), {"left": twin}, slots=1) as w:
        twin.next_gate.clear()
        first, second = (asyncio.create_task(w.ask()) for _ in range(2))
        await w.until(lambda: w.gateway.load() == (1, 1))
        w.clock.advance(1_000)
        twin.models_error = EngineUnavailable("gone")
        await w.fleet.refresh()
        with pytest.raises(NoCandidate, match="engine 'left' can't be reached"):
            await second
        twin.next_gate.set()
        assert await first == TEXT
        w.check_idle()


async def test_who_waits_goes_to_an_engine_that_comes() -> None:
    busy, new = TwinEngine([offer()]), TwinEngine([], words=("from", " new"))
    async with world(LocalTwin(), {"busy": busy, "new": new}, slots=1) as w:
        busy.next_gate.clear()
        first, second = (asyncio.create_task(w.ask()) for _ in range(2))
        await w.until(lambda: w.gateway.load() == (1, 1))
        new.offered = (offer(),)
        w.clock.advance(1_000)
        await w.fleet.refresh("new")
        assert await second == "from new"
        busy.next_gate.set()
        await first
