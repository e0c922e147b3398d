"""Placements for people: asked for, shown, explained; nodes that are emptied; models put on nodes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from msgspec.structs import replace
from placing_world import IDS, MIB, TINY, World, facts, model, placing_world, record

from ollamamax.core.catalog.commands import SetLabels
from ollamamax.core.errors import (
    BadRequest,
    Conflict,
    ModelNotFound,
    NodeNotFound,
    NotFound,
    PeerError,
    StateUnavailable,
)
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.types import ModelEntry, NodeRecord, PlacementWish
from ollamamax.services.draining import DrainEnd, Drains
from ollamamax.services.placing import Placements
from ollamamax.services.planning import Planner
from ollamamax.services.spreading import Spread, SpreadHost
from ollamamax.testing.peers import MemoryPeers


class Copies:
    """A Transfer of one node that counts what it was asked for; fails where `error` says so."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.error: Exception | None = None

    async def has(self, key: str) -> bool:
        return key in self.keys

    async def steps(self, key: str, patience_ms: float = 0.0) -> AsyncGenerator[int, None]:
        yield 7
        if self.error is not None:
            raise self.error
        self.keys.add(key)


class Placing(World):
    """The services of n1, and what the others answer to it."""

    def begin(self) -> None:
        self.links = MemoryPeers()
        self.copies = [Copies() for _ in IDS]
        for number, node_id in enumerate(IDS):
            self.links.listen(node_id, [SpreadHost(self.replica, self.copies[number]).methods()])  # type: ignore[arg-type]
        self.out: set[str] = set()
        link = self.links.link(IDS[0])
        spread = Spread(IDS[0], self.replica, link, self.copies[0], self.holders, self.reachable)  # type: ignore[arg-type]
        self.placements = Placements(self.replica, self.control, self.capacities, spread, self.clock)
        self.drains = Drains(self.replica, self.control, self.peers, self.clock)
        self.planner = Planner(IDS[0], self.state, self.replica, self.control, self.peers, self.capacities, self.clock)

    def holders(self, entry: ModelEntry) -> list[NodeRecord]:
        return [record(number) for number in (1, 2) if entry.name in self.copies[number].keys]

    def reachable(self) -> list[NodeRecord]:
        return [record(number) for number in (1, 2) if IDS[number] not in self.out]

    async def spread(self, nodes: str, name: str = "tiny") -> list[str]:
        return [step.status async for step in self.placements.spread(name, nodes)]


@pytest.fixture
async def world() -> AsyncIterator[Placing]:
    async with placing_world(Placing) as made:
        assert isinstance(made, Placing)
        made.begin()
        yield made


async def test_a_model_is_placed_shown_and_removed(world: Placing) -> None:
    placed = await world.placements.place("Tiny", PlacementWish(replicas=2, pins=("n2",)))
    assert (placed.name, placed.pins, placed.ready, placed.decided_ns) == ("tiny:latest", ("n2",), 0, 0)
    await world.planner.step()
    world.peers.tell(1, facts(1, (model(),), ready=1))
    (shown,) = world.placements.all()
    assert [(one.node, one.replicas, one.ready) for one in shown.nodes] == [("n1", 1, 0), ("n2", 1, 1)]
    assert (shown.ready, shown.missing, shown.need_bytes, shown.is_guess) == (1, 0, 200 * MIB, False)
    assert "2 replicas wanted" in world.placements.explained("tiny").text
    await world.placements.remove("tiny")
    assert not world.placements.all()
    for call in (world.placements.one, world.placements.explained):
        with pytest.raises(NotFound, match="placements"):
            call("tiny")
    with pytest.raises(NotFound):
        await world.placements.remove("tiny")


async def test_a_wish_is_explained_and_nothing_is_changed(world: Placing) -> None:
    revision = world.replica.catalog.revision
    plan = world.placements.explain("tiny", PlacementWish(replicas=3))
    assert (plan.nodes, plan.missing) == ({"n1": 1, "n2": 1, "n3": 1}, 0)
    world.own = facts(0)
    assert "guessed" in world.placements.explain("tiny", PlacementWish()).text
    with pytest.raises(ModelNotFound, match="pull"):
        world.placements.explain("stranger", PlacementWish())
    with pytest.raises(NodeNotFound):
        world.placements.explain("tiny", PlacementWish(pins=("n9",)))
    world.peers.tell(1, None)
    with pytest.raises(StateUnavailable):
        world.placements.explain("tiny", PlacementWish())
    assert world.replica.catalog.revision == revision


