"""Nodes that may hold the cluster's state together; all in memory, etcd too.

async with World(4) as world: ...
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from ollamamax.adapters.state.remote_state import RemoteState
from ollamamax.core.catalog import records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import AddToken, FoundCluster
from ollamamax.core.catalog.records import LEVEL
from ollamamax.core.types import (
    ClusterEvent,
    ClusterMeta,
    NodeRecord,
    Progress,
    Put,
    StateEntry,
    StateHome,
    StateRange,
    StateTxn,
    TokenRecord,
)
from ollamamax.services.control import Control
from ollamamax.services.ha import Ha
from ollamamax.services.ha_calls import HaCalls
from ollamamax.services.ha_care import Care
from ollamamax.services.ha_members import Members
from ollamamax.services.ha_move import HomeMover
from ollamamax.services.replica import Replica
from ollamamax.services.state_home import HomeState
from ollamamax.services.state_host import StateHost
from ollamamax.services.voter import Voter
from ollamamax.services.voter_members import Place
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.etcd import MemoryEtcds, MemorySeats
from ollamamax.testing.peers import MemoryPeers
from ollamamax.testing.state import MemorySnapshot, MemoryState

LIMIT_S = 60.0
CLUSTER = "00000000000000c1"


class KeptState(MemoryState):
    """A file: close() leaves it as it is."""

    async def close(self) -> None:
        self._wake()


class OwnTwin:
    """OwnStates of a node: what a disk would keep."""

    def __init__(self, node_id: str, clock: FakeClock) -> None:
        self.node_id = node_id
        self.clock = clock
        self.files: dict[int, KeptState] = {}
        self.fault: Exception | None = None

    async def find(self, make: bool) -> tuple[MemoryState | None, StateHome]:
        if self.fault is not None:
            raise self.fault
        newest = StateHome()
        for _, store in sorted(self.files.items(), reverse=True):
            home = Catalog.from_range(await store.range("")).home
            if home.kind == "sqlite" and (not home.hosts or self.node_id in home.hosts):
                return store, home
            newest = max(newest, home, key=lambda one: one.generation)
        if make and not self.files:
            self.files[0] = KeptState(self.clock, heartbeat_ms=50.0)
            return self.files[0], newest
        return None, newest

    async def begin(self, generation: int, after_revision: int) -> MemoryState:
        store = KeptState(self.clock, heartbeat_ms=50.0)
        store._revision = store._compacted = after_revision
        self.files[generation] = store
        return store

    async def reopen(self, generation: int) -> MemoryState | None:
        return self.files.get(generation)

    async def discard(self, generation: int) -> None:
        self.files.pop(generation, None)


class BackupsTwin:
    def __init__(self) -> None:
        self.made: list[tuple[int, StateRange]] = []

    async def add(self, state: StateRange, at_ns: int) -> None:
        self.made.append((at_ns, state))

    async def last_ns(self) -> int:
        return self.made[-1][0] if self.made else 0

    def encode(self, state: StateRange) -> bytes:
        return repr(state).encode()


class AuthorityTwin:
    certificate = b"ca"
    key_hash = "0" * 64

    def sign(self, request: bytes, node_id: str, now_ns: int) -> bytes:
        return b"certificate"

    def sign_etcd(self, hosts: Sequence[str], now_ns: int) -> tuple[bytes, bytes]:
        return b"key", b"certificate"

    def export(self) -> bytes:
        return b"secret"


class KeysTwin:
    """authority: None until the key came."""

    def __init__(self, authority: AuthorityTwin | None) -> None:
        self.authority = authority

    def take(self, key: bytes, certificate: bytes) -> None:
        assert (key, certificate) == (b"secret", b"ca")
        self.authority = self.authority or AuthorityTwin()


class HaNode:
    """start() makes its services anew of what its disk keeps."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.name = f"n{number}"
        self.id = f"{number:016x}"
        self.seats = MemorySeats()
        self.own = OwnTwin(self.id, world.clock)
        self.snapshot = MemorySnapshot()
        self.keys = KeysTwin(AuthorityTwin() if number == 1 else None)
        self.backups = BackupsTwin()
        self.events: list[ClusterEvent] = []
        self.is_up = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def record(self) -> NodeRecord:
        return NodeRecord(
            node_id=self.id,
            name=self.name,
            addresses=(f"10.0.0.{int(self.id, 16)}:11435", "172.17.0.1:11435"),
            sequence=int(self.id, 16),
            joined_ns=1,
            key_hash=self.id * 4,
            version="1.0.0",
            level=LEVEL,
        )

    async def start(self, seen: StateHome | None = None, founds: bool = False) -> None:
        world, link = self.world, self.world.peers.link(self.id)
        self.state = HomeState(RemoteState(link, lambda: self.hosts_to_ask()))
        self.replica = Replica(self.state, self.snapshot, world.clock, SeededDice())
        self.control = Control(self.state, self.replica, SeededDice())
        etcd = world.etcds.of(self.id)
        place = Place(
            node_id=self.id,
            cluster_id=CLUSTER,
            listen="0.0.0.0",
            port=11435,
            addresses=lambda: self.record.addresses,
            etcd_name="etcd",
        )

        async def ask(node: NodeRecord, key: str) -> StateEntry | None:
            return await RemoteState(link, lambda: (node,)).get(key)

        self.voter = Voter(
            place, etcd, self.seats, self.own, self.state, self.keys, lambda: self.replica.catalog, ask, world.clock
        )
        calls = HaCalls(self.voter, etcd, self.seats, link, world.find, lambda: world.busy_ports.get(self.id, ""))
        self.mover = HomeMover(self.id, self.voter, self.own, self.state, self.replica, self.control)
        self.care = Care(self.voter, self.replica, self.backups, self.events.append, world.clock)
        members = Members(self.voter, calls, self.keys, self.replica, self.control, self.alive, world.find)
        self.ha = Ha(
            self.voter,
            self.mover,
            members,
            self.care,
            calls,
            self.keys,
            self.state,
            self.replica,
            link,
            self.backups,
            self.alive,
            world.find,
        )
        if seen is None:
            seen = Catalog.from_range(self.snapshot.state).home if self.snapshot.state is not None else StateHome()
        await self.voter.open(seen, founds)
        await self.replica.open()
        self.world.peers.listen(self.id, [StateHost(self.state.here).methods(), self.ha.methods()])
        self.is_up = True
        self._tasks = [asyncio.create_task(one) for one in (self.replica.run(), self.voter.run(), self.ha.run())]

    def hosts_to_ask(self) -> list[NodeRecord]:
        newer = [n for n in self.world.nodes if n.is_up and n.voter.generation > self.voter.home.generation]
        ids = [node.id for node in newer] + list(self.voter.home.hosts)
        return [self.world.find(one) for one in dict.fromkeys(ids) if one != self.id]

    def alive(self) -> list[NodeRecord]:
        return [node.record for node in self.world.nodes if node.is_up and node is not self]

    async def stop(self, *, is_kill: bool = False) -> None:
        if not self.is_up:
            return
        self.is_up = False
        self.world.peers.leave(self.id)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.ha.close()
        if not is_kill:
            await self.replica.close()
        await self.voter.close()
        await self.state.close()

    async def write(self) -> str:
        """A token; its id, once it is acknowledged."""
        self.world.written += 1
        token_id = f"{self.world.written:016x}"
        record = TokenRecord(
            token_id=token_id, secret_hash="1" * 64, created_ns=1, expires_ns=1 << 62, uses_left=1
        )  # fmt: skip
        await self.control.run(AddToken(record))
        return token_id

    async def has(self, *token_ids: str) -> bool:
        await self.replica.refresh()
        return self.replica.catalog.tokens.keys() >= {*token_ids}


