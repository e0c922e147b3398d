"""Other nodes' engines in the fleet: they come, change, go; what is told of them is joined with our own accounts."""

import asyncio

import pytest
from gateway_world import LocalTwin, World, chat, in_memory, offer, record
from msgspec.structs import replace
from peers_world import attached, cluster, local_engine, node_id_of, record_of

from ollamamax.core.errors import (
    EngineCrashed,
    EngineNotFound,
    EngineTimeout,
    EngineUnavailable,
    ModelNotFound,
    NoCandidate,
)
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.types import EngineModel, ModelEntry
from ollamamax.services.members import Lease
from ollamamax.testing.engine import TwinEngine

TINY = "tiny:latest"
ENTRY = ModelEntry(name=TINY, digest=f"digest-of-{TINY}", size_bytes=1_000, changed_ns=0)


def busy_at(w: World, engine_id: str) -> Lease:
    """A slot taken there."""
    ranked = w.router.choose(w.router.facts(chat())).ranked
    return w.fleet.begin(next(one for one in ranked if one.engine_id == engine_id), TINY, 1)


async def test_a_peers_engines_are_members() -> None:
    async with cluster(None, "b") as (w, peers):
        peers.tell("c", local_engine(), attached("gpu", offer("big:latest")))
        assert [status.name for status in w.fleet.statuses()] == ["local", "b/local", "c/local", "c/gpu"]
        assert [status.node for status in w.fleet.statuses()] == ["here", "b", "c", "c"]
        gpu = w.fleet.statuses()[3]
        assert (gpu.kind, gpu.slots, gpu.models, gpu.reachable) == ("ollama", 2, ("big:latest",), True)
        assert await w.ask() == "from b"
        assert await w.ask("big") == "from c"
        assert peers.twins["c/gpu"].requests[0][1] == "big:latest"
        w.check_idle()


async def test_this_node_comes_first_and_others_by_load() -> None:
    async with cluster(LocalTwin([offer()]), "b", "c") as (w, peers):
        leases = [w.lease() for _ in range(3)]
        assert [lease.engine_id for lease in leases] == ["local", "b/local", "c/local"]
        peers.tell("c", local_engine(in_flight=1, busy={TINY: 1}, outstanding_tokens=256.0, decode_tps=300.0))
        leases.append(w.lease())
        assert leases[-1].engine_id == "c/local"
        for lease in leases:
            w.fleet.abandoned(lease)
        w.fleet.check_invariants()


async def test_engines_and_nodes_vanish() -> None:
    async with cluster(None, "b", "c") as (w, peers):
        peers.tell("b", local_engine(), attached("gpu", offer("big:latest")))
        assert await w.ask("big") == "from b"
        peers.tell("b", local_engine())
        with pytest.raises(ModelNotFound):
            await w.ask("big")
        await w.until(lambda: peers.twins["b/gpu"].is_closed)
        peers.remove("b")
        assert await w.ask() == "from c"
        peers.remove("c")
        assert [status.name for status in w.fleet.statuses()] == ["local"]
        with pytest.raises(ModelNotFound):
            await w.ask()
        await w.until(lambda: peers.twins["c/local"].is_closed)


async def test_an_answer_outlives_its_member() -> None:
    async with cluster(None, "b") as (w, peers):
        twin = peers.twins["b/local"]
        twin.next_gate.clear()
        answer = asyncio.create_task(w.ask())
        await twin.until(lambda: twin.active == 1)
        peers.remove("b")
        assert not twin.is_closed
        twin.next_gate.set()
        assert await answer == "from b"
        await twin.until(lambda: twin.is_closed)


async def test_a_name_may_pass_to_another_node() -> None:
    async with cluster(None, "b", "c") as (w, peers):
        former = peers["b/local"]
        views = peers.membership.views
        del views[node_id_of("b")]
        views[node_id_of("c")] = replace(views[node_id_of("c")], record=replace(record_of("c"), name="b"))
        peers.membership.note()
        assert former.is_gone
        assert peers["b/local"].node_id == node_id_of("c")
        assert [status.name for status in w.fleet.statuses()] == ["local", "b/local"]


async def test_who_has_gone_is_not_asked() -> None:
    async with cluster(None, "b") as (w, peers):
        peers.becomes("b", PeerState.GONE)
        with pytest.raises(NoCandidate, match="engine 'b/local' can't be reached"):
            await w.ask()
        status = w.fleet.statuses()[1]
        assert (status.reachable, status.error) == (False, "node 'b' does not answer")
        assert await w.fleet.records() == []
        assert w.fleet.find(TINY) is None
        peers.becomes("b", PeerState.ALIVE)
        assert await w.ask() == "from b"


