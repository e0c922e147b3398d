"""Nodes of one cluster in memory, each with its membership: a hub, links, and a catalog that a test changes."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType

from msgspec.structs import replace

from ollamamax.adapters.system.clock import SystemClock
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.membership.backbone import BackboneConfig
from ollamamax.core.membership.detector import DetectorConfig, PeerState
from ollamamax.core.types import (
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    ClusterEvent,
    EngineKind,
    NodeEngine,
    NodeFacts,
    NodeRecord,
    RevokedNode,
)
from ollamamax.ports import Mesh, NodeKeys, PeerLink
from ollamamax.services.fact_sheet import FactSheet
from ollamamax.services.membership import Membership, MembershipConfig
from ollamamax.services.node_host import NodeHost
from ollamamax.testing.clock import SeededDice
from ollamamax.testing.mesh import MemoryHub
from ollamamax.testing.peers import MemoryPeers

WAIT_S = 10.0
ALIVE, SUSPECT, GONE = PeerState.ALIVE, PeerState.SUSPECT, PeerState.GONE


def node_id(letter: str) -> str:
    return letter * 16


def record(letter: str, sequence: int) -> NodeRecord:
    return NodeRecord(
        node_id=node_id(letter),
        name=f"node-{letter}",
        addresses=(f"127.0.0.1:{10_000 + 2 * sequence}",),
        sequence=sequence,
        joined_ns=0,
        key_hash=letter * 64,
        version="1",
    )


def keys(letter: str, serial: int = 0) -> NodeKeys:
    return NodeKeys(
        node_id=node_id(letter),
        cluster_id="c1" * 8,
        private_key=b"",
        certificate=str(serial).encode(),
        ca=b"ca",
        not_before_ns=0,
        expires_ns=serial,
    )


class Follower:
    """A Replica whose state a test writes."""

    def __init__(self, letters: str = "") -> None:
        self.catalog = Catalog.empty()
        self._watchers: list[Callable[[Catalog, Catalog], None]] = []
        self.become(letters)

    def watch(self, callback: Callable[[Catalog, Catalog], None]) -> None:
        self._watchers.append(callback)

    def become(self, letters: str, revoked: str = "") -> None:
        """Members in the order of joining, and those that were removed."""
        nodes = {node_id(one): record(one, ord(one)) for one in letters}
        gone = {
            node_id(one): RevokedNode(node_id=node_id(one), name=one, key_hash=one * 64, removed_ns=0)
            for one in revoked
        }
        former = self.catalog
        self.catalog = replace(
            former, revision=former.revision + 1, nodes=MappingProxyType(nodes), revoked=MappingProxyType(gone)
        )
        for callback in self._watchers:
            callback(former, self.catalog)


class Node:
    """One node: what it says of itself is `facts`."""

    def __init__(self, letter: str, replica: Follower, mesh: Mesh, link: PeerLink) -> None:
        clock = SystemClock()
        self.letter = letter
        self.node_id = node_id(letter)
        self.mesh = mesh
        self.keys = keys(letter)
        self.events: list[ClusterEvent] = []
        self.told = 0
        self.changed = asyncio.Event()
        self.states: list[tuple[str, PeerState]] = []
        config = MembershipConfig(
            keys=lambda: self.keys,
            listen=record(letter, ord(letter)).addresses[0],
            seeds=("127.0.0.1:9",),
            probe_ms=300.0,
            debounce_ms=20.0,
            reconcile_ms=300.0,
            apart_ms=200.0,
            detector=DetectorConfig(watch_ms=50.0, backoff_min_ms=50.0, backoff_max_ms=100.0),
            backbone=BackboneConfig(promote_ms=100.0, demote_ms=300.0),
        )
        self.membership = Membership(
            self.node_id, mesh, link, replica, clock, SeededDice(ord(letter)), config, self.events.append
        )
        self.facts = NodeFacts(
            node_id=self.node_id,
            instance=f"start-{letter}",
            name=f"node-{letter}",
            version="1",
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            addresses=(),
            role="client",
            engines=(NodeEngine(name="local", kind=EngineKind.LLAMACPP, slots=1),),
        )
        self.sheet = FactSheet(self._told, mesh, clock, gap_ms=20.0, echo_ms=100.0, look_ms=200.0)
        self.membership.when_heard(self.sheet.retell)
        self.membership.watch(self._on_change)
        self.host = NodeHost(self.node_id, self.facts.instance, "1", lambda: 0, lambda: False)
        self._tasks: list[asyncio.Task[None]] = []

    def _told(self) -> NodeFacts:
        return replace(self.facts, role=self.membership.role)

    def _on_change(self) -> None:
        self.told += 1
        for one, state in self.seen().items():
            if dict(self.states).get(one) is not state:
                self.states.append((one, state))
        self.changed.set()

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self.membership.run()), loop.create_task(self.sheet.run())]

    def tell(self, **changed: object) -> None:
        self.facts = replace(self.facts, **changed)
        self.sheet.touch()

    def seen(self) -> dict[str, PeerState]:
        return {one[0]: view.state for one, view in self.membership.peers().items()}

    def facts_of(self, letter: str) -> NodeFacts | None:
        view = self.membership.peers().get(node_id(letter))
        return view.facts if view is not None else None

    def knows(self, letter: str, **fields: object) -> bool:
        facts = self.facts_of(letter)
        return facts is not None and all(getattr(facts, name) == value for name, value in fields.items())

    async def until(self, holds: Callable[[], bool]) -> None:
        """Looks after each change; what is no view's (a role) at the latest after 20 ms."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not holds():
                    self.changed.clear()
                    try:
                        async with asyncio.timeout(0.02):
                            await self.changed.wait()
                    except TimeoutError:
                        pass
        except TimeoutError:
            raise AssertionError(f"{self.letter} sees {self.seen()} after {self.states}") from None

    async def sees(self, letters: str, state: PeerState = ALIVE) -> None:
        """Those letters, all in that state, among others."""
        await self.until(lambda: all(self.seen().get(one) is state for one in letters))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        failures = [one for one in results if isinstance(one, Exception)]
        await self.mesh.close()
        assert not failures, failures


class World:
    """Nodes that may fail."""

    def __init__(self, letters: str) -> None:
        self.replica = Follower(letters)
        self.hub = MemoryHub()
        self.peers = MemoryPeers()
        self.nodes: dict[str, Node] = {}

    def node(self, letter: str, mesh: Mesh | None = None) -> Node:
        """A node that runs."""
        me = node_id(letter)
        made = Node(letter, self.replica, mesh or self.hub.mesh(), self.peers.link(me))
        self.peers.listen(me, [made.host.methods(), made.sheet.methods()])
        self.nodes[letter] = made
        made.start()
        return made

    async def kill(self, letter: str) -> None:
        """At once, for all."""
        self.peers.leave(node_id(letter))
        await self.nodes.pop(letter).stop()

    def silence(self, letter: str) -> None:
        """Stopped, or cut off: connections stand, nothing comes; the mesh notices."""
        self.peers.hold(node_id(letter))
        self.hub.cut(node_id(letter))

    def wake(self, letter: str) -> None:
        self.peers.release(node_id(letter))
        self.hub.heal()


@asynccontextmanager
async def world(letters: str, start: str | None = None) -> AsyncGenerator[World, None]:
    """letters: the members.  start: those that run; None = all."""
    made = World(letters)
    async with AsyncExitStack() as stack:
        for letter in letters if start is None else start:
            made.node(letter)
        stack.push_async_callback(_stop, made)
        yield made


async def _stop(made: World) -> None:
    for node in made.nodes.values():
        await node.stop()