async def test_what_else_would_move_is_told(world: Placing) -> None:
    world.own = facts(0, (model(needs_bytes=(500 * MIB,)),))
    for number in (1, 2):
        world.peers.tell(number, facts(number, total_memory_bytes=100 * MIB))
    await world.placements.place("tiny", PlacementWish())
    await world.planner.step()
    plan = world.placements.explain("tiny", PlacementWish(replicas=2))
    assert plan.missing == 1
    assert plan.moves == ()
    again = world.placements.explain("tiny", PlacementWish())
    assert again.nodes == {"n1": 1}


async def test_a_drain_is_over_when_all_know_and_nothing_is_left(world: Placing) -> None:
    await world.drains.drain("n2", 0, "keep")
    drained = world.replica.catalog.revision
    idle, busy = facts(1, revision=drained), facts(1, revision=drained, queued=1)
    assert not world.drains.is_over(IDS[1], None)
    assert not world.drains.is_over(IDS[1], idle), "n3 has not heard of it"
    world.peers.tell(1, idle)
    world.peers.tell(2, facts(2, revision=drained))
    assert world.drains.is_over(IDS[1], idle)
    assert not world.drains.is_over(IDS[1], busy)
    assert not world.drains.is_over(IDS[1], facts(1))
    engine = replace(idle.engines[0], in_flight=1)
    assert not world.drains.is_over(IDS[1], replace(idle, engines=(engine,)))
    world.peers.tell(2, None, PeerState.GONE)
    assert world.drains.is_over(IDS[1], idle), "who is gone sends nothing"
    with pytest.raises(BadRequest):
        await world.drains.drain("n2", 1 << 60, "stop")
    with pytest.raises(BadRequest):
        await world.drains.drain("n2", 1, "nonsense")
    await world.drains.end("n2")
    assert not world.replica.catalog.drains


async def test_answers_are_ended_when_the_time_is_over_if_that_was_asked(world: Placing) -> None:
    stops: list[int] = []
    task = asyncio.create_task(DrainEnd(IDS[0], world.replica, world.clock, lambda: stops.append(1)).run())
    try:
        await world.drains.drain("n1", 60_000, "keep")
        world.clock.advance(61_000)
        await world.drains.drain("n2", 60_000, "stop")
        await world.drains.drain("n1", 0, "stop")
        assert not stops
        await world.drains.drain("n1", 20, "stop")
        world.clock.advance(20)
        await world.until(lambda: stops == [1])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_model_is_put_on_as_many_nodes_as_wanted(world: Placing) -> None:
    world.copies[0].keys = {TINY.name}
    steps = await world.spread("2")
    assert set(steps) == {"n1: copying tiny:latest", "n2: copying tiny:latest", "success"}
    assert steps[-1] == "success"
    assert [TINY.name in one.keys for one in world.copies] == [True, True, False]
    await world.control.run(SetLabels(IDS[2], {"room": "attic"}))
    assert (await world.spread("room=attic"))[-1] == "success"
    assert TINY.name in world.copies[2].keys
    with pytest.raises(Conflict, match="no node has the label"):
        await world.spread("room=cellar")
    with pytest.raises(Conflict, match="3 nodes could have the model now, not 4"):
        await world.spread("4")
    for nonsense in ("", "some", "=x", "a=b,c"):
        with pytest.raises(BadRequest):
            await world.spread(nonsense)
    with pytest.raises(ModelNotFound):
        await world.spread("all", "stranger")


async def test_who_could_not_get_it_is_named_when_the_others_have_it(world: Placing) -> None:
    world.out = {IDS[1]}
    world.copies[2].error = ModelNotFound("no node that has it can be reached")
    with pytest.raises(PeerError, match=r"n2: can't be reached.*n3: no node|n3: no node.*n2: can't be reached"):
        await world.spread("all")
    assert TINY.name in world.copies[0].keys


async def test_a_bug_on_the_way_is_raised_where_it_is_waited_for(world: Placing) -> None:
    world.copies[0].error = ZeroDivisionError("ours")
    with pytest.raises(ZeroDivisionError):
        await world.spread("all")
