"""What the API sees: answers, refusals, outcomes, the end."""

import asyncio

import pytest
from gateway_world import TEXT, LocalTwin, chat, offer, world
from msgspec.structs import replace

from ollamamax.core.errors import (
    ClientGone,
    EngineCrashed,
    EngineTimeout,
    Forbidden,
    InvalidName,
    ModelNotFound,
)
from ollamamax.core.types import ChatRequest, EmbedRequest, EngineKind, OutcomeKind, Principal
from ollamamax.services.dispatch import DispatchConfig
from ollamamax.testing.engine import TwinEngine


async def test_an_answer_and_its_outcome() -> None:
    async with world() as w:
        assert await w.ask("TINY:latest") == TEXT
        outcome = w.outcome
        assert (outcome.kind, outcome.error_code, outcome.engine_id, outcome.attempts) == (
            OutcomeKind.OK,
            "",
            "local",
            1,
        )
        assert (outcome.model, outcome.request_id, outcome.route) == ("tiny:latest", "r1", "/api/chat")
        assert (outcome.prompt_tokens, outcome.output_tokens) == (1, 7)
        assert outcome.traceparent == w.context().traceparent
        assert w.local.requests[0][0].model == "TINY:latest"
        assert w.local.requests[0][1] == "tiny:latest"
        assert w.gateway.load() == (0, 0)
        w.check_idle()


async def test_times_of_an_outcome() -> None:
    async with world() as w:
        w.local.first_gate.clear()
        answer = asyncio.create_task(w.ask())
        await w.local.until(lambda: w.local.active == 1)
        w.clock.advance(120)
        w.local.next_gate.clear()
        w.local.first_gate.set()
        await w.until(lambda: w.fleet.snapshot().engines[0].outstanding_tokens < 256)
        assert w.gateway.load() == (0, 1)
        w.clock.advance(60)
        w.local.next_gate.set()
        await answer
        assert (w.outcome.ttft_ms, w.outcome.tpot_ms, w.outcome.total_ms) == (120, 10, 180)
        assert w.outcome.queued_ms == 0


@pytest.mark.parametrize(
    ("model", "error"), [("nothing", ModelNotFound), ("../etc", InvalidName), ("a b", InvalidName)]
)
async def test_an_unknown_model_is_looked_for_once_more(model: str, error: type[Exception]) -> None:
    async with world(twins={"left": TwinEngine([offer()])}) as w:
        w.clock.advance(1_000)
        calls = w.local.models_calls, w.twins["left"].models_calls
        with pytest.raises(
            error, match="model 'nothing' not found" if error is ModelNotFound else "invalid model name"
        ):
            await w.ask(model)
        assert (w.local.models_calls, w.twins["left"].models_calls) == (calls[0] + 1, calls[1] + 1)
        assert (w.outcome.kind, w.outcome.engine_id) == (OutcomeKind.CLIENT_ERROR, "")
        w.check_idle()


async def test_a_model_that_came_in_the_meantime_is_found() -> None:
    async with world() as w:
        w.clock.advance(1_000)
        w.local.offered = (offer("new:latest"),)
        assert await w.ask("new") == TEXT


async def test_names_outside_the_grammar_work_where_an_engine_offers_them() -> None:
    twin = TwinEngine([offer("Meta/Llama 3")], kind=EngineKind.OPENAI)
    async with world(LocalTwin(), {"left": twin}) as w:
        assert await w.ask("meta/llama 3") == TEXT
        assert twin.requests[0][1] == "Meta/Llama 3"


async def test_64_streams_at_once_lose_nothing() -> None:
    words = tuple(f"{n} " for n in range(200))
    local = LocalTwin([offer()], slots=8)
    twins = {name: TwinEngine([offer()]) for name in ("left", "right")}
    for twin in (local, *twins.values()):
        twin.words = words
    async with world(local, twins, slots=8) as w:
        answers = await asyncio.gather(*(w.ask(content=str(n)) for n in range(64)))
        assert answers == ["".join(words)] * 64
        assert all(twin.max_active == 8 for twin in (local, *twins.values()))
        assert w.kinds == [OutcomeKind.OK] * 64
        w.check_idle()


async def test_loading_and_unloading() -> None:
    left = TwinEngine([offer()], kind=EngineKind.OLLAMA)
    other = TwinEngine([offer(loaded=False)], kind=EngineKind.OLLAMA)
    fixed = TwinEngine([offer()], kind=EngineKind.OPENAI)
    async with world(LocalTwin([offer(loaded=False)]), {"left": left, "other": other, "fixed": fixed}) as w:
        (last,) = await w.chunks(ChatRequest(model="tiny"))
        assert last.done_reason == "load"
        assert (w.outcome.output_tokens, w.outcome.ttft_ms, w.outcome.tpot_ms) == (0, None, None)
        for twin in (w.local, left, other, fixed):
            twin.requests.clear()
        (last,) = await w.chunks(ChatRequest(model="tiny", keep_alive_ms=0))
        assert last.done_reason == "unload"
        assert [len(twin.requests) for twin in (w.local, left, other, fixed)] == [1, 1, 0, 0]
        assert w.kinds == [OutcomeKind.OK] * 2


