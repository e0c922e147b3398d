"""Which engines can answer a request, in which order, and why."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from ollamamax.core.routing.filters import NO_MODEL, slots_for, why_out
from ollamamax.core.routing.policies import LeastWork, Policy
from ollamamax.core.routing.predict import RequestFacts, RoutingConfig, predict
from ollamamax.core.routing.scorers import SCORERS, Candidate
from ollamamax.core.types import EngineFacts, FleetSnapshot

DEFAULT_POLICY: Final = LeastWork()


class Ranked(Struct, frozen=True, gc=False):
    """An engine that can answer. has_room: it has a free slot now; else the request must wait for one.

    scores: by scorer, in [0, 1].  ttft_ms: predicted, with the wait for a slot and for loading.
    """

    engine_id: str
    served_as: str
    tier: int
    is_loaded: bool
    has_room: bool
    ttft_ms: float
    tpot_ms: float
    scores: dict[str, float]


class FilteredOut(Struct, frozen=True, gc=False):
    """An engine that can't answer, and why."""

    engine_id: str
    reason: str


class Decision(Struct, frozen=True, gc=False):
    """ranked: best first.  out: in the order of the snapshot."""

    request: RequestFacts
    ranked: tuple[Ranked, ...]
    out: tuple[FilteredOut, ...]

    @property
    def best(self) -> Ranked | None:
        """The first choice, None if no engine can answer."""
        return self.ranked[0] if self.ranked else None

    @property
    def is_nowhere(self) -> bool:
        """No engine has the model, reachable or not."""
        return not self.ranked and all(one.reason == NO_MODEL for one in self.out)

    def explain(self) -> str:
        """One line for the request and one per engine, for people."""
        request = self.request
        lines = [
            f"{request.model_key}: about {request.prompt_tokens} prompt tokens and {request.output_tokens} of output"
        ]
        for place, one in enumerate(self.ranked, 1):
            scores = " ".join(f"{name}={score:.2f}" for name, score in one.scores.items())
            lines.append(
                f"{place}. {one.engine_id}: {'loaded' if one.is_loaded else 'not loaded'}, "
                f"{'a slot is free' if one.has_room else 'no slot is free'}, "
                f"first token in about {one.ttft_ms:.0f} ms, then {one.tpot_ms:.0f} ms each; {scores}"
            )
        lines += [f"-  {one.engine_id}: {one.reason}" for one in self.out]
        return "\n".join(lines)


def decide(
    request: RequestFacts,
    snapshot: FleetSnapshot,
    excluded: Mapping[str, str],
    config: RoutingConfig,
    policy: Policy = DEFAULT_POLICY,
) -> Decision:
    """Filter, predict, score, rank. Pure. excluded: engine id -> why it can't be asked, beyond its facts."""
    candidates: list[Candidate] = []
    out: list[FilteredOut] = []
    for facts in snapshot.engines:
        reason = why_out(facts, request.model_key, excluded)
        if reason:
            out.append(FilteredOut(facts.engine_id, reason))
        else:
            candidates.append(_candidate(request, facts, config))
    ranked = tuple(
        [
            Ranked(
                one.engine_id,
                one.model.served_as,
                placed.tier,
                one.model.loaded,
                one.free > 0,
                one.prediction.ttft_ms,
                one.prediction.tpot_ms,
                one.scores,
            )
            for placed in policy.rank(candidates)
            for one in (placed.candidate,)
        ]
    )
    return Decision(request, ranked, tuple(out))


def _candidate(request: RequestFacts, facts: EngineFacts, config: RoutingConfig) -> Candidate:
    model = facts.models[request.model_key]
    slots, free = slots_for(facts, model)
    prediction = predict(request, facts, model, slots, free, config)
    scores: dict[str, float] = {}
    candidate = Candidate(facts.engine_id, model, slots, free, prediction, scores)
    for name, scorer in SCORERS.items():
        scores[name] = scorer(candidate)
    return candidate
