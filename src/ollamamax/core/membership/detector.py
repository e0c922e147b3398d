"""Which of the other nodes can be used: a machine of one small state per node.

::

    token vanished           ALIVE -> SUSPECT, asked at once (in a large cluster within a second)
    a call failed            ALIVE -> SUSPECT, asked at once
    token appeared           -> ALIVE; one that was found gone in spite of its token is asked first
    it answered              -> ALIVE
    asked in vain            SUSPECT -> GONE; ALIVE -> GONE if it refused, SUSPECT if it was silent (asked once more)
    it told facts            SUSPECT, GONE: asked at once

A *token* is a node's sign of life in the mesh. It is a hint, as all that comes from there: another member can forge it,
and whoever loses the router that he hangs on sees every token vanish, his own too. From then until tokens have been
counted anew (`Reconciled`) vanishing tokens say nothing; nodes keep their state, and are asked directly: all in a small
cluster, else the routers. The same holds before the mesh was ever heard, so that a cluster without one works too.

Whoever is not ALIVE with a token is asked again and again: one that is alive once a second (less often in a large
cluster), one that is gone after 1 s, then 2 s (doubling to 15 s in a large cluster). The shell sends the questions,
bounds how many are under way at once, and reports each outcome. Invariants M1 to M3: docs/invariants.md. After SWIM
(Das, Gupta, Motivala 2002):
suspicion first, then a direct probe decides; its indirect probes are the mesh here.

Deliberate limits: two nodes that can't reach each other directly do not use each other, whatever third ones say.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Final

from msgspec import Struct

MAX_STRANGERS: Final = 4_096


class PeerState(Enum):
    """ALIVE: may be used.  SUSPECT: not to be used while it is being asked.  GONE: it does not answer."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    GONE = "gone"


class Token(Enum):
    """NONE: none is there.  UNSURE: there was one before the mesh was lost.  THERE: it stands."""

    NONE = "none"
    UNSURE = "unsure"
    THERE = "there"


class DetectorConfig(Struct, frozen=True, kw_only=True):
    """small: up to so many other nodes all are asked at once.  spread_ms: over which the questions of a larger cluster
    are spread.  first_ms: how long a larger cluster waits for an unknown node's token before it is asked.
    watch_ms: between two questions to a node that is alive without a token, per `small` nodes.
    backoff_min_ms, backoff_max_ms: between two questions to a node that is gone.
    """

    small: int = 16
    spread_ms: float = 1_000.0
    first_ms: float = 2_000.0
    watch_ms: float = 1_000.0
    backoff_min_ms: float = 1_000.0
    backoff_max_ms: float = 15_000.0


class NodeAdded(Struct, frozen=True, gc=False):
    """A member that was not known."""

    node_id: str


class NodeRemoved(Struct, frozen=True, gc=False):
    """It is no member any more."""

    node_id: str


class TokenAppeared(Struct, frozen=True, gc=False):
    """A node's token was seen."""

    node_id: str


class TokenVanished(Struct, frozen=True, gc=False):
    """A node's token went."""

    node_id: str


class MeshLost(Struct, frozen=True, gc=False):
    """This node's own token went, or its session was closed: the mesh is not heard."""


class MeshFound(Struct, frozen=True, gc=False):
    """This node's own token stands: the mesh is heard."""


class Reconciled(Struct, frozen=True):
    """All tokens that stand now, asked for anew."""

    tokens: frozenset[str]


class ProbeAnswered(Struct, frozen=True, gc=False):
    """The node answered a direct question."""

    node_id: str


class ProbeFailed(Struct, frozen=True, gc=False):
    """It did not. is_silence: it said nothing in time, rather than that nobody is there."""

    node_id: str
    is_silence: bool


class DispatchFailed(Struct, frozen=True, gc=False):
    """A call to it failed in a way that may mean that it is not there."""

    node_id: str


class FactsArrived(Struct, frozen=True, gc=False):
    """It told something of itself over the mesh."""

    node_id: str
    is_router: bool


Event = (
    NodeAdded
    | NodeRemoved
    | TokenAppeared
    | TokenVanished
    | MeshLost
    | MeshFound
    | Reconciled
    | ProbeAnswered
    | ProbeFailed
    | DispatchFailed
    | FactsArrived
)


