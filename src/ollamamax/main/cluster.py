"""A node's part in its cluster: papers, links and state first, then all that other nodes see and ask of it."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

import structlog
from msgspec.structs import replace

from ollamamax import __version__
from ollamamax.adapters.network.peer_server import PeerServer
from ollamamax.adapters.network.zenoh_mesh import ZenohMesh
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.errors import NodeNotFound
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.modelspec import names
from ollamamax.core.types import (
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    ClusterEvent,
    EngineKind,
    ModelEntry,
    NodeFacts,
    NodeRecord,
)
from ollamamax.main.config import membership_config
from ollamamax.main.doors import build_doors
from ollamamax.main.ha import build_ha, hear_of_newer_homes
from ollamamax.main.live_settings import LiveSettings, build_shared
from ollamamax.main.loops import Loops
from ollamamax.main.papers import own_addresses
from ollamamax.main.parts import NodeParts
from ollamamax.main.placement import PlacementPart, build_placement
from ollamamax.main.roots import Roots, Strings, founding, open_roots
from ollamamax.ports import Clock, Dice, Engine, NodeKeys
from ollamamax.services import catalog_events
from ollamamax.services.cluster import Cluster
from ollamamax.services.cluster_models import ClusterModels
from ollamamax.services.engine_host import EngineHost
from ollamamax.services.events import EventLog
from ollamamax.services.fact_sheet import FactSheet
from ollamamax.services.ha import Ha
from ollamamax.services.issuing import Issuer
from ollamamax.services.membership import Membership
from ollamamax.services.node_facts import NodeFactsSource
from ollamamax.services.node_host import NodeHost
from ollamamax.services.peer_engine import PeerEngine
from ollamamax.services.peer_members import PeerMembers
from ollamamax.services.renewal import Renewal
from ollamamax.services.shared_settings import SharedSettings
from ollamamax.services.standing import Standing
from ollamamax.services.state_host import StateHost
from ollamamax.services.transfer import Transfer, TransferHost
from ollamamax.settings import Settings

_LOG: Final = structlog.get_logger("cluster")
_GRACE_MS: Final = 2_000.0
_INSTANCE_BYTES: Final = 8
_VACATE_MS: Final = 20_000.0
"""Answers under way end by themselves; after that long a model's files go all the same."""


