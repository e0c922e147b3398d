"""A node runs what is assigned to it: fetches, loads, lets go, tries again, and goes on after it was killed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest
from placing_world import IDS, TINY, World, facts, model, placing_world

from ollamamax.core.catalog.commands import DropPlacement, SetAssignment, SetDrain, SetPlacement, TakePlanner
from ollamamax.core.catalog.records import assignment_key, placement_key
from ollamamax.core.errors import LoadFailed, ModelNotFound
from ollamamax.core.placement.keeper import Instance, Phase
from ollamamax.core.types import Assignment, ClusterEvent, Drain, Placement
from ollamamax.services.keeping import NodeKeeper

KEY = TINY.name


class Store:
    """A Transfer over a set of keys. is_futile: what it brings is of no use."""

    def __init__(self) -> None:
        self.has_keys: set[str] = set()
        self.failures = 0
        self.is_futile = False

    async def has(self, key: str) -> bool:
        return key in self.has_keys

    async def ensure(self, key: str) -> None:
        if self.failures:
            self.failures -= 1
            raise ModelNotFound("nobody has it")
        if not self.is_futile:
            self.has_keys.add(key)


class Engines:
    """Replicas by id. gate: loads wait for it."""

    def __init__(self) -> None:
        self.instances: dict[str, Instance] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures = 0
        self.made = 0

    async def kept(self) -> tuple[Instance, ...]:
        return tuple(self.instances.values())

    async def keep(self, model_key: str) -> None:
        if self.failures:
            self.failures -= 1
            raise LoadFailed("broken")
        self.made += 1
        name = f"{model_key}#{self.made}"
        self.instances[name] = Instance(name, model_key, Phase.LOADING)
        await self.gate.wait()
        if name in self.instances:
            self.instances[name] = Instance(name, model_key, Phase.READY)

    def let_go(self, instance_id: str) -> None:
        del self.instances[instance_id]


class Kept(World):
    """One node of the world with its keeper."""

    store: Store
    engines: Engines
    events: list[ClusterEvent]

    def ready(self) -> int:
        return sum(one.phase is Phase.READY for one in self.engines.instances.values())

    async def assign(self, **nodes: int) -> None:
        """As the planner n1 decides. nodes: replicas by name."""
        catalog = self.replica.catalog
        if not catalog.planner:
            lease_id = await self.state.grant_lease(600_000)
            await self.control.run(TakePlanner(IDS[0], lease_id))
        if KEY not in catalog.placements:
            await self.control.run(SetPlacement(Placement(name=KEY, replicas=1, changed_ns=1)))
        catalog = self.replica.catalog
        decided = Assignment(
            name=KEY, nodes={IDS[int(name[1]) - 1]: count for name, count in nodes.items()}, decided_ns=1
        )
        revisions = (catalog.revision_of(placement_key(KEY)), catalog.revision_of(assignment_key(KEY)))
        await self.control.run(SetAssignment(decided, IDS[0], *revisions))


@asynccontextmanager
async def keeper_of(world: World, store: Store, engines: Engines) -> AsyncGenerator[list[ClusterEvent], None]:
    """One that runs; it is cancelled as by a kill."""
    events: list[ClusterEvent] = []
    keeper = NodeKeeper(IDS[0], world.replica, world.peers, engines, store, world.clock, events.append)  # type: ignore[arg-type]
    task = asyncio.create_task(keeper.run())
    try:
        yield events
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def world() -> AsyncIterator[Kept]:
    async with placing_world(Kept) as made:
        assert isinstance(made, Kept)
        made.store, made.engines = Store(), Engines()
        async with keeper_of(made, made.store, made.engines) as events:
            made.events = events
            yield made


async def test_what_is_assigned_is_fetched_and_loaded_and_let_go(world: Kept) -> None:
    await world.assign(n1=2)
    await world.until(lambda: world.ready() == 2)
    assert world.store.has_keys == {KEY}
    assert [event.kind for event in world.events] == ["replica_ready", "replica_ready"]
    await world.assign(n1=1)
    await world.until(lambda: world.ready() == 1)
    await world.control.run(DropPlacement(KEY))
    await world.until(lambda: not world.engines.instances)


async def test_a_node_that_was_killed_goes_on(world: Kept) -> None:
    world.engines.gate.clear()
    await world.assign(n1=1)
    await world.until(lambda: len(world.engines.instances) == 1)
    later, store = Engines(), Store()
    async with keeper_of(world, store, later):
        await world.until(lambda: len(later.instances) == 1)
        later.instances.clear()  # its engine was killed, too
        await world.until(lambda: len(later.instances) == 1)


async def test_what_fails_is_tried_again_later(world: Kept) -> None:
    world.store.failures = world.engines.failures = 1
    await world.assign(n1=1)
    await world.until(lambda: len(world.events) == 1)
    assert "nobody has it" in world.events[0].text
    world.clock.advance(1_000)
    await world.until(lambda: len(world.events) == 2)
    assert "broken" in world.events[1].text
    assert world.ready() == 0
    world.clock.advance(1_000)
    await world.until(lambda: world.ready() == 1)


async def test_files_of_another_version_are_no_success(world: Kept) -> None:
    world.store.is_futile = True
    await world.assign(n1=1)
    await world.until(lambda: bool(world.events))
    assert world.events[0].kind == "replica_failed"


async def test_a_load_that_is_not_wanted_any_more_is_broken_off(world: Kept) -> None:
    world.engines.gate.clear()
    await world.assign(n1=1)
    await world.until(lambda: len(world.engines.instances) == 1)
    await world.control.run(DropPlacement(KEY))
    await world.until(lambda: not world.engines.instances)


async def test_the_last_one_stays_until_those_elsewhere_are_ready(world: Kept) -> None:
    await world.assign(n1=1)
    await world.until(lambda: world.ready() == 1)
    await world.assign(n2=1)
    for _ in range(50):
        await asyncio.sleep(0)
    assert world.ready() == 1
    world.peers.tell(1, facts(1, (model(),), ready=1))
    await world.until(lambda: not world.engines.instances)


async def test_when_the_time_of_a_drain_is_over_it_does_not_wait(world: Kept) -> None:
    await world.assign(n1=1)
    await world.until(lambda: world.ready() == 1)
    await world.assign(n2=1)
    await world.control.run(SetDrain(Drain(node_id=IDS[0], since_ns=1, deadline_ns=2)))
    await world.until(lambda: not world.engines.instances)