@pytest.mark.parametrize("end", [PeerState.ALIVE, PeerState.GONE])
async def test_who_may_be_gone_is_waited_for_if_nobody_else_can_answer(end: PeerState) -> None:
    async with cluster(None, "b", "c") as (w, peers):
        w.entries[TINY] = ENTRY
        peers.agree("c", cordoned=True)
        w.fleet.tell_free_memory(1_000_000)
        peers.becomes("b", PeerState.SUSPECT)
        assert w.fleet.statuses()[1].reachable is False
        answer = asyncio.create_task(w.ask())
        await w.until(lambda: w.gateway.load() == (1, 0))
        w.room.let_in()
        assert not peers.twins["b/local"].requests
        peers.becomes("b", end)
        assert await answer == ("from b" if end is PeerState.ALIVE else "Hello there, how are you?")
        w.check_idle()


async def test_who_may_be_gone_is_not_waited_for_otherwise() -> None:
    async with cluster(None, "b", "c") as (w, peers):
        peers.becomes("b", PeerState.SUSPECT)
        assert [await w.ask() for _ in range(3)] == ["from c"] * 3
        peers.becomes("c", PeerState.SUSPECT)
        waiting = asyncio.create_task(w.ask())
        await w.until(lambda: w.gateway.load() == (1, 0))
        peers.becomes("b", PeerState.GONE)
        assert w.gateway.load() == (1, 0)
        peers.becomes("c", PeerState.GONE)
        with pytest.raises(NoCandidate, match="engine 'b/local' can't be reached; engine 'c/local' can't be reached"):
            await waiting
        w.check_idle()


async def test_an_engine_that_its_node_cannot_reach() -> None:
    async with cluster() as (w, peers):
        peers.tell("b", replace(attached("gpu", offer()), reachable=False))
        assert w.fleet.statuses()[1].error == "node 'b' can't reach it"
        with pytest.raises(NoCandidate):
            await w.ask()


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"draining": True}, "is shutting down"),
        (
            {"protocol_min": 7, "protocol_max": 9, "version": "9.0"},
            "is of version 9.0, which this node does not unders",
        ),
        (
            {"protocol_min": 0, "protocol_max": 0, "version": "0.1"},
            "is of version 0.1, which this node does not unders",
        ),
    ],
)
async def test_nodes_that_take_no_new_requests(facts: dict[str, object], reason: str) -> None:
    async with cluster() as (w, peers):
        peers.tell("b", local_engine(), **facts)
        with pytest.raises(NoCandidate, match=reason):
            await w.ask()
        assert w.fleet.statuses()[1].out.startswith(reason)


async def test_a_cordoned_node_takes_no_new_requests_and_finishes_those_it_has() -> None:
    async with cluster(LocalTwin([offer()]), "b") as (w, peers):
        twin = peers.twins["b/local"]
        twin.next_gate.clear()
        peers.own = record_of("here", cordoned=True)
        peers.members.sync()
        answer = asyncio.create_task(w.ask())
        await twin.until(lambda: twin.active == 1)
        assert w.fleet.statuses()[0].out == "is cordoned"
        peers.agree("b", cordoned=True)
        with pytest.raises(NoCandidate, match="engine 'local' is cordoned; engine 'b/local' is cordoned"):
            await w.ask()
        twin.next_gate.set()
        assert await answer == "from b"
        peers.own = record_of("here")
        peers.members.sync()
        assert w.fleet.statuses()[0].out == ""
        lease = w.lease()
        assert lease.engine_id == "local"
        w.fleet.abandoned(lease)


async def test_one_that_waits_is_let_in_when_a_node_comes() -> None:
    async with cluster(LocalTwin([offer()], slots=1)) as (w, peers):
        w.local.next_gate.clear()
        first = asyncio.create_task(w.ask())
        await w.local.until(lambda: w.local.active == 1)
        second = asyncio.create_task(w.ask())
        await w.until(lambda: w.gateway.load() == (1, 1))
        peers.tell("b")
        assert await second == "from b"
        w.local.next_gate.set()
        await first
        w.check_idle()


async def test_nothing_is_done_where_nothing_changed() -> None:
    async with cluster(None, "b") as (w, peers):
        calls: list[int] = []
        w.fleet.watch(lambda: calls.append(1))
        peers.members.sync()
        assert calls == []
        told = local_engine(in_flight=2, busy={TINY: 2})
        peers.tell("b", told)
        assert len(calls) == 1
        peers.tell("b", replace(told, prefill_tps=3.0))
        assert len(calls) == 1
        peers.tell("b", replace(told, slots=9))
        assert len(calls) == 2


