"""Policies: from scored candidates to an order. The learning router will be one more of them."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from ollamamax.core.routing.scorers import Candidate


class Placed(Struct, frozen=True, gc=False):
    """A candidate's place in the order: lower tiers first, then higher scores, then by engine id."""

    tier: int
    score: float
    candidate: Candidate


class Policy(Protocol):
    """Orders candidates."""

    def rank(self, candidates: Sequence[Candidate]) -> list[Placed]:
        """All of them, best first. Deterministic: equal candidates are ordered by engine id."""
        ...


class LeastWork:
    """Tier 0: loaded with a free slot, least predicted work first. Tier 1: the rest, earliest first token first."""

    def rank(self, candidates: Sequence[Candidate]) -> list[Placed]:
        """See the class."""
        placed = [_place(candidate) for candidate in candidates]
        placed.sort(key=_order)
        return placed


def _place(candidate: Candidate) -> Placed:
    if candidate.model.loaded and candidate.free:
        return Placed(0, candidate.scores["work"], candidate)
    return Placed(1, candidate.scores["ttft"], candidate)


def _order(placed: Placed) -> tuple[int, float, str]:
    return placed.tier, -placed.score, placed.candidate.engine_id