async def test_unloading_waits_for_no_slot() -> None:
    async with world(LocalTwin([offer()], slots=1)) as w:
        lease = w.lease()
        (last,) = await w.chunks(ChatRequest(model="tiny", keep_alive_ms=0))
        assert last.done_reason == "unload"
        w.fleet.abandoned(lease)


async def test_unloading_what_is_not_there() -> None:
    async with world() as w:
        with pytest.raises(ModelNotFound):
            await w.chunks(ChatRequest(model="nothing", keep_alive_ms=0))
        w.clock.advance(1_000)
        w.local.offered = (offer("new:latest", loaded=False),)
        (last,) = await w.chunks(ChatRequest(model="new", keep_alive_ms=0))
        assert last.done_reason == "unload"


async def test_an_engine_that_cannot_unload_says_so() -> None:
    async with world() as w:
        w.local.fail_first = EngineCrashed("died")
        with pytest.raises(EngineCrashed):
            await w.chunks(ChatRequest(model="tiny", keep_alive_ms=0))
        assert w.outcome.kind is OutcomeKind.ENGINE_FAILED


async def test_an_engine_that_hangs_while_unloading_is_given_up() -> None:
    async with world(dispatch=DispatchConfig(first_token_timeout_ms=20)) as w:
        w.local.first_gate.clear()
        with pytest.raises(EngineTimeout):
            await w.chunks(ChatRequest(model="tiny", keep_alive_ms=0))


async def test_a_client_that_is_found_gone_is_no_ones_fault() -> None:
    async with world() as w:
        w.local.fail_first = ClientGone("the client closed its connection")
        with pytest.raises(ClientGone):
            await w.ask()
        assert w.outcome.kind is OutcomeKind.CLIENT_GONE


async def test_refusals_are_audited_and_reach_no_engine() -> None:
    async with world() as w:
        reader = Principal("bob", ("reader",))
        with pytest.raises(Forbidden, match="'bob' may not infer on 'tiny'"):
            await anext(w.gateway.chat(w.context(reader), chat()))
        with pytest.raises(Forbidden):
            await w.gateway.embed(w.context(reader), EmbedRequest(model="tiny", inputs=("a",)))
        assert w.local.requests == w.local.embeds == []
        assert [record[:4] for record in w.audit.records] == [("bob", "infer", "tiny", False)] * 2
        assert w.kinds == [OutcomeKind.CLIENT_ERROR] * 2
        w.gateway.authorize(w.context(reader), "read", "")
        assert len(w.audit.records) == 2


async def test_changes_are_audited_and_inference_is_not() -> None:
    async with world() as w:
        await w.ask()
        assert w.audit.records == []
        w.gateway.authorize(w.context(), "manage_engines", "left")
        assert w.audit.records == [("anonymous", "manage_engines", "left", True, "role admin may manage_engines")]


async def test_explanations() -> None:
    async with world(LocalTwin([offer()], slots=1), {"left": TwinEngine([offer("other:latest")])}) as w:
        explained = w.gateway.explain("tiny")
        assert explained.position == 0
        assert "1. local: loaded, a slot is free" in explained.text
        assert "-  left: does not have the model" in explained.text
        lease = w.lease()
        waits = asyncio.create_task(w.ask())
        await w.until(lambda: w.gateway.load() == (1, 0))
        assert w.gateway.explain("tiny").position == 2
        w.fleet.abandoned(lease)
        await waits
        with pytest.raises(ModelNotFound):
            w.gateway.explain("nothing")
        w.check_idle()


async def test_what_routing_is_told_of_a_request() -> None:
    async with world() as w:
        facts = w.router.facts(ChatRequest(model="Tiny", prompt="x" * 40, system="y" * 40, context=(1, 2, 3)))
        assert (facts.model_key, facts.prompt_tokens, facts.output_tokens) == ("tiny:latest", 23, 256)
        assert w.router.facts(chat(limit=5)).output_tokens == 5
        assert w.router.facts(chat(limit=-1)).output_tokens == 256
        await w.ask()
        assert w.router.facts(chat(limit=1_000)).output_tokens == 7
        assert w.router.facts(EmbedRequest(model="tiny", inputs=("x" * 40,))).output_tokens == 0


async def test_counting_is_no_sample_of_the_engines_rates() -> None:
    async with world() as w:
        request = replace(chat(content="a b c"), count_only=True)
        before = w.fleet.snapshot().engines[0]
        (counted,) = await w.chunks(request)
        assert counted.stats is not None
        assert counted.stats.prompt_tokens == 3
        after = w.fleet.snapshot().engines[0]
        assert (after.prefill_tps, after.decode_tps) == (before.prefill_tps, before.decode_tps)
        outcome = w.outcome
        assert (outcome.kind, outcome.prompt_tokens, outcome.output_tokens) == (OutcomeKind.OK, 3, 0)
        assert outcome.ttft_ms is None
