"""Policies: from scored candidates to an order. The learning router will be one more of them."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from ollamamax.core.routing.scorers import Candidate, ttft, work


class Placed(Struct, frozen=True, gc=False):
    """A candidate's place in the order: lower tiers first, then higher scores, by node (this one first), by engine."""

    tier: int
    score: float
    candidate: Candidate


class Policy(Protocol):
    """Orders candidates."""

    def rank(self, candidates: Sequence[Candidate]) -> list[Placed]:
        """All of them, best first. Deterministic: equal candidates are ordered by node id, then engine id."""
        ...


class LeastWork:
    """Tier 0: loaded with a free slot, least predicted work first. Tier 1: the rest, earliest first token first."""

    def rank(self, candidates: Sequence[Candidate]) -> list[Placed]:
        """See the class."""
        placed = [_place(candidate) for candidate in candidates]
        if len(placed) > 1:
            placed.sort(key=_order)
        return placed


def _place(candidate: Candidate) -> Placed:
    if candidate.model.loaded and candidate.free:
        return Placed(0, work(candidate), candidate)
    return Placed(1, ttft(candidate), candidate)


def _order(placed: Placed) -> tuple[int, float, str, str]:
    candidate = placed.candidate
    return placed.tier, -placed.score, candidate.node_id, candidate.engine_id
