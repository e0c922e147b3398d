"""Attempts at other nodes' engines: nodes that go, before and after the first token; models that come first."""

import asyncio

import pytest
from gateway_world import TEXT, LocalTwin, chat, offer, record, text_of
from msgspec.structs import replace
from peers_world import Peers, cluster, local_engine, node_id_of, record_of

from ollamamax.core.errors import (
    DiskFull,
    EngineCrashed,
    EngineNotFound,
    EngineUnavailable,
    InputTooLong,
    LoadFailed,
    LoadTimeout,
    ModelNotFound,
    NoCandidate,
    NodeBusy,
    NoMemory,
    OllamaMaxError,
    ShuttingDown,
    StoreError,
)
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.resilience.retry_budget import RetryConfig
from ollamamax.core.routing.predict import RoutingConfig
from ollamamax.core.types import ChatRequest, Chunk, EmbedRequest, ModelEntry, OutcomeKind
from ollamamax.services.dispatch import FREE_ATTEMPTS, DispatchConfig
from ollamamax.services.members import Lease
from ollamamax.services.router import Router
from ollamamax.services.trip import Trip
from ollamamax.testing.engine import TwinEngine

TINY = "tiny:latest"
ENTRY = ModelEntry(name=TINY, digest=f"digest-of-{TINY}", size_bytes=1_000, changed_ns=0)
ENDLESS = DispatchConfig(first_token_timeout_ms=3_600_000, load_timeout_ms=0, stall_timeout_ms=3_600_000)
THRIFTY = RetryConfig(ratio=0.0, min_per_window=0)
LACKS = local_engine(offer("other:latest"))


@pytest.mark.parametrize("way", ["gone", "suspect first"])
async def test_a_node_that_goes_before_the_first_token(way: str) -> None:
    async with cluster(None, "b", "c", dispatch=ENDLESS, retry=THRIFTY) as (w, peers):
        b = peers.twins["b/local"]
        b.first_gate.clear()
        answers = [asyncio.create_task(w.ask()) for _ in range(4)]
        await w.until(lambda: b.active + peers.twins["c/local"].finished == 4)
        waiting = b.active
        assert waiting
        if way == "suspect first":
            peers.becomes("b", PeerState.SUSPECT)
            assert b.active == waiting
        peers.becomes("b", PeerState.GONE)
        assert await asyncio.gather(*answers) == ["from c"] * 4
        assert len(b.requests) == waiting
        assert w.kinds == [OutcomeKind.OK] * 4
        assert w.meter.failed_attempts == [("b/local", "engine_unavailable")] * waiting
        assert await w.ask() == "from c"
        peers["b/local"].check_invariants()
        w.check_idle()


async def test_without_another_node_the_request_fails_at_once() -> None:
    async with cluster(None, "b", dispatch=ENDLESS) as (w, peers):
        b = peers.twins["b/local"]
        b.first_gate.clear()
        answer = asyncio.create_task(w.ask())
        await b.until(lambda: b.active == 1)
        peers.becomes("b", PeerState.GONE)
        with pytest.raises(EngineUnavailable, match="engine 'b/local' is gone: its node does not answer any more"):
            await answer
        assert w.outcome.kind is OutcomeKind.ENGINE_FAILED
        w.check_idle()


async def test_embeddings_that_wait_go_elsewhere_too() -> None:
    async with cluster(None, "b", "c", dispatch=ENDLESS, retry=THRIFTY) as (w, peers):
        b = peers.twins["b/local"]
        b.embed_gate.clear()
        answer = asyncio.create_task(w.gateway.embed(w.context(), EmbedRequest(model="tiny", inputs=("a",))))
        await b.until(lambda: b.active == 1)
        peers.becomes("b", PeerState.GONE)
        assert len((await answer).vectors) == 1
        assert w.outcome.engine_id == "c/local"
        w.check_idle()


async def read_into(w, got: list[Chunk], request: ChatRequest | None = None) -> None:  # type: ignore[no-untyped-def]
    async for read in w.gateway.chat(w.context(), request or chat()):
        got.extend(read)


