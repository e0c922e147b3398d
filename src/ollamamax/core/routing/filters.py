"""Which engines are out for a request, and why; how much room the others have."""

from collections.abc import Mapping
from typing import Final

from ollamamax.core.types import EngineFacts, EngineKind, EngineModel

NO_MODEL: Final = "does not have the model"
UNREACHABLE: Final = "can't be reached"
IN_DOUBT: Final = "may be lost, which is being found out"
"""Soon it is known: a request that nobody else can answer waits for that."""
OTHER_VERSION: Final = "has another version of the model"


def why_out(facts: EngineFacts, model_key: str, excluded: Mapping[str, str], digest: str = "") -> str:
    """The first reason why the engine can't be asked, "" if it can.

    excluded: engine id -> reason, what the caller knows beyond the facts (already tried, breaker open).
    digest: of the version that the name stands for, "" = any.
    """
    model = facts.models.get(model_key)
    if model is None:
        return NO_MODEL
    if digest and is_other_version(facts, model, digest):
        return OTHER_VERSION
    if facts.reachable and not facts.out and not excluded:
        return ""
    return why_unusable(facts, excluded)


def why_unusable(facts: EngineFacts, excluded: Mapping[str, str]) -> str:
    """The first reason that has nothing to do with what models the engine has, "" if there is none."""
    if facts.out:
        return facts.out
    if not facts.reachable:
        return UNREACHABLE
    return excluded.get(facts.engine_id, "")


def is_other_version(facts: EngineFacts, model: EngineModel, digest: str) -> bool:
    """Whether a node's own store has the model in another version. Other servers' digests are not of our manifests."""
    record = model.record
    return record is not None and record.digest not in ("", digest) and facts.kind is EngineKind.LLAMACPP


def slots_for(facts: EngineFacts, model: EngineModel) -> tuple[int, int]:
    """Requests for the model that the engine takes at once (at least one), and how many of these more it takes now."""
    if facts.busy is None:
        slots, taken = facts.slots or 1, facts.in_flight
    else:
        slots, taken = model.slots or facts.slots or 1, facts.busy.get(model.key, 0)
    return slots, slots - taken if slots > taken else 0
