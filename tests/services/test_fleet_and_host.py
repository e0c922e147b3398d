"""Two nodes, whole: one's gateway, members and clients of the other's engines; the other's host, facts and fleet."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from gateway_world import TEXT, LocalTwin, World, chat, offer, world
from peers_world import FakeMembership, View, facts_of, node_id_of, record_of

from ollamamax.core.errors import EngineUnavailable, NoCandidate, NoMemory
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.resilience.retry_budget import RetryConfig
from ollamamax.core.types import AttachedEngine, EmbedRequest, EngineKind, ModelEntry
from ollamamax.ports import Engine
from ollamamax.services.engine_host import EngineHost
from ollamamax.services.node_facts import NodeFactsSource
from ollamamax.services.peer_engine import PeerEngine
from ollamamax.services.peer_members import PeerMembers
from ollamamax.testing.engine import FakeMachine, TwinEngine
from ollamamax.testing.peers import MemoryPeers

TINY = "tiny:latest"
HERE, THERE = node_id_of("here"), node_id_of("there")


class Pair:
    """here: asks.  there: has the engines. `tell` carries the news, as the mesh would."""

    def __init__(self, here: World, there: World) -> None:
        self.here, self.there, self.net = here, there, MemoryPeers()
        self.net.listen(THERE, [EngineHost(there.fleet, there.clock, ensure=there._ensure).methods()])
        self.membership = FakeMembership()
        self.source = NodeFactsSource(there.fleet, FakeMachine(), lambda: facts_of("there"))
        link = self.net.link(HERE)

        def engine(node_id: str, name: str) -> Engine:
            view = self.membership.views[node_id]
            assert view.facts is not None
            kind = next(one.kind for one in view.facts.engines if one.name == name)
            return PeerEngine(link, lambda: view.record, name, kind)

        self.members = PeerMembers(here.fleet, self.membership, engine, lambda: None)

    def tell(self, state: PeerState = PeerState.ALIVE) -> None:
        now_ms = self.here.clock.now_ms()
        self.membership.views[THERE] = View(
            record=record_of("there"), facts=self.source(), facts_at_ms=now_ms, state=state
        )
        self.membership.note()


@asynccontextmanager
async def pair(
    there: LocalTwin, attached: dict[str, TwinEngine] | None = None, repeats: int = 0
) -> AsyncIterator[Pair]:
    """repeats: that the budget allows."""
    retry = RetryConfig(ratio=0.0, min_per_window=repeats)
    async with world(LocalTwin(), retry=retry) as w, world(there, attached) as other:
        made = Pair(w, other)
        await made.source.measure()
        made.tell()
        yield made
        w.check_idle()
        other.check_idle()


async def test_requests_for_all_engines_there() -> None:
    async with pair(LocalTwin([offer()]), {"gpu": TwinEngine([offer("big:latest")], words=("from", " gpu"))}) as p:
        assert await p.here.ask() == TEXT
        assert await p.here.ask("big") == "from gpu"
        assert (await p.here.gateway.embed(p.here.context(), EmbedRequest(model="tiny", inputs=("a",)))).vectors
        assert [outcome.engine_id for outcome in p.here.meter.outcomes] == ["there/local", "there/gpu", "there/local"]
        assert [one.name for one in await p.here.fleet.records()] == ["tiny:latest", "big:latest"]
        assert [one.name for one in await p.here.fleet.running()] == ["tiny:latest"]


async def test_both_count_the_same_request_once() -> None:
    async with pair(LocalTwin([offer()], slots=1)) as p:
        p.there.local.next_gate.clear()
        answer = asyncio.create_task(p.here.ask())
        await p.there.local.until(lambda: p.there.local.active == 1)
        p.tell()
        facts = p.here.fleet.snapshot().engines[1]
        assert (facts.in_flight, facts.busy) == (1, {TINY: 1})
        p.there.local.next_gate.set()
        await answer
        facts = p.here.fleet.snapshot().engines[1]
        assert (facts.in_flight, facts.busy) == (0, {}), "known before the next news"
        assert await p.here.ask() == TEXT


async def test_a_client_that_leaves_frees_both() -> None:
    async with pair(LocalTwin([offer()])) as p:
        p.there.local.next_gate.clear()
        stream = p.here.gateway.chat(p.here.context(), chat())
        await anext(stream)
        await stream.aclose()
        await p.there.local.until(lambda: p.there.local.active == 0)


async def test_a_node_that_is_killed_while_others_have_the_model() -> None:
    async with pair(LocalTwin([offer()])) as p:
        p.here.connector.engines["spare"] = TwinEngine([offer(loaded=False)], words=("from", " spare"))
        await p.here.fleet.add(AttachedEngine(name="spare", kind=EngineKind.OLLAMA, url="http://x"))
        p.there.local.first_gate.clear()
        answers = [asyncio.create_task(p.here.ask()) for _ in range(3)]
        await p.there.local.until(lambda: p.there.local.active == 3)
        p.net.leave(THERE)
        assert await asyncio.gather(*answers) == ["from spare"] * 3
        assert set(p.membership.doubted) == {THERE}


async def test_a_node_that_falls_silent() -> None:
    async with pair(LocalTwin([offer()])) as p:
        p.there.local.first_gate.clear()
        answer = asyncio.create_task(p.here.ask())
        await p.there.local.until(lambda: p.there.local.active == 1)
        p.net.hold(THERE)
        p.tell(PeerState.GONE)
        with pytest.raises(EngineUnavailable, match="engine 'there/local' is gone"):
            await answer
        p.net.release(THERE)
        await p.there.local.until(lambda: p.there.local.active == 0)
        with pytest.raises(NoCandidate):
            await p.here.ask()


async def test_the_other_node_fetches_what_this_one_has_no_memory_for() -> None:
    async with pair(LocalTwin([offer("other:latest")]), repeats=1) as p:
        entry = ModelEntry(name=TINY, digest=f"digest-of-{TINY}", size_bytes=1_000, changed_ns=0)
        p.here.entries[TINY] = p.there.entries[TINY] = entry
        p.here.local.offered = (offer(loaded=False),)
        await p.here.fleet.local_changed()
        p.here.local.fail_first = NoMemory("too big")
        assert await p.here.ask() == TEXT
        assert p.there.brought == [TINY]
        assert p.here.outcome.engine_id == "there/local"
        p.tell()
        assert await p.here.ask() == TEXT
        assert p.there.brought == [TINY]
