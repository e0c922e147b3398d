"""What another node tells of an engine, made fit for use: bounded, and without the requests that are our own.

A node counts all requests at its engine. What it told is a moment old, while a node's own accounts are of now; so
others' requests are those that it told of, less the ones that were our own when the news came. Adding our own of now
gives the load without waiting for the next news to learn that our own request has ended.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from ollamamax.core.types import NodeEngine

MAX_SLOTS: Final = 4096
MAX_COUNT: Final = 1_000_000
MAX_TOKENS: Final = 1e9
MAX_TPS: Final = 1e7
MAX_LOAD_MS: Final = 86_400_000.0


class Others(Struct, frozen=True, gc=False):
    """Load on an engine that others make; fields as of EngineFacts."""

    in_flight: int = 0
    outstanding_tokens: float = 0.0
    busy: dict[str, int] | None = None


def sound(told: NodeEngine) -> NodeEngine:
    """The same with each number within what can be; what can't be true counts as not told."""
    return replace(
        told,
        slots=_count(told.slots, MAX_SLOTS),
        models=tuple([replace(one, slots=_count(one.slots, MAX_SLOTS)) if one.slots else one for one in told.models]),
        in_flight=_count(told.in_flight, MAX_COUNT),
        outstanding_tokens=_amount(told.outstanding_tokens, MAX_TOKENS),
        prefill_tps=_amount(told.prefill_tps, MAX_TPS),
        decode_tps=_amount(told.decode_tps, MAX_TPS),
        load_ms=_amount(told.load_ms, MAX_LOAD_MS),
        busy={key: _count(count, MAX_COUNT) for key, count in told.busy.items()} if told.busy is not None else None,
    )


def others(told: NodeEngine, own_in_flight: int, own_tokens: float, own_busy: Mapping[str, int]) -> Others:
    """What others do there. own_...: our own accounts at the moment when the news came."""
    busy = None
    if told.busy is not None:
        beyond = ((key, count - own_busy.get(key, 0)) for key, count in told.busy.items())
        busy = {key: count for key, count in beyond if count > 0}
    return Others(max(told.in_flight - own_in_flight, 0), max(told.outstanding_tokens - own_tokens, 0.0), busy)


def together(busy: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Requests by model of two kinds."""
    both = dict(busy)
    for key, count in more.items():
        both[key] = both.get(key, 0) + count
    return both


def _count(value: int, limit: int) -> int:
    return min(max(value, 0), limit)


def _amount(value: float, limit: float) -> float:
    return value if isfinite(value) and 0.0 <= value <= limit else 0.0
