"""Why a model's replicas are planned where they are, and nowhere else."""

from heapq import nsmallest
from typing import Final

from msgspec import Struct

from ollamamax.core.placement.board import Board, Claim
from ollamamax.core.placement.facts import Availability, NodeCapacity
from ollamamax.core.placement.scorers import SCORERS, Seat

NO_MODEL: Final = "the cluster does not have the model"
NO_MEMBER: Final = "is no member of the cluster"
NOT_NEEDED: Final = "is not needed"
_NEAREST: Final = 3
_NS_PER_S: Final = 1_000_000_000
_CLOSED: Final = {
    Availability.CORDONED: "is cordoned",
    Availability.DRAINING: "is being drained",
    Availability.DRAINED: "is drained",
    Availability.GONE: "is gone",
}


class Taken(Struct, frozen=True):
    """A node with replicas. note: for people.  scores: by scorer, as of the finished plan, for the last replica."""

    node_id: str
    name: str
    replicas: int
    is_pinned: bool
    note: str
    scores: dict[str, float]


class Refused(Struct, frozen=True):
    """A node without. scores: by scorer, for a replica on top of the finished plan."""

    node_id: str
    name: str
    reason: str
    scores: dict[str, float]


class Decision(Struct, frozen=True):
    """All about one model. wanted: replicas asked for.  extra: on top, as requests wait.  missing: of those wanted.

    extra_missing: of the extra ones.  taken: by node id.  refused: the nearest first.  notes: what else is to be said.
    """

    key: str
    name: str
    wanted: int
    extra: int
    missing: int
    extra_missing: int
    taken: tuple[Taken, ...]
    refused: tuple[Refused, ...]
    notes: tuple[str, ...]

    def explain(self) -> str:
        """One line for the model, one per note and one per node, for people."""
        more = f" and {self.extra} extra" if self.extra else ""
        lines = [
            f"{self.name}: {_count(self.wanted)} wanted{more}, {self.missing + self.extra_missing} without a place"
        ]
        lines += [f"!  {note}" for note in self.notes]
        for one in self.taken:
            pinned = ", pinned" if one.is_pinned else ""
            lines.append(f"{one.replicas}x {one.name}: {one.note}{pinned}; {_shown(one.scores)}")
        lines += [f"-  {one.name}: {one.reason}; {_shown(one.scores)}" for one in self.refused]
        return "\n".join(lines)


def decision(board: Board, claim: Claim, now_ns: int) -> Decision:
    """The finished plan, as seen by one model."""
    nodes = range(len(board.nodes))
    return Decision(
        claim.key,
        _name(claim),
        claim.wanted,
        claim.extra,
        claim.missing,
        max(0, claim.wanted + claim.extra - claim.seated) - claim.missing,
        tuple(_taken(board, claim, n) for n in nodes if _planned(claim, n)),
        tuple(
            _refused(board, claim, n, now_ns)
            for n in sorted((n for n in nodes if not _planned(claim, n)), key=lambda n: _farness(board, claim, n))
        ),
        notes(board, claim),
    )


def reasons(board: Board, claim: Claim) -> tuple[str, ...]:
    """Assignment.why: `notes`, the nodes taken, and the nearest of the others."""
    lines = [f"{board.nodes[n].name}: {_note(board, claim, n)}" for n in sorted({*claim.at, *claim.stays})]
    nearest: list[int] = []
    if claim.missing and claim.need is not None:
        refused = (n for n in range(len(board.nodes)) if not _planned(claim, n))
        nearest = nsmallest(_NEAREST, refused, key=lambda n: _farness(board, claim, n))
    elif claim.runner_up is not None and not _planned(claim, claim.runner_up):
        nearest = [claim.runner_up]
    lines += [f"{board.nodes[n].name}: {_why_not(board, claim, n)}" for n in nearest]
    return (*notes(board, claim), *lines)


def _planned(claim: Claim, node: int) -> int:
    return claim.at.get(node, 0) + claim.stays.get(node, 0)


def _name(claim: Claim) -> str:
    return claim.need.name if claim.need is not None else claim.placement.name


def _scores(board: Board, claim: Claim, node: int) -> dict[str, float]:
    facts = board.nodes[node]
    planned = _planned(claim, node)
    taken = board.used[node] + (0 if planned else claim.replica_bytes)
    is_ready = claim.ready.get(node, 0) >= max(planned, 1)
    seat = Seat(is_ready, claim.key in facts.has, taken / (board.totals[node] or 1), board.loads[node])
    return {name: scorer(seat) for name, scorer in SCORERS.items()}


