"""A node's own lines in the state: its addresses, its program, and that it is one process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from ollamamax.core.catalog.commands import FoundCluster, SetInstance
from ollamamax.core.catalog.records import LEVEL
from ollamamax.core.errors import NodeConflict
from ollamamax.core.types import ClusterMeta, NodeRecord
from ollamamax.services import standing as standing_module
from ollamamax.services.control import Control
from ollamamax.services.node_host import NodeHost
from ollamamax.services.replica import Replica
from ollamamax.services.standing import LEASE_MS, Standing
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.peers import MemoryPeers
from ollamamax.testing.state import MemorySnapshot, MemoryState

ME = "00000000000000aa"
NODE = NodeRecord(
    node_id=ME,
    name="anna",
    addresses=("127.0.0.1:11435",),
    sequence=1,
    joined_ns=1,
    key_hash="0" * 64,
    version="0.1.0",
)
META = ClusterMeta(cluster_id="00000000000000c1", name="home", created_ns=1, holder_id=ME)


class World:
    """A cluster of one, and the network that it would be called over."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.state = MemoryState(self.clock, heartbeat_ms=50.0)
        self.replica = Replica(self.state, MemorySnapshot(), self.clock, SeededDice())
        self.control = Control(self.state, self.replica, SeededDice())
        self.peers = MemoryPeers()
        self.addresses = NODE.addresses

    def standing(self, instance: str = "i1", version: str = "0.1.0") -> Standing:
        return Standing(
            ME,
            instance,
            version,
            lambda: self.addresses,
            self.state,
            self.replica,
            self.control,
            self.peers.link("caller"),
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.replica.open()
    async with running(made.replica.run()):
        await made.control.run(FoundCluster(META, NODE))
        yield made


@asynccontextmanager
async def running(*loops: object) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(loop) for loop in loops]  # type: ignore[arg-type]
        yield
        for task in started:
            task.cancel()


async def test_its_addresses_and_its_program_are_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing_module, "_LOOK_S", 0.0)
    standing = world.standing(version="0.2.0")
    async with running(standing.run()):
        await world.until(lambda: world.replica.catalog.nodes[ME].version == "0.2.0")
        assert world.replica.catalog.nodes[ME].level == LEVEL
        world.addresses = ("10.0.0.7:11435", "10.0.0.8:11435")
        await world.until(lambda: world.replica.catalog.nodes[ME].addresses == world.addresses)


async def test_the_process_holds_its_node_until_it_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing_module, "_LOOK_S", 0.0)
    standing = world.standing()
    async with running(standing.run()):
        await world.until(lambda: world.replica.catalog.instances.get(ME) == "i1")
        for _ in range(5):  # renewed again and again
            world.clock.advance(LEASE_MS * 0.9)
            await world.until(lambda: world.replica.catalog.instances.get(ME) == "i1")
            await asyncio.sleep(0.01)
        assert world.replica.catalog.instances[ME] == "i1"
    await standing.close()
    await world.until(lambda: ME not in world.replica.catalog.instances)
    await standing.close()


async def test_the_line_of_a_dead_process_is_taken_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing_module, "_LOOK_S", 0.0)
    lease_id = await world.state.grant_lease(LEASE_MS)
    await world.control.run(SetInstance(ME, "dead", lease_id))
    async with running(world.standing("alive").run()):
        await world.until(lambda: world.replica.catalog.instances.get(ME) == "alive")


async def test_nothing_is_written_while_the_state_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing_module, "_LOOK_S", 0.0)
    world.state.cut()
    await world.until(lambda: world.replica.lost_since_ms is not None)
    async with running(world.standing(version="0.3.0").run()):
        await asyncio.sleep(0.02)
        assert world.replica.catalog.nodes[ME].version == "0.1.0"
        world.state.cut(False)
        await world.until(lambda: world.replica.catalog.nodes[ME].version == "0.3.0")


async def test_another_process_with_the_same_identity_is_noticed(world: World) -> None:
    def listen(instance: str) -> None:
        host = NodeHost(ME, instance, "0.1.0", lambda: 1, lambda: False)
        world.peers.listen(ME, [host.methods()])

    await world.standing().require_sole()  # nobody answers
    listen("i1")
    await world.standing("i1").require_sole()  # this process itself
    listen("i2")
    with pytest.raises(NodeConflict, match=r"another process runs as node 'anna'.*ollamamax join"):
        await world.standing("i1").require_sole()
