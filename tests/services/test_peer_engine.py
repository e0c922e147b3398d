"""An engine of another node is an engine like any other."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

import pytest
from gateway_world import TEXT, text_of
from peer_engines import Here, Host, chat, hosting, two_nodes

from ollamamax.core.errors import (
    CertificateRefused,
    EngineError,
    EngineProtocol,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    InputTooLong,
    LoadFailed,
    ModelNotFound,
    NodeBusy,
    NoMemory,
    OllamaMaxError,
    PeerError,
    PeerTimeout,
    PeerVersion,
    QueueFull,
    Retry,
    ShuttingDown,
)
from ollamamax.core.types import Chunk, EmbedRequest, GenerationStats, TokenLogprob, ToolCall
from ollamamax.ports import Caller, PeerMethods
from ollamamax.testing.engine import scripted
from ollamamax.testing.peers import MemoryPeers
from peer_world import A, B, Cluster, bounded, linked, listening, record


@pytest.fixture(params=["memory", "tls"])
async def nodes(request: pytest.FixtureRequest) -> AsyncGenerator[tuple[Here, Host], None]:
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            here, host, _ = await stack.enter_async_context(two_nodes())
        else:
            cluster = Cluster()
            host = await stack.enter_async_context(hosting(Host()))
            there = await stack.enter_async_context(listening(cluster, [host.methods]))
            here = Here(await stack.enter_async_context(linked(cluster.keys(A))), there.record)
        yield here, host
        async with asyncio.timeout(10):
            await host.local.until(lambda: host.in_flight == 0)


@bounded
async def test_an_answer_arrives_chunk_by_chunk_as_it_was_given(nodes: tuple[Here, Host]) -> None:
    here, host = nodes
    request = chat(images=(b"\x89PNG\0\xff",))
    reads = [read async for read in here.engine().generate(request, "tiny:latest")]
    assert [chunk for read in reads for chunk in read] == [
        chunk for read in scripted(host.local.words, request.options, 1) for chunk in read
    ]
    assert host.local.requests == [(request, "tiny:latest")]


@bounded
async def test_all_that_a_chunk_can_hold(nodes: tuple[Here, Host]) -> None:
    here, host = nodes
    logprob = TokenLogprob("ä", -0.25, (195, 164), (TokenLogprob("a", -1.5),))
    full = Chunk("text", "thought", (ToolCall("1", 0, "f", '{"a": 1}'),), (1, 2), (logprob,))
    last = Chunk(done_reason="length", stats=GenerationStats(1, 2, 3.5, 4, 5.25, 6.0), context=(7, 8))
    host.local.script = [[full, full], [], [full, last]]
    reads = [read async for read in here.engine().generate(chat(), "tiny:latest")]
    assert [chunk for read in reads for chunk in read] == [full, full, full, last]


@bounded
async def test_leaving_reaches_the_engine(nodes: tuple[Here, Host]) -> None:
    here, host = nodes
    host.local.next_gate.clear()
    async with aclosing(here.engine().generate(chat(), "tiny:latest")) as answer:
        await anext(answer)
        assert host.in_flight == 1
    await host.local.until(lambda: host.local.active == 0)
    host.local.first_gate.clear()
    asking = asyncio.create_task(anext(here.engine().generate(chat(), "tiny:latest")))
    await host.local.until(lambda: host.local.active == 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await host.local.until(lambda: host.local.active == 0)
    assert host.local.cancelled == 2


@pytest.mark.parametrize(
    "error",
    [EngineRefused("its own words", 418), InputTooLong("too long"), LoadFailed("no"), NoMemory("full"), QueueFull()],
    ids=lambda error: type(error).__name__,
)
@bounded
async def test_errors_of_the_engine_there(nodes: tuple[Here, Host], error: OllamaMaxError) -> None:
    here, host = nodes
    engine = here.engine()
    host.local.fail_first = host.local.embed_error = error
    for work in (anext(engine.generate(chat(), "x")), engine.embed(EmbedRequest(model="tiny", inputs=("a",)), "x")):
        with pytest.raises(OllamaMaxError) as caught:
            await work
        if isinstance(error, QueueFull):
            assert type(caught.value) is NodeBusy
            assert "node-b has no room" in str(caught.value)
        else:
            assert type(caught.value) is type(error)
            assert str(caught.value) == str(error)
            assert getattr(caught.value, "status", 0) == getattr(error, "status", 0)


@bounded
async def test_an_engine_that_fails_in_the_middle(nodes: tuple[Here, Host]) -> None:
    here, host = nodes
    host.local.fail_mid, host.local.fail_after = EngineRefused("broke", 500), 2
    seen: list[Chunk] = []

    async def read() -> None:
        async for chunks in here.engine().generate(chat(), "tiny:latest"):
            seen.extend(chunks)

    with pytest.raises(EngineRefused, match="broke"):
        await read()
    assert len(seen) == 2


@bounded
async def test_vectors_models_and_descriptions(nodes: tuple[Here, Host]) -> None:
    here, host = nodes
    request = EmbedRequest(model="tiny", inputs=("a", "b", ""))
    remote = await here.engine().embed(request, "tiny:latest")
    local = await host.local.embed(request, "tiny:latest")
    assert remote.prompt_tokens == local.prompt_tokens
    assert [len(vector) for vector in remote.vectors] == [8, 8, 8]
    for there, own in zip(remote.vectors, local.vectors, strict=True):
        assert there == pytest.approx(own, abs=1e-7)
    assert await here.engine().models() == host.local.offered
    assert await here.engine("side").models() == host.side.offered
    host.side.shows = {"Far:latest": {"model_info": {"a": [1, None, 2.5]}}}
    assert await here.engine("side").describe("Far:latest") == {"model_info": {"a": [1, None, 2.5]}}
    assert await here.engine("side").describe("tiny:latest") is None
    assert await here.engine().describe("tiny:latest") is None


@bounded
async def test_what_the_other_node_does_not_have(nodes: tuple[Here, Host]) -> None:
    here, _ = nodes
    with pytest.raises(ModelNotFound):
        await anext(here.engine().generate(chat("other"), "other:latest"))
    with pytest.raises(OllamaMaxError, match="nothing"):
        await anext(here.engine("nothing").generate(chat(), "tiny:latest"))
    for work in (here.engine("nothing").models(), here.engine("nothing").describe("tiny")):
        with pytest.raises(OllamaMaxError, match="nothing"):
            await work


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (PeerTimeout("late"), EngineTimeout),
        (PeerVersion("old"), EngineProtocol),
        (PeerError("internal error"), EngineUnavailable),
        (CertificateRefused("removed"), EngineUnavailable),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
@bounded
async def test_what_goes_wrong_between_the_nodes_is_the_engine_s_fault(
    raised: OllamaMaxError, kind: type[EngineError]
) -> None:
    async def fail(caller: Caller, body: bytes) -> bytes:
        raise raised

    peers = MemoryPeers()
    peers.listen(B, [PeerMethods(unary={"engine.models": fail})])
    with pytest.raises(kind, match=f"node node-b: {raised}") as caught:
        await Here(peers.link(A), record(B, 1)).engine().models()
    assert caught.value.retry is Retry.OTHER_ENGINE


@bounded
async def test_a_node_that_is_gone_cut_off_silent_or_talks_rubbish() -> None:
    async with two_nodes() as (here, host, peers):
        engine = here.engine()
        host.local.next_gate.clear()
        answer = engine.generate(chat(), "tiny:latest")
        await anext(answer)
        peers.cut(A, B)
        with pytest.raises(EngineUnavailable, match="node-b"):
            await anext(answer)
        with pytest.raises(EngineUnavailable, match="node-b"):
            await engine.models()
        peers.heal(A, B)
        answer = engine.generate(chat(), "tiny:latest")
        await anext(answer)
        peers.hold(B)
        with pytest.raises(EngineTimeout, match="node-b"):
            await anext(answer)
        with pytest.raises(EngineTimeout, match="node-b"):
            await engine.models()
        peers.release(B)
        peers.garble(B)
        with pytest.raises(EngineProtocol, match="node-b"):
            await anext(engine.generate(chat(), "tiny:latest"))
        here.knows = None
        with pytest.raises(EngineUnavailable, match="no member"):
            await anext(engine.generate(chat(), "tiny:latest"))
        await engine.close()


@bounded
async def test_answers_that_decode_to_nothing() -> None:
    async def rubbish(caller: Caller, body: bytes) -> bytes:
        return b"\xc1rubbish"

    async def frames(caller: Caller, body: bytes) -> AsyncGenerator[list[bytes], None]:
        yield [b"\xc1rubbish"]

    async def short(caller: Caller, body: bytes) -> AsyncGenerator[list[bytes], None]:
        yield [b"\x91\x91\xa1a"]  # [["a"]]

    peers = MemoryPeers()
    unary = dict.fromkeys(("engine.models", "engine.embed", "engine.describe"), rubbish)
    peers.listen(B, [PeerMethods(unary=unary, streams={"engine.generate": frames})])
    engine = Here(peers.link(A), record(B, 1)).engine()
    for work in (
        engine.models(),
        engine.describe("tiny"),
        engine.embed(EmbedRequest(model="tiny", inputs=()), ""),
        anext(engine.generate(chat(), "x")),
    ):
        with pytest.raises(EngineProtocol, match=r"node node-b: .*can't be understood"):
            await work
    peers.listen(B, [PeerMethods(streams={"engine.generate": short})])
    answer = engine.generate(chat(), "x")
    assert await anext(answer) == [Chunk("a")]
    with pytest.raises(EngineUnavailable, match="before its end"):
        await anext(answer)


@bounded
async def test_a_node_that_is_stopping_says_so() -> None:
    async def stopping(caller: Caller, body: bytes) -> bytes:
        raise ShuttingDown("going")

    peers = MemoryPeers()
    peers.listen(B, [PeerMethods(unary={"engine.models": stopping})])
    with pytest.raises(ShuttingDown) as caught:
        await Here(peers.link(A), record(B, 1)).engine().models()
    assert caught.value.retry is Retry.OTHER_ENGINE


@bounded
async def test_the_text_is_the_same_as_without_the_hop(nodes: tuple[Here, Host]) -> None:
    here, _ = nodes
    texts = await asyncio.gather(*(_text(here) for _ in range(20)))
    assert set(texts) == {TEXT}


async def _text(here: Here) -> str:
    return text_of([chunk async for read in here.engine().generate(chat(), "tiny:latest") for chunk in read])
