"""Has this node run what is assigned to it: files fetched, replicas loaded and let go, one action at a time.

Nothing of it is on disk: what is there is compared with what ought to be, so that a node that was killed goes on where
it was. While the state is out of reach, what was seen of it last holds.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog

from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.errors import ModelNotFound, OllamaMaxError
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.placement.keeper import Actual, Doable, Fetch, Instance, Keeper, Load, Nothing, Unload
from ollamamax.core.types import ClusterEvent
from ollamamax.ports import Clock
from ollamamax.services.capacity import ready_replicas
from ollamamax.services.peer_members import Membership
from ollamamax.services.replica import Replica
from ollamamax.services.transfer import Transfer

_LOG: Final = structlog.get_logger(__name__)
_LOOK_S: Final = 1.0
"""Between two looks while there is anything to keep: an engine that ended tells nobody."""


class Replicas(Protocol):
    """This node's engines, as far as replicas are kept there."""

    async def kept(self) -> tuple[Instance, ...]:
        """Those there are."""
        ...

    async def keep(self, model_key: str) -> None:
        """One more; returns once it is ready. Raises: OllamaMaxError."""
        ...

    def let_go(self, instance_id: str) -> None:
        """Keep it no more."""
        ...


class NodeKeeper:
    """`run()` in a task of its own. on_event: told what succeeded and what failed."""

    def __init__(
        self,
        node_id: str,
        replica: Replica,
        membership: Membership,
        replicas: Replicas,
        transfer: Transfer,
        clock: Clock,
        on_event: Callable[[ClusterEvent], None],
    ) -> None:
        self._node_id = node_id
        self._replica = replica
        self._membership = membership
        self._replicas = replicas
        self._transfer = transfer
        self._clock = clock
        self._on_event = on_event
        self._machine = Keeper()
        self._running: dict[Doable, asyncio.Task[None]] = {}
        self._due = asyncio.Event()
        self._is_idle = True
        replica.watch(self._on_catalog)
        membership.watch(self._on_peers)

    async def run(self) -> None:
        """Until cancelled; what is under way is left as it is."""
        try:
            while True:
                self._due.clear()
                until_ms = None
                try:
                    until_ms = await self.step()
                except OllamaMaxError as error:
                    _LOG.warning("what is to be kept here can't be looked at", reason=str(error))
                await self._rest(until_ms)
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def step(self) -> float | None:
        """Begin the next action, if any. When it has to be called again by the clock, None: when there is news.

        Raises: StoreError.
        """
        while True:
            desired = self._desired()
            actual = await self._actual(desired)
            self._is_idle = not desired and not actual.instances
            action = self._machine.step(desired, actual, self._clock.now_ms(), self._held(actual))
            if isinstance(action, Nothing):
                return action.until_ms
            if action in self._running:
                return None
            if isinstance(action, Unload):
                self._unload(action)
                return self._clock.now_ms()
            task = asyncio.get_running_loop().create_task(self._carry_out(action), name=f"keep {action.key}")
            self._running[action] = task
            if isinstance(action, Load):
                return None

    # --- what ought to be, and what is ----------------------------------------------------------------------------

    def _desired(self) -> dict[str, int]:
        assignments = self._replica.catalog.assignments
        return {key: one.nodes[self._node_id] for key, one in assignments.items() if self._node_id in one.nodes}

    async def _actual(self, desired: Mapping[str, int]) -> Actual:
        has = {key for key in desired if await self._transfer.has(key)}
        fetching = {action.key for action in self._running if isinstance(action, Fetch)}
        return Actual(has=has, fetching=fetching, instances=await self._replicas.kept())

    def _held(self, actual: Actual) -> frozenset[str]:
        """Models that are to run elsewhere, and don't yet."""
        return frozenset(key for key in {one.key for one in actual.instances} if self._is_held(key))

    def _is_held(self, key: str) -> bool:
        catalog = self._replica.catalog
        assignment, entry = catalog.assignments.get(key), catalog.models.get(key)
        drain = catalog.drains.get(self._node_id)
        if assignment is None or entry is None:
            return False
        if drain is not None and 0 < drain.deadline_ns <= self._clock.wall_ns():
            return False
        views = self._membership.peers()
        for node_id, count in assignment.nodes.items():
            view = views.get(node_id)
            if node_id == self._node_id:
                continue
            is_there = view is not None and view.state is PeerState.ALIVE
            facts = view.facts if view is not None and is_there else None
            if facts is None or ready_replicas(facts, key, entry) < count:
                return True
        return False

    # --- actions --------------------------------------------------------------------------------------------------

    def _unload(self, action: Unload) -> None:
        load = self._running.get(Load(action.key))
        self._replicas.let_go(action.instance_id)
        if load is not None:
            load.cancel()  # it may be what is being let go; if not, it begins anew
        self._machine.done(action)
        _LOG.info("a replica is not kept any more", model=action.key)

    async def _carry_out(self, action: Fetch | Load) -> None:
        work = self._fetch if isinstance(action, Fetch) else self._replicas.keep
        try:
            await work(action.key)
        except OllamaMaxError as error:
            self._machine.failed(action, self._clock.now_ms())
            what = "the files of" if isinstance(action, Fetch) else "a replica of"
            self._tell("replica_failed", f"{what} {action.key} can't be had on {self._name}: {error}")
        else:
            self._machine.done(action)
            if isinstance(action, Load):
                self._tell("replica_ready", f"a replica of {action.key} is ready on {self._name}")
        finally:
            del self._running[action]
            self._due.set()

    async def _fetch(self, key: str) -> None:
        await self._transfer.ensure(key)
        if not await self._transfer.has(key):
            raise ModelNotFound(f"model '{key}' is not what the cluster means by that name, and nobody has that")

    def _tell(self, kind: str, text: str) -> None:
        self._on_event(ClusterEvent(at_ns=self._clock.wall_ns(), kind=kind, node=self._name, text=text))

    @property
    def _name(self) -> str:
        record = self._replica.catalog.nodes.get(self._node_id)
        return record.name if record is not None else self._node_id

    # --- when -----------------------------------------------------------------------------------------------------

    async def _rest(self, until_ms: float | None) -> None:
        limit_s = None if self._is_idle else _LOOK_S
        if until_ms is not None:
            limit_s = min(_LOOK_S, max(until_ms - self._clock.now_ms(), 0.0) / 1000)
        try:
            async with asyncio.timeout(limit_s):
                await self._due.wait()
        except TimeoutError:
            pass

    def _on_catalog(self, old: Catalog, new: Catalog) -> None:
        names = ("assignments", "drains", "nodes", "models")
        if any(getattr(old, name) is not getattr(new, name) for name in names):
            self._due.set()

    def _on_peers(self) -> None:
        if not self._is_idle:
            self._due.set()
