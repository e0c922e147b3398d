"""Placements that remember what they were asked for."""

from collections.abc import AsyncGenerator, Sequence

from ollamamax.core.errors import NotFound, OllamaMaxError
from ollamamax.core.types import PlacementPlan, PlacementView, PlacementWish, Progress, ReplicasView

VIEW = PlacementView(
    name="org/tiny:latest",
    replicas=2,
    ready=1,
    missing=1,
    extra=0,
    nodes=(ReplicasView(node="alpha", replicas=1, ready=1),),
    pins=(),
    labels={},
    max_replicas=0,
    idle_ms=300_000,
    need_bytes=5,
    is_guess=False,
    why=("no room",),
    changed_ns=1,
    decided_ns=2,
)
PLAN = PlacementPlan(name=VIEW.name, nodes={"alpha": 1}, missing=1, text="why it is so")


class FakePlacements:
    """fault: raised by whatever writes."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.fault: OllamaMaxError | None = None

    def all(self) -> Sequence[PlacementView]:
        return [VIEW]

    def one(self, model: str) -> PlacementView:
        if model != "org/tiny":
            raise NotFound(f"nothing is asked of model '{model}'")
        return VIEW

    def explained(self, model: str) -> PlacementPlan:
        return PLAN

    def explain(self, model: str, wish: PlacementWish) -> PlacementPlan:
        self.asked.append(("explain", model, wish))
        return PLAN

    async def place(self, model: str, wish: PlacementWish) -> PlacementView:
        self.asked.append(("place", model, wish))
        if self.fault is not None:
            raise self.fault
        return VIEW

    async def remove(self, model: str) -> None:
        self.asked.append(("remove", model))

    async def spread(self, model: str, nodes: str) -> AsyncGenerator[Progress, None]:
        self.asked.append(("spread", model, nodes))
        yield Progress("beta: copying", total=2, completed=1)
        if self.fault is not None:
            raise self.fault
        yield Progress("success")
