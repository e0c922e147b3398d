"""Keeps the fleet's members that are other nodes' engines in step with who is in the cluster and what each tells."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import structlog

from ollamamax.core.membership.detector import PeerState
from ollamamax.core.routing.filters import IN_DOUBT
from ollamamax.core.types import PROTOCOL_MAX, PROTOCOL_MIN, NodeEngine, NodeFacts, NodeRecord
from ollamamax.ports import Engine
from ollamamax.services.fleet import Fleet
from ollamamax.services.members import LOCAL
from ollamamax.services.peer_member import PeerMember

_LOG: Final = structlog.get_logger(__name__)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
"""Of an engine."""
CORDONED: Final = "is cordoned"
DRAINED: Final = "is being drained"
MAX_ENGINES: Final = 256
"""Of one node; more are not believed."""


class View(Protocol):
    """A member of the cluster as this node sees it; another object after each change."""

    @property
    def record(self) -> NodeRecord:
        """What the cluster agreed on."""
        ...

    @property
    def facts(self) -> NodeFacts | None:
        """What it told of itself, None until it did."""
        ...

    @property
    def facts_at_ms(self) -> float:
        """When that came."""
        ...

    @property
    def state(self) -> PeerState:
        """Whether it is there."""
        ...


class Membership(Protocol):
    """Who is in the cluster, this node not among them."""

    def peers(self) -> Mapping[str, View]:
        """By node id."""
        ...

    def watch(self, callback: Callable[[], None]) -> None:
        """Have it called, synchronously, after each change."""
        ...

    def doubt(self, node_id: str) -> None:
        """A call failed in a way that may mean that the node is not there."""
        ...


class PeerMembers:
    """factory: makes the client of another node's engine, from the node's id and the engine's name there.

    own: this node's record, None before it has one.  is_drained: whether a node, by its id, is being emptied.
    """

    def __init__(
        self,
        fleet: Fleet,
        membership: Membership,
        factory: Callable[[str, str], Engine],
        own: Callable[[], NodeRecord | None],
        is_drained: Callable[[str], bool] = lambda node_id: False,
    ) -> None:
        self._fleet = fleet
        self._membership = membership
        self._factory = factory
        self._own = own
        self._is_drained = is_drained
        self._drained: set[str] = set()
        self._nodes: dict[str, dict[str, PeerMember]] = {}
        """Members by node id and engine name."""
        self._seen: dict[str, View] = {}
        self._gone: set[str] = set()
        membership.watch(self.sync)
        self.sync()

    def sync(self) -> None:
        """Take over what has changed. Cheap where little has; called by the membership, and to be called when this
        node's own record changes, or which nodes are emptied.
        """
        own = self._own()
        self._fleet.keep_out("" if own is None else self._why_closed(own))
        views = self._membership.peers()
        changed = False
        # Those that left come first: one that comes may bear a name that has become free.
        for node_id in [node_id for node_id in self._seen if node_id not in views]:
            changed |= self._leave(node_id)
        for node_id, view in views.items():
            if self._seen.get(node_id) is not view or self._is_drained(node_id) != (node_id in self._drained):
                self._seen[node_id] = view
                changed |= self._update(node_id, view)
        if changed:
            self._fleet.changed()

    def having(self, key: str, digest: str = "") -> list[NodeRecord]:
        """Other nodes that can be reached and whose own store has the model, those with the least to do first.

        digest: of the manifest, "" = any.
        """
        found: list[tuple[int, str]] = []
        for node_id, members in self._nodes.items():
            member = members.get(LOCAL)
            model = member.models.get(key) if member is not None and member.is_pool and member.reachable else None
            if member is not None and model is not None:
                record = model.record
                if not digest or record is None or record.digest in ("", digest):
                    found.append((member.in_flight, node_id))
        return [self._seen[node_id].record for _, node_id in sorted(found)]

    def _leave(self, node_id: str) -> bool:
        del self._seen[node_id]
        self._gone.discard(node_id)
        self._drained.discard(node_id)
        members = self._nodes.pop(node_id, {})
        for member in members.values():
            self._fleet.remove_peer(member)
        return bool(members)

    def _update(self, node_id: str, view: View) -> bool:
        """Whether requests may go elsewhere than before."""
        members = self._nodes.setdefault(node_id, {})
        changed = False
        if view.facts is not None:
            engines = _believable(view.facts.engines)
            changed |= self._drop(members, view.record.name, engines)
            for name, told in engines.items():
                if name not in members:
                    members[name] = self._appear(view.record, told)
                member = members[name]
                changed |= member.tell(told, view.facts_at_ms, view.facts.loaded, view.facts.free_memory_bytes)
                self._fleet.peer_offers(member)
        is_there, out = view.state is PeerState.ALIVE, self._why_out(view)
        error = "" if is_there else f"node '{view.record.name}' does not answer"
        for member in members.values():
            changed |= member.set_state(is_there, out, error)
        self._count_gone(node_id, view.state is PeerState.GONE, is_there)
        return changed

    def _why_out(self, view: View) -> str:
        facts, node_id = view.facts, view.record.node_id
        (self._drained.add if self._is_drained(node_id) else self._drained.discard)(node_id)
        if view.state is PeerState.SUSPECT:
            return IN_DOUBT
        if closed := self._why_closed(view.record):
            return closed
        if facts is not None and facts.draining:
            return "is shutting down"
        if facts is not None and not is_understood(facts):
            return f"is of version {facts.version[:64]}, which this node does not understand"
        return ""

    def _why_closed(self, record: NodeRecord) -> str:
        """Why an operator has it take no new work, "" if nobody does."""
        if self._is_drained(record.node_id):
            return DRAINED
        return CORDONED if record.cordoned else ""

    def _appear(self, record: NodeRecord, told: NodeEngine) -> PeerMember:
        engine = self._factory(record.node_id, told.name)
        member = PeerMember(record.node_id, record.name, told, engine, self._membership.doubt)
        self._fleet.add_peer(member)
        return member

    def _drop(self, members: dict[str, PeerMember], node: str, engines: Mapping[str, NodeEngine]) -> bool:
        """Let go of engines that were detached, or whose node has another name now."""
        gone = [name for name, member in members.items() if name not in engines or member.node != node]
        for name in gone:
            self._fleet.remove_peer(members.pop(name))
        return bool(gone)

    def _count_gone(self, node_id: str, is_gone: bool, is_there: bool) -> None:
        """A node that has gone answers nothing any more; to one that comes back old failures mean nothing."""
        members = self._nodes[node_id].values()
        if is_gone and node_id not in self._gone:
            self._gone.add(node_id)
            for member in members:
                if member.in_flight:
                    _LOG.warning("requests are lost with their node", engine=member.engine_id, count=member.in_flight)
                member.lose()
        elif is_there and node_id in self._gone:
            self._gone.remove(node_id)
            for member in members:
                member.breakers.clear()


def is_understood(facts: NodeFacts) -> bool:
    """Whether a node speaks a version of the talk between nodes that this program speaks."""
    return facts.protocol_min <= PROTOCOL_MAX and facts.protocol_max >= PROTOCOL_MIN


def _believable(engines: Sequence[NodeEngine]) -> dict[str, NodeEngine]:
    """By name; those with a name that no engine can have are left out."""
    return {engine.name: engine for engine in engines[:MAX_ENGINES] if _NAME.fullmatch(engine.name)}
