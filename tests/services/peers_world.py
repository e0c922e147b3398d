"""A node that is not alone: a membership under a test's control, and twins as other nodes' engines."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from gateway_world import LocalTwin, World, offer, world
from msgspec import Struct
from msgspec.structs import replace

from ollamamax.core.membership.detector import PeerState
from ollamamax.core.types import EngineKind, EngineModel, NodeEngine, NodeFacts, NodeRecord
from ollamamax.services.peer_member import PeerMember
from ollamamax.services.peer_members import PeerMembers
from ollamamax.testing.engine import TwinEngine


class View(Struct, frozen=True, kw_only=True):
    """A peer as the membership shows it."""

    record: NodeRecord
    facts: NodeFacts | None
    facts_at_ms: float
    state: PeerState


class FakeMembership:
    """Says what a test has it say. doubted: node ids, in order."""

    def __init__(self) -> None:
        self.views: dict[str, View] = {}
        self.doubted: list[str] = []
        self._watchers: list[Callable[[], None]] = []

    def peers(self) -> Mapping[str, View]:
        return self.views

    def watch(self, callback: Callable[[], None]) -> None:
        self._watchers.append(callback)

    def doubt(self, node_id: str) -> None:
        self.doubted.append(node_id)

    def note(self) -> None:
        for watcher in self._watchers:
            watcher()


def node_id_of(name: str) -> str:
    return name.encode().hex().ljust(16, "0")[:16]


def record_of(name: str, sequence: int = 2, **changes: Any) -> NodeRecord:
    made = NodeRecord(
        node_id=node_id_of(name),
        name=name,
        addresses=("127.0.0.1:1",),
        sequence=sequence,
        joined_ns=0,
        key_hash="",
        version="1",
    )
    return replace(made, **changes)


def facts_of(name: str, *engines: NodeEngine, **changes: Any) -> NodeFacts:
    made = NodeFacts(
        node_id=node_id_of(name),
        instance="i1",
        name=name,
        version="1",
        protocol_min=1,
        protocol_max=1,
        addresses=(),
        role="client",
        engines=engines,
    )
    return replace(made, **changes)


def local_engine(*models: EngineModel, **changes: Any) -> NodeEngine:
    """What a node tells of its own engine."""
    made = NodeEngine(name="local", kind=EngineKind.LLAMACPP, slots=4, models=models or (offer(),), busy={})
    return replace(made, **changes)


def attached(name: str, *models: EngineModel, slots: int = 2) -> NodeEngine:
    """What a node tells of an engine that is attached to it."""
    return NodeEngine(name=name, kind=EngineKind.OLLAMA, slots=slots, models=models)


class Peers:
    """The other nodes. twins: the engines behind them, by engine id as the fleet calls it."""

    def __init__(self, w: World) -> None:
        self.world = w
        self.membership = FakeMembership()
        self.twins: dict[str, TwinEngine] = {}
        self.own = record_of("here", sequence=1)
        self.drained: set[str] = set()
        """Names of nodes that are being emptied."""
        self.members = PeerMembers(
            w.fleet,
            self.membership,
            self._make,
            lambda: self.own,
            lambda node_id: node_id in map(node_id_of, self.drained),
        )

    def _make(self, node_id: str, name: str) -> TwinEngine:
        node = self.membership.views[node_id].record.name
        return self.twins.setdefault(f"{node}/{name}", TwinEngine(words=("from", f" {node}")))

    def tell(self, name: str, *engines: NodeEngine, state: PeerState = PeerState.ALIVE, **changes: Any) -> None:
        """A node tells of itself; without engines it has a loaded `tiny`."""
        known = self.membership.views.get(node_id_of(name))
        self._put(
            View(
                record=known.record if known is not None else record_of(name),
                facts=facts_of(name, *(engines or (local_engine(),)), **changes),
                facts_at_ms=self.world.clock.now_ms(),
                state=state,
            )
        )

    def becomes(self, name: str, state: PeerState) -> None:
        self._put(replace(self.membership.views[node_id_of(name)], state=state))

    def agree(self, name: str, **changes: Any) -> None:
        """The node's record changes."""
        view = self.membership.views[node_id_of(name)]
        self._put(replace(view, record=replace(view.record, **changes)))

    def remove(self, name: str) -> None:
        del self.membership.views[node_id_of(name)]
        self.membership.note()

    def _put(self, view: View) -> None:
        self.membership.views[view.record.node_id] = view
        self.membership.note()

    def __getitem__(self, engine_id: str) -> PeerMember:
        member = self.world.fleet._peers[engine_id]
        assert isinstance(member, PeerMember)
        return member


@asynccontextmanager
async def cluster(local: LocalTwin | None = None, *names: str, **options: Any) -> AsyncIterator[tuple[World, Peers]]:
    """A node that has nothing of its own, unless told otherwise, and other nodes that each have a loaded `tiny`."""
    async with world(local if local is not None else LocalTwin(), **options) as w:
        peers = Peers(w)
        for name in names:
            peers.tell(name)
        yield w, peers
