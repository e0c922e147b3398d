"""Emptying nodes: what the operator asks, how far it is, and what the node itself does when the time is over.

A drained node gets no new work, its replicas are made elsewhere first, and its answers end by themselves. When the
time is over, its own engines are stopped if that was asked for; of attached engines only new work is kept away.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from ollamamax.core.catalog import records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import EndDrain, SetDrain
from ollamamax.core.errors import BadRequest
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.types import Drain, NodeFacts
from ollamamax.ports import Clock
from ollamamax.services.control import Control
from ollamamax.services.peer_members import Membership
from ollamamax.services.replica import Replica

_LOG: Final = structlog.get_logger(__name__)
_NS_PER_MS: Final = 1_000_000
MAX_TIMEOUT_MS: Final = 30 * 86_400_000


class Drains:
    """node: a name or an id."""

    def __init__(self, replica: Replica, control: Control, membership: Membership, clock: Clock) -> None:
        self._replica = replica
        self._control = control
        self._membership = membership
        self._clock = clock

    async def drain(self, node: str, timeout_ms: int, on_timeout: str) -> None:
        """Begin, or change how it ends. timeout_ms: 0 = it may take as long as it takes.  on_timeout: "stop" ends
        answers that are left then, "keep" lets them end.

        Raises: NodeNotFound, BadRequest, Conflict while a member's program is too old, StateUnavailable.
        """
        if not 0 <= timeout_ms <= MAX_TIMEOUT_MS:
            raise BadRequest(f"a drain takes at most {MAX_TIMEOUT_MS // 86_400_000} days; 0 = as long as it takes")
        now_ns = self._clock.wall_ns()
        deadline_ns = now_ns + timeout_ms * _NS_PER_MS if timeout_ms else 0
        record = self._replica.catalog.node(node)
        await self._control.run(
            SetDrain(Drain(node_id=record.node_id, since_ns=now_ns, deadline_ns=deadline_ns, on_timeout=on_timeout))
        )

    async def end(self, node: str) -> None:
        """It takes work again, unless it is cordoned. Raises: NodeNotFound, StateUnavailable."""
        await self._control.run(EndDrain(self._replica.catalog.node(node).node_id))

    def is_over(self, node_id: str, facts: NodeFacts | None) -> bool:
        """Whether the node is empty: all who are there know that it is drained, none of its replicas is left, and
        nothing is under way there. facts: what the node told of itself.
        """
        catalog = self._replica.catalog
        told = catalog.revision_of(records.drain_key(node_id))
        if facts is None or facts.revision < told or facts.queued:
            return False
        if any(engine.in_flight for engine in facts.engines) or replicas_on(catalog, node_id):
            return False
        alive = (view.facts for view in self._membership.peers().values() if view.state is PeerState.ALIVE)
        return all(other is not None and other.revision >= told for other in alive)


def replicas_on(catalog: Catalog, node_id: str) -> int:
    """Replicas that are assigned to a node."""
    return sum(one.nodes.get(node_id, 0) for one in catalog.assignments.values())


class DrainEnd:
    """This node's own part: when the time of its drain is over. stop: ends all answers of its own engines."""

    def __init__(self, node_id: str, replica: Replica, clock: Clock, stop: Callable[[], None]) -> None:
        self._node_id = node_id
        self._replica = replica
        self._clock = clock
        self._stop = stop
        self._due = asyncio.Event()
        replica.watch(self._on_catalog)

    async def run(self) -> None:
        """Until cancelled."""
        ended: Drain | None = None
        while True:
            self._due.clear()
            drain = self._replica.catalog.drains.get(self._node_id)
            left_s = None
            if drain is not None and drain.deadline_ns and drain.on_timeout == "stop" and drain != ended:
                left_s = (drain.deadline_ns - self._clock.wall_ns()) / 1e9
                if left_s <= 0:
                    _LOG.warning("the time to drain this node is over: its answers are ended")
                    self._stop()
                    ended, left_s = drain, None
            try:
                async with asyncio.timeout(left_s):
                    await self._due.wait()
            except TimeoutError:
                pass

    def _on_catalog(self, old: Catalog, new: Catalog) -> None:
        if old.drains is not new.drains:
            self._due.set()