async def test_a_node_that_goes_after_the_first_token_ends_the_answer_at_once() -> None:
    async with cluster(None, "b", "c", dispatch=ENDLESS) as (w, peers):
        b, got = peers.twins["b/local"], list[Chunk]()
        b.next_gate.clear()
        answer = asyncio.create_task(read_into(w, got))
        await w.until(lambda: bool(got))
        peers.becomes("b", PeerState.GONE)
        with pytest.raises(EngineUnavailable, match="is gone"):
            await answer
        assert text_of(got) == "from"
        assert (w.outcome.kind, w.outcome.error_code) == (OutcomeKind.ENGINE_FAILED, "engine_unavailable")
        assert b.cancelled == 1
        assert len(peers.twins["c/local"].requests) == 0
        w.check_idle()


async def test_a_node_that_goes_while_it_makes_a_whole_answer() -> None:
    """It costs the budget nothing, as before the first token."""
    async with cluster(None, "b", "c", dispatch=ENDLESS, retry=THRIFTY) as (w, peers):
        peers.twins["b/local"].next_gate.clear()
        got = list[Chunk]()
        answer = asyncio.create_task(read_into(w, got, replace(chat(), stream=False)))
        await w.until(lambda: peers["b/local"].reads == 1)
        peers.becomes("b", PeerState.GONE)
        await answer
        assert text_of(got) == "from c"
        assert (w.outcome.kind, w.outcome.attempts) == (OutcomeKind.OK, 2)
        await w.until(lambda: peers.twins["b/local"].active == 0)


async def test_a_node_that_goes_while_the_client_reads_slowly() -> None:
    async with cluster(None, "b", dispatch=ENDLESS) as (w, peers):
        peers.twins["b/local"].next_gate.clear()
        stream = w.gateway.chat(w.context(), chat())
        assert text_of(await anext(stream)) == "from"
        peers.becomes("b", PeerState.GONE)
        await asyncio.sleep(0)
        with pytest.raises(EngineUnavailable, match="is gone"):
            await anext(stream)
        w.check_idle()


async def test_what_has_come_whole_stays_whole() -> None:
    class Lingering(TwinEngine):
        async def generate(self, request, served_as):  # type: ignore[no-untyped-def]
            yield [Chunk(text="x", done_reason="stop")]
            await asyncio.Event().wait()

    async with cluster() as (w, peers):
        peers.twins["b/local"] = Lingering()
        peers.tell("b")
        answer = asyncio.create_task(w.ask())
        await w.until(lambda: bool(peers["b/local"].reads))
        peers.becomes("b", PeerState.GONE)
        assert await answer == "x"
        assert w.outcome.kind is OutcomeKind.OK


async def test_answers_here_are_not_touched_by_nodes_that_go() -> None:
    async with cluster(LocalTwin([offer()]), "b") as (w, peers):
        w.local.first_gate.clear()
        answer = asyncio.create_task(w.ask())
        await w.local.until(lambda: w.local.active == 1)
        peers.becomes("b", PeerState.GONE)
        w.local.first_gate.set()
        assert await answer == TEXT
        assert w.outcome.attempts == 1


async def test_a_node_that_goes_between_decision_and_request_gets_none() -> None:
    async with cluster(None, "b", "c", retry=THRIFTY) as (w, peers):
        trip_lease = w.lease()
        assert trip_lease.engine_id == "b/local"
        peers.becomes("b", PeerState.GONE)
        trip = Trip(w.context(), "tiny")
        trip.facts = w.router.facts(chat())

        async def given() -> Lease:
            return trip_lease

        stream = w.dispatcher.stream(chat(), trip, lambda request, trip: given(), lambda trip: None)
        reads = [read async for read in stream]
        assert text_of([chunk for read in reads for chunk in read]) == "from c"
        assert len(peers.twins["b/local"].requests) == 0
        assert trip.attempts == 1
        w.check_idle()


async def test_broken_connections_to_nodes_cost_the_budget_nothing_at_first() -> None:
    names = [f"n{number}" for number in range(FREE_ATTEMPTS + 1)]
    async with cluster(None, *names, retry=THRIFTY) as (w, peers):
        for name in names[: FREE_ATTEMPTS - 1]:
            peers.twins[f"{name}/local"].fail_first = EngineUnavailable("connection reset")
        assert await w.ask() == f"from {names[FREE_ATTEMPTS - 1]}"
        assert peers.membership.doubted == [node_id_of(name) for name in names[: FREE_ATTEMPTS - 1]]
        for name in names:
            peers.twins[f"{name}/local"].fail_first = EngineUnavailable("connection reset")
        with pytest.raises(EngineUnavailable):
            await w.ask()
        assert w.meter.outcomes[-1].attempts == FREE_ATTEMPTS


