"""Scorers: each is one pure function of a candidate to a float in [0, 1], 1 being best."""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from ollamamax.core.routing.predict import Prediction
from ollamamax.core.types import EngineModel

HALF_MS: Final = 1000.0
"""The duration that scores one half."""


class Candidate(Struct, frozen=True, gc=False):
    """An engine that can be asked. slots, free: for this model.  node_id: "" = this node.

    scores: by scorer, for a decision that is to be explained; else empty.
    """

    engine_id: str
    node_id: str
    model: EngineModel
    slots: int
    free: int
    prediction: Prediction
    scores: dict[str, float]


def residency(candidate: Candidate) -> float:
    """1 if the model is in memory there."""
    return 1.0 if candidate.model.loaded else 0.0


def room(candidate: Candidate) -> float:
    """The share of its slots that is free."""
    return candidate.free / candidate.slots


def work(candidate: Candidate) -> float:
    """Little predicted work."""
    return HALF_MS / (HALF_MS + candidate.prediction.work_ms)


def ttft(candidate: Candidate) -> float:
    """An early first token."""
    return HALF_MS / (HALF_MS + candidate.prediction.ttft_ms)


SCORERS: Final[dict[str, Callable[[Candidate], float]]] = {
    "residency": residency,
    "room": room,
    "work": work,
    "ttft": ttft,
}