class World:
    """nodes: the first one holds the state at first."""

    def __init__(self, count: int) -> None:
        self.clock = FakeClock(wall_ns=10**18)
        self.peers = MemoryPeers()
        self.etcds = MemoryEtcds(self.clock)
        self.busy_ports: dict[str, str] = {}
        self.written = 0
        self.nodes = [HaNode(self, number) for number in range(1, count + 1)]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        first, *others = self.nodes
        await first.start(founds=True)
        meta = ClusterMeta(cluster_id=CLUSTER, name="home", created_ns=1, holder_id=first.id)
        await first.control.run(FoundCluster(meta, first.record))
        puts = [Put(records.node_key(node.id), records.encode(node.record)) for node in others]
        puts.append(Put(records.ROSTER_KEY, records.encode(records.Roster(len(self.nodes) + 1))))
        await first.state.txn(StateTxn((), tuple(puts)))
        await first.replica.refresh()
        for node in others:
            node.snapshot.state = first.replica.catalog.entries()
            await node.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in reversed(self.nodes):
            await node.stop()

    def find(self, node_id: str) -> NodeRecord:
        return self.nodes[int(node_id, 16) - 1].record

    async def told(self, steps: AsyncGenerator[Progress, None]) -> list[str]:
        """All steps, in words."""
        async with asyncio.timeout(LIMIT_S):
            return [step.status async for step in steps]

    async def eventually(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                await asyncio.sleep(0.01)

    def running(self) -> Mapping[str, int]:
        """How many etcds run, by node id."""
        names = [name for name, _ in self.etcds.running]
        return {name: names.count(name) for name in names}
