"""Attempts: which failure goes where, and what is held against whom."""

import asyncio

import pytest
from gateway_world import TEXT, LocalTwin, World, chat, offer, pair, text_of, world
from msgspec.structs import replace

from ollamamax.core.errors import (
    EngineCrashed,
    EngineError,
    EngineProtocol,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    GgufUnsupported,
    InputTooLong,
    LoadFailed,
    ModelNotFound,
    NoCandidate,
    NoMemory,
    OllamaMaxError,
    StoreError,
)
from ollamamax.core.resilience.retry_budget import RetryConfig
from ollamamax.core.routing.predict import Rates
from ollamamax.core.types import Chunk, EmbedRequest, GenerationStats, OutcomeKind
from ollamamax.services.dispatch import DispatchConfig
from ollamamax.testing.engine import TwinEngine

HASTY = DispatchConfig(first_token_timeout_ms=30, load_timeout_ms=0, stall_timeout_ms=30)


@pytest.mark.parametrize(
    "error",
    [
        EngineUnavailable("connection refused"),
        EngineCrashed("died"),
        EngineProtocol("garbage"),
        EngineRefused("broken inside", 500),
        EngineRefused("too many requests", 429),
        LoadFailed("no"),
        NoMemory("too big"),
    ],
    ids=lambda error: f"{error.code}-{getattr(error, 'status', '')}",
)
async def test_before_the_first_token_a_failure_goes_to_another_engine(error: OllamaMaxError) -> None:
    async with world(LocalTwin(), pair()) as w:
        w.twins["a"].fail_first = error
        assert await w.ask() == "from b"
        assert (w.outcome.kind, w.outcome.engine_id, w.outcome.attempts) == (OutcomeKind.OK, "b", 2)
        assert w.meter.failed_attempts == [("a", error.code)]
        w.check_idle()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InputTooLong("too long"), OutcomeKind.CLIENT_ERROR),
        (ModelNotFound("model 'tiny' not found"), OutcomeKind.CLIENT_ERROR),
        (EngineRefused("bad request", 400), OutcomeKind.CLIENT_ERROR),
        (GgufUnsupported("unknown architecture"), OutcomeKind.CLIENT_ERROR),
        (StoreError("unreadable"), OutcomeKind.INTERNAL),
    ],
    ids=lambda value: getattr(value, "code", ""),
)
async def test_what_fails_everywhere_is_not_repeated_nor_held_against_the_engine(
    error: OllamaMaxError, kind: OutcomeKind
) -> None:
    async with world(LocalTwin(), pair()) as w:
        w.twins["a"].fail_first = error
        for _ in range(5):
            with pytest.raises(type(error)):
                await w.ask()
        assert len(w.twins["b"].requests) == 0
        assert w.fleet.held_back("tiny:latest") == {}
        assert set(w.kinds) == {kind}
        w.check_idle()


async def test_a_bug_is_passed_on_and_frees_the_slot() -> None:
    async with world() as w:
        w.local.fail_first = KeyError("surprise")
        with pytest.raises(KeyError):
            await w.ask()
        assert (w.outcome.kind, w.outcome.error_code) == (OutcomeKind.INTERNAL, "internal")
        w.check_idle()


async def test_the_last_attempt_tells_why() -> None:
    async with world(LocalTwin(), pair()) as w:
        w.twins["a"].fail_first = EngineUnavailable("first reason")
        w.twins["b"].fail_first = EngineCrashed("second reason")
        with pytest.raises(EngineCrashed, match="second reason"):
            await w.ask()
        assert (w.outcome.kind, w.outcome.error_code) == (OutcomeKind.ENGINE_FAILED, "engine_crashed")
        assert w.outcome.attempts == 2
        w.check_idle()


async def test_retries_have_a_budget() -> None:
    async with world(LocalTwin(), pair(), retry=RetryConfig(ratio=0.0, min_per_window=2)) as w:
        w.twins["a"].fail_first = NoMemory("too big")
        for _ in range(2):
            assert await w.ask() == "from b"
        with pytest.raises(NoMemory):
            await w.ask()
        w.clock.advance(10_000)
        assert await w.ask() == "from b"
        w.check_idle()


async def test_each_request_pays_into_the_budget() -> None:
    async with world(LocalTwin(), pair(), retry=RetryConfig(ratio=0.5, min_per_window=0)) as w:
        for _ in range(3):
            await w.ask()
        w.twins["a"].fail_first = NoMemory("too big")
        answers = []
        for _ in range(4):
            try:
                answers.append(await w.ask())
            except NoMemory:
                answers.append("")
        assert answers == ["from b", "from b", "from b", ""]


