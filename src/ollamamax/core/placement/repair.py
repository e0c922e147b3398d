"""Making room for one replica by moving others to other nodes, with as few moves as possible.

Breadth first: a replica is seated on a node that is too full for it; then one that lies there moves to another node;
if that is too full now, one of those there moves, and so on, until no node is too full. Each replica moves once.
Whatever arrangement can hold all of them is found that way: on each node that is too full, one replica at least lies
elsewhere in that arrangement, so move that one there.

Deliberate limits: in clusters of more than WINDOW nodes only the WINDOW nodes that promise most are looked at, and
moves to nodes that have the room at once; and no more than SEARCH_STEPS arrangements anywhere. Beyond that the answer
may be that there is no room although there is.
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from heapq import nlargest, nsmallest
from typing import Final

from msgspec import Struct

from ollamamax.core.placement.board import Board, Claim

WINDOW: Final = 16
"""Nodes that are looked at: for the new replica, and for those that move."""
SEARCH_STEPS: Final = 8_000
"""Arrangements that are looked at for one replica."""

Move = tuple[Claim, int, int]
"""A replica of the claim goes from a node to another one."""


class Room(Struct, frozen=True):
    """How room can be made: the node for the new replica, and what has to move before."""

    node: int
    moves: tuple[Move, ...]


class Rules(Struct, frozen=True):
    """used: bytes by node.  last_order: claims after it count for nothing, nor do their replicas move."""

    used: Sequence[int]
    last_order: int


class _Path(Struct, frozen=True):
    """An arrangement with a node or more that are too full, as what was changed to get there."""

    node: int
    moves: tuple[Move, ...] = ()


def make_room(board: Board, claim: Claim, starts: Sequence[int], rules: Rules) -> Room | None:
    """How one more replica can be seated on one of `starts`, all of them too full for it; None: not found. Pure but
    for the steps that it takes from the board's.
    """
    targets = _roomiest(board, rules)
    if claim.replica_bytes > sum(max(0, board.totals[n] - rules.used[n]) for n in {*targets, *starts}):
        return None
    near = nsmallest(WINDOW, starts, key=lambda n: rules.used[n] - board.totals[n])
    paths = deque(_Path(node) for node in sorted(near, key=lambda n: board.choice(claim, n)))
    seen: set[tuple[int, tuple[tuple[int, int, int], ...]]] = set()
    steps = min(SEARCH_STEPS, board.steps_left)
    board.steps_left -= steps
    while paths:
        path = paths.popleft()
        for move, is_done in _moves(board, claim, path, targets, rules):
            moves = (*path.moves, move)
            if is_done:
                board.steps_left += steps
                return Room(path.node, moves)
            if steps == 0:
                return None
            steps -= 1
            arrangement = (path.node, tuple(sorted((moved.order, source, to) for moved, source, to in moves)))
            if arrangement not in seen:
                seen.add(arrangement)
                paths.append(_Path(path.node, moves))
    board.steps_left += steps
    return None


def _roomiest(board: Board, rules: Rules) -> list[int]:
    """Where replicas may move to: nodes that take or keep some, those with most room left."""
    return nlargest(WINDOW, range(len(board.nodes)), key=lambda n: (board.totals[n] - rules.used[n], -n))


def _moves(
    board: Board, claim: Claim, path: _Path, targets: Sequence[int], rules: Rules
) -> Iterator[tuple[Move, bool]]:
    """Single moves off the first node that is too full, best targets first, and whether that is all it takes."""
    left: Counter[tuple[int, int]] = Counter()
    came = Counter({(claim.order, path.node): 1})
    used = {path.node: rules.used[path.node] + claim.replica_bytes}
    for moved, source, to in path.moves:
        left[moved.order, source] += 1
        came[moved.order, to] += 1
        used[source] = used.get(source, rules.used[source]) - moved.replica_bytes
        used[to] = used.get(to, rules.used[to]) + moved.replica_bytes
    full = [node for node, taken in used.items() if taken > board.totals[node]]
    source, is_small = full[0], len(board.nodes) <= WINDOW
    for other, count in board.on[source].items():
        is_pinned = source in other.pinned
        if other.order > rules.last_order or count - is_pinned <= left[other.order, source]:
            continue
        eases = len(full) == 1 and used[source] - other.replica_bytes <= board.totals[source]
        room = {n: board.totals[n] - used.get(n, rules.used[n]) - other.replica_bytes for n in targets if n != source}
        near = [n for n, left_bytes in room.items() if is_small or left_bytes >= 0]
        for to in sorted(near, key=lambda n: board.choice(other, n)):
            there = other.at.get(to, 0) + came[other.order, to] - left[other.order, to]
            if there < board.limit(other, to, other.cap):
                yield (other, source, to), eases and room[to] >= 0
