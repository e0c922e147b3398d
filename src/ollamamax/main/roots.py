"""What a node's part in its cluster stands on: its papers, its links, and the state that the cluster agreed on."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import Final

from msgspec import Struct

from ollamamax import __version__
from ollamamax.adapters.identity.authority import FileKeyRing, etcd_name
from ollamamax.adapters.identity.node_identity import FileIdentityStore
from ollamamax.adapters.network.peer_link import TlsPeerLink
from ollamamax.adapters.state.etcd import LocalEtcd
from ollamamax.adapters.state.etcd_seats import EtcdSeatsOnDisk
from ollamamax.adapters.state.remote_state import RemoteState
from ollamamax.adapters.state.snapshot_file import StateSnapshotFile
from ollamamax.adapters.state.sqlite_homes import SqliteHomes
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import FoundCluster
from ollamamax.core.catalog.records import LEVEL
from ollamamax.core.errors import Conflict, StateError
from ollamamax.core.types import ClusterMeta, EtcdAccess, NodeRecord, StateEntry, StateHome
from ollamamax.main.papers import bracketed, cluster_home, identity, own_addresses, passphrase, snapshot_file
from ollamamax.ports import Clock, Dice, Identity
from ollamamax.services.control import Control
from ollamamax.services.renewal import require_current
from ollamamax.services.replica import Replica
from ollamamax.services.state_home import HomeState
from ollamamax.services.voter import Voter
from ollamamax.services.voter_members import CLIENT_OFFSET, RAFT_OFFSET, Place
from ollamamax.settings import Settings

_TRIES: Final = 50


class Roots(Struct, frozen=True, kw_only=True):
    """keys: of the cluster's authority, as far as this node has them.  port: of the peer listener."""

    me: Identity
    papers: FileIdentityStore
    keys: FileKeyRing
    port: int
    link: TlsPeerLink
    etcd: LocalEtcd
    seats: EtcdSeatsOnDisk
    own: SqliteHomes
    voter: Voter
    state: HomeState
    replica: Replica
    control: Control


class Strings:
    """What the roots call before the rest stands. drop: closes the connections of a removed node.  hosts: through whom
    the state is reached, and where they are now.
    """

    def __init__(self) -> None:
        self.drop: Callable[[str], Awaitable[None]] = _nothing_to_drop
        self.hosts: Callable[[], Sequence[NodeRecord]] | None = None


async def _nothing_to_drop(node_id: str) -> None:
    """Nobody is connected yet."""


async def open_roots(settings: Settings, clock: Clock, dice: Dice, strings: Strings, stack: AsyncExitStack) -> Roots:
    """Who this node is, and what its cluster has agreed on as far as it can know now; the stack closes it.

    Raises: StoreError, StateError, CertificateRefused.
    """
    papers = FileIdentityStore(cluster_home(settings))
    me, authority = await identity(settings, papers, clock, dice)
    keys = FileKeyRing(cluster_home(settings), me.keys.ca, passphrase(settings), authority)
    if authority is None:
        require_current(me.keys, clock.wall_ns())
    port = settings.peer.port or free_ports(settings.peer.host)
    link = TlsPeerLink(me.keys, lambda node_id: strings.drop(node_id))
    stack.push_async_callback(link.close)
    others = RemoteState(link, lambda: strings.hosts() if strings.hosts is not None else replica.catalog.hosts)
    state = HomeState(others)
    snapshots = snapshot_file(settings, me.cluster_id)
    replica = Replica(state, snapshots, clock, dice)
    etcd, seats = LocalEtcd(settings.state.etcd_path), EtcdSeatsOnDisk(settings.home / "etcd" / me.cluster_id)
    own = SqliteHomes(cluster_home(settings), me.cluster_id, me.node_id, clock)

    async def ask(node: NodeRecord, key: str) -> StateEntry | None:
        return await RemoteState(link, lambda: (node,)).get(key)

    voter = Voter(place(settings, me, port), etcd, seats, own, state, keys, lambda: replica.catalog, ask, clock)
    stack.push_async_callback(voter.close)
    stack.push_async_callback(state.close)
    seen = await seen_home(snapshots, papers)
    await voter.open(seen, founds=me.holder_id == me.node_id)
    await replica.open()
    stack.push_async_callback(replica.close)
    return Roots(
        me=me,
        papers=papers,
        keys=keys,
        port=port,
        link=link,
        etcd=etcd,
        seats=seats,
        own=own,
        voter=voter,
        state=state,
        replica=replica,
        control=Control(state, replica, dice),
    )


def place(settings: Settings, me: Identity, port: int) -> Place:
    """Where this node's etcd would be."""
    return Place(
        node_id=me.node_id,
        cluster_id=me.cluster_id,
        listen=bracketed(settings.peer.host or ("::" if socket.has_dualstack_ipv6() else "0.0.0.0")),
        port=port,
        addresses=lambda: own_addresses(settings, port),
        etcd_name=etcd_name(me.cluster_id),
        external=external(settings),
    )


def external(settings: Settings) -> EtcdAccess | None:
    """The etcd of others, if the settings tell of one."""
    state = settings.state
    if not state.endpoints:
        return None
    return EtcdAccess(endpoints=state.endpoints, ca=state.ca, certificate=state.certificate, key=state.key)


async def seen_home(snapshots: StateSnapshotFile, papers: FileIdentityStore) -> StateHome:
    """Where the state lived when this node saw it last; without hosts if it never did. Raises: StoreError."""
    try:
        kept = await snapshots.load()
        if kept is None and (kept := await asyncio.to_thread(papers.joined_state)) is not None:
            await snapshots.save(kept)
        return Catalog.from_range(kept).home if kept is not None else StateHome()
    except StateError:  # the replica tells of it, unless it can be read anew
        return StateHome()


def free_ports(host: str) -> int:
    """A port that is free now, and the next three too: peer listener, mesh, and etcd's two. Raises: Conflict."""
    for _ in range(_TRIES):
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(1 + CLIENT_OFFSET)]
            sockets[0].bind((host if host not in ("", "::") else "0.0.0.0", 0))
            name, port = sockets[0].getsockname()[:2]
            try:
                for offset, one in enumerate(sockets[1:], 1):
                    one.bind((name, port + offset))
            except (OSError, OverflowError):
                continue
            return int(port)
    raise Conflict("no four free ports in a row were found for the peer listener; choose one with --peer-listen")


def etcd_ports(place: Place) -> str:
    """What keeps etcd from listening beside the peer listener; "" = nothing."""
    for host, port in ((place.listen.strip("[]"), place.port + RAFT_OFFSET), ("127.0.0.1", place.port + CLIENT_OFFSET)):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
            try:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind((host, port))
            except (OSError, OverflowError) as error:
                return (
                    f"port {port} can't be used for etcd ({getattr(error, 'strerror', '') or error}): it takes the "
                    "second and the third one after the peer listener's, which --peer-listen chooses"
                )
    return ""


def founding(settings: Settings, roots: Roots, now_ns: int) -> FoundCluster:
    """The first command of a new cluster."""
    me = roots.me
    meta = ClusterMeta(
        cluster_id=me.cluster_id, name=settings.peer.cluster_name, created_ns=now_ns, holder_id=me.node_id
    )
    node = NodeRecord(
        node_id=me.node_id,
        name=me.name,
        addresses=(),
        sequence=1,
        joined_ns=me.joined_ns,
        key_hash=roots.papers.facts(me.keys.certificate).key_hash,
        version=__version__,
        level=LEVEL,
    )
    return FoundCluster(meta, node)