async def test_after_the_first_token_the_error_goes_up() -> None:
    async with world(LocalTwin(), pair()) as w:
        w.twins["a"].fail_mid = EngineCrashed("died")
        got: list[Chunk] = []

        async def read_all() -> None:
            async for read in w.gateway.chat(w.context(), chat()):
                got.extend(read)

        with pytest.raises(EngineCrashed):
            await read_all()
        assert text_of(got) == "Hello"
        assert w.outcome.kind is OutcomeKind.ENGINE_FAILED
        assert w.outcome.output_tokens == 1
        assert w.meter.failed_attempts == [("a", "engine_crashed")]
        assert len(w.twins["b"].requests) == 0
        w.check_idle()


async def read_whole(w: World) -> list[list[Chunk]]:
    """Every read of an answer that the client wants in one piece."""
    return [read async for read in w.gateway.chat(w.context(), replace(chat(), stream=False))]


@pytest.mark.parametrize("error", [EngineCrashed("died"), EngineUnavailable("closed"), EngineTimeout("silent")])
async def test_an_answer_of_which_nobody_saw_a_part_is_asked_for_again(error: OllamaMaxError) -> None:
    async with world(LocalTwin(), pair()) as w:
        w.twins["a"].fail_mid = error
        [read] = await read_whole(w)
        assert text_of(read) == "from b"
        assert read[-1].done_reason == "stop"
        assert (w.outcome.kind, w.outcome.engine_id, w.outcome.attempts) == (OutcomeKind.OK, "b", 2)
        assert w.outcome.output_tokens == len(read) - 1, "what was lost does not count"
        assert w.meter.failed_attempts == [("a", error.code)]
        w.check_idle()


async def test_whole_answers_are_asked_for_again_within_the_budget_and_where_it_helps() -> None:
    async with world(LocalTwin(), pair(), retry=RetryConfig(ratio=0.0, min_per_window=0)) as w:
        w.twins["a"].fail_mid = EngineCrashed("died")
        with pytest.raises(EngineCrashed):
            await read_whole(w)
        assert len(w.twins["b"].requests) == 0
        w.check_idle()
    async with world(LocalTwin(), pair()) as w:
        for twin in w.twins.values():
            twin.fail_mid = EngineCrashed("died")
        with pytest.raises(EngineCrashed):
            await read_whole(w)
        assert w.outcome.attempts == 2
        assert w.outcome.kind is OutcomeKind.ENGINE_FAILED
        w.check_idle()
    async with world(LocalTwin(), pair()) as w:
        w.twins["a"].fail_mid = InputTooLong("too long")
        with pytest.raises(InputTooLong):
            await read_whole(w)
        assert len(w.twins["b"].requests) == 0
        w.check_idle()


async def test_a_client_that_leaves_a_whole_answer_is_asked_for_nowhere() -> None:
    async with world(LocalTwin(), pair()) as w:
        w.twins["a"].next_gate.clear()
        reading = asyncio.create_task(read_whole(w))
        await w.until(lambda: w.twins["a"].active == 1 and bool(w.twins["a"].requests))
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert w.outcome.kind is OutcomeKind.CLIENT_GONE
        assert len(w.twins["b"].requests) == 0
        w.check_idle()


async def test_a_stream_without_an_end_is_an_error() -> None:
    class Short(TwinEngine):
        async def generate(self, request, served_as):  # type: ignore[no-untyped-def]
            yield [Chunk(text="par")]

    async with world(LocalTwin(), {"a": Short([offer()])}) as w:
        with pytest.raises(EngineUnavailable, match="engine 'a' closed the stream before its end"):
            await w.ask()
        w.check_idle()


async def test_a_stream_without_a_beginning_goes_to_another_engine() -> None:
    class Empty(TwinEngine):
        async def generate(self, request, served_as):  # type: ignore[no-untyped-def]
            yield []

    async with world(LocalTwin(), {**pair(), "a": Empty([offer()])}) as w:
        assert await w.ask() == "from b"


async def test_a_breaker_opens_and_recovers() -> None:
    async with world(LocalTwin(), pair()) as w:
        a = w.twins["a"]
        a.fail_first = EngineProtocol("garbage")
        for _ in range(5):
            w.clock.advance(10)
            assert await w.ask() == "from b"
        assert len(a.requests) == 3
        w.clock.advance(10_000)
        assert await w.ask() == "from b"
        assert len(a.requests) == 4
        a.fail_first = None
        w.clock.advance(10_000)
        assert await w.ask() == TEXT
        assert await w.ask() == TEXT
        assert [outcome.attempts for outcome in w.meter.outcomes] == [2, 2, 2, 1, 1, 2, 1, 1]


async def test_one_crash_that_hits_many_answers_leaves_the_engine_in_use() -> None:
    async with world() as w:
        w.local.next_gate.clear()
        w.local.fail_mid = EngineCrashed("died")
        w.local.fail_after = 1
        answers = [asyncio.create_task(w.ask()) for _ in range(4)]
        await w.local.until(lambda: w.local.active == 4)
        w.clock.advance(10)
        w.local.next_gate.set()
        results = await asyncio.gather(*answers, return_exceptions=True)
        assert all(isinstance(result, EngineCrashed) for result in results)
        w.local.fail_mid = None
        assert await w.ask() == TEXT


