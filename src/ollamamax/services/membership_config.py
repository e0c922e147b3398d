"""What the membership needs to know, and what it shows of another node."""

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.membership.backbone import BackboneConfig
from ollamamax.core.membership.detector import DetectorConfig, PeerState
from ollamamax.core.types import NodeFacts, NodeRecord
from ollamamax.ports import NodeKeys


class Follower(Protocol):
    """The part of the Replica that is needed here."""

    @property
    def catalog(self) -> Catalog:
        """The newest state that was seen."""
        ...

    def watch(self, callback: Callable[[Catalog, Catalog], None]) -> None:
        """Called with the former and the new catalog after each change."""
        ...


class PeerView(Struct, frozen=True, kw_only=True):
    """Another member as this node sees it. facts: None until it told some; facts_at_ms: when they were last confirmed,
    by the clock.  since_ms: of the state.
    """

    record: NodeRecord
    facts: NodeFacts | None
    facts_at_ms: float
    state: PeerState
    since_ms: float


class MembershipConfig(Struct, frozen=True, kw_only=True):
    """keys: this node's papers as they are now.  listen: host:port of its peer listener (no host: every interface).
    seeds: addresses of peer listeners to try where the known ones do not help.  multicast, lease_ms: see MeshConfig.

    probe_ms: for a direct question.  probes: so many at once.  debounce_ms: signs that vanish and reappear within it
    were no change.  reconcile_ms: between two counts of all signs; more in a large cluster.  apart_ms: a mesh that
    was not heard for so long, or that reached fewer of the nodes that answer than it did not, is opened anew; doubles
    while that is no help.
    """

    keys: Callable[[], NodeKeys]
    listen: str
    seeds: Sequence[str] = ()
    multicast: bool = True
    lease_ms: int = 4_000
    probe_ms: float = 1_000.0
    probes: int = 16
    debounce_ms: float = 30.0
    reconcile_ms: float = 10_000.0
    apart_ms: float = 5_000.0
    detector: DetectorConfig = DetectorConfig()
    backbone: BackboneConfig = BackboneConfig()