async def test_lists_cover_all_nodes_local_first() -> None:
    rows = (in_memory("tiny:latest"), in_memory("b-only:latest"))
    async with cluster(LocalTwin([offer()])) as (w, peers):
        peers.tell("b", local_engine(offer("TINY:latest"), offer("b-only:latest")), loaded=rows)
        row = in_memory("big:latest")
        peers.tell("c", attached("gpu", EngineModel("big:latest", "big:latest", True, record("big:latest"), row)))
        peers.tell("d", attached("srv", EngineModel("meta/llama 3", "Meta/Llama 3", loaded=True)))
        names = [one.name for one in await w.fleet.records()]
        assert names == ["tiny:latest", "b-only:latest", "big:latest", "Meta/Llama 3"]
        running = [one.name for one in await w.fleet.running()]
        assert running == ["tiny:latest", "tiny:latest", "b-only:latest", "big:latest"]
        assert [member.engine_id for member, _ in w.fleet.offers(TINY)] == ["local", "b/local"]


async def test_descriptions_come_from_another_node_if_one_fails() -> None:
    class Broken(TwinEngine):
        async def describe(self, served_as: str) -> None:
            raise EngineUnavailable("gone")

    async with cluster() as (w, peers):
        peers.twins["b/local"] = Broken()
        peers.twins["c/local"] = TwinEngine()
        peers.tell("b", local_engine(offer("big:latest")))
        with pytest.raises(EngineUnavailable):
            await w.fleet.describe("big")
        peers.tell("c", local_engine(offer("big:latest")))
        peers.twins["c/local"].shows["big:latest"] = {"license": "MIT"}
        assert await w.fleet.describe("BIG") == {"license": "MIT"}
        peers.twins["c/local"].shows.clear()
        peers.remove("b")
        assert await w.fleet.describe("big") is None


async def test_another_nodes_engines_cannot_be_detached_here_nor_asked_for() -> None:
    async with cluster(None, "b") as (w, peers):
        with pytest.raises(EngineNotFound):
            await w.fleet.remove("b/local")
        with pytest.raises(EngineNotFound):
            w.fleet.lease("b/local", TINY, 10)
        await w.fleet.refresh("b/local")
        await w.fleet.refresh()
        assert peers.twins["b/local"].models_calls == 0
        assert [member.engine_id for member in w.fleet.own_engines()] == ["local"]


async def test_failures_that_may_mean_more_are_told() -> None:
    async with cluster(None, "b") as (w, peers):
        for error in (EngineUnavailable("x"), EngineTimeout("x"), EngineCrashed("x"), ModelNotFound("x")):
            peers["b/local"].breakers.clear()
            w.fleet.failed(w.lease(), error)
        assert peers.membership.doubted == [node_id_of("b")] * 2


async def test_old_failures_mean_nothing_to_one_that_comes_back() -> None:
    async with cluster(None, "b") as (w, peers):
        for _ in range(3):
            w.clock.advance(10)
            w.fleet.failed(w.lease(), EngineUnavailable("gone"))
        assert w.fleet.held_back(TINY) == {"b/local": "is left out for a while after 3 failures"}
        peers.becomes("b", PeerState.SUSPECT)
        peers.becomes("b", PeerState.ALIVE)
        assert w.fleet.held_back(TINY) != {}
        peers.becomes("b", PeerState.GONE)
        peers.becomes("b", PeerState.ALIVE)
        assert w.fleet.held_back(TINY) == {}
        assert await w.ask() == "from b"


async def test_who_has_a_model_for_those_who_need_it() -> None:
    async with cluster(LocalTwin([offer()]), "b", "c") as (w, peers):
        peers.tell("d", attached("gpu", offer()))
        peers.tell("e", local_engine(replace(offer(), record=record(TINY, 5))), state=PeerState.SUSPECT)
        assert [node.name for node in peers.members.having(TINY)] == ["b", "c"]
        lease = busy_at(w, "b/local")
        assert [node.name for node in peers.members.having(TINY)] == ["c", "b"]
        w.fleet.abandoned(lease)
        assert peers.members.having(TINY, "other") == []
        assert len(peers.members.having(TINY, f"digest-of-{TINY}")) == 2
        assert peers.members.having("no:latest") == []


async def test_the_right_version_is_used_wherever_it_is() -> None:
    async with cluster(LocalTwin([offer()]), "b") as (w, peers):
        w.entries[TINY] = replace(ENTRY, digest="digest-of-other")
        newer = replace(offer(), record=record("other"))
        peers.tell("b", local_engine(newer))
        assert await w.ask() == "from b"
        assert "-  local: has another version of the model" in w.gateway.explain("tiny").text
        peers.becomes("b", PeerState.GONE)
        assert await w.ask() == "Hello there, how are you?"
        w.check_idle()