async def test_to_be_turned_away_by_nodes_that_stop_costs_the_budget_nothing() -> None:
    async with cluster(None, "a", "b", "c", retry=THRIFTY) as (w, peers):
        for name in "ab":
            peers.twins[f"{name}/local"].fail_first = ShuttingDown("going")
        assert await w.ask() == "from c"
        assert not peers.membership.doubted


async def test_other_failures_there_are_in_the_budget() -> None:
    async with cluster(None, "b", "c", retry=THRIFTY) as (w, peers):
        peers.twins["b/local"].fail_first = EngineCrashed("died")
        with pytest.raises(EngineCrashed):
            await w.ask()


@pytest.mark.parametrize(
    "error",
    [
        ModelNotFound("model 'tiny' not found"),
        EngineNotFound("no engine"),
        StoreError("unreadable"),
        NodeBusy("full"),
        NoMemory("too big"),
    ],
    ids=lambda error: error.code,
)
async def test_what_another_node_lacks_may_be_elsewhere(error: OllamaMaxError) -> None:
    async with cluster(None, "b", "c") as (w, peers):
        peers.twins["b/local"].fail_first = error
        assert await w.ask() == "from c"
        peers.twins["c/local"].fail_first = InputTooLong("too long")
        with pytest.raises(InputTooLong):
            await w.ask()
        w.check_idle()


async def test_unloading_reaches_all_nodes_even_if_one_fails() -> None:
    empty = ChatRequest(model="tiny", keep_alive_ms=0)
    async with cluster(LocalTwin([offer()]), "b", "c", "d") as (w, peers):
        peers.tell("d", local_engine(offer(loaded=False)))
        peers.twins["b/local"].fail_first = EngineUnavailable("gone")
        with pytest.raises(EngineUnavailable):
            await w.chunks(empty)
        assert len(w.local.requests) == len(peers.twins["c/local"].requests) == 1
        assert len(peers.twins["d/local"].requests) == 0
        peers.twins["b/local"].fail_first = None
        assert [chunk.done_reason for chunk in await w.chunks(empty)] == ["unload"]
        assert w.meter.outcomes[-1].attempts == 3


# --- models that have to be fetched first ---------------------------------------------------------------------------


def holder_is_out(peers: Peers) -> None:
    """b has the model but takes no requests; c lacks it."""
    peers.tell("b")
    peers.agree("b", cordoned=True)
    peers.tell("c", LACKS, free_memory_bytes=1_000_000)


async def test_this_node_fetches_a_model_that_nobody_else_may_run() -> None:
    async with cluster() as (w, peers):
        w.entries[TINY] = ENTRY
        peers.tell("b")
        peers.agree("b", cordoned=True)
        with pytest.raises(NoCandidate, match="engine 'local' has too little free memory to take the model in"):
            await w.ask()
        w.fleet.tell_free_memory(1_000_000)
        assert await w.ask() == TEXT
        assert await w.ask() == TEXT
        assert w.brought == [TINY]
        vectors = await w.gateway.embed(w.context(), EmbedRequest(model="tiny", inputs=("a",)))
        assert len(vectors.vectors) == 1
        w.check_idle()


async def test_embeddings_have_their_model_fetched_too() -> None:
    async with cluster() as (w, peers):
        w.entries[TINY] = ENTRY
        holder_is_out(peers)
        w.fleet.tell_free_memory(1_000_000)
        assert len((await w.gateway.embed(w.context(), EmbedRequest(model="tiny", inputs=("a",)))).vectors) == 1
        assert w.brought == [TINY]


async def test_another_node_fetches_it_by_itself() -> None:
    async with cluster() as (w, peers):
        w.entries[TINY] = ENTRY
        holder_is_out(peers)
        assert await w.ask() == "from c"
        assert w.brought == []
        assert peers.twins["c/local"].requests[0][1] == TINY


