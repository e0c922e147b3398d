"""Decides where models run: one node of the cluster at a time, each is ready to take over.

Who plans holds the key `planner` under a lease; when that ends, the first of those that are there, in the order of
joining, takes its place. What is decided counts only on what was seen when it was decided, so that two planners do no
harm. Nothing is planned while the state can't be written, or a node has not told of itself yet.
"""

import asyncio
from typing import Final

import structlog
from msgspec import Struct

from ollamamax.core.catalog import records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import SetAssignment, TakePlanner
from ollamamax.core.errors import Conflict, LeaseNotFound, NotFound, OllamaMaxError
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.placement.autoscale import AutoscaleConfig, Autoscaler
from ollamamax.core.placement.plan import Plan, plan
from ollamamax.core.types import Assignment
from ollamamax.ports import Clock, StateStore
from ollamamax.services.capacity import Capacities, Picture
from ollamamax.services.control import Control
from ollamamax.services.peer_members import Membership
from ollamamax.services.replica import Replica

_LOG: Final = structlog.get_logger(__name__)
LEASE_MS: Final = 3_000
_LOOK_S: Final = 0.5
"""Between two looks; the lease is renewed at each."""
_TURN_MS: Final = 500.0
"""How long each node lets those that joined before it go first."""
_LAST_TURN_MS: Final = 3_000.0


class _Seen(Struct, frozen=True):
    """All that a plan depends on."""

    placements: object
    assignments: object
    picture: Picture
    extra: dict[str, int]


class Planner:
    """`run()` in a task of its own; `close()` lets another node take over at once."""

    def __init__(
        self,
        node_id: str,
        store: StateStore,
        replica: Replica,
        control: Control,
        membership: Membership,
        capacities: Capacities,
        clock: Clock,
        autoscale: AutoscaleConfig | None = None,
    ) -> None:
        self._node_id = node_id
        self._store = store
        self._replica = replica
        self._control = control
        self._membership = membership
        self._capacities = capacities
        self._clock = clock
        self._autoscale = autoscale or AutoscaleConfig()
        self._autoscaler = Autoscaler(self._autoscale)
        self._lease_id = 0
        self._vacant_since_ms: float | None = None
        self._seen: _Seen | None = None
        self._due = asyncio.Event()
        replica.watch(self._on_catalog)
        membership.watch(self._due.set)

    @property
    def is_planning(self) -> bool:
        """Whether this node decides now, as far as it knows."""
        return self._lease_id != 0 and self._replica.catalog.planner == self._node_id

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.step()
            except OllamaMaxError as error:
                _LOG.debug("nothing can be planned now", reason=str(error))
            catalog = self._replica.catalog
            is_idle = not (catalog.placements or catalog.assignments or self._lease_id)
            try:
                async with asyncio.timeout(None if is_idle else _LOOK_S):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()

    async def step(self) -> None:
        """Take the planner's place if it is free, and plan if it is this node's.

        Raises: StateUnavailable, StateError, Conflict when others were quicker.
        """
        catalog = self._replica.catalog
        if self._replica.lost_since_ms is not None or self._node_id not in catalog.nodes:
            return
        if not catalog.placements and not catalog.assignments:
            await self.close()
            return
        if not await self._is_mine(catalog):
            self._seen = None
            self._autoscaler = Autoscaler(self._autoscale)
            return
        await self._plan(self._replica.catalog)

    async def close(self) -> None:
        """Give the place back. Failures don't matter: the lease ends by itself. Idempotent."""
        lease_id, self._lease_id = self._lease_id, 0
        if lease_id:
            try:
                await self._store.revoke_lease(lease_id)
            except OllamaMaxError as error:
                _LOG.debug("the planner's lease was not given back", reason=str(error))

    # --- who plans ------------------------------------------------------------------------------------------------

    async def _is_mine(self, catalog: Catalog) -> bool:
        """Raises: StateUnavailable, StateError."""
        if self._lease_id:
            try:
                await self._store.renew_lease(self._lease_id)
            except (LeaseNotFound, NotFound):
                self._lease_id = 0
        if catalog.planner not in ("", self._node_id):
            self._vacant_since_ms = None
            await self.close()
            return False
        if catalog.planner == self._node_id and self._lease_id:
            return True
        return self._is_my_turn() and await self._take()

    def _is_my_turn(self) -> bool:
        now_ms = self._clock.now_ms()
        if self._vacant_since_ms is None:
            self._vacant_since_ms = now_ms
        before = 0
        views = self._membership.peers()
        for node_id in self._replica.catalog.nodes:
            if node_id == self._node_id:
                break
            view = views.get(node_id)
            before += view is not None and view.state is PeerState.ALIVE
        return now_ms - self._vacant_since_ms >= min(before * _TURN_MS, _LAST_TURN_MS)

    async def _take(self) -> bool:
        """Whether the place is this node's now. Raises: StateUnavailable, StateError."""
        lease_id = self._lease_id or await self._store.grant_lease(LEASE_MS)
        try:
            await self._control.run(TakePlanner(self._node_id, lease_id))
        except OllamaMaxError as error:
            await self._store.revoke_lease(lease_id)
            self._lease_id = 0
            if isinstance(error, Conflict | LeaseNotFound):
                return False
            raise
        self._lease_id, self._vacant_since_ms = lease_id, None
        _LOG.info("this node decides where models run")
        return True

    # --- what is planned ------------------------------------------------------------------------------------------

    async def _plan(self, catalog: Catalog) -> None:
        """Raises: StateUnavailable, StateError, Conflict."""
        picture = self._capacities.picture(catalog, catalog.placements)
        if not picture.is_whole:
            return
        extra = self._autoscaler.step(catalog.placements, catalog.assignments, picture.demands, self._clock.now_ms())
        steady = Picture(picture.nodes, picture.needs, {}, True)
        seen = _Seen(catalog.placements, catalog.assignments, steady, extra)
        if self._seen is not None and _is_same(self._seen, seen):
            return
        made = plan(
            catalog.placements, picture.nodes, picture.models, catalog.assignments, self._clock.wall_ns(), extra
        )
        await self._write(catalog, made)
        self._seen = seen

    async def _write(self, catalog: Catalog, made: Plan) -> None:
        """Raises: StateUnavailable, StateError, Conflict."""
        gone = {
            key: Assignment(name=catalog.assignments[key].name, nodes={}, decided_ns=self._clock.wall_ns())
            for key in made.removed
        }
        for key, decided in {**gone, **{key: made.assignments[key] for key in made.changed}}.items():
            wish, standing = records.placement_key(decided.name), records.assignment_key(decided.name)
            await self._control.run(
                SetAssignment(decided, self._node_id, catalog.revision_of(wish), catalog.revision_of(standing))
            )
            where = {catalog.nodes[node_id].name: count for node_id, count in decided.nodes.items()}
            _LOG.info("decided where a model runs", model=key, nodes=where, missing=decided.missing)

    def _on_catalog(self, old: Catalog, new: Catalog) -> None:
        names = ("placements", "assignments", "drains", "nodes", "models", "planner")
        if any(getattr(old, name) is not getattr(new, name) for name in names):
            self._due.set()


def _is_same(one: _Seen, other: _Seen) -> bool:
    """Views of the catalog are the same object as long as they say the same."""
    return (
        one.placements is other.placements
        and one.assignments is other.assignments
        and one.picture == other.picture
        and one.extra == other.extra
    )