def _taken(board: Board, claim: Claim, node: int) -> Taken:
    facts = board.nodes[node]
    planned, is_pinned = _planned(claim, node), node in claim.pinned
    scores = _scores(board, claim, node)
    return Taken(facts.node_id, facts.name, planned, is_pinned, _note(board, claim, node), scores)


def _note(board: Board, claim: Claim, node: int) -> str:
    facts, stays = board.nodes[node], claim.stays.get(node, 0)
    if stays:
        return f"{_count(stays)} of {_planned(claim, node)} leaving once others are ready"
    if claim.ready.get(node, 0) >= claim.at[node]:
        return "runs there"
    if claim.key in facts.has:
        return "has the files"
    assert claim.need is not None, "who has a seat is known"
    return f"{_gib(claim.need.disk_bytes)} to be fetched"


def _refused(board: Board, claim: Claim, node: int, now_ns: int) -> Refused:
    facts = board.nodes[node]
    reason = _why_not(board, claim, node)
    if facts.availability is Availability.GONE and facts.gone_since_ns:
        reason += f" for {max(0, now_ns - facts.gone_since_ns) // _NS_PER_S} s"
    return Refused(facts.node_id, facts.name, reason, _scores(board, claim, node))


def _farness(board: Board, claim: Claim, node: int) -> tuple[bool, bool, int, float, int]:
    """How far a node is from taking a replica: closed, without a label, how much too small, then as for seats."""
    over = max(0, board.used[node] + claim.replica_bytes - board.totals[node])
    is_closed = board.nodes[node].availability is not Availability.OPEN
    return is_closed, node not in claim.group.members, over, board.choice(claim, node)[3], node


def _why_not(board: Board, claim: Claim, node: int) -> str:
    """The first reason against one more replica on a node."""
    facts = board.nodes[node]
    if claim.need is None:
        return NO_MODEL
    if facts.availability is not Availability.OPEN:
        return _CLOSED[facts.availability]
    if node not in claim.group.members:
        return _lacking(facts, claim)
    need = _gib(claim.replica_bytes)
    if claim.replica_bytes > board.totals[node]:
        return f"has {_gib(board.totals[node])} for models, a replica needs {need}"
    if not board.fits(claim, node):
        left = _gib(max(0, board.totals[node] - board.used[node]))
        others = ", ".join(_name(other) for other in sorted(board.on[node], key=lambda other: other.order))
        return f"has {left} left beside {others or 'those that are leaving'}, a replica needs {need}"
    if claim.placement.replicas == 0:
        return "no replicas are asked for"
    return NOT_NEEDED


def _lacking(facts: NodeCapacity, claim: Claim) -> str:
    lacking = [f"{k}={v}" for k, v in sorted(claim.placement.labels.items()) if facts.labels.get(k) != v]
    return f"lacks the label{'s' if len(lacking) > 1 else ''} {', '.join(lacking)}"


def notes(board: Board, claim: Claim) -> tuple[str, ...]:
    """Pins that are not held, and replicas that are missing."""
    if claim.need is None:
        return (NO_MODEL,)
    lines = [f"pinned to {node_id}, which {NO_MEMBER}" for node_id in claim.strangers]
    lost = [node for node in claim.pins if node not in claim.pinned]
    lines += [f"pinned to {board.nodes[node].name}, which {_why_not(board, claim, node)}" for node in lost]
    if claim.missing:
        lines.append(f"{_count(claim.missing)} of {claim.wanted} without a place: {_remedy(board, claim)}")
    return tuple(lines)


def _remedy(board: Board, claim: Claim) -> str:
    if not claim.is_free:
        return "a pinned replica runs on its node or not at all"
    # A cordoned node that has lost its replica holds none again: said of the plan, and so the same when planned again.
    if not any(board.nodes[n].availability is Availability.OPEN or n in claim.at for n in claim.homes):
        return f"no node that takes replicas, has the labels asked for and {_gib(claim.replica_bytes)} for models"
    return "the nodes that could hold it are full, and pins and elder placements come first; add a node or ask for less"


def _count(replicas: int) -> str:
    return f"{replicas} replica" if replicas == 1 else f"{replicas} replicas"


def _shown(scores: dict[str, float]) -> str:
    return " ".join(f"{name}={score:.2f}" for name, score in scores.items())


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB"