async def test_fetching_counts_as_loading() -> None:
    async with cluster(dispatch=DispatchConfig(first_token_timeout_ms=20, load_timeout_ms=20)) as (w, _):
        w.entries[TINY] = replace(ENTRY, size_bytes=0)
        w.fleet.tell_free_memory(1)
        w.bring_gate.clear()
        lease = w.lease()
        lease.ttft_ms = 0.0
        assert w.dispatcher._first_limit_s(lease) == pytest.approx(0.04)
        w.fleet.abandoned(lease)


async def test_a_fetch_that_fails_here_may_succeed_elsewhere() -> None:
    async with cluster() as (w, peers):
        w.entries[TINY] = ENTRY
        holder_is_out(peers)
        w.fleet.tell_free_memory(1_000_000)
        w.bring_error = DiskFull("no space")
        assert await w.ask() == "from c"
        w.bring_error = LoadFailed("damaged")
        with pytest.raises(LoadFailed):
            await w.ask()
        peers.remove("b")
        peers.remove("c")
        w.bring_error = ModelNotFound("no node that has it can be reached")
        with pytest.raises(ModelNotFound, match="no node that has it"):
            await w.ask()
        w.check_idle()


@pytest.mark.parametrize(
    ("error", "goes"),
    [(NoMemory("too big"), True), (EngineCrashed("died"), False), (LoadTimeout("slow"), False)],
    ids=["no memory", "crash", "slow"],
)
async def test_after_which_failures_the_model_moves(error: OllamaMaxError, goes: bool) -> None:
    async with cluster(LocalTwin([offer()])) as (w, peers):
        w.entries[TINY] = ENTRY
        peers.tell("c", LACKS, free_memory_bytes=1_000_000)
        w.local.fail_first = error
        if goes:
            assert await w.ask() == "from c"
        else:
            with pytest.raises(type(error)):
                await w.ask()
        w.check_idle()


async def test_a_cordoned_node_does_not_fetch_either() -> None:
    async with cluster(LocalTwin([offer()])) as (w, peers):
        w.entries[TINY] = ENTRY
        w.fleet.tell_free_memory(1_000_000)
        peers.tell("c", LACKS, free_memory_bytes=1_000_000)
        peers.own = record_of("here", cordoned=True)
        peers.agree("c", cordoned=True)
        with pytest.raises(NoCandidate, match="engine 'local' is cordoned; engine 'c/local' is cordoned"):
            await w.ask()


async def test_a_node_that_is_assigned_fetches_it_first() -> None:
    async with cluster() as (w, peers):
        w.entries[TINY] = ENTRY
        holder_is_out(peers)
        for name in ("c", "d"):
            peers.tell(name, LACKS, free_memory_bytes=1_000_000)
        w.fleet.tell_free_memory(1_000_000)
        router = Router(w.fleet, RoutingConfig(), lambda key: {node_id_of("d")} if key == TINY else set())
        assert router.choose(router.facts(chat())).ranked[0].engine_id == "d/local"
        peers.tell("d", LACKS, free_memory_bytes=1)
        assert router.choose(router.facts(chat())).ranked[0].engine_id == "local", "or who can"


async def test_a_drained_node_takes_nothing_and_finishes_what_it_has() -> None:
    async with cluster(None, "b", "c") as (w, peers):
        peers.drained = {"b"}
        peers.members.sync()
        assert [await w.ask() for _ in range(3)] == ["from c"] * 3
        peers.drained = {"b", "c", "here"}
        peers.members.sync()
        with pytest.raises(NoCandidate, match="is being drained"):
            await w.ask()
        peers.drained = set()
        peers.members.sync()
        assert await w.ask() in ("from b", "from c")


async def test_without_a_way_to_fetch_the_engine_says_what_it_lacks() -> None:
    async with cluster() as (w, _):
        w.entries[TINY] = ENTRY
        w.fleet.tell_free_memory(1_000_000)
        w.dispatcher._ensure = None
        w.local.fail_first = ModelNotFound(f"model '{TINY}' not found")
        with pytest.raises(ModelNotFound):
            await w.ask()


async def test_another_version_is_asked_only_where_it_is_meant() -> None:
    async with cluster(None, "b") as (w, peers):
        w.entries[TINY] = replace(ENTRY, digest="digest-of-new")
        peers.tell("c", local_engine(replace(offer(), record=record("new"))))
        assert [await w.ask() for _ in range(3)] == ["from c"] * 3
        assert len(peers.twins["b/local"].requests) == 0