class Probe(Struct, frozen=True, gc=False):
    """Ask the node directly after after_ms and, drawn by lot, up to spread_ms more. Replaces a question that has not
    been sent yet; one that is under way stands for it.
    """

    node_id: str
    after_ms: float = 0.0
    spread_ms: float = 0.0


class Spare(Struct, frozen=True, gc=False):
    """A question that has not been sent yet is not needed any more."""

    node_id: str


class Changed(Struct, frozen=True, gc=False):
    """A node's state is another."""

    node_id: str
    state: PeerState
    former: PeerState


class Recount(Struct, frozen=True, gc=False):
    """Ask for all tokens anew, and report them."""


Effect = Probe | Spare | Changed | Recount


class _Peer:
    __slots__ = ("failures", "is_asked", "is_router", "since_ms", "state", "token")

    def __init__(self, since_ms: float) -> None:
        self.state = PeerState.SUSPECT
        self.since_ms = since_ms
        self.token = Token.NONE
        self.is_asked = False
        """A question is planned or under way, and its outcome will be heeded."""
        self.is_router = False
        self.failures = 0


class Detector:
    """The machine of all other nodes; nodes that were never added are unknown to it."""

    def __init__(self, config: DetectorConfig) -> None:
        assert config.small >= 1, "a cluster of two is small"
        assert 0 < config.backoff_min_ms <= config.backoff_max_ms, "back-off grows"
        self._config = config
        self._peers: dict[str, _Peer] = {}
        self._strangers: set[str] = set()
        """Tokens of nodes that are not known to be members yet: the mesh may be faster than the state."""
        self.is_deaf = True
        """The mesh is not heard, so that vanishing tokens say nothing."""

    def state(self, node_id: str) -> PeerState:
        """Of a known node."""
        return self._peers[node_id].state

    def since_ms(self, node_id: str) -> float:
        """When a known node came into its state."""
        return self._peers[node_id].since_ms

    def has_token(self, node_id: str) -> bool:
        """Whether a known node's token stands."""
        return self._peers[node_id].token is Token.THERE

    def step(self, event: Event, now_ms: float) -> list[Effect]:
        """Advance. Mutates self; returns what is to be done."""
        return list(self._step(event, now_ms))

    def _step(self, event: Event, now_ms: float) -> Iterator[Effect]:
        match event:
            case NodeAdded(node_id):
                yield from self._add(node_id, now_ms)
            case NodeRemoved(node_id):
                if self._peers.pop(node_id, None) is not None:
                    yield Spare(node_id)
            case MeshLost():
                yield from self._lose_mesh()
            case MeshFound():
                self.is_deaf = False
                yield Recount()
            case Reconciled(tokens):
                yield from self._recount(tokens, now_ms)
            case TokenAppeared(node_id) if node_id not in self._peers:
                if len(self._strangers) < MAX_STRANGERS:
                    self._strangers.add(node_id)
            case TokenVanished(node_id) if node_id not in self._peers:
                self._strangers.discard(node_id)
            case _:
                peer = self._peers.get(event.node_id)
                if peer is not None:
                    yield from self._step_peer(peer, event, now_ms)

    def _step_peer(self, peer: _Peer, event: Event, now_ms: float) -> Iterator[Effect]:
        match event:
            case TokenAppeared(node_id):
                yield from self._appear(node_id, peer, now_ms)
            case TokenVanished(node_id) if not self.is_deaf:
                yield from self._vanish(node_id, peer, now_ms)
            case ProbeAnswered(node_id):
                peer.is_asked, peer.failures = False, 0
                yield from self._to(node_id, peer, PeerState.ALIVE, now_ms)
                if peer.token is not Token.THERE:
                    yield self._ask(node_id, peer, self._watch_ms(), self._watch_ms() / 4)
            case ProbeFailed(node_id, is_silence) if peer.is_asked:
                yield from self._fail(node_id, peer, is_silence, now_ms)
            case DispatchFailed(node_id) if peer.state is PeerState.ALIVE:
                yield from self._to(node_id, peer, PeerState.SUSPECT, now_ms)
                yield self._ask(node_id, peer)
            case FactsArrived(node_id, is_router):
                peer.is_router = is_router
                if peer.state is not PeerState.ALIVE:
                    yield self._ask(node_id, peer)
            case _:
                pass

    # --- tokens -----------------------------------------------------------------------------------------------

    def _add(self, node_id: str, now_ms: float) -> Iterator[Effect]:
        if node_id in self._peers:
            return
        peer = self._peers[node_id] = _Peer(now_ms)
        if node_id in self._strangers:
            self._strangers.remove(node_id)
            yield from self._appear(node_id, peer, now_ms)
        elif self._is_small:
            yield self._ask(node_id, peer)
        else:
            yield self._ask(node_id, peer, self._config.first_ms, self._config.first_ms)

    def _appear(self, node_id: str, peer: _Peer, now_ms: float) -> Iterator[Effect]:
        had_token, peer.token = peer.token is not Token.NONE, Token.THERE
        if had_token and peer.state is not PeerState.ALIVE:
            # It was not reached although its token stood: that the token is told again does not reach it either.
            yield self._ask(node_id, peer)
            return
        peer.failures = 0
        if peer.is_asked:
            peer.is_asked = False
            yield Spare(node_id)
        yield from self._to(node_id, peer, PeerState.ALIVE, now_ms)

    def _vanish(self, node_id: str, peer: _Peer, now_ms: float) -> Iterator[Effect]:
        if peer.token is Token.NONE:
            return
        peer.token = Token.NONE
        if peer.state is PeerState.ALIVE:
            yield from self._to(node_id, peer, PeerState.SUSPECT, now_ms)
            yield self._ask(node_id, peer, 0.0, 0.0 if self._is_small else self._config.spread_ms)

    def _lose_mesh(self) -> Iterator[Effect]:
        self.is_deaf = True
        self._strangers.clear()
        for node_id, peer in self._peers.items():
            if peer.token is Token.THERE:
                peer.token = Token.UNSURE
            if peer.state is PeerState.ALIVE:
                is_first = self._is_small or peer.is_router
                yield self._ask(node_id, peer, 0.0, 0.0 if is_first else self._watch_ms())

    def _recount(self, tokens: frozenset[str], now_ms: float) -> Iterator[Effect]:
        if self.is_deaf:
            return
        self._strangers = set(sorted(tokens - self._peers.keys())[:MAX_STRANGERS])
        for node_id, peer in self._peers.items():
            if node_id not in tokens:
                yield from self._vanish(node_id, peer, now_ms)
            elif peer.token is not Token.THERE:
                yield from self._appear(node_id, peer, now_ms)

    # --- questions --------------------------------------------------------------------------------------------

    def _fail(self, node_id: str, peer: _Peer, is_silence: bool, now_ms: float) -> Iterator[Effect]:
        if is_silence and peer.state is PeerState.ALIVE:
            yield from self._to(node_id, peer, PeerState.SUSPECT, now_ms)
            yield self._ask(node_id, peer)
            return
        peer.failures += 1
        yield from self._to(node_id, peer, PeerState.GONE, now_ms)
        doubled_ms = self._config.backoff_min_ms * 2.0 ** min(peer.failures - 1, 30)
        pause_ms = min(doubled_ms, self._config.backoff_max_ms, 2.0 * self._watch_ms())
        yield self._ask(node_id, peer, pause_ms * 0.8, pause_ms * 0.2)

    @property
    def _is_small(self) -> bool:
        return len(self._peers) <= self._config.small

    def _watch_ms(self) -> float:
        """Between two questions to one node, so that all together cost the same in any large cluster."""
        return self._config.watch_ms * max(1.0, len(self._peers) / self._config.small)

    def _ask(self, node_id: str, peer: _Peer, after_ms: float = 0.0, spread_ms: float = 0.0) -> Probe:
        peer.is_asked = True
        return Probe(node_id, after_ms, spread_ms)

    def _to(self, node_id: str, peer: _Peer, state: PeerState, now_ms: float) -> Iterator[Effect]:
        if peer.state is not state:
            former, peer.state, peer.since_ms = peer.state, state, now_ms
            yield Changed(node_id, state, former)

    def check_invariants(self) -> None:
        """M1 to M3 of docs/invariants.md. Raises: AssertionError."""
        for peer in self._peers.values():
            is_settled = peer.state is PeerState.ALIVE and peer.token is Token.THERE
            assert is_settled or peer.is_asked, "M1: who is not alive with a token is being asked"
            assert peer.state is not PeerState.GONE or peer.failures > 0, "M2: only a failed question makes it gone"
        assert self._strangers.isdisjoint(self._peers), "M3: a member is no stranger"
