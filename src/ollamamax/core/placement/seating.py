"""The rules of seating, in their order: what stays, pins, what was asked for, extra replicas, what waits to leave.

Invariant of each step: on every node the replicas planned there fit into its memory.
"""

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush

from ollamamax.core.placement.board import Board, Choice, Claim
from ollamamax.core.placement.facts import Availability
from ollamamax.core.placement.repair import Room, Rules, make_room


def seat_all(board: Board, claims: Sequence[Claim]) -> None:
    """Seat what can be seated. Mutates both. claims: in the order in which they are served."""
    _keep(board, claims)
    for claim in claims:
        for node in claim.pins:
            if node not in claim.pinned and board.limit(claim, node, 1):
                _seat_pin(board, claims, claim, node)
    for claim in claims:
        _trim(board, claim)
    while [claim for claim in claims if _seat_free(board, claims, claim)]:
        pass  # each round serves those better who are served first; one is enough where the search is exhaustive
    while [claim for claim in claims if _prefer_warm(board, claim)]:
        pass  # each round has more replicas ready than the one before
    _seat_extra(board, claims)
    for claim in claims:
        _stay(board, claim)


# --- what stays ---------------------------------------------------------------------------------------------------


def _keep(board: Board, claims: Sequence[Claim]) -> None:
    """Replicas stay where they are assigned, as long as they may; first those of the claims that are served first."""
    for claim in claims:
        for node in claim.pins:
            if claim.current.get(node, 0) and board.limit(claim, node, 1) and board.fits(claim, node):
                board.put(claim, node)
                claim.pinned.add(node)
    for claim in claims:
        for node in _seats_before(board, claim):
            if claim.free_seated >= claim.free_wanted:
                break
            if claim.at.get(node, 0) < board.limit(claim, node, claim.cap) and board.fits(claim, node):
                board.put(claim, node)
    for claim in claims:
        _keep_extra(board, claim)


def _seats_before(board: Board, claim: Claim) -> list[int]:
    """Seats as assigned before that the claim does not have, each node once per replica; the best one first."""
    seats = [
        (nth, *_worth(board, claim, node, nth), node)
        for node, count in claim.current.items()
        for nth in range(claim.at.get(node, 0), count)
    ]
    return [seat[-1] for seat in sorted(seats)]


def _worth(board: Board, claim: Claim, node: int, nth: int) -> tuple[bool, bool, float]:
    """How good it is to keep the nth replica on a node: the smallest is the best."""
    is_cold = nth >= claim.ready.get(node, 0)
    return is_cold, board.nodes[node].availability is not Availability.OPEN, board.loads[node]


def _keep_extra(board: Board, claim: Claim) -> None:
    seats = _seats_before(board, claim) if claim.extra else []
    for node in seats:
        count = claim.at.get(node, 0) + claim.spares.count(node)
        taken = board.used[node] + board.soft[node] + claim.replica_bytes
        if count < board.limit(claim, node, claim.extra_cap) and taken <= board.totals[node]:
            board.soft[node] += claim.replica_bytes
            claim.spares.append(node)
        if len(claim.spares) == claim.extra:
            break


# --- pins ---------------------------------------------------------------------------------------------------------


def _seat_pin(board: Board, claims: Sequence[Claim], claim: Claim, node: int) -> None:
    """Seat a replica on the very node, if pins that are served before leave room: all others move or go."""
    if claim.at.get(node, 0):
        claim.pinned.add(node)
        return
    if not board.fits(claim, node):
        before = [other for other in board.on[node] if node in other.pinned and other.order < claim.order]
        if sum(other.replica_bytes for other in before) + claim.replica_bytes > board.totals[node]:
            return
        room = make_room(board, claim, [node], Rules(board.used, len(claims)))
        if room is not None:
            _move(board, room)
        while not board.fits(claim, node):
            board.take(max((other for other in board.on[node]), key=lambda other: _pin_rank(other, node)), node)
    board.put(claim, node)
    claim.pinned.add(node)


def _pin_rank(claim: Claim, node: int) -> tuple[bool, int]:
    """Who goes for a pin; the largest goes first: replicas that are not pinned, then those served last."""
    return claim.at[node] > (node in claim.pinned), claim.order


# --- what was asked for -------------------------------------------------------------------------------------------


def _trim(board: Board, claim: Claim) -> None:
    """As many free replicas go as there are too many, since pins were seated."""
    while claim.free_seated > claim.free_wanted:
        board.take(claim, _dispensable(board, claim))


def _dispensable(board: Board, claim: Claim) -> int:
    """Where a free replica is missed least."""
    free = [(n, count) for n, count in claim.at.items() if count > (n in claim.pinned)]
    return max(free, key=lambda item: (item[1], *_worth(board, claim, item[0], item[1] - 1), item[0]))[0]


def _seat_free(board: Board, claims: Sequence[Claim], claim: Claim) -> bool:
    """Seat what is wanted: where there is room, else by moving others, else in place of those who are served later.

    True: somebody moved or went for it.
    """
    choices: list[Choice] | None = None
    has_moved = False
    while claim.free_seated < claim.free_wanted:
        if choices is None:
            choices = board.choices(claim, claim.cap)
            heapify(choices)
        if choices:
            _take_best(board, claim, choices, claim.cap)
            continue
        room = make_room(board, claim, _starts(board, claim), Rules(board.used, len(claims)))
        if room is None and (room := _room_of_later(board, claims, claim)) is None:
            break
        _move(board, room)
        board.put(claim, room.node)
        for node in dict.fromkeys([room.node, *(to for _, _, to in room.moves)]):
            _evict(board, claim, node)
        choices, has_moved = None, True
    return has_moved


