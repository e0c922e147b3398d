"""Models of the whole cluster: the catalog knows them, copies happen where they lie, deletions everywhere."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

import gguf_bytes
from ollamamax.core.catalog.commands import FoundCluster
from ollamamax.core.errors import InvalidName, ModelNotFound, PeerUnavailable, StateUnavailable
from ollamamax.core.types import ClusterMeta, CreateRequest, NodeRecord
from ollamamax.services.cluster_models import ClusterModels
from ollamamax.services.control import Control
from ollamamax.services.library import Library
from ollamamax.services.replica import Replica
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.making import MemoryGgufMaker
from ollamamax.testing.peers import MemoryPeers
from ollamamax.testing.registry import MemoryRegistry
from ollamamax.testing.state import MemorySnapshot, MemoryState
from ollamamax.testing.store import MemoryStore

IDS = ("00000000000000aa", "00000000000000bb")
RECORDS = [
    NodeRecord(
        node_id=node_id,
        name=f"n{number}",
        addresses=(f"127.0.0.{number}:11435",),
        sequence=number,
        joined_ns=1,
        key_hash=str(number) * 64,
        version="0.1.0",
    )
    for number, node_id in enumerate(IDS, 1)
]
META = ClusterMeta(cluster_id="00000000000000c1", name="home", created_ns=1, holder_id=IDS[0])


class Place:
    """One of two nodes over one state."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.other = RECORDS[1 - number]
        self.store = MemoryStore()
        self.changes = 0
        self.registry = MemoryRegistry()
        library = Library(self.store, self.registry, MemoryGgufMaker(self.store.at), world.clock, SeededDice())
        self.models = ClusterModels(
            library,
            self.store,
            world.control,
            world.replica,
            world.peers.link(IDS[number]),
            world.clock,
            self.having,
            lambda: [self.other],
            self.changed,
        )
        world.peers.listen(IDS[number], [self.models.methods()])

    def having(self, key: str) -> list[NodeRecord]:
        return [self.other] if key in self.world.known_to_others else []

    async def changed(self) -> None:
        self.changes += 1

    async def create(self, name: str) -> None:
        digest, _ = await self.store.put_bytes(gguf_bytes.llama())
        steps = [step async for step in self.models.create(CreateRequest(model=name, files={"m.gguf": digest}))]
        assert steps[-1].status == "success"

    async def names(self) -> list[str]:
        return [stored.name.short for stored in await self.store.manifests()]


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.state = MemoryState(self.clock, heartbeat_ms=50.0)
        self.replica = Replica(self.state, MemorySnapshot(), self.clock, SeededDice())
        self.control = Control(self.state, self.replica, SeededDice())
        self.peers = MemoryPeers()
        self.known_to_others: set[str] = set()
        self.here, self.there = Place(self, 0), Place(self, 1)

    @property
    def catalog(self) -> dict[str, str]:
        return {key: entry.digest for key, entry in self.replica.catalog.models.items()}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.replica.open()
    following = asyncio.create_task(made.replica.run())
    await made.control.run(FoundCluster(META, RECORDS[0]))
    yield made
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_a_created_model_is_in_the_catalog(world: World) -> None:
    await world.here.create("big")
    [stored] = await world.here.store.manifests()
    assert world.catalog == {"big:latest": stored.digest}


async def test_a_copy_is_made_where_the_source_is(world: World) -> None:
    await world.there.create("big")
    with pytest.raises(ModelNotFound):
        await world.here.models.copy("big", "two")
    world.known_to_others = {"big:latest"}
    await world.here.models.copy("big", "two")
    assert (await world.here.names(), sorted(await world.there.names())) == ([], ["big:latest", "two:latest"])
    assert set(world.catalog) == {"big:latest", "two:latest"}
    assert (world.here.changes, world.there.changes) == (0, 1)
    await world.there.models.copy("big", "three")
    assert "three:latest" in world.catalog
    with pytest.raises(InvalidName):
        await world.here.models.copy("big", "a//b")


async def test_a_deletion_reaches_every_node(world: World) -> None:
    await world.here.create("big")
    await world.there.create("big")
    await world.here.models.delete("big")
    assert (await world.here.names(), await world.there.names(), world.catalog) == ([], [], {})
    with pytest.raises(ModelNotFound):
        await world.here.models.delete("big")


async def test_a_deletion_tells_where_it_could_not_be(world: World) -> None:
    await world.here.create("big")
    await world.there.create("big")
    world.peers.leave(IDS[1])
    with pytest.raises(PeerUnavailable, match=r"may still be on node 'n2'.*try again"):
        await world.here.models.delete("big")
    assert (await world.here.names(), world.catalog) == ([], {})


async def test_without_the_state_nothing_is_begun(world: World) -> None:
    await world.here.create("big")
    world.state.cut()
    async with asyncio.timeout(5):
        while world.replica.lost_since_ms is None:
            await asyncio.sleep(0.001)
    with pytest.raises(StateUnavailable, match="node 'n1' can't be reached"):
        await world.here.create("new")
    with pytest.raises(StateUnavailable):
        await world.here.models.copy("big", "two")
    with pytest.raises(StateUnavailable):
        await world.here.models.delete("big")
    assert await world.here.names() == ["big:latest"]


async def test_models_that_were_there_before_are_told(world: World) -> None:
    digest, _ = await world.here.store.put_bytes(gguf_bytes.llama())
    library = Library(
        world.here.store, MemoryRegistry(), MemoryGgufMaker(world.here.store.at), world.clock, SeededDice()
    )
    async for _ in library.create(CreateRequest(model="old", files={"m.gguf": digest})):
        pass
    loop = asyncio.create_task(world.here.models.run())
    async with asyncio.timeout(5):
        while "old:latest" not in world.catalog:
            await asyncio.sleep(0.001)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


@pytest.mark.parametrize("method", ["models.copy", "models.delete"])
async def test_garbage(world: World, method: str) -> None:
    from ollamamax.core.errors import PeerProtocol
    from ollamamax.ports import Caller

    with pytest.raises(PeerProtocol):
        await world.here.models.methods().unary[method](Caller("x"), msgspec.msgpack.encode(7))
