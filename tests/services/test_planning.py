"""Who decides where models run, and what is decided when nodes die, are emptied, or requests wait."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from placing_world import IDS, MIB, TINY, World, facts, model, placing_world

from ollamamax.core.catalog.commands import DropPlacement, SetCordon, SetDrain, SetPlacement, TakePlanner
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.placement.autoscale import AutoscaleConfig
from ollamamax.core.placement.facts import Availability
from ollamamax.core.types import Drain, Placement
from ollamamax.services.capacity import GONE_MS, UNKNOWN_MS
from ollamamax.services.planning import LEASE_MS, Planner

SECOND_NS = 1_000_000_000


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with placing_world() as made:
        yield made


def planner_of(world: World, number: int = 0) -> Planner:
    return Planner(
        IDS[number],
        world.state,
        world.replica,
        world.control,
        world.peers,
        world.capacities,
        world.clock,
        AutoscaleConfig(grow_after_ms=5_000),
    )


async def place(world: World, replicas: int = 2, **changes: object) -> None:
    wish = Placement(name=TINY.name, replicas=replicas, changed_ns=world.clock.wall_ns())
    await world.control.run(SetPlacement(replace(wish, **changes)))


def where(world: World) -> dict[str, int]:
    return dict(world.replica.catalog.assignments[TINY.name].nodes)


async def test_nobody_plans_where_nothing_is_placed(world: World) -> None:
    planner = planner_of(world)
    await planner.step()
    assert (planner.is_planning, world.replica.catalog.planner) == (False, "")


async def test_replicas_are_assigned_and_rebuilt_where_a_node_died(world: World) -> None:
    planner = planner_of(world)
    await place(world)
    await planner.step()
    assert planner.is_planning
    assert IDS[0] in where(world), "it has the files"
    other = next(iter(where(world).keys() - {IDS[0]}))
    number = IDS.index(other)
    before = world.replica.catalog.revision
    await planner.step()
    assert world.replica.catalog.revision == before, "at rest nothing is written"
    world.peers.tell(number, facts(number), PeerState.SUSPECT)
    world.clock.advance(60_000)
    await planner.step()
    assert other in where(world), "perhaps it is there"
    world.peers.tell(number, facts(number), PeerState.GONE)
    planner = planner_of(world)
    await planner.step()
    world.clock.advance(GONE_MS - 1)
    await planner.step()
    assert other in where(world), "it may only have been started anew"
    world.clock.advance(1)
    await planner.step()
    assert set(where(world)) == set(IDS) - {other}
    world.peers.tell(number, facts(number))
    await planner.step()
    assert set(where(world)) == set(IDS) - {other}, "it stays where it is"
    await world.control.run(DropPlacement(TINY.name))
    await planner.step()
    assert not world.replica.catalog.assignments
    await world.until(lambda: world.replica.catalog.planner == "")


async def test_another_takes_over_when_the_lease_ends(world: World) -> None:
    await place(world)
    lease_id = await world.state.grant_lease(LEASE_MS)
    await world.control.run(TakePlanner(IDS[1], lease_id))
    planner = planner_of(world)
    await planner.step()
    assert not planner.is_planning
    await world.state.revoke_lease(lease_id)
    await world.until(lambda: world.replica.catalog.planner == "")
    await planner.step()
    assert planner.is_planning
    late = planner_of(world, 2)
    await late.step()
    assert not late.is_planning
    await planner.close()
    await world.until(lambda: world.replica.catalog.planner == "")
    world.peers.tell(0, world.own)
    await late.step()
    assert not late.is_planning, "those that joined before go first"
    world.clock.advance(3_000)
    await late.step()
    assert late.is_planning


async def test_nothing_is_planned_before_all_have_told(world: World) -> None:
    planner = planner_of(world)
    await place(world, 3)
    world.peers.tell(2, None)
    await planner.step()
    assert not world.replica.catalog.assignments
    world.clock.advance(UNKNOWN_MS)
    await planner.step()
    assert set(where(world)) == {IDS[0], IDS[1]}, "not for ever: and no two on a node while others could hold one"


async def test_a_drained_node_keeps_its_replica_until_another_is_ready(world: World) -> None:
    planner = planner_of(world)
    await place(world, 1)
    await planner.step()
    assert where(world) == {IDS[0]: 1}
    world.own = facts(0, (model(),), ready=1)
    await world.control.run(SetDrain(Drain(node_id=IDS[0], since_ns=1)))
    await planner.step()
    assert where(world)[IDS[0]] == 1, "make before break"
    (other,) = where(world).keys() - {IDS[0]}
    world.peers.tell(IDS.index(other), facts(IDS.index(other), (model(),), ready=1))
    await planner.step()
    assert where(world) == {other: 1}


async def test_when_a_drains_time_is_over_replicas_leave_at_once(world: World) -> None:
    planner = planner_of(world)
    await place(world, 1)
    await planner.step()
    world.own = facts(0, (model(),), ready=1)
    over_ns = world.clock.wall_ns() + 5 * SECOND_NS
    await world.control.run(SetDrain(Drain(node_id=IDS[0], since_ns=1, deadline_ns=over_ns)))
    world.clock.advance(5_000)
    await planner.step()
    assert IDS[0] not in where(world)


async def test_there_are_more_while_requests_wait(world: World) -> None:
    planner = planner_of(world)
    await place(world, 1, max_replicas=2, idle_ms=10_000)
    await planner.step()
    world.own = facts(0, (model(),), ready=1, waiting={TINY.name: 3})
    await planner.step()
    world.clock.advance(5_000)
    await planner.step()
    assert sum(where(world).values()) == 2
    (other,) = where(world).keys() - {IDS[0]}
    world.own = facts(0, (model(),), ready=1)
    world.peers.tell(IDS.index(other), facts(IDS.index(other), (model(),), ready=1))
    await planner.step()
    world.clock.advance(10_000)
    await planner.step()
    assert sum(where(world).values()) == 1


async def test_what_nodes_are_worth(world: World) -> None:
    catalog = world.replica.catalog
    world.own = facts(0, (model(needs_bytes=(900 * MIB, 500 * MIB)),), ready=2)
    picture = world.capacities.picture(catalog, [TINY.name, "stranger:latest"])
    first, second, _ = picture.nodes
    assert first.total_bytes == 800 * MIB, "what models may take of it"
    assert (first.ready, first.has, second.has) == ({TINY.name: 2}, {TINY.name}, frozenset())
    need = picture.needs[TINY.name]
    assert (need.model.replica_bytes, need.is_guess) == (500 * MIB, False), "with as many slots as there is room for"
    assert picture.demands[TINY.name].slots == (4, 4)
    world.own = facts(0)
    need = world.capacities.picture(catalog, [TINY.name]).needs[TINY.name]
    assert (need.model.replica_bytes, need.is_guess) == (120 * MIB, True)
    await world.control.run(SetCordon(IDS[1], True))
    picture = world.capacities.picture(world.replica.catalog, ())
    assert [node.availability for node in picture.nodes] == [
        Availability.OPEN,
        Availability.CORDONED,
        Availability.OPEN,
    ]


async def test_it_runs_when_there_is_something_to_plan(world: World) -> None:
    task = asyncio.create_task(planner_of(world).run())
    try:
        await place(world)
        await world.until(lambda: len(world.replica.catalog.assignments) == 1)
        await world.control.run(DropPlacement(TINY.name))
        await world.until(lambda: not world.replica.catalog.assignments and not world.replica.catalog.planner)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
