"""Where replicas lie while a plan is made: who claims how much, what each node has left. Changed in place.

Nodes are numbered in the order of their ids, so that the smaller number wins a tie.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from ollamamax.core.placement.facts import Availability, ModelNeed, NodeCapacity
from ollamamax.core.types import Placement

BLOBS_PULL: Final = 0.25
"""What having the files is worth, as a difference in pressure: so that one node that has everything does not drown."""

Choice = tuple[int, bool, bool, float, int]
"""A seat for a replica; the smallest is the best: replicas of the model there, whether an extra replica has to go for
it, whether the model is not ready there, the pressure (less the pull of files), the node."""


class Group(Struct, frozen=True, eq=False):
    """Nodes with some labels. members: all of them.  takers: those that are open, largest first.

    negative_bytes: their memory times -1, hence ascending.
    """

    members: frozenset[int]
    takers: list[int]
    negative_bytes: list[int]


_NOWHERE: Final = Group(frozenset(), [], [])


class Claim(Struct, kw_only=True, eq=False):
    """What one placement wants, and what it has got so far.

    order: 0 goes first.  need: None = the cluster does not have the model.  pins: nodes.  strangers: pins to nodes
    that are no members.  homes: nodes that may hold a replica, those that are open first.  limits: node -> replicas,
    for homes that are cordoned.  cap, extra_cap: replicas on one node, without and with the extra ones.
    current: as assigned before.  ready: node -> replicas.  at: node -> replicas as planned, pinned ones included.
    seated: all of them.  pinned: nodes whose pin is held.  spares: where extra replicas lie that shall stay.
    stays: node -> replicas on top that wait for others to become ready.  runner_up: who would have come next, if known.
    """

    order: int
    key: str
    placement: Placement
    extra: int
    need: ModelNeed | None
    replica_bytes: int
    group: Group
    pins: tuple[int, ...]
    strangers: tuple[str, ...]
    homes: list[int]
    limits: dict[int, int]
    cap: int
    extra_cap: int
    current: dict[int, int]
    ready: dict[int, int]
    at: dict[int, int]
    pinned: set[int]
    spares: list[int]
    stays: dict[int, int]
    seated: int = 0
    runner_up: int | None = None

    @property
    def pin_count(self) -> int:
        """Pins that were asked for."""
        return len(self.pins) + len(self.strangers)

    @property
    def wanted(self) -> int:
        """Replicas, extra ones aside."""
        return wanted(self.placement)

    @property
    def is_free(self) -> bool:
        """More replicas than pins are asked for, so that one whose pin can't be held may lie elsewhere."""
        return self.placement.replicas > self.pin_count

    @property
    def free_wanted(self) -> int:
        """Replicas that may lie on any home, beside the pins that are held."""
        return self.placement.replicas - len(self.pinned) if self.is_free else 0

    @property
    def free_seated(self) -> int:
        """Those of them that have a seat, extra ones included."""
        return self.seated - len(self.pinned)

    @property
    def missing(self) -> int:
        """Wanted replicas without a seat."""
        return max(0, self.wanted - self.seated)


