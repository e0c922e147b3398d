"""This node's engines for others: in its own accounts, bounded, and never further."""

import asyncio
from contextlib import aclosing

import msgspec
import pytest
from gateway_world import offer
from peer_engines import Host, chat, hosting, two_nodes

from ollamamax.core.errors import BadRequest, EngineRefused, EngineUnavailable, ModelNotFound, NodeBusy, StoreError
from ollamamax.core.types import (
    ChatRequest,
    Chunk,
    EmbedRequest,
    EngineKind,
    GenerationStats,
    ModelEntry,
    NodeEngine,
)
from ollamamax.ports import Caller
from ollamamax.services import peer_wire
from ollamamax.services.engine_host import EngineHostConfig
from ollamamax.services.node_host import PING, NodeHost, Pong, decode_pong
from ollamamax.services.peer_member import PeerMember
from ollamamax.testing.engine import TwinEngine
from peer_world import A, B, bounded, record

ALICE = Caller(A, "memory")


@bounded
async def test_the_node_s_own_accounts_see_the_load() -> None:
    async with two_nodes() as (here, host, _):
        host.local.next_gate.clear()
        async with aclosing(here.engine().generate(chat(limit=50), "tiny:latest")) as answer:
            await anext(answer)
            local, side = host.fleet.snapshot().engines
            assert (local.in_flight, side.in_flight) == (1, 0)
            assert local.busy == {"tiny:latest": 1}
            assert local.outstanding_tokens == 49  # one has come
        host.check_idle()


@bounded
async def test_a_whole_answer_teaches_what_it_showed() -> None:
    async with two_nodes() as (here, host, _):
        stats = GenerationStats(prompt_tokens=1_000, prompt_ms=1_000.0, eval_tokens=100, eval_ms=2_000.0)
        host.local.script = [[Chunk("a")], [Chunk(done_reason="stop", stats=stats)]]
        async for _ in here.engine().generate(chat(), "tiny:latest"):
            pass
        facts = host.fleet.snapshot().engines[0]
        assert facts.prefill_tps == pytest.approx(1_000, rel=0.01)
        assert facts.decode_tps == pytest.approx(50, rel=0.01)
        assert host.fleet.mean_output_tokens == 100
        host.local.next_gate.clear()
        async with aclosing(here.engine().generate(chat(), "tiny:latest")) as answer:
            await anext(answer)
            assert host.fleet.snapshot().engines[0].outstanding_tokens == 99  # as long as the last one, says experience


@bounded
async def test_a_failing_engine_is_held_back_for_other_nodes_too() -> None:
    async with two_nodes() as (here, host, _):
        host.side.fail_first = EngineRefused("broken", 500)
        for _ in range(20):
            host.clock.advance(10)
            with pytest.raises((EngineRefused, EngineUnavailable)):
                await anext(here.engine("side").generate(chat("far"), "Far:latest"))
        asked = len(host.side.requests)
        assert asked < 20
        with pytest.raises(EngineUnavailable, match="left out"):
            await anext(here.engine("side").generate(chat("far"), "Far:latest"))
        assert len(host.side.requests) == asked


@bounded
async def test_what_is_under_way_for_others_is_finished() -> None:
    async with two_nodes() as (here, host, _):
        await host.host.finish(limit_ms=0.0)
        host.local.next_gate.clear()
        host.local.embed_gate.clear()
        async with aclosing(here.engine().generate(chat(), "tiny:latest")) as answer:
            await anext(answer)
            embedding = asyncio.create_task(here.engine().embed(EmbedRequest(model="tiny", inputs=("a",)), "x"))
            await host.local.until(lambda: host.local.active == 2)
            await host.host.finish(limit_ms=1.0)
            finishing = asyncio.create_task(host.host.finish(limit_ms=1e9))
            host.local.embed_gate.set()
            await embedding
            assert not finishing.done()
            host.local.next_gate.set()
            async for _ in answer:
                pass
            await finishing
        host.check_idle()


@bounded
async def test_only_so_many_wait_for_a_first_token() -> None:
    async with two_nodes(EngineHostConfig(max_waiting=3)) as (here, host, _):
        host.local.first_gate.clear()
        host.local.embed_gate.clear()
        engine = here.engine()
        begun = [engine.generate(chat(), "tiny:latest") for _ in range(2)]
        waiting = [asyncio.ensure_future(anext(answer)) for answer in begun]
        embedding = asyncio.create_task(engine.embed(EmbedRequest(model="tiny", inputs=("a",)), "x"))
        await host.local.until(lambda: host.local.active == 3)
        with pytest.raises(NodeBusy):
            await anext(engine.generate(chat(), "tiny:latest"))
        with pytest.raises(NodeBusy):
            await engine.embed(EmbedRequest(model="tiny", inputs=("a",)), "x")
        assert host.in_flight == 3
        host.local.first_gate.set()
        host.local.embed_gate.set()
        await asyncio.gather(*waiting, embedding)
        host.local.next_gate.clear()
        for _ in range(6):  # those that have begun do not wait
            begun.append(engine.generate(chat(), "tiny:latest"))
            await anext(begun[-1])
        for answer in begun:
            await answer.aclose()


