"""Which clusters are on the LAN. Nothing that they say of themselves is verified: only a join token does that."""

import asyncio
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from ollamamax.core.errors import OllamaMaxError
from ollamamax.core.types import FoundCluster
from ollamamax.ports import IdentityStore, JoinLink, Scout
from ollamamax.services import join_wire
from ollamamax.services.join_wire import Hello

_ASKED: Final = 64
"""Nodes that are asked who they are: one of each cluster would do, but they can't be told apart before."""

_SHOWN_CHARS: Final = 63


async def discover(
    scout: Scout, link: JoinLink, papers: IdentityStore, timeout_ms: float, own_cluster_id: str = ""
) -> Sequence[FoundCluster]:
    """Clusters that answer within that time, and then to a question each. Sorted by name.

    Raises: PeerUnavailable if scouting is not possible.
    """
    heard = await scout.scout(timeout_ms)
    asked = [node.addresses for node in heard[:_ASKED] if node.addresses]
    found: dict[str, FoundCluster] = {}
    for one in await asyncio.gather(*(_meet(link, papers, addresses) for addresses in asked)):
        if one is None:
            continue
        known = found.get(one.cluster_id)
        addresses = tuple(dict.fromkeys((*(known.addresses if known is not None else ()), *one.addresses)))
        found[one.cluster_id] = replace(one, addresses=addresses, is_ours=one.cluster_id == own_cluster_id)
    return sorted(found.values(), key=lambda cluster: (cluster.name, cluster.cluster_id))


async def _meet(link: JoinLink, papers: IdentityStore, addresses: Sequence[str]) -> FoundCluster | None:
    """What whoever listens there says of itself; None if nobody does at any of the addresses."""
    for address in addresses:
        try:
            said = join_wire.answered(await link.hello(address), Hello)
            key_hash = papers.facts(said.ca).key_hash
        except OllamaMaxError:
            continue
        return FoundCluster(
            addresses=(address,),
            cluster_id=_printable(said.cluster_id),
            name=_printable(said.cluster_name),
            key_hash=key_hash,
        )
    return None


def _printable(text: str) -> str:
    """A stranger's words, fit for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_SHOWN_CHARS])