class Board:
    """The nodes with what is placed on them."""

    def __init__(self, nodes: Iterable[NodeCapacity], steps: int) -> None:
        self.nodes: Sequence[NodeCapacity] = sorted(nodes, key=lambda node: node.node_id)
        self.totals = [node.total_bytes for node in self.nodes]
        self.loads = [min(max(node.load, 0.0), 1.0) for node in self.nodes]
        self.used = [0] * len(self.nodes)
        self.soft = [0] * len(self.nodes)
        """Bytes of extra replicas that stay where they are as long as nothing else needs the room."""
        self.on: list[dict[Claim, int]] = [{} for _ in self.nodes]
        self.steps_left = steps
        """How much searching is still allowed in this plan."""
        self._groups: dict[tuple[tuple[str, str], ...], Group] = {}

    def group(self, labels: Mapping[str, str]) -> Group:
        """The nodes that have all labels."""
        wanted = tuple(sorted(labels.items()))
        group = self._groups.get(wanted)
        if group is None:
            members = [n for n, node in enumerate(self.nodes) if all(node.labels.get(k) == v for k, v in wanted)]
            takers = [n for n in members if self.nodes[n].availability is Availability.OPEN]
            takers.sort(key=lambda n: -self.totals[n])
            group = Group(frozenset(members), takers, [-self.totals[n] for n in takers])
            self._groups[wanted] = group
        return group

    def fits(self, claim: Claim, node: int) -> bool:
        """Whether one more replica does not exceed the node's memory."""
        return self.used[node] + claim.replica_bytes <= self.totals[node]

    def limit(self, claim: Claim, node: int, cap: int) -> int:
        """How many replicas of the model the node may hold, memory for others aside."""
        availability = self.nodes[node].availability
        if node not in claim.group.members or claim.replica_bytes > self.totals[node]:
            return 0
        if availability is Availability.OPEN:
            return cap
        return min(cap, claim.limits.get(node, 0))

    def pressure(self, claim: Claim, node: int) -> float:
        """How hard the node would be pressed with one more replica: the mean of memory's share and of its load."""
        taken = self.used[node] + self.soft[node] + claim.replica_bytes
        return (taken / (self.totals[node] or 1) + self.loads[node]) / 2

    def choice(self, claim: Claim, node: int) -> Choice:
        """How good a seat one more replica would have there."""
        count = claim.at.get(node, 0)
        return (
            count,
            self.used[node] + self.soft[node] + claim.replica_bytes > self.totals[node],
            claim.ready.get(node, 0) <= count,
            self.pressure(claim, node) - (BLOBS_PULL if claim.key in self.nodes[node].has else 0.0),
            node,
        )

    def choices(self, claim: Claim, cap: int) -> list[Choice]:
        """All seats that are free for one more replica, in no order."""
        return [
            self.choice(claim, node)
            for node in claim.homes
            if self.fits(claim, node) and claim.at.get(node, 0) < min(cap, claim.limits.get(node, cap))
        ]

    def put(self, claim: Claim, node: int) -> None:
        """Seat a replica."""
        count = claim.at.get(node, 0) + 1
        claim.at[node] = self.on[node][claim] = count
        claim.seated += 1
        self.used[node] += claim.replica_bytes

    def take(self, claim: Claim, node: int) -> None:
        """Take a replica from its seat; a free one, unless none is left there."""
        count = claim.at[node] - 1
        if count:
            claim.at[node] = self.on[node][claim] = count
        else:
            del claim.at[node], self.on[node][claim]
            claim.pinned.discard(node)
        claim.seated -= 1
        self.used[node] -= claim.replica_bytes


def wanted(placement: Placement) -> int:
    """Replicas that were asked for, extra ones aside: at least one per pin, unless none are wanted at all."""
    return max(placement.replicas, len(set(placement.pins))) if placement.replicas > 0 else 0


def most_extra(placement: Placement) -> int:
    """Extra replicas that are allowed on top."""
    return max(0, placement.max_replicas - wanted(placement)) if placement.replicas > 0 else 0


def claims_on(
    board: Board,
    placements: Mapping[str, Placement],
    needs: Mapping[str, ModelNeed],
    current: Mapping[str, Mapping[str, int]],
    extra: Mapping[str, int],
) -> list[Claim]:
    """One claim per placement, in the order in which they are served: as long ago as it was changed, then by key."""
    number = {node.node_id: n for n, node in enumerate(board.nodes)}
    by_age = sorted(placements.items(), key=lambda item: (item[1].changed_ns, item[0]))
    claims: dict[str, Claim] = {}
    for order, (key, placement) in enumerate(by_age):
        before = {number[node_id]: count for node_id, count in current.get(key, {}).items() if node_id in number}
        above = max(0, min(extra.get(key, 0), most_extra(placement)))
        claims[key] = _claim(board, order, key, placement, needs.get(key), number, before, above)
    for n, node in enumerate(board.nodes):
        if node.availability not in (Availability.GONE, Availability.DRAINED):
            for key, count in node.ready.items():
                if key in claims:
                    claims[key].ready[n] = count
    return list(claims.values())


def _claim(
    board: Board,
    order: int,
    key: str,
    placement: Placement,
    need: ModelNeed | None,
    number: Mapping[str, int],
    current: dict[int, int],
    extra: int,
) -> Claim:
    replica_bytes = need.replica_bytes if need is not None else 0
    group = board.group(placement.labels) if need is not None else _NOWHERE
    homes = group.takers[: bisect_right(group.negative_bytes, -replica_bytes)]
    # Cordoned ones don't count here: who has to leave them does not come back, and nothing else would have changed.
    takers = len(homes)
    limits = {
        n: count
        for n, count in sorted(current.items())
        if board.nodes[n].availability is Availability.CORDONED
        and n in group.members
        and replica_bytes <= board.totals[n]
    }
    homes += limits
    count = wanted(placement)
    pins = dict.fromkeys(placement.pins) if count else {}
    return Claim(
        order=order,
        key=key,
        placement=placement,
        extra=extra,
        need=need,
        replica_bytes=replica_bytes,
        group=group,
        pins=tuple(number[pin] for pin in pins if pin in number),
        strangers=tuple(pin for pin in pins if pin not in number),
        homes=homes,
        limits=limits,
        cap=1 if takers >= count else count,
        extra_cap=1 if takers >= count + extra else count + extra,
        current=current,
        ready={},
        at={},
        pinned=set(),
        spares=[],
        stays={},
    )
