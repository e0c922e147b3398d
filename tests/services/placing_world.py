"""A cluster of three for the services that place models: one state, facts as they are set, engines made up."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from msgspec.structs import replace

from ollamamax.core.catalog.commands import AddNode, AddToken, FoundCluster, SetModel
from ollamamax.core.catalog.records import LEVEL
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.modelspec import names
from ollamamax.core.types import (
    ClusterMeta,
    EngineKind,
    EngineModel,
    LoadedModel,
    ModelDetails,
    ModelEntry,
    ModelRecord,
    NodeEngine,
    NodeFacts,
    NodeRecord,
    TokenRecord,
)
from ollamamax.services.capacity import Capacities
from ollamamax.services.control import Control
from ollamamax.services.membership_config import PeerView
from ollamamax.services.replica import Replica
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.state import MemorySnapshot, MemoryState

LIMIT_S = 60.0
IDS = ("00000000000000aa", "00000000000000bb", "00000000000000cc")
MIB = 1 << 20
TINY = ModelEntry(name="tiny:latest", digest="d" * 64, size_bytes=100 * MIB, changed_ns=1)
TOKEN = TokenRecord(token_id=IDS[0], secret_hash="1" * 64, created_ns=1, expires_ns=1 << 62, uses_left=9)
META = ClusterMeta(cluster_id="00000000000000c1", name="home", created_ns=1, holder_id=IDS[0])


def record(number: int) -> NodeRecord:
    return NodeRecord(
        node_id=IDS[number],
        name=f"n{number + 1}",
        addresses=(f"127.0.0.{number + 1}:11435",),
        sequence=number + 1,
        joined_ns=1,
        key_hash=str(number) * 64,
        version="0.1.0",
        level=LEVEL,
    )


def model(entry: ModelEntry = TINY, needs_bytes: tuple[int, ...] = (200 * MIB,)) -> EngineModel:
    told = ModelRecord(entry.name, entry.digest, entry.size_bytes, 1, ModelDetails())
    return EngineModel(names.key(entry.name), entry.name, record=told, needs_bytes=needs_bytes)


def facts(number: int, models: tuple[EngineModel, ...] = (), ready: int = 0, **changes: object) -> NodeFacts:
    """What a node tells: 1000 MiB, and so many replicas of tiny in memory."""
    row = LoadedModel(
        name=TINY.name,
        digest=TINY.digest,
        size_bytes=1,
        vram_bytes=0,
        context_length=1,
        expires_ns=1,
        details=ModelDetails(),
    )
    engine = NodeEngine(name="local", kind=EngineKind.LLAMACPP, slots=4, models=models, busy={})
    told = NodeFacts(
        node_id=IDS[number],
        instance="i",
        name=f"n{number + 1}",
        version="0.1.0",
        protocol_min=1,
        protocol_max=1,
        addresses=(),
        role="client",
        total_memory_bytes=1000 * MIB,
        engines=(engine,),
        loaded=(row,) * ready,
    )
    return replace(told, **changes)


class Peers:
    """A Membership whose views are set."""

    def __init__(self) -> None:
        self.views: dict[str, PeerView] = {}
        self._watchers: list[Callable[[], None]] = []

    def peers(self) -> Mapping[str, PeerView]:
        return self.views

    def watch(self, callback: Callable[[], None]) -> None:
        self._watchers.append(callback)

    def doubt(self, node_id: str) -> None:
        raise AssertionError("nobody is called")

    def tell(self, number: int, told: NodeFacts | None, state: PeerState = PeerState.ALIVE) -> None:
        self.views[IDS[number]] = PeerView(
            record=record(number), facts=told, facts_at_ms=0.0, state=state, since_ms=0.0
        )
        for watcher in self._watchers:
            watcher()


@dataclass
class World:
    """Seen from node n1."""

    clock: FakeClock = field(default_factory=FakeClock)
    peers: Peers = field(default_factory=Peers)

    def __post_init__(self) -> None:
        self.state = MemoryState(self.clock, heartbeat_ms=50.0)
        self.replica = Replica(self.state, MemorySnapshot(), self.clock, SeededDice())
        self.control = Control(self.state, self.replica, SeededDice())
        self.own = facts(0, (model(),))
        self.capacities = Capacities(IDS[0], self.peers, lambda: self.own, self.clock)
        self.peers.tell(1, facts(1))
        self.peers.tell(2, facts(2))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop turn until that holds."""
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                await asyncio.sleep(0.001)


@asynccontextmanager
async def placing_world(kind: type[World] = World) -> AsyncGenerator[World, None]:
    """Three members, and the model tiny."""
    world = kind()
    await world.replica.open()
    following = asyncio.create_task(world.replica.run())
    try:
        await world.control.run(FoundCluster(META, record(0)))
        await world.control.run(AddToken(TOKEN))
        for number in (1, 2):
            one = record(number)
            await world.control.run(
                AddNode(
                    node_id=one.node_id,
                    name=one.name,
                    addresses=one.addresses,
                    key_hash=one.key_hash,
                    version=one.version,
                    token_id=TOKEN.token_id,
                    secret_hash=TOKEN.secret_hash,
                    at_ns=1,
                    level=LEVEL,
                )
            )
        await world.control.run(SetModel(TINY))
        yield world
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
