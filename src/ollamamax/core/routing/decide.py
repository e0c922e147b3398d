"""Which engines can answer a request, in which order, and why."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from ollamamax.core.routing.filters import IN_DOUBT, NO_MODEL, slots_for, why_out
from ollamamax.core.routing.policies import LeastWork, Policy
from ollamamax.core.routing.predict import RequestFacts, RoutingConfig, predict
from ollamamax.core.routing.scorers import SCORERS, Candidate
from ollamamax.core.types import EngineFacts, EngineModel, FleetSnapshot

DEFAULT_POLICY: Final = LeastWork()
FETCH_TIER: Final = 2
"""Of engines that would have to fetch the model first (core/routing/place.py): after all that have it."""


class Ranked(Struct, frozen=True, gc=False):
    """An engine that can answer. has_room: it has a free slot now; else the request must wait for one.

    scores: by scorer, in [0, 1]; empty where nobody asked why.  ttft_ms: predicted, with the wait for a slot and for
    loading.
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

    @property
    def is_open(self) -> bool:
        """No engine can answer now, but that may change any moment, one way or the other."""
        return not self.ranked and any(one.reason == IN_DOUBT for one in self.out)

    def explain(self) -> str:
        """One line for the request and one per engine, for people."""
        request = self.request
        lines = [
            f"{request.model_key}: about {request.prompt_tokens} prompt tokens and {request.output_tokens} of output"
        ]
        for place, one in enumerate(self.ranked, 1):
            scores = " ".join(f"{name}={score:.2f}" for name, score in one.scores.items())
            lines.append(
                f"{place}. {one.engine_id}: {_presence(one)}, "
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
    digest: str = "",
    explained: bool = True,
) -> Decision:
    """Filter, predict, score, rank. Pure. excluded: engine id -> why it can't be asked, beyond its facts.

    digest: of the version that the model's name stands for in the cluster, "" = not known, so any.  explained: whether
    all scores are wanted.
    """
    if len(snapshot.engines) == 1 and not explained and policy is DEFAULT_POLICY:
        at_once = _at_once(request, snapshot.engines[0], excluded, config, digest)
        if at_once is not None:
            return at_once
    key = request.model_key
    candidates: list[Candidate] = []
    out: list[FilteredOut] = []
    for facts in snapshot.engines:
        reason = why_out(facts, key, excluded, digest)
        if reason:
            out.append(FilteredOut(facts.engine_id, reason))
        else:
            candidates.append(candidate(request, facts, facts.models[key], config, 0.0, explained))
    return Decision(request, ranking(policy, candidates), tuple(out))


def _at_once(
    request: RequestFacts, facts: EngineFacts, excluded: Mapping[str, str], config: RoutingConfig, digest: str
) -> Decision | None:
    """What the default policy makes of an engine with nobody to compare it to that has the model loaded and a free
    slot: most decisions of a small node. None for all others.
    """
    model = facts.models.get(request.model_key)
    if model is None or not model.loaded or why_out(facts, request.model_key, excluded, digest):
        return None
    slots, free = slots_for(facts, model)
    if not free:
        return None
    prediction = predict(request, facts, model, slots, free, config)
    best = Ranked(facts.engine_id, model.served_as, 0, True, True, prediction.ttft_ms, prediction.tpot_ms, {})
    return Decision(request, (best,), ())


def candidate(
    request: RequestFacts,
    facts: EngineFacts,
    model: EngineModel,
    config: RoutingConfig,
    fetch_ms: float = 0.0,
    explained: bool = True,
) -> Candidate:
    """An engine with its predictions and, where the decision is to be explained, its scores."""
    slots, free = slots_for(facts, model)
    prediction = predict(request, facts, model, slots, free, config, fetch_ms)
    scores: dict[str, float] = {}
    made = Candidate(facts.engine_id, facts.node_id, model, slots, free, prediction, scores)
    if explained:
        for name, scorer in SCORERS.items():
            scores[name] = scorer(made)
    return made


def ranking(policy: Policy, candidates: Sequence[Candidate], tier: int | None = None) -> tuple[Ranked, ...]:
    """The candidates in the policy's order. tier: that all are in, instead of the policy's."""
    return tuple(
        [
            Ranked(
                one.engine_id,
                one.model.served_as,
                placed.tier if tier is None else tier,
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


def _presence(one: Ranked) -> str:
    if one.tier == FETCH_TIER:
        return "to be fetched"
    return "loaded" if one.is_loaded else "not loaded"
