"""The cluster for people: who is in it, how it is, and what an operator changes. Joins what the other services know."""

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from ollamamax.core.catalog import levels
from ollamamax.core.catalog.commands import RemoveNode, SetCordon, SetLabels
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.types import (
    ClusterEvent,
    ClusterStatus,
    FoundCluster,
    Joined,
    NewToken,
    NodeEngine,
    NodeFacts,
    NodeRecord,
    NodeState,
    NodeView,
    TokenView,
)
from ollamamax.ports import Clock
from ollamamax.services.control import Control
from ollamamax.services.draining import Drains, replicas_on
from ollamamax.services.events import EventLog
from ollamamax.services.issuing import Issuer
from ollamamax.services.membership import Membership
from ollamamax.services.peer_members import is_understood
from ollamamax.services.replica import Replica

_STATES: Final = {
    PeerState.ALIVE: NodeState.READY,
    PeerState.SUSPECT: NodeState.SUSPECT,
    PeerState.GONE: NodeState.GONE,
}


class Doors(Struct, frozen=True, kw_only=True):
    """What the composition root gives. certificate_expires_ns: of this node's papers now.

    join: token, name, force.  discover: timeout_ms.  start_anew: ends this node's life in its present cluster; it
    begins the next one by itself.  let_go: has another node hold the state in the place of one that is to be removed.
    home_troubles: what is wrong with those that hold the state, in sentences.
    """

    certificate_expires_ns: Callable[[], int]
    join: Callable[[str, str, bool], Awaitable[Joined]]
    discover: Callable[[float], Awaitable[Sequence[FoundCluster]]]
    start_anew: Callable[[], None]
    let_go: Callable[[str], Awaitable[None]]
    home_troubles: Callable[[], Sequence[str]]


