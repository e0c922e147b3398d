"""How many replicas on top of those asked for: one more while requests wait, one less when it was idle for long.

::

    grow    requests wait for the model without a break for `grow_after_ms`, all its replicas are ready, and the extra
            ones so far have a place: one more, up to max_replicas; then the time begins anew
    shrink  for `idle_ms` of the placement nobody waited, and all requests under way would have fitted into the slots
            of one replica less: one less; then the time begins anew

What makes it shrink is that the rest has room for what it saw; so under a steady load nobody waits afterwards, and it
does not grow again. A pause between two steps counts as if what both saw had lasted throughout.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from ollamamax.core.placement.board import most_extra, wanted
from ollamamax.core.types import Assignment, Placement

_NOTHING: Final = Assignment(name="", nodes={}, decided_ns=0)


class AutoscaleConfig(Struct, frozen=True, kw_only=True):
    """grow_after_ms: how long requests wait before there is one more replica; longer than a burst takes to pass."""

    grow_after_ms: float = 5_000.0


class Demand(Struct, frozen=True, gc=False):
    """Requests for a model, in the whole cluster. waiting: for a slot.  in_flight: being answered.

    slots: requests that each replica answers at once, one number for each that is ready.
    """

    waiting: int = 0
    in_flight: int = 0
    slots: tuple[int, ...] = ()


class _Model(Struct):
    """extra: replicas on top.  waiting_since_ms, calm_since_ms: None = it is not so now."""

    extra: int
    waiting_since_ms: float | None = None
    calm_since_ms: float | None = None


class Autoscaler:
    """The machine of all placements."""

    def __init__(self, config: AutoscaleConfig) -> None:
        assert config.grow_after_ms > 0, "a burst is no queue"
        self._config = config
        self._models: dict[str, _Model] = {}

    def step(
        self,
        placements: Mapping[str, Placement],
        assignments: Mapping[str, Assignment],
        demands: Mapping[str, Demand],
        now_ms: float,
    ) -> dict[str, int]:
        """Extra replicas by model key, as `plan` takes them. Mutates self. now_ms never decreases.

        assignments: the last plan's. A model seen for the first time has as many extra replicas as are assigned, so
        that nothing changes because another node has begun to plan.
        """
        self._models = {key: model for key, model in self._models.items() if key in placements}
        for key, placement in placements.items():
            assignment = assignments.get(key, _NOTHING)
            model = self._models.get(key)
            if model is None:
                model = self._models[key] = _Model(sum(assignment.nodes.values()) - wanted(placement))
            model.extra = max(0, min(model.extra, most_extra(placement)))
            self._step(model, placement, assignment, demands.get(key, Demand()), now_ms)
        return {key: model.extra for key, model in self._models.items() if model.extra}

    def _step(self, model: _Model, placement: Placement, assignment: Assignment, demand: Demand, now_ms: float) -> None:
        replicas = wanted(placement) + model.extra
        planned = sum(assignment.nodes.values())
        is_whole = planned + assignment.missing >= replicas and len(demand.slots) >= planned
        model.waiting_since_ms = _since(model.waiting_since_ms, demand.waiting > 0 and is_whole, now_ms)
        model.calm_since_ms = _since(model.calm_since_ms, _is_calm(demand, replicas), now_ms)
        if model.waiting_since_ms is not None and now_ms - model.waiting_since_ms >= self._config.grow_after_ms:
            if model.extra < most_extra(placement):
                model.extra += 1
            model.waiting_since_ms = None
        elif model.calm_since_ms is not None and now_ms - model.calm_since_ms >= placement.idle_ms:
            model.extra = max(0, model.extra - 1)
            model.calm_since_ms = now_ms

    def check_invariants(self) -> None:
        """P1 and P2 of docs/invariants.md. Raises: AssertionError."""
        for model in self._models.values():
            assert model.extra >= 0, "P1: extra replicas come on top"
            assert model.waiting_since_ms is None or model.calm_since_ms is None, "P2: a queue is not calm"


def _since(since_ms: float | None, is_so: bool, now_ms: float) -> float | None:
    if not is_so:
        return None
    return now_ms if since_ms is None else since_ms


def _is_calm(demand: Demand, replicas: int) -> bool:
    """Whether one replica less would do, whichever goes; where fewer are ready than planned, it already does."""
    rest = sorted(demand.slots)[: max(0, replicas - 1)]
    return demand.waiting == 0 and demand.in_flight <= sum(rest)