def _take_best(board: Board, claim: Claim, choices: list[Choice], cap: int) -> None:
    node = heappop(choices)[-1]
    board.put(claim, node)
    if board.fits(claim, node) and claim.at[node] < min(cap, claim.limits.get(node, cap)):
        heappush(choices, board.choice(claim, node))
    claim.runner_up = choices[0][-1] if choices else None


def _starts(board: Board, claim: Claim) -> list[int]:
    """Homes that could hold one more if others left."""
    return [n for n in claim.homes if claim.at.get(n, 0) < board.limit(claim, n, claim.cap)]


def _move(board: Board, room: Room) -> None:
    for claim, source, to in room.moves:
        board.take(claim, source)
        board.put(claim, to)


def _room_of_later(board: Board, claims: Sequence[Claim], claim: Claim) -> Room | None:
    """A seat that is free if those served later count for nothing, so that fewest of them go; None: there is none."""
    used = board.used.copy()
    for other in claims[claim.order + 1 :]:
        for node, count in other.at.items():
            used[node] -= other.replica_bytes * (count - (node in other.pinned))
    if used == board.used:
        return None
    starts = _starts(board, claim)
    costs = []
    for node in starts:
        if used[node] + claim.replica_bytes <= board.totals[node]:
            losers = _losers(board, list(_later(board, claim, node)), node, claim.replica_bytes)
            costs.append((len(losers), -min(other.order for other in losers), board.choice(claim, node)))
    if costs:
        return Room(min(costs)[-1][-1], ())
    return make_room(board, claim, starts, Rules(used, claim.order))


def _later(board: Board, claim: Claim, node: int) -> Iterator[Claim]:
    """Free replicas of claims served later, one entry for each; the last one first."""
    for other in sorted(board.on[node], key=lambda other: -other.order):
        if other.order <= claim.order:
            return
        for _ in range(other.at[node] - (node in other.pinned)):
            yield other


def _losers(board: Board, later: Sequence[Claim], node: int, more_bytes: int) -> list[Claim]:
    """Those of `later` that have to go until the node is not too full any more."""
    over = board.used[node] + more_bytes - board.totals[node]
    losers: list[Claim] = []
    for other in later:
        if over <= 0:
            break
        losers.append(other)
        over -= other.replica_bytes
    return losers


def _evict(board: Board, claim: Claim, node: int) -> None:
    """Those served later go from a node that is too full."""
    for other in _losers(board, list(_later(board, claim, node)), node, 0):
        board.take(other, node)


# --- what is warm, extra, leaving ---------------------------------------------------------------------------------


def _prefer_warm(board: Board, claim: Claim) -> bool:
    """A replica that is not ready yields to one that is, on a node where nobody planned it. True: one did."""
    for node in sorted(claim.ready):
        there = claim.at.get(node, 0)
        taken = board.used[node] + board.soft[node] + claim.replica_bytes
        if there < min(claim.ready[node], board.limit(claim, node, claim.cap)) and taken <= board.totals[node]:
            cold = [n for n, count in claim.at.items() if _is_cold(claim, n, count) and count > there]
            if cold:
                board.take(claim, max(cold, key=lambda n: (claim.at[n], n)))
                board.put(claim, node)
                return True
    return False


def _is_cold(claim: Claim, node: int, count: int) -> bool:
    """Whether a free replica is planned on the node beyond those that are ready there."""
    return count > claim.ready.get(node, 0) and count > (node in claim.pinned)


def _seat_extra(board: Board, claims: Sequence[Claim]) -> None:
    """Extra replicas take what room is left, and nobody's place; those that have a seat stay there if they can."""
    growing = [claim for claim in claims if claim.extra and not claim.missing]
    for claim in claims:
        for node in claim.spares:
            board.soft[node] -= claim.replica_bytes
    for claim in growing:
        for node in claim.spares:
            if claim.at.get(node, 0) < board.limit(claim, node, claim.extra_cap) and board.fits(claim, node):
                board.put(claim, node)
    for claim in growing:
        choices = board.choices(claim, claim.extra_cap)
        heapify(choices)
        while choices and claim.free_seated < claim.free_wanted + claim.extra:
            _take_best(board, claim, choices, claim.extra_cap)


def _stay(board: Board, claim: Claim) -> None:
    """What is ready and to leave stays until as many are ready as are wanted, where the room is not needed.

    A pin to a node that takes nothing has no place elsewhere, so that nobody waits for it.
    """
    lost = [n for n in claim.pins if n not in claim.pinned and board.nodes[n].availability is not Availability.OPEN]
    ready = sum(min(count, claim.ready.get(node, 0)) for node, count in claim.at.items())
    short = claim.wanted - ready - (0 if claim.is_free else len(lost) + len(claim.strangers))
    for node, before in sorted(claim.current.items()):
        planned = claim.at.get(node, 0)
        while short > 0 and planned < min(before, claim.ready.get(node, 0)) and board.fits(claim, node):
            planned, short = planned + 1, short - 1
            claim.stays[node] = claim.stays.get(node, 0) + 1
            board.used[node] += claim.replica_bytes
