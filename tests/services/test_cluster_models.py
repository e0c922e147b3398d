"""Models of the whole cluster: the catalog knows them, copies happen where they lie, deletions everywhere."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

import gguf_bytes
from ollamamax.core.catalog.commands import AddNode, AddToken, FoundCluster, SetPlacement
from ollamamax.core.catalog.records import LEVEL
from ollamamax.core.errors import InvalidName, ModelNotFound, StateUnavailable
from ollamamax.core.types import ClusterMeta, CreateRequest, NodeRecord, Placement, TokenRecord, TransferRequest
from ollamamax.services.cluster_models import ClusterModels
from ollamamax.services.control import Control
from ollamamax.services.library import Library
from ollamamax.services.replica import Replica
from ollamamax.services.transfer import Transfer, TransferHost
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
        level=LEVEL,
    )
    for number, node_id in enumerate(IDS, 1)
]
TOKEN = TokenRecord(token_id=IDS[0], secret_hash="1" * 64, created_ns=1, expires_ns=1 << 62, uses_left=1)
META = ClusterMeta(cluster_id="00000000000000c1", name="home", created_ns=1, holder_id=IDS[0])


class Place:
    """One of two nodes over one state."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.other = RECORDS[1 - number]
        self.store = MemoryStore()
        self.changes = 0
        self.vacated: list[str] = []
        self.reachable = [self.other]
        self.registry = MemoryRegistry()
        library = Library(self.store, self.registry, MemoryGgufMaker(self.store.at), world.clock, SeededDice())
        self.models = ClusterModels(
            library,
            self.store,
            world.control,
            world.replica,
            world.peers.link(IDS[number]),
            Transfer(
                self.store,
                world.peers.link(IDS[number]),
                world.clock,
                lambda key: world.replica.catalog.models.get(key),
                lambda _: [self.other],
                self.changed,
            ),
            world.clock,
            self.having,
            lambda: self.reachable,
            self.changed,
            IDS[number],
            self.vacate,
        )
        world.peers.listen(IDS[number], [self.models.methods(), TransferHost(self.store).methods()])

    def having(self, key: str) -> list[NodeRecord]:
        return [self.other] if key in self.world.known_to_others else []

    async def changed(self) -> None:
        self.changes += 1

    async def vacate(self, key: str) -> None:
        assert key in await self.names(), "before its files go"
        self.vacated.append(key)

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


async def test_a_model_of_another_node_comes_here_to_be_pushed(world: World) -> None:
    await world.there.create("registry.test/me/far")
    request = TransferRequest(model="registry.test/me/far")
    with pytest.raises(ModelNotFound, match="far"):
        [step async for step in world.here.models.push(request)]
    assert not world.here.registry.manifests
    world.known_to_others.add("registry.test/me/far:latest")
    steps = [step async for step in world.here.models.push(request)]
    assert (steps[0].status, steps[-1].status) == ("copying registry.test/me/far:latest here", "success")
    assert steps[0].total
    assert await world.here.names() == await world.there.names()
    assert world.here.registry.manifests
    again = [step.status async for step in world.here.models.push(request)]
    assert again[0] == "retrieving manifest", "it is here now"


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


async def test_a_deletion_does_not_wait_for_who_is_out_of_reach(world: World) -> None:
    await there_joins(world)
    await world.here.create("big")
    await world.there.create("big")
    world.clock.advance(10_000)
    world.peers.leave(IDS[1])
    await world.here.models.delete("big")
    assert (await world.here.names(), world.catalog) == ([], {})

    async def is_gone() -> bool:
        return not await world.there.names()

    await in_step(world.there, is_gone)


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


async def in_step(place: Place, condition: Callable[[], Awaitable[bool]]) -> None:
    """What run() does after a start, until that holds."""
    telling = asyncio.create_task(place.models.run())
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0)
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)


async def there_joins(world: World) -> None:
    there = RECORDS[1]
    await world.control.run(AddToken(TOKEN))
    await world.control.run(
        AddNode(
            node_id=there.node_id,
            name=there.name,
            addresses=there.addresses,
            key_hash=there.key_hash,
            version=there.version,
            token_id=TOKEN.token_id,
            secret_hash=TOKEN.secret_hash,
            at_ns=1,
            level=LEVEL,
        )
    )


async def copied_there(world: World) -> None:
    """Both have the model, and this node deletes it while the other is away."""
    await world.here.create("big")
    [stored] = await world.here.store.manifests()
    await world.there.store.put_manifest(stored.name, stored.data)
    world.here.reachable = []
    world.clock.advance(10_000)
    await world.here.models.delete("big")
    assert (await world.here.names(), await world.there.names(), world.catalog) == ([], ["big:latest"], {})


async def test_who_was_away_deletes_what_was_deleted_meanwhile(world: World) -> None:
    await there_joins(world)
    await copied_there(world)

    async def is_gone() -> bool:
        return not await world.there.names()

    await in_step(world.there, is_gone)
    assert world.catalog == {}
    assert world.there.vacated == ["big:latest"]
    await world.there.create("big")
    assert set(world.catalog) == {"big:latest"}, "it may come back on purpose"


async def test_who_joined_later_is_not_meant(world: World) -> None:
    await copied_there(world)
    await there_joins(world)

    async def is_known() -> bool:
        return set(world.catalog) == {"big:latest"}

    await in_step(world.there, is_known)
    assert await world.there.names() == ["big:latest"]


async def test_newer_files_are_not_meant(world: World) -> None:
    await there_joins(world)
    await copied_there(world)
    [stored] = await world.there.store.manifests()
    for _ in range(20):  # each write is a second younger
        await world.there.store.put_manifest(stored.name, stored.data)

    async def is_known() -> bool:
        return set(world.catalog) == {"big:latest"}

    await in_step(world.there, is_known)


async def test_what_is_deleted_is_placed_nowhere(world: World) -> None:
    await world.here.create("big")
    await world.control.run(SetPlacement(Placement(name="big:latest", replicas=1, changed_ns=1)))
    await world.here.models.delete("big")
    assert not world.replica.catalog.placements
    assert world.here.vacated == ["big:latest"]
