"""Who is in the cluster, who can be used now, and what each tells of itself: the catalog's records, the mesh's signs
and facts, and direct questions, joined into one view per node.

All of it is advisory and heals by itself: signs are counted anew now and then, gaps in facts are asked for. It works
without the mesh too, by questions alone.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import Final

import structlog

from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.membership.backbone import mesh_address, mesh_addresses
from ollamamax.core.membership.detector import (
    Changed,
    Detector,
    DispatchFailed,
    Event,
    FactsArrived,
    MeshFound,
    MeshLost,
    NodeAdded,
    NodeRemoved,
    PeerState,
    Probe,
    ProbeAnswered,
    ProbeFailed,
    Reconciled,
    Recount,
    Spare,
    TokenAppeared,
    TokenVanished,
)
from ollamamax.core.types import ClusterEvent, NodeRecord
from ollamamax.ports import Clock, Dice, Mesh, MeshEvent, MeshRole, PeerLink
from ollamamax.services.membership_config import Follower, MembershipConfig, PeerView
from ollamamax.services.membership_facts import PeerFacts
from ollamamax.services.membership_probes import PeerProbes
from ollamamax.services.membership_role import MeshPart, Surroundings
from ollamamax.services.node_host import Pong

__all__ = ["Membership", "MembershipConfig", "PeerView"]

_LOG: Final = structlog.get_logger(__name__)
_ROUTER: Final = MeshRole.ROUTER.value
_OLD_MS: Final = 2_000.0
"""Facts of a node that the mesh does not reach are asked for again after so long."""
_DEBOUNCE_MS_PER_NODE: Final = 0.1
_RECONCILE_MS_PER_NODE: Final = 300.0
_SPREAD_MS_PER_NODE: Final = 2.0
_MAX_SPREAD_MS: Final = 2_000.0
_FEW: Final = 8
_CLIENTS_PATIENCE: Final = 3.0
_MAX_APART_MS: Final = 600_000.0


class Membership:
    """`run()` in a task of its own. Made before anything of the mesh is read."""

    def __init__(
        self,
        me: str,
        mesh: Mesh,
        link: PeerLink,
        replica: Follower,
        clock: Clock,
        dice: Dice,
        config: MembershipConfig,
        on_event: Callable[[ClusterEvent], None] = lambda event: None,
    ) -> None:
        self._me = me
        self._mesh = mesh
        self._replica = replica
        self._clock = clock
        self._dice = dice
        self._config = config
        self._on_event = on_event
        self._detector = Detector(config.detector)
        self._records: dict[str, NodeRecord] = {}
        self._views: dict[str, PeerView] = {}
        self._met: set[str] = set()
        """Members that were alive since this node started."""
        self._is_changed = False
        self._watchers: list[Callable[[], None]] = []
        self._when_heard: list[Callable[[], None]] = []
        self._apart_since_ms: float | None = None
        """Since when the mesh is not heard, or reaches fewer of the nodes that answer than it does not."""
        self._apart_ms = config.apart_ms
        self._vanished: dict[str, None] = {}
        self._settling: asyncio.TimerHandle | None = None
        self._recount = asyncio.Event()
        self._must_ask_all = False
        self._is_running = False
        self._probes = PeerProbes(
            link, dice, self._records.get, self._on_probe, timeout_ms=config.probe_ms, at_once=config.probes
        )
        self._facts = PeerFacts(mesh, link, clock, self._records.get, self._on_facts)
        self._part = self._mesh_part(config)
        replica.watch(self._on_catalog)

    def _mesh_part(self, config: MembershipConfig) -> MeshPart:
        return MeshPart(
            self._me,
            self._mesh,
            self._clock,
            self._dice,
            self._surroundings,
            self._opened,
            keys=config.keys,
            listen=_mesh_listen(config.listen),
            seeds=mesh_addresses(config.seeds),
            multicast=config.multicast,
            lease_ms=config.lease_ms,
            backbone_config=config.backbone,
        )

    # --- what others ask of it --------------------------------------------------------------------------------

    def peers(self) -> Mapping[str, PeerView]:
        """Members by node id in the order of joining, this one not among them. A view that did not change is the same
        object.
        """
        return MappingProxyType(self._views)

    @property
    def role(self) -> str:
        """This node's in the mesh: "router" or "client"."""
        return self._part.role.value

    def watch(self, callback: Callable[[], None]) -> None:
        """Have it called, in the event loop, after changes of `peers()`."""
        self._watchers.append(callback)

    def when_heard(self, callback: Callable[[], None]) -> None:
        """Have it called when others may have missed what this node told: it was not heard, or has another role."""
        self._when_heard.append(callback)

    def doubt(self, node_id: str) -> None:
        """A call to it failed in a way that may mean that it is not there."""
        self._step(DispatchFailed(node_id))
        self._notify()

    def renewed(self) -> None:
        """This node's papers are others now."""
        self._part.touch()

    async def run(self) -> None:
        """Until cancelled."""
        self._is_running = True
        self._sync(self._replica.catalog)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow())
                tasks.create_task(self._part.run())
                tasks.create_task(self._keep_counting())
        finally:
            self._is_running = False
            if self._settling is not None:
                self._settling.cancel()
            await self._probes.close()
            await self._facts.close()

    # --- events -----------------------------------------------------------------------------------------------

    def _on_catalog(self, former: Catalog, catalog: Catalog) -> None:
        if self._is_running and (former.nodes is not catalog.nodes or former.revoked is not catalog.revoked):
            self._sync(catalog)

    def _sync(self, catalog: Catalog) -> None:
        members = {
            node_id: record
            for node_id, record in catalog.nodes.items()
            if node_id != self._me and node_id not in catalog.revoked
        }
        for node_id in self._records.keys() - members.keys():
            del self._records[node_id]
            self._is_changed |= self._views.pop(node_id, None) is not None
            self._vanished.pop(node_id, None)
            self._facts.forget(node_id)
            self._step(NodeRemoved(node_id))
        for node_id, record in members.items():
            if node_id not in self._records:
                self._records[node_id] = record
                self._step(NodeAdded(node_id))
            self._records[node_id] = record
            self._refresh(node_id)
        self._part.touch()
        self._notify()

    async def _follow(self) -> None:
        async with aclosing(self._mesh.events()) as events:
            async for event in events:
                self._take(event)
        await asyncio.Event().wait()  # closed: what is left are direct questions

    def _take(self, event: MeshEvent) -> None:
        if not event.node_id:
            self._count_soon(ask_all=True)
        elif event.alive is None:
            if event.node_id in self._records:
                self._facts.read(event.node_id, event.data)
                self._notify()
        elif not event.alive:
            self._vanished[event.node_id] = None
            if self._settling is None:
                wait_ms = self._config.debounce_ms + len(self._records) * _DEBOUNCE_MS_PER_NODE
                self._settling = asyncio.get_running_loop().call_later(wait_ms / 1000, self._settle)
        else:
            self._vanished.pop(event.node_id, None)
            self._appear(event.node_id)
            self._notify()

    def _appear(self, node_id: str) -> None:
        if node_id == self._me:
            self._step(MeshFound())
            self._tell_heard()
            return
        self._step(TokenAppeared(node_id))
        if node_id in self._records:
            self._facts.expect(node_id)

    def _settle(self) -> None:
        """What vanished and did not come back. This node's own sign first: without it the others' say nothing."""
        self._settling = None
        vanished, self._vanished = self._vanished, {}
        if self._me in vanished:
            _LOG.info("the mesh is not heard: other nodes are asked directly")
            self._step(MeshLost())
        for node_id in vanished:
            if node_id != self._me:
                self._step(TokenVanished(node_id))
        self._notify()

    def _on_probe(self, outcome: ProbeAnswered | ProbeFailed, pong: Pong | None) -> None:
        node_id = outcome.node_id
        self._step(outcome)
        if pong is not None and node_id in self._records:
            is_unreached = not self._detector.has_token(node_id)
            is_old = self._clock.now_ms() - self._facts.of(node_id)[1] >= _OLD_MS
            if not self._facts.is_of(node_id, pong.instance) or (is_unreached and is_old):
                self._facts.want(node_id)
        self._notify()

    def _on_facts(self, node_id: str) -> None:
        facts, _ = self._facts.of(node_id)
        self._step(FactsArrived(node_id, is_router=facts is not None and facts.role == _ROUTER))
        self._refresh(node_id)

    def _step(self, event: Event) -> None:
        for effect in self._detector.step(event, self._clock.now_ms()):
            match effect:
                case Probe():
                    self._probes.plan(effect)
                case Spare(node_id):
                    self._probes.spare(node_id)
                case Recount():
                    self._count_soon(ask_all=True)
                case Changed(node_id, state, former):
                    self._refresh(node_id)
                    self._part.touch()
                    self._say(node_id, state, former)

    # --- views ------------------------------------------------------------------------------------------------

    def _refresh(self, node_id: str) -> None:
        facts, at_ms = self._facts.of(node_id)
        record, state = self._records[node_id], self._detector.state(node_id)
        known = self._views.get(node_id)
        is_same = (
            known is not None
            and known.record is record
            and known.facts is facts
            and known.facts_at_ms == at_ms
            and known.state is state
        )
        if not is_same:
            since_ms = self._detector.since_ms(node_id)
            self._views[node_id] = PeerView(
                record=record, facts=facts, facts_at_ms=at_ms, state=state, since_ms=since_ms
            )
            self._is_changed = True

    def _notify(self) -> None:
        if self._is_changed:
            self._is_changed = False
            for callback in self._watchers:
                callback()

    def _say(self, node_id: str, state: PeerState, former: PeerState) -> None:
        """Of a node that was not met yet nothing is told: it may only just be starting."""
        is_news = node_id in self._met and PeerState.GONE in (state, former) and state is not PeerState.SUSPECT
        if state is PeerState.ALIVE:
            self._met.add(node_id)
        if not is_news:
            return
        name = self._records[node_id].name
        kind, text = ("gone", "does not answer") if state is PeerState.GONE else ("back", "is back")
        self._on_event(ClusterEvent(at_ns=self._clock.wall_ns(), kind=kind, node=name, text=f"{name} {text}"))

    # --- the mesh ---------------------------------------------------------------------------------------------

    def _surroundings(self) -> Surroundings:
        catalog = self._replica.catalog
        views = self._views.values()
        alive = [view for view in views if view.state is PeerState.ALIVE]
        return Surroundings(
            nodes=catalog.nodes,
            gone={view.record.node_id for view in views if view.state is PeerState.GONE},
            routers={view.record.node_id for view in alive if view.facts is not None and view.facts.role == _ROUTER},
            denied=frozenset(catalog.revoked),
            is_apart=self._is_apart(alive),
        )

    def _is_apart(self, alive: Sequence[PeerView]) -> bool:
        now_ms = self._clock.now_ms()
        is_deaf = self._detector.is_deaf
        heard = sum(self._detector.has_token(view.record.node_id) for view in alive)
        if not is_deaf and len(alive) <= 2 * heard:
            self._apart_since_ms, self._apart_ms = None, self._config.apart_ms
            return False
        if self._apart_since_ms is None:
            self._apart_since_ms = now_ms
        # Routers first: where they find each other, clients need not look.
        patience = 1.0 if is_deaf or self.role == _ROUTER else _CLIENTS_PATIENCE
        if now_ms - self._apart_since_ms < self._apart_ms * patience:
            return False
        self._apart_ms = min(self._apart_ms * 2.0, _MAX_APART_MS)
        return True

    def _opened(self) -> None:
        self._apart_since_ms = None
        self._count_soon(ask_all=True)
        self._tell_heard()

    def _tell_heard(self) -> None:
        for callback in self._when_heard:
            callback()

    def _count_soon(self, *, ask_all: bool) -> None:
        self._must_ask_all |= ask_all
        self._recount.set()

    async def _keep_counting(self) -> None:
        """Count all signs anew, and ask for what is missing: now and then, and when something may have been missed."""
        while True:
            pause_ms = max(self._config.reconcile_ms, len(self._records) * _RECONCILE_MS_PER_NODE)
            try:
                async with asyncio.timeout(pause_ms * (0.8 + 0.4 * self._dice.random()) / 1000):
                    await self._recount.wait()
            except TimeoutError:
                pass
            else:
                # Others have come upon the same: not all ask in the same moment.
                spread_ms = min(len(self._records) * _SPREAD_MS_PER_NODE, _MAX_SPREAD_MS)
                await asyncio.sleep((self._config.debounce_ms + self._dice.random() * spread_ms) / 1000)
            self._recount.clear()
            await self._count()

    async def _count(self) -> None:
        must_ask_all, self._must_ask_all = self._must_ask_all, False
        tokens = await self._mesh.alive()
        if self._me in tokens:  # else the mesh is not heard, and says nothing of others
            self._step(Reconciled(tokens - {self._me}))
            self._notify()
        missing = [
            node_id for node_id, view in self._views.items() if view.state is PeerState.ALIVE and view.facts is None
        ]
        if must_ask_all or len(missing) > _FEW:
            await self._facts.ask_all(missing)
            self._notify()
        else:
            for node_id in missing:
                self._facts.want(node_id)


def _mesh_listen(listen: str) -> str:
    """Where the mesh listens, beside a peer listener."""
    host, _, port = listen.rpartition(":")
    return mesh_address(f"{host or '[::]'}:{port}")