@bounded
async def test_engines_of_other_nodes_are_not_passed_on() -> None:
    async with two_nodes() as (here, host, _):
        far = TwinEngine([offer("far-away:latest")])
        member = PeerMember("c" * 16, "node-c", NodeEngine(name="local", kind=EngineKind.LLAMACPP, slots=4), far, print)
        host.fleet.add_peer(member)
        member.tell(NodeEngine(name="local", kind=EngineKind.LLAMACPP, slots=4, models=far.offered), 0.0)
        member.set_state(True, "", "")
        host.fleet.peer_offers(member)
        assert host.fleet.find("far-away:latest") is not None
        for engine in ("local", "node-c/local"):
            with pytest.raises(Exception, match=r"not found|no engine named"):
                await anext(here.engine(engine).generate(chat("far-away"), "x"))
            with pytest.raises(Exception, match=r"not found|no engine named"):
                await here.engine(engine).embed(EmbedRequest(model="far-away", inputs=()), "x")
        assert await here.engine("local").describe("far-away:latest") is None
        assert far.requests == far.embeds == []
        host.fleet.remove_peer(member)


@bounded
async def test_a_model_that_the_node_should_have_is_brought_first() -> None:
    brought: list[str] = []
    fails: list[Exception] = []
    entry = ModelEntry(name="new:latest", digest="d", size_bytes=1, changed_ns=0)

    async def ensure(key: str) -> None:
        brought.append(key)
        if fails:
            raise fails[0]

    async with two_nodes(None, ensure, lambda key: entry if key == "new:latest" else None) as (here, host, _):
        async for _ in here.engine().generate(chat("new"), "new:latest"):
            pass
        await here.engine().embed(EmbedRequest(model="new", inputs=("a",)), "new:latest")
        assert brought == ["new:latest", "new:latest"]
        assert host.local.requests[0][1] == "new:latest"
        fails.append(StoreError("no room on disk"))
        with pytest.raises(StoreError, match="no room on disk"):
            await anext(here.engine().generate(chat("new"), "new:latest"))
        with pytest.raises(StoreError, match="no room on disk"):
            await here.engine().embed(EmbedRequest(model="new", inputs=("a",)), "new:latest")
        assert len(host.local.requests) == 1


@bounded
async def test_unloading_reaches_the_engine_there() -> None:
    async with two_nodes() as (here, host, _):
        reads = [read async for read in here.engine().generate(ChatRequest(model="tiny", keep_alive_ms=0), "x")]
        assert [chunk.done_reason for read in reads for chunk in read] == ["unload"]
        assert host.fleet.mean_output_tokens == 0


@bounded
async def test_a_stream_without_an_end() -> None:
    async with two_nodes() as (here, host, _):
        host.local.script = [[Chunk("a")]]
        answer = here.engine().generate(chat(), "tiny:latest")
        await anext(answer)
        with pytest.raises(EngineUnavailable):
            await anext(answer)


@bounded
async def test_an_engine_that_can_t_be_reached_or_does_not_answer() -> None:
    async with two_nodes(EngineHostConfig(describe_ms=20.0)) as (here, host, _):
        host.side.models_error = EngineUnavailable("unplugged")
        for _ in range(3):
            host.clock.advance(60_000)
            await host.fleet.refresh("side")
        with pytest.raises(EngineUnavailable, match="unplugged"):
            await here.engine("side").models()

        async def never(served_as: str) -> None:
            await asyncio.Event().wait()

        host.side.describe = never  # type: ignore[method-assign, assignment]
        with pytest.raises(Exception, match="did not answer in time"):
            await here.engine("side").describe("far:latest")


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", b"\x80", msgspec.msgpack.encode({"engine": 5}), msgspec.msgpack.encode({"engine": "local"})[:-1]],
    ids=range(5),
)
@bounded
async def test_requests_that_are_none(body: bytes) -> None:
    async with hosting(Host()) as host:
        for name, method in host.methods.unary.items():
            with pytest.raises(BadRequest):
                await method(ALICE, body)
            assert name.startswith("engine.")
        with pytest.raises(BadRequest):
            await anext(host.methods.streams[peer_wire.GENERATE](ALICE, body))


def test_fields_that_a_newer_program_adds_are_ignored_and_missing_ones_have_their_defaults() -> None:
    request = ChatRequest(model="m", prompt="p")
    ask = {"engine": "local", "model": "m", "request": {"model": "m", "prompt": "p", "brand_new": [1]}, "more": 1}
    told = peer_wire.decode_ask(msgspec.msgpack.encode(ask), peer_wire.GenerateAsk)
    assert told == peer_wire.GenerateAsk("local", "m", request)
    longer = msgspec.msgpack.encode([["a", "", [], [], [], "stop", None, [], "brand new"], ["b"]])
    assert peer_wire.decode_chunks(longer) == [Chunk("a", done_reason="stop"), Chunk("b")]


@bounded
async def test_a_ping() -> None:
    state = {"revision": 7, "draining": False}
    node = NodeHost(B, "i1", "0.1.0", lambda: int(state["revision"]), lambda: bool(state["draining"]))
    ping = node.methods().unary[PING]
    assert decode_pong(await ping(ALICE, b"")) == Pong(node_id=B, instance="i1", version="0.1.0", revision=7)
    state.update(revision=8, draining=True)
    told = decode_pong(await ping(ALICE, b""))
    assert (told.revision, told.draining) == (8, True)
    for body in (b"", b"\xc1", b"\x80", b"\x90"):
        with pytest.raises(Exception, match="ping"):
            decode_pong(body)


@bounded
async def test_a_model_that_went_away_meanwhile() -> None:
    async with two_nodes() as (here, host, _):
        host.local.offered = ()
        await host.fleet.local_changed()
        with pytest.raises(ModelNotFound):
            await anext(here.engine().generate(chat(), "tiny:latest"))
    assert record(B).name == "node-b"