async def test_all_out_names_engines_and_reasons() -> None:
    async with world(LocalTwin(), pair()) as w:
        w.clock.advance(1_000)
        w.twins["b"].models_error = EngineUnavailable("gone")
        await w.fleet.refresh()
        w.twins["a"].fail_first = EngineProtocol("garbage")
        for _ in range(3):
            w.clock.advance(10)
            with pytest.raises(EngineProtocol):
                await w.ask()
        with pytest.raises(NoCandidate) as caught:
            await w.ask()
        assert str(caught.value) == (
            "no engine can answer for model 'tiny' now: engine 'a' is left out for a while after 3 failures; "
            "engine 'b' can't be reached"
        )
        assert w.meter.outcomes[-1].kind is OutcomeKind.REJECTED


async def test_a_repeat_prefers_a_free_slot_but_takes_any() -> None:
    twins = {**pair(), "c": TwinEngine([offer(loaded=False)], words=("from", " c"))}
    async with world(LocalTwin(), twins, slots=1) as w:
        for member, model in w.fleet.offers("tiny:latest"):
            if model.loaded:  # so fast that waiting there would beat loading elsewhere
                member.rates = Rates(decode_tps=100_000)
        twins["b"].next_gate.clear()
        twins["a"].first_gate.clear()
        to_a, to_b = (asyncio.create_task(w.ask()) for _ in range(2))
        await w.until(lambda: twins["a"].active == twins["b"].active == 1)
        twins["a"].fail_first = EngineUnavailable("gone")
        twins["a"].first_gate.set()
        assert await to_a == "from c"
        twins["c"].fail_first = EngineUnavailable("gone too")
        again = asyncio.create_task(w.ask())
        await twins["b"].until(lambda: twins["b"].active == 2)
        twins["b"].next_gate.set()
        assert await asyncio.gather(to_b, again) == ["from b", "from b"]
        w.check_idle()


async def test_embeddings_fail_over_too() -> None:
    async with world(LocalTwin(), pair()) as w:
        w.twins["a"].embed_error = EngineUnavailable("gone")
        result = await w.gateway.embed(w.context(), EmbedRequest(model="tiny", inputs=("a b", "c")))
        assert len(result.vectors) == 2
        assert (w.outcome.kind, w.outcome.engine_id, w.outcome.prompt_tokens) == (OutcomeKind.OK, "b", 3)
        assert (w.outcome.output_tokens, w.outcome.ttft_ms, w.outcome.tpot_ms) == (0, None, None)
        w.check_idle()


async def test_embeddings_have_a_deadline_and_pass_client_errors_on() -> None:
    async with world(dispatch=HASTY) as w:
        w.local.embed_error = InputTooLong("too long")
        with pytest.raises(InputTooLong):
            await w.gateway.embed(w.context(), EmbedRequest(model="tiny", inputs=("a",)))
    async with world(LocalTwin(), {"a": TwinEngine([offer()])}, dispatch=HASTY) as w:
        w.twins["a"].embed_gate.clear()
        with pytest.raises(EngineTimeout):
            await w.gateway.embed(w.context(), EmbedRequest(model="tiny", inputs=("a",)))
        w.check_idle()


async def test_a_measured_answer_moves_the_rates() -> None:
    async with world() as w:
        await w.ask(content="one two three four five six seven eight nine ten")
        (facts,) = w.fleet.snapshot().engines
        assert (facts.prefill_tps, facts.decode_tps) == (500.0, 100.0)
        assert w.fleet.mean_output_tokens == 7


async def test_rates_are_seen_from_here_where_the_engine_does_not_measure() -> None:
    twin = TwinEngine([offer()])
    words = [[Chunk(text="x")] for _ in range(11)]
    twin.script = [*words, [Chunk(done_reason="stop", stats=GenerationStats(prompt_tokens=100))]]
    async with world(LocalTwin(), {"a": twin}) as w:
        twin.first_gate.clear()
        answer = asyncio.create_task(w.ask())
        await twin.until(lambda: twin.active == 1)
        w.clock.advance(500)
        twin.next_gate.clear()
        twin.first_gate.set()
        await w.until(lambda: w.fleet.snapshot().engines[1].outstanding_tokens < 256)
        w.clock.advance(100)
        twin.next_gate.set()
        await answer
        facts = w.fleet.snapshot().engines[1]
        assert (facts.prefill_tps, facts.decode_tps) == (200.0, 100.0)


async def test_error_classes_that_reach_the_client_are_engine_errors() -> None:
    async with world() as w:
        w.local.fail_first = EngineError("plain")
        with pytest.raises(EngineError, match="plain"):
            await w.ask()
