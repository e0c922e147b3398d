"""Scorers: each is one pure function of a seat to a float in [0, 1], 1 being best. They tell why a seat was chosen.

The order of seats (board.py: Choice) follows from them: warm first, then the mean of memory and idle, with
BLOBS_PULL on top where the files are.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct


class Seat(Struct, frozen=True, gc=False):
    """A place for one more replica. ready: it runs there.  has_files: nothing need be fetched.

    taken: the share of the node's memory that is taken with it.  load: of the node's engines, in [0, 1].
    """

    ready: bool
    has_files: bool
    taken: float
    load: float


def warm(seat: Seat) -> float:
    """1 if a replica answers requests there."""
    return 1.0 if seat.ready else 0.0


def files(seat: Seat) -> float:
    """1 if the model's files lie there."""
    return 1.0 if seat.has_files else 0.0


def memory(seat: Seat) -> float:
    """The share of the node's memory that is left with it."""
    return max(0.0, 1.0 - seat.taken)


def idle(seat: Seat) -> float:
    """The share of the node's slots that is free."""
    return 1.0 - seat.load


SCORERS: Final[dict[str, Callable[[Seat], float]]] = {"warm": warm, "files": files, "memory": memory, "idle": idle}
