"""Which engines are out for a request, and why; how much room the others have."""

from collections.abc import Mapping
from typing import Final

from ollamamax.core.types import EngineFacts, EngineModel

NO_MODEL: Final = "does not have the model"
UNREACHABLE: Final = "can't be reached"


def why_out(facts: EngineFacts, model_key: str, excluded: Mapping[str, str]) -> str:
    """The first reason why the engine can't be asked, "" if it can.

    excluded: engine id -> reason, what the caller knows beyond the facts (already tried, breaker open).
    """
    if model_key not in facts.models:
        return NO_MODEL
    if not facts.reachable:
        return UNREACHABLE
    return excluded.get(facts.engine_id, "")


def slots_for(facts: EngineFacts, model: EngineModel) -> tuple[int, int]:
    """Requests for the model that the engine takes at once (at least one), and how many of these more it takes now."""
    if facts.busy is None:
        slots, taken = facts.slots or 1, facts.in_flight
    else:
        slots, taken = model.slots or facts.slots or 1, facts.busy.get(model.key, 0)
    return slots, slots - taken if slots > taken else 0
