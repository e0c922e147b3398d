"""Who this node is: founded at the first start, or a member by a token; without a running node, too."""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import psutil

from ollamamax import __version__
from ollamamax.adapters.identity.authority import FileAuthority
from ollamamax.adapters.identity.node_identity import FileIdentityStore
from ollamamax.adapters.network.join_client import TlsJoinLink
from ollamamax.adapters.network.peer_link import TlsPeerLink
from ollamamax.adapters.network.zenoh_scout import ZenohScout
from ollamamax.adapters.state.snapshot_file import StateSnapshotFile
from ollamamax.adapters.storage.locks import DirectoryLock
from ollamamax.adapters.system.clock import SystemClock, SystemDice
from ollamamax.core.catalog import grammar, join_token
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.errors import CertificateRefused, Conflict, OllamaMaxError
from ollamamax.core.types import FoundCluster, Joined
from ollamamax.ports import Clock, Dice, Identity
from ollamamax.services import discovering, joining
from ollamamax.services.node_host import PING
from ollamamax.settings import Settings
from ollamamax.settings.values import DEFAULT_PEER_PORT

_ID_BYTES: Final = 8
_MAX_ADDRESSES: Final = 8
_ASKED: Final = 3
_PING_MS: Final = 1_000.0
_UNUSABLE: Final = ("127.", "169.254.", "fe80:", "::1")
"""Loopback, and addresses that mean something else on each interface."""


def cluster_home(settings: Settings) -> Path:
    """Where identity and state lie."""
    return settings.home / "cluster"


def snapshot_file(settings: Settings, cluster_id: str) -> StateSnapshotFile:
    """The cluster's state as this node saw it last. Each cluster has its own: this one may still be saved while the
    next one's lies there already.
    """
    return StateSnapshotFile(cluster_home(settings) / f"{cluster_id}.snapshot")


async def known_state(settings: Settings, me: Identity) -> Catalog:
    """The same, from the file, else from what came with the papers. Raises: StateError, StoreError."""
    kept = await snapshot_file(settings, me.cluster_id).load()
    if kept is None:
        kept = await asyncio.to_thread(FileIdentityStore(cluster_home(settings)).joined_state)
    return Catalog.from_range(kept) if kept is not None else Catalog.empty()


def passphrase(settings: Settings) -> str | None:
    """Of the authority's key; None = it lies in the clear."""
    return settings.peer.ca_passphrase.get_secret_value() or None


def node_name(settings: Settings) -> str:
    """What this node would like to be called."""
    return settings.peer.node_name or grammar.default_name(socket.gethostname())


def own_addresses(settings: Settings, port: int) -> tuple[str, ...]:
    """Where others may find the peer listener: as told, else by looking at the interfaces. port: the bound one."""
    peer = settings.peer
    if peer.advertise:
        return tuple(grammar.peer_address(address) for address in peer.advertise)
    if peer.host not in ("", "0.0.0.0", "::"):
        return (grammar.address(peer.host, port),)
    interfaces = psutil.net_if_addrs()
    found = [
        grammar.address(bracketed(one.address), port)
        for name in sorted(interfaces)
        for one in interfaces[name]
        if one.family in (socket.AF_INET, socket.AF_INET6) and not one.address.startswith(_UNUSABLE)
    ]
    found.sort(key=lambda address: address.startswith("["))
    return tuple(found[:_MAX_ADDRESSES]) or (f"127.0.0.1:{port}",)


def bracketed(host: str) -> str:
    """As it stands before a port."""
    return f"[{host}]" if ":" in host else host


async def identity(
    settings: Settings, store: FileIdentityStore, clock: Clock, dice: Dice
) -> tuple[Identity, FileAuthority | None]:
    """This node's, founded if it has none; and the authority where its key is here. Raises: StoreError."""
    return await asyncio.to_thread(_identity, settings, store, clock.wall_ns(), dice)


def _identity(
    settings: Settings, store: FileIdentityStore, now_ns: int, dice: Dice
) -> tuple[Identity, FileAuthority | None]:
    standing = store.load()
    if standing is None:
        cluster_id, node_id = dice.token_hex(_ID_BYTES), dice.token_hex(_ID_BYTES)
        authority = FileAuthority.create(
            cluster_home(settings), cluster_id, settings.peer.cluster_name, passphrase(settings), now_ns
        )
        return joining.found(store, authority, node_id, node_name(settings), now_ns), authority
    return standing, FileAuthority.load(cluster_home(settings), passphrase(settings))


async def become_member(
    settings: Settings, token: str, name: str, force: bool, addresses: tuple[str, ...], clock: Clock, dice: Dice
) -> Joined:
    """Take the token's cluster for this node's. name: "" = as it is called.

    Raises: Conflict if it would leave others behind, unless forced; what joining.join() raises.
    """
    store = FileIdentityStore(cluster_home(settings))
    standing = await asyncio.to_thread(store.load)
    wanted = join_token.parse(token)
    if standing is not None and not force:
        known = await known_state(settings, standing)
        if standing.cluster_id == wanted.cluster_id and await _is_member(standing, known, clock):
            return _joined(standing, known, was_member=True)
        others = len(known.nodes.keys() - {standing.node_id})
        if standing.cluster_id != wanted.cluster_id and others > 0:
            raise Conflict(
                f"this node is a member of a cluster with {others} other node{'s' if others > 1 else ''}; "
                "to leave it, and join this one, say --force"
            )
    link = TlsJoinLink()
    member = await joining.join(
        token,
        link,
        store,
        name=name or node_name(settings),
        addresses=addresses,
        version=__version__,
        clock=clock,
        dice=dice,
    )
    state = await asyncio.to_thread(store.joined_state)
    if state is not None:
        await snapshot_file(settings, member.cluster_id).save(state)
    return _joined(member, await known_state(settings, member), was_member=False)


async def _is_member(me: Identity, known: Catalog, clock: Clock) -> bool:
    """Whether these papers are good, as far as anybody can be asked: a removed node is not told of it by the state."""
    if me.keys.expires_ns <= clock.wall_ns() or me.node_id in known.revoked:
        return False
    link = TlsPeerLink(me.keys)
    try:
        for record in [one for one in known.nodes.values() if one.node_id != me.node_id][:_ASKED]:
            try:
                await link.call(record, PING, b"", timeout_ms=_PING_MS)
                return True
            except CertificateRefused:
                return False
            except OllamaMaxError:
                continue
    finally:
        await link.close()
    return True


def _joined(member: Identity, known: Catalog, was_member: bool) -> Joined:
    return Joined(
        cluster_id=member.cluster_id,
        cluster=known.meta.name if known.meta is not None else "",
        node=member.name,
        node_id=member.node_id,
        was_member=was_member,
    )


def join_offline(settings: Settings, token: str, name: str, force: bool) -> Joined:
    """Make the node of that home a member, while it does not run. Raises: StoreInUse, and as become_member()."""
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(DirectoryLock(settings.home, "the home directory"))
        addresses = own_addresses(settings, settings.peer.port or DEFAULT_PEER_PORT)
        return asyncio.run(become_member(settings, token, name, force, addresses, SystemClock(), SystemDice()))


def discover_offline(settings: Settings, timeout_ms: int) -> Sequence[FoundCluster]:
    """Clusters on the LAN. Raises: PeerUnavailable."""
    store = FileIdentityStore(cluster_home(settings))
    return asyncio.run(discovering.discover(ZenohScout(), TlsJoinLink(), store, timeout_ms))
