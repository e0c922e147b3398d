"""What a node's part in its cluster stands on: its papers, its links, and the state that the cluster agreed on."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from msgspec import Struct

from ollamamax import __version__
from ollamamax.adapters.identity.authority import FileAuthority
from ollamamax.adapters.identity.node_identity import FileIdentityStore
from ollamamax.adapters.network.peer_link import TlsPeerLink
from ollamamax.adapters.state.remote_state import RemoteState
from ollamamax.adapters.state.sqlite_state import SqliteState
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import FoundCluster
from ollamamax.core.catalog.records import LEVEL
from ollamamax.core.types import ClusterMeta, NodeRecord
from ollamamax.main.papers import cluster_home, identity, snapshot_file, state_path
from ollamamax.ports import Clock, Dice, Identity
from ollamamax.services.control import Control
from ollamamax.services.renewal import require_current
from ollamamax.services.replica import Replica
from ollamamax.services.state_home import HomeState
from ollamamax.settings import Settings


class Roots(Struct, frozen=True, kw_only=True):
    """authority: None where another node has the key, and with it the state."""

    me: Identity
    papers: FileIdentityStore
    authority: FileAuthority | None
    link: TlsPeerLink
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
    link = TlsPeerLink(me.keys, lambda node_id: strings.drop(node_id))
    stack.push_async_callback(link.close)
    others = RemoteState(link, lambda: strings.hosts() if strings.hosts is not None else _hosts(replica.catalog))
    state = HomeState(others)
    stack.push_async_callback(state.close)
    if authority is not None:
        await state.move(await SqliteState.open(state_path(settings, me.cluster_id), clock))
    else:
        require_current(me.keys, clock.wall_ns())
    snapshots = snapshot_file(settings, me.cluster_id)
    if await snapshots.load() is None and (joined := await asyncio.to_thread(papers.joined_state)) is not None:
        await snapshots.save(joined)
    replica = Replica(state, snapshots, clock, dice)
    await replica.open()
    stack.push_async_callback(replica.close)
    control = Control(state, replica, dice)
    return Roots(me=me, papers=papers, authority=authority, link=link, state=state, replica=replica, control=control)


def _hosts(catalog: Catalog) -> Sequence[NodeRecord]:
    return (catalog.holder,) if catalog.holder is not None else ()


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
