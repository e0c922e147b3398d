"""What is told of another node's engine, joined with our own accounts; and slots that other nodes take here."""

import pytest
from gateway_world import LocalTwin, chat, offer
from msgspec.structs import replace
from peers_world import attached, cluster, local_engine, node_id_of, record_of

from ollamamax.core.errors import EngineCrashed, EngineNotFound, EngineUnavailable, ModelNotFound, ShuttingDown
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.routing.predict import Sample
from ollamamax.core.types import ModelEntry
from ollamamax.services.members import LOCAL
from ollamamax.services.peer_members import MAX_ENGINES
from ollamamax.testing.engine import TwinEngine

TINY = "tiny:latest"
ENTRY = ModelEntry(name=TINY, digest=f"digest-of-{TINY}", size_bytes=1_000, changed_ns=0)


async def test_our_own_requests_are_not_counted_twice() -> None:
    async with cluster(None, "b") as (w, peers):
        lease = w.lease()
        member = peers["b/local"]
        now_ms = w.clock.now_ms()
        assert (member.facts(now_ms).in_flight, member.facts(now_ms).busy) == (1, {TINY: 1})
        told = local_engine(in_flight=3, busy={TINY: 2, "x": 1}, outstanding_tokens=500.0)
        peers.tell("b", told)
        facts = member.facts(now_ms)
        assert (facts.in_flight, facts.busy, facts.outstanding_tokens) == (3, {TINY: 2, "x": 1}, 500.0)
        w.fleet.abandoned(lease)
        facts = member.facts(now_ms)
        assert (facts.in_flight, facts.busy, facts.outstanding_tokens) == (2, {TINY: 1, "x": 1}, 244.0)
        status = w.fleet.statuses()[1]
        assert status.in_flight == 2
        peers.tell("b", told)
        assert member.facts(now_ms).in_flight == 3
        assert member.status(now_ms).in_flight == 3


async def test_a_slot_is_free_as_soon_as_our_own_request_ends() -> None:
    async with cluster(None) as (w, peers):
        peers.tell("b", local_engine(slots=1))
        lease = w.lease()
        peers.tell("b", local_engine(slots=1, in_flight=1, busy={TINY: 1}))
        best = w.router.choose(w.router.facts(chat())).best
        assert best is not None
        assert not best.has_room
        w.fleet.abandoned(lease)
        best = w.router.choose(w.router.facts(chat())).best
        assert best is not None
        assert best.has_room


async def test_figures_are_as_told_else_as_measured_from_here() -> None:
    async with cluster(None, "b") as (w, peers):
        w.fleet.succeeded(w.lease(), Sample(100, 1_000.0, 50, 500.0, 300.0))
        now_ms = w.clock.now_ms()
        facts = peers["b/local"].facts(now_ms)
        assert (facts.prefill_tps, facts.decode_tps, facts.load_ms) == (100.0, 100.0, 300.0)
        peers.tell("b", local_engine(prefill_tps=700.0, decode_tps=70.0, load_ms=7.0))
        facts = peers["b/local"].facts(now_ms)
        assert (facts.prefill_tps, facts.decode_tps, facts.load_ms) == (700.0, 70.0, 7.0)
        status = w.fleet.statuses()[1]
        assert (status.prefill_tps, status.decode_tps, status.load_ms) == (700.0, 70.0, 7.0)


async def test_facts_carry_their_age() -> None:
    async with cluster(None, "b") as (w, peers):
        member = peers["b/local"]
        first = member.facts(w.clock.now_ms())
        assert first.age_ms == 0
        assert member.facts(w.clock.now_ms() + 99) is first
        w.clock.advance(150)
        assert member.facts(w.clock.now_ms()).age_ms == 150
        assert w.fleet.statuses()[1].age_ms == 150


async def test_garbage_is_not_believed() -> None:
    odd = [attached(name) for name in ("", "a/b", "x\n", "-x", "x" * 65)]
    crowd = [attached(f"e{number}") for number in range(MAX_ENGINES * 2)]
    async with cluster() as (w, peers):
        peers.tell("b", *odd, *crowd)
        assert 0 < len(w.fleet.statuses()) - 1 <= MAX_ENGINES
        assert not any(name in status.name for status in w.fleet.statuses() for name in ("\n", "/a/", "xx", "-"))
        wrong = local_engine(replace(offer(), slots=-3), slots=-1, in_flight=-5, decode_tps=float("nan"))
        peers.tell("b", replace(wrong, outstanding_tokens=float("inf"), prefill_tps=-1.0), free_memory_bytes=-9)
        assert await w.ask() == "from b"
        w.check_idle()


async def test_a_node_without_facts_has_no_engines_yet_and_keeps_them_without_news() -> None:
    async with cluster(None, "b") as (w, peers):
        view = peers.membership.views[node_id_of("b")]
        peers._put(replace(view, facts=None, state=PeerState.GONE))
        assert [status.reachable for status in w.fleet.statuses()] == [True, False]
        peers._put(replace(view, record=record_of("c"), facts=None))
        assert len(w.fleet.statuses()) == 2


async def test_a_slot_for_a_request_from_another_node() -> None:
    told: list[int] = []
    async with cluster(LocalTwin([offer(), offer("idle:latest", loaded=False)])) as (w, _):
        w.fleet.watch_own(lambda: told.append(1))
        lease = w.fleet.lease(LOCAL, TINY, 100)
        assert (lease.engine_id, lease.served_as, lease.was_loaded, lease.must_fetch) == (LOCAL, TINY, True, False)
        assert w.fleet.snapshot().engines[0].outstanding_tokens == 100
        assert len(told) == 1
        w.fleet.responded(lease)
        w.fleet.succeeded(lease, Sample())
        assert len(told) == 2
        lease = w.fleet.lease(LOCAL, "idle:latest", 0)
        assert not lease.was_loaded
        w.fleet.failed(lease, EngineCrashed("died"))
        for name, key, error in ((LOCAL, "no:latest", ModelNotFound), ("x", TINY, EngineNotFound)):
            with pytest.raises(error, match="node 'here'"):
                w.fleet.lease(name, key, 0)
        w.fleet.begin_drain()
        with pytest.raises(ShuttingDown, match="node 'here' is shutting down"):
            w.fleet.lease(LOCAL, TINY, 0)
        w.check_idle()


async def test_a_slot_for_a_model_that_is_yet_to_be_fetched() -> None:
    async with cluster(twins={"left": TwinEngine([])}) as (w, _):
        w.entries[TINY] = ENTRY
        lease = w.fleet.lease(LOCAL, TINY, 10)
        assert (lease.served_as, lease.was_loaded, lease.must_fetch) == (TINY, False, True)
        w.fleet.abandoned(lease)
        with pytest.raises(ModelNotFound):
            w.fleet.lease("left", TINY, 10)


async def test_a_breaker_keeps_other_nodes_requests_out_too() -> None:
    async with cluster(LocalTwin([offer()])) as (w, _):
        for _ in range(3):
            w.clock.advance(10)
            w.fleet.failed(w.fleet.lease(LOCAL, TINY, 0), EngineCrashed("died"))
        with pytest.raises(EngineUnavailable, match="engine 'local' of node 'here' is left out for a while"):
            w.fleet.lease(LOCAL, TINY, 0)
