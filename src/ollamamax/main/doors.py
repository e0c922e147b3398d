"""What leads a node into another cluster, and shows it those that there are."""

from collections.abc import Callable, Sequence

from ollamamax.adapters.network.join_client import TlsJoinLink
from ollamamax.adapters.network.zenoh_scout import ZenohScout
from ollamamax.core.types import FoundCluster, Joined
from ollamamax.main.papers import become_member
from ollamamax.main.roots import Roots
from ollamamax.ports import Clock, Dice
from ollamamax.services import discovering
from ollamamax.services.cluster import Doors
from ollamamax.services.ha import Ha
from ollamamax.settings import Settings


def build_doors(
    settings: Settings,
    roots: Roots,
    ha: Ha,
    addresses: Callable[[], tuple[str, ...]],
    expires_ns: Callable[[], int],
    start_anew: Callable[[], None],
    clock: Clock,
    dice: Dice,
) -> Doors:
    """addresses: where this node is found.  expires_ns: of its certificate.  start_anew: as of Doors."""

    async def join(token: str, name: str, force: bool) -> Joined:
        return await become_member(settings, token, name, force, addresses(), clock, dice)

    async def discover(timeout_ms: float) -> Sequence[FoundCluster]:
        link = TlsJoinLink()
        return await discovering.discover(ZenohScout(), link, roots.papers, timeout_ms, roots.me.cluster_id)

    return Doors(
        certificate_expires_ns=expires_ns,
        join=join,
        discover=discover,
        start_anew=start_anew,
        let_go=ha.let_go,
        home_troubles=ha.degraded,
    )
