"""Where a request may go when nobody who has its model can answer: to a node that fetches the model first.

Only what a node's own store has can be fetched, so an attached engine's models can't; and only from a node that can
be reached. One that is cordoned, that has no memory left or that is left out after failures gives its files all the
same. Where nothing can be fetched, this node uses the version that it has, if it has one.

Deliberate limits: whether the model fits is a guess from its size; what a node could evict is not counted.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from ollamamax.core.routing.decide import (
    DEFAULT_POLICY,
    FETCH_TIER,
    Decision,
    FilteredOut,
    candidate,
    ranking,
)
from ollamamax.core.routing.filters import NO_MODEL, is_other_version, why_unusable
from ollamamax.core.routing.policies import Policy
from ollamamax.core.routing.predict import RequestFacts, RoutingConfig
from ollamamax.core.routing.scorers import Candidate
from ollamamax.core.types import EngineFacts, EngineKind, EngineModel, ModelDetails, ModelEntry, ModelRecord

NO_MEMORY: Final = "has too little free memory to take the model in"
MEMORY_FACTOR: Final = 1.2
"""Memory that a model is thought to need, as a multiple of its size on disk."""


def place(
    decision: Decision,
    known: Sequence[EngineFacts],
    stores: Sequence[EngineFacts],
    excluded: Mapping[str, str],
    entry: ModelEntry,
    config: RoutingConfig,
    policy: Policy = DEFAULT_POLICY,
) -> Decision:
    """The decision with those ranked who may answer all the same; as it was if there are none. Pure.

    decision: one without a candidate.  known: engines, all that have the model among them.  stores: each node's own
    engines.  entry: what the cluster's catalog says of the model.
    """
    request = decision.request
    having = [facts for facts in known if request.model_key in facts.models]
    if not having or any(_can_give(facts, request.model_key, entry) for facts in having):
        candidates: list[Candidate] = []
        out = [one for one in decision.out if one.reason != NO_MODEL]
        for facts in stores:
            if request.model_key in facts.models:
                continue
            reason = _why_not(facts, excluded, entry)
            if reason:
                out.append(FilteredOut(facts.engine_id, reason))
            else:
                candidates.append(_fetching(request, facts, entry, config))
        decision = Decision(request, ranking(policy, candidates, FETCH_TIER), tuple(out))
    return decision if decision.ranked else _as_it_is(decision, having, excluded, config, policy)


def _can_give(facts: EngineFacts, key: str, entry: ModelEntry) -> bool:
    """Whether the model can be fetched from there."""
    is_readable = facts.reachable and facts.kind is EngineKind.LLAMACPP
    return is_readable and not is_other_version(facts, facts.models[key], entry.digest)


def _why_not(facts: EngineFacts, excluded: Mapping[str, str], entry: ModelEntry) -> str:
    has_room = entry.size_bytes * MEMORY_FACTOR < facts.free_memory_bytes
    return why_unusable(facts, excluded) or ("" if has_room else NO_MEMORY)


def _fetching(request: RequestFacts, facts: EngineFacts, entry: ModelEntry, config: RoutingConfig) -> Candidate:
    record = ModelRecord(entry.name, entry.digest, entry.size_bytes, entry.changed_ns, ModelDetails())
    model = EngineModel(request.model_key, entry.name, record=record)
    return candidate(request, facts, model, config, fetch_ms=entry.size_bytes / config.transfer_bytes_per_ms)


def _as_it_is(
    decision: Decision,
    having: Sequence[EngineFacts],
    excluded: Mapping[str, str],
    config: RoutingConfig,
    policy: Policy,
) -> Decision:
    """This node's own version, whichever it is."""
    request = decision.request
    usable = [facts for facts in having if not facts.node_id and not why_unusable(facts, excluded)]
    if not usable:
        return decision
    candidates = [candidate(request, facts, facts.models[request.model_key], config) for facts in usable]
    here = {facts.engine_id for facts in usable}
    out = tuple(one for one in decision.out if one.engine_id not in here)
    return Decision(request, ranking(policy, candidates), out)