class ClusterPart:
    """Made by open(); enter() connects it to the rest of the node. cluster, ha, models, shared: for the API."""

    cluster: Cluster
    ha: Ha
    shared: SharedSettings
    models: ClusterModels
    placement: PlacementPart

    def __init__(
        self, settings: Settings, live: LiveSettings, roots: Roots, strings: Strings, clock: Clock, dice: Dice
    ) -> None:
        self._settings = settings
        self._live = live
        self._roots = roots
        self._strings = strings
        self._clock = clock
        self._dice = dice
        self._me = roots.me
        self._link = roots.link
        self.replica = roots.replica
        self._instance = dice.token_hex(_INSTANCE_BYTES)
        self._events = EventLog()
        self._host = StateHost(roots.state.here)
        self._port = roots.port

    @classmethod
    async def open(
        cls, settings: Settings, live: LiveSettings, clock: Clock, dice: Dice, stack: AsyncExitStack
    ) -> "ClusterPart":
        """Its roots; what the cluster says of settings, as far as it is known now, is in `live` then.

        settings: the machine's own.  Raises: StoreError, StateError, CertificateRefused.
        """
        strings = Strings()
        roots = await open_roots(settings, clock, dice, strings, stack)
        live.begin(roots.replica.catalog.settings, roots.me.node_id)
        return cls(settings, live, roots, strings, clock, dice)

    @property
    def name(self) -> str:
        """Of this node."""
        record = self.replica.catalog.nodes.get(self._me.node_id)
        return record.name if record is not None else self._me.name

    def entry(self, key: str) -> ModelEntry | None:
        """What the cluster knows of a model key."""
        return self.replica.catalog.models.get(key)

    def assigned(self, key: str) -> frozenset[str]:
        """Nodes that a model is placed on, "" = this one."""
        decided = self.replica.catalog.assignments.get(key)
        ids = decided.nodes if decided is not None else ()
        return frozenset("" if node_id == self._me.node_id else node_id for node_id in ids)

    def follow_settings(self) -> None:
        """Take over what the cluster says of settings from now on; all parts that heed them are there."""
        self._live.name = lambda: self.name
        self._live.watch(self._sheet.touch)
        self._live.follow(self.replica)

    def begin_drain(self) -> None:
        """Tell the others."""
        self._sheet.hurry()
        self._events.close()
        self._host.close()

    async def finish(self, limit_ms: float) -> None:
        """Returns when the answers for other nodes that are under way have ended, after that time at the latest."""
        await self._engine_host.finish(limit_ms)

    # --- then: everything that other nodes see and ask of this one ----------------------------------------------------

    async def enter(self, node: NodeParts, loops: Loops, stack: AsyncExitStack, start_anew: Callable[[], None]) -> None:
        """Be there for the others. What is started ends with `loops` and the stack.

        Raises: Conflict for a port in use, NodeConflict if another process is this node, StoreError, StateError.
        """
        self._loops = loops
        self._node = node
        loops.start(self.replica.run(), "replica")
        loops.start(self._roots.voter.run(), "voter")
        if self._me.holder_id == self._me.node_id and self.replica.catalog.meta is None:
            await self._roots.control.run(founding(self._settings, self._roots, self._clock.wall_ns()))
        standing = await self._stand()
        facts = NodeFactsSource(node.fleet, node.machine, self._base_facts)
        await facts.measure()
        await self._meet_the_others(node, facts, stack)
        self.placement = build_placement(
            self._roots,
            self._membership,
            node.agent,
            self._transfer,
            self._holders,
            self._reachable,
            facts,
            self._events.add,
            self._clock,
        )
        await self._listen(node, stack)
        self.replica.watch(self._on_catalog)
        self.replica.watch_contact(self._on_contact)
        self.cluster = self._shown(facts, start_anew)
        for name, work in (
            ("facts", facts.run()),
            ("fact sheet", self._sheet.run()),
            ("membership", self._membership.run()),
            ("renewal", self._renewal.run()),
            ("models", self.models.run()),
            ("standing", standing.run()),
            ("ha", self.ha.run()),
        ):
            loops.start(work, name)
        self.placement.start(loops, stack)
        stack.push_async_callback(standing.close)

    def _shown(self, facts: NodeFactsSource, start_anew: Callable[[], None]) -> Cluster:
        """The whole, for people."""
        return Cluster(
            self._me.node_id,
            self.replica,
            self._roots.control,
            self._membership,
            self._issuer,
            self._events,
            facts,
            self._clock,
            build_doors(
                self._settings,
                self._roots,
                self.ha,
                self._addresses,
                lambda: self._renewal.keys.expires_ns,
                start_anew,
                self._clock,
                self._dice,
            ),
            self.placement.drains,
        )

    async def _stand(self) -> Standing:
        """Papers that are good, and that are this process's alone. Raises: CertificateRefused, NodeConflict."""
        me, roots = self._me, self._roots
        self._issuer = Issuer(
            authority=lambda: roots.keys.authority,
            store=roots.papers,
            identity=me,
            control=roots.control,
            replica=self.replica,
            link=self._link,
            clock=self._clock,
            dice=self._dice,
            version=__version__,
        )
        self._renewal = Renewal(roots.papers, me, self._issuer, self._on_renewed, self._clock, self._dice)
        self._link.replace_keys(await self._renewal.start())
        standing = Standing(
            me.node_id,
            self._instance,
            __version__,
            self._addresses,
            roots.state,
            self.replica,
            roots.control,
            self._link,
        )
        await standing.require_sole()
        return standing

    async def _meet_the_others(self, node: NodeParts, facts: NodeFactsSource, stack: AsyncExitStack) -> None:
        """Links, soft state, and the models of others as engines of this node."""
        mesh = ZenohMesh()
        stack.push_async_callback(mesh.close)
        self._membership = Membership(
            self._me.node_id,
            mesh,
            self._link,
            self.replica,
            self._clock,
            self._dice,
            membership_config(self._settings, lambda: self._renewal.keys, self._port),
            self._events.add,
        )
        self._strings.hosts = self._hosts
        self._sheet = FactSheet(facts, mesh, self._clock)
        self._membership.when_heard(self._sheet.retell)
        node.fleet.watch_own(self._sheet.touch)
        self.shared = build_shared(self._live, self._roots, self._membership, self._record, self._clock)
        self.ha = build_ha(self._settings, self._roots, self._reachable, self._record, self._events.add, self._clock)
        stack.push_async_callback(self.ha.close)
        hear_of_newer_homes(self._membership, self._roots.voter)
        self._peers = PeerMembers(node.fleet, self._membership, self._peer_engine, self._own_record, self._is_drained)
        self._transfer = Transfer(
            node.store, self._link, self._clock, self.entry, self._holders, node.fleet.local_changed
        )
        stack.push_async_callback(self._transfer.close)
        self.models = ClusterModels(
            node.library,
            node.store,
            self._roots.control,
            self.replica,
            self._link,
            self._transfer,
            self._clock,
            self._peers.having,
            self._reachable,
            node.fleet.local_changed,
            self._me.node_id,
            lambda key: node.agent.vacate(key, _VACATE_MS),
        )

    async def _listen(self, node: NodeParts, stack: AsyncExitStack) -> None:
        """Raises: Conflict, SettingsError."""
        me = self._me
        self._engine_host = EngineHost(node.fleet, self._clock, ensure=self.ensure)
        methods = [
            self._issuer.methods(),
            self._engine_host.methods(),
            NodeHost(
                me.node_id, self._instance, __version__, lambda: self.replica.catalog.revision, node.is_draining
            ).methods(),
            TransferHost(node.store).methods(),
            self.models.methods(),
            self.placement.spread_host.methods(),
            self.shared.methods(),
            self.ha.methods(),
            self._sheet.methods(),
            self._host.methods(),
        ]
        self._server = PeerServer(methods, self._renewal.keys, self._is_revoked)
        stack.push_async_callback(self._server.close, _GRACE_MS)
        peer = self._settings.peer
        self._strings.drop = self._server.drop
        await self._server.start(peer.host, self._port)
        _LOG.info("other nodes are heard", node=self.name, port=self._port, addresses=list(self._addresses()))

    # --- what the parts ask of each other -----------------------------------------------------------------------------

    async def ensure(self, key: str) -> None:
        """Have a model in this node's store. Raises: ModelNotFound, StoreError, PeerError."""
        await self._transfer.ensure(key)

    def _holders(self, entry: ModelEntry) -> Sequence[NodeRecord]:
        return self._peers.having(names.key(entry.name), entry.digest)

    def _reachable(self) -> Sequence[NodeRecord]:
        peers = self._membership.peers().items()
        return [self._record(node_id) for node_id, view in peers if view.state is PeerState.ALIVE]

    def _own_record(self) -> NodeRecord | None:
        return self.replica.catalog.nodes.get(self._me.node_id)

    def _is_drained(self, node_id: str) -> bool:
        return node_id in self.replica.catalog.drains

    def _record(self, node_id: str) -> NodeRecord:
        """Where a node is found now: where it says, then where the state says. Raises: NodeNotFound."""
        record = self.replica.catalog.nodes.get(node_id)
        if record is None:
            raise NodeNotFound(f"node {node_id} is no member of the cluster any more")
        view = self._membership.peers().get(node_id)
        if view is None or view.facts is None or view.facts.addresses == record.addresses:
            return record
        return replace(record, addresses=tuple(dict.fromkeys((*view.facts.addresses, *record.addresses))))

    def _hosts(self) -> Sequence[NodeRecord]:
        """Through whom the state is reached: who tells of a newer home first, then those who are there."""
        peers, home = self._membership.peers(), self._roots.voter.home
        newer = {
            node_id: view.facts.state_generation
            for node_id, view in peers.items()
            if view.facts is not None and view.facts.state_generation > home.generation
        }
        away = [node_id for node_id in home.hosts if node_id in peers and peers[node_id].state is not PeerState.ALIVE]
        wanted = (*sorted(newer, key=lambda node_id: -newer[node_id]), *home.hosts)
        ordered = sorted(dict.fromkeys(wanted), key=lambda node_id: node_id in away)
        known = self.replica.catalog.nodes
        return [self._record(node_id) for node_id in ordered if node_id in known and node_id != self._me.node_id]

    def _peer_engine(self, node_id: str, engine_name: str) -> Engine:
        view = self._membership.peers().get(node_id)
        engines = view.facts.engines if view is not None and view.facts is not None else ()
        kind = next((engine.kind for engine in engines if engine.name == engine_name), EngineKind.LLAMACPP)
        return PeerEngine(self._link, lambda: self._record(node_id), engine_name, kind)

    def _base_facts(self) -> NodeFacts:
        return NodeFacts(
            node_id=self._me.node_id,
            instance=self._instance,
            name=self.name,
            version=__version__,
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            addresses=self._addresses(),
            role=self._membership.role,
            revision=self.replica.catalog.revision,
            draining=self._node.is_draining(),
            queued=self._node.gateway.load()[0],
            waiting=self._node.gateway.waiting(),
            settings_version=self._live.version,
            state_generation=self._roots.voter.generation,
        )

    def _addresses(self) -> tuple[str, ...]:
        return own_addresses(self._settings, self._port)

    def _is_revoked(self, node_id: str, key_hash: str) -> bool:
        revoked = self.replica.catalog.revoked
        return node_id in revoked or any(one.key_hash == key_hash for one in revoked.values())

    async def _on_renewed(self, keys: NodeKeys) -> None:
        self._link.replace_keys(keys)
        self._server.replace_keys(keys)
        self._membership.renewed()

    def _on_catalog(self, old: Catalog, new: Catalog) -> None:
        for event in catalog_events.changes(old, new, self._clock.wall_ns()):
            self._events.add(event)
        for node_id in new.revoked.keys() - old.revoked.keys():
            self._loops.start(self._link.forget(node_id), f"forget {node_id}")
        if old.nodes.get(self._me.node_id) != new.nodes.get(self._me.node_id) or old.drains is not new.drains:
            self._peers.sync()
            self._sheet.touch()
        if old.home != new.home:
            self._sheet.touch()

    def _on_contact(self, is_there: bool) -> None:
        name = ", ".join(node.name for node in self.replica.catalog.hosts)
        kind, what = ("holder_back", "is there again") if is_there else ("holder_lost", "can't be reached")
        text = f"the cluster's state{name and f' (on {name})'} {what}"
        self._events.add(ClusterEvent(at_ns=self._clock.wall_ns(), kind=kind, node=name, text=text))
        if is_there:
            self.models.touch()