class Cluster:
    """node_id: this node's.  facts: what this node tells of itself now."""

    def __init__(
        self,
        node_id: str,
        replica: Replica,
        control: Control,
        membership: Membership,
        issuer: Issuer,
        events: EventLog,
        facts: Callable[[], NodeFacts],
        clock: Clock,
        doors: Doors,
        drains: Drains,
    ) -> None:
        self._node_id = node_id
        self._replica = replica
        self._control = control
        self._membership = membership
        self._issuer = issuer
        self._events = events
        self._facts = facts
        self._clock = clock
        self._doors = doors
        self._drains = drains

    # --- looking ----------------------------------------------------------------------------------------------------

    def nodes(self) -> Sequence[NodeView]:
        """All members in the order of joining, those that are gone included."""
        return [self._view(record) for record in self._replica.catalog.nodes.values()]

    def node(self, node: str) -> NodeView:
        """One of them, by name or id. Raises: NodeNotFound."""
        return self._view(self._replica.catalog.node(node))

    def status(self) -> ClusterStatus:
        """The whole."""
        catalog = self._replica.catalog
        views = self.nodes()
        there = [view for view in views if view.state is not NodeState.GONE]
        own = self._facts()
        meta = catalog.meta
        lost_since_ms = self._replica.lost_since_ms
        return ClusterStatus(
            cluster_id=meta.cluster_id if meta is not None else "",
            name=meta.name if meta is not None else "",
            created_ns=meta.created_ns if meta is not None else 0,
            this=own.name,
            holder=", ".join(node.name for node in catalog.hosts),
            holder_reachable=lost_since_ms is None,
            holder_lost_ms=self._clock.now_ms() - lost_since_ms if lost_since_ms is not None else 0.0,
            revision=catalog.revision,
            role=own.role,
            certificate_expires_ns=self._doors.certificate_expires_ns(),
            nodes=dict(Counter(view.state.value for view in views)),
            versions=dict(Counter(view.version for view in views)),
            waits=levels.waiting(catalog.nodes.values()),
            queued=sum(view.queued for view in there),
            in_flight=sum(view.slots_used for view in there),
            slots=sum(view.slots for view in there),
            degraded=tuple(self.degraded()),
        )

    def degraded(self) -> list[str]:
        """What does not work now, in sentences."""
        catalog = self._replica.catalog
        if self._node_id not in catalog.nodes and self._node_id in catalog.revoked:
            return ["this node was removed from the cluster: the others refuse it; it can join anew with a token"]
        found = [
            f"node {view.record.name} runs version {view.facts.version[:64]}, with which this one can't work together: "
            "no requests go there. Bring both to the same version"
            for view in self._membership.peers().values()
            if view.state is not PeerState.GONE and view.facts is not None and not is_understood(view.facts)
        ]
        found += self._doors.home_troubles()
        if self._replica.lost_since_ms is not None:
            found.append(f"nothing of the cluster can be changed now; answers go on. {self._replica.lost_reason}")
        return found

    def recent_events(self) -> Sequence[ClusterEvent]:
        """What this node remembers of what happened, oldest first."""
        return self._events.recent()

    def events(self, after_ns: int) -> AsyncGenerator[ClusterEvent, None]:
        """The remembered ones after `after_ns`, then each as it happens, until the node begins to stop."""
        return self._events.follow(after_ns)

    async def discover(self, timeout_ms: int) -> Sequence[FoundCluster]:
        """Clusters on the LAN that answer within that time. Raises: PeerUnavailable."""
        return await self._doors.discover(timeout_ms)

    # --- changing ---------------------------------------------------------------------------------------------------

    async def remove(self, node: str) -> None:
        """Revoke it. Raises: NodeNotFound, Conflict if it holds the state, StateUnavailable."""
        record = self._replica.catalog.node(node)
        await self._doors.let_go(record.node_id)
        await self._control.run(RemoveNode(record.node_id, self._clock.wall_ns()))

    async def cordon(self, node: str, cordoned: bool) -> None:
        """Keep new requests away from it, or no longer. Raises: NodeNotFound, StateUnavailable."""
        await self._control.run(SetCordon(self._replica.catalog.node(node).node_id, cordoned))

    async def drain(self, node: str, timeout_ms: int, on_timeout: str) -> None:
        """Empty it. Raises: NodeNotFound, BadRequest, Conflict, StateUnavailable."""
        await self._drains.drain(node, timeout_ms, on_timeout)

    async def undrain(self, node: str) -> None:
        """It takes work again. Raises: NodeNotFound, StateUnavailable."""
        await self._drains.end(node)

    async def label(self, node: str, put: Mapping[str, str], drop: Sequence[str]) -> None:
        """Set and remove labels. Raises: NodeNotFound, BadRequest, StateUnavailable."""
        record = self._replica.catalog.node(node)
        await self._control.run(SetLabels(record.node_id, dict(put), tuple(drop)))

    async def create_token(self, ttl_ms: int, uses: int) -> NewToken:
        """Let `uses` nodes join within `ttl_ms`. Raises: BadRequest, StateUnavailable."""
        return await self._issuer.create_token(ttl_ms, uses)

    def tokens(self) -> Sequence[TokenView]:
        """Those that were not revoked, also expired and used ones, oldest first."""
        return self._issuer.tokens()

    async def revoke_token(self, token_id: str) -> None:
        """Nobody joins by it any more. Raises: NotFound, StateUnavailable."""
        await self._issuer.revoke_token(token_id)

    async def join(self, token: str, name: str, force: bool) -> Joined:
        """Become a member of the token's cluster, and begin anew there. Raises: as the door that joins."""
        joined = await self._doors.join(token, name, force)
        if not joined.was_member:
            self._doors.start_anew()
        return joined

    # --- parts ------------------------------------------------------------------------------------------------------

    def _view(self, record: NodeRecord) -> NodeView:
        is_this = record.node_id == self._node_id
        peer = None if is_this else self._membership.peers().get(record.node_id)
        facts, age_ms = (self._facts(), 0.0) if is_this else (None, None)
        state = NodeState.READY if is_this else NodeState.GONE
        if peer is not None:
            state = _STATES[peer.state]
            if peer.facts is not None:
                facts, age_ms = peer.facts, max(0.0, self._clock.now_ms() - peer.facts_at_ms)
        catalog = self._replica.catalog
        drain = catalog.drains.get(record.node_id)
        if state is NodeState.READY and drain is not None:
            is_over = self._drains.is_over(record.node_id, facts)
            state = NodeState.DRAINED if is_over else NodeState.DRAINING
        elif state is NodeState.READY and record.cordoned:
            state = NodeState.CORDONED
        elif state is NodeState.READY and facts is not None and facts.draining:
            state = NodeState.DRAINING
        told = _told(record, facts, state, age_ms, is_this, record.node_id in catalog.home.hosts)
        deadline_ns = drain.deadline_ns if drain is not None else 0
        return replace(told, replicas=replicas_on(catalog, record.node_id), drain_deadline_ns=deadline_ns)


def _told(
    record: NodeRecord,
    facts: NodeFacts | None,
    state: NodeState,
    age_ms: float | None,
    is_this: bool,
    is_holder: bool,
) -> NodeView:
    engines: Sequence[NodeEngine] = facts.engines if facts is not None else ()
    return NodeView(
        name=record.name,
        node_id=record.node_id,
        state=state,
        addresses=record.addresses,
        joined_ns=record.joined_ns,
        version=facts.version if facts is not None else record.version,
        level=record.level,
        protocol=_protocol(facts) if facts is not None else "",
        role=facts.role if facts is not None else "",
        is_this=is_this,
        is_holder=is_holder,
        labels=record.labels,
        facts_age_ms=age_ms,
        models=len({model.key for engine in engines for model in engine.models}),
        loaded=tuple(model.name for model in facts.loaded) if facts is not None else (),
        slots=sum(engine.slots for engine in engines),
        slots_used=sum(engine.in_flight for engine in engines),
        queued=facts.queued if facts is not None else 0,
        free_memory_bytes=facts.free_memory_bytes if facts is not None else 0,
        total_memory_bytes=facts.total_memory_bytes if facts is not None else 0,
        gpu_count=facts.gpu_count if facts is not None else 0,
        prefill_tps=max((engine.prefill_tps for engine in engines), default=0.0),
        decode_tps=max((engine.decode_tps for engine in engines), default=0.0),
    )


def _protocol(facts: NodeFacts) -> str:
    oldest, newest = facts.protocol_min, facts.protocol_max
    return f"{oldest}" if oldest == newest else f"{oldest}-{newest}"
