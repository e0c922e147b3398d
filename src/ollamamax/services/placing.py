"""Placements for people: what was asked for, where it runs, why, and what would become of a wish."""

from collections.abc import AsyncGenerator, Sequence
from typing import Final

from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import DropPlacement, SetPlacement
from ollamamax.core.errors import ModelNotFound, NotFound, StateUnavailable
from ollamamax.core.modelspec import names
from ollamamax.core.placement.board import wanted
from ollamamax.core.placement.plan import Plan, plan
from ollamamax.core.types import (
    Assignment,
    Placement,
    PlacementPlan,
    PlacementView,
    PlacementWish,
    Progress,
    ReplicasView,
)
from ollamamax.ports import Clock
from ollamamax.services.capacity import Capacities, Picture
from ollamamax.services.control import Control
from ollamamax.services.replica import Replica
from ollamamax.services.spreading import Spread

_NOTHING: Final = Assignment(name="", nodes={}, decided_ns=0)


class Placements:
    """model: a name as people write it."""

    def __init__(
        self, replica: Replica, control: Control, capacities: Capacities, spread: Spread, clock: Clock
    ) -> None:
        self._replica = replica
        self._control = control
        self._capacities = capacities
        self._spread = spread
        self._clock = clock

    # --- looking ----------------------------------------------------------------------------------------------------

    def all(self) -> Sequence[PlacementView]:
        """By name."""
        catalog = self._replica.catalog
        picture = self._capacities.picture(catalog, catalog.placements)
        return [_view(catalog, picture, key) for key in sorted(catalog.placements)]

    def one(self, model: str) -> PlacementView:
        """Raises: NotFound."""
        key = self._placed(model)
        catalog = self._replica.catalog
        return _view(catalog, self._capacities.picture(catalog, (key,)), key)

    def explained(self, model: str) -> PlacementPlan:
        """Why it runs where it does, by what is known now. Raises: NotFound."""
        key = self._placed(model)
        return self._planned(key, self._replica.catalog.placements[key])

    def explain(self, model: str, wish: PlacementWish) -> PlacementPlan:
        """What would be decided. Changes nothing. Raises: InvalidName, ModelNotFound, NodeNotFound."""
        placement = self._placement(model, wish)
        return self._planned(names.key(placement.name), placement)

    # --- changing ---------------------------------------------------------------------------------------------------

    async def place(self, model: str, wish: PlacementWish) -> PlacementView:
        """Have it run like that, whatever was asked for before.

        Raises: InvalidName, ModelNotFound, NodeNotFound, BadRequest, Conflict while a member's program is too old,
        StateUnavailable.
        """
        await self._control.run(SetPlacement(self._placement(model, wish)))
        return self.one(model)

    async def remove(self, model: str) -> None:
        """Nobody asks any more that it runs. Raises: NotFound, StateUnavailable."""
        await self._control.run(DropPlacement(self._replica.catalog.placements[self._placed(model)].name))

    def spread(self, model: str, nodes: str) -> AsyncGenerator[Progress, None]:
        """As Spread.spread."""
        return self._spread.spread(model, nodes)

    # --- parts ------------------------------------------------------------------------------------------------------

    def _placed(self, model: str) -> str:
        """The key of a model that was placed. Raises: NotFound."""
        key = names.key(model)
        if key not in self._replica.catalog.placements:
            raise NotFound(f"nothing is asked of model '{model}': `ollamamax placements` lists those that are placed")
        return key

    def _placement(self, model: str, wish: PlacementWish) -> Placement:
        name = names.parse(model)
        catalog = self._replica.catalog
        entry = catalog.models.get(name.key)
        if entry is None:
            raise ModelNotFound(f"model '{model}' is on no node of the cluster: `ollamamax pull {model}` gets it")
        return Placement(
            name=entry.name,
            replicas=wish.replicas,
            changed_ns=self._clock.wall_ns(),
            pins=tuple(catalog.node(pin).node_id for pin in wish.pins),
            labels=wish.labels,
            max_replicas=wish.max_replicas,
            idle_ms=wish.idle_ms,
        )

    def _planned(self, key: str, placement: Placement) -> PlacementPlan:
        """Raises: StateUnavailable before all nodes have told of themselves."""
        catalog = self._replica.catalog
        standing = catalog.placements.get(key)
        placements = dict(catalog.placements)
        placements[key] = placement
        if standing is not None and _asks(standing) == _asks(placement):
            placements[key] = standing
        picture = self._capacities.picture(catalog, placements)
        if not picture.is_whole:
            raise StateUnavailable("not all nodes have told of themselves yet: try again in a moment")
        extra = {one: _extra(catalog, one) for one in catalog.placements}
        made = plan(placements, picture.nodes, picture.models, catalog.assignments, self._clock.wall_ns(), extra)
        titles = {node.node_id: node.name for node in picture.nodes}
        decided = made.assignments[key]
        return PlacementPlan(
            name=placement.name,
            nodes={titles[node_id]: count for node_id, count in decided.nodes.items()},
            missing=decided.missing,
            text=_text(made, key, picture),
            moves=tuple(_move(catalog, made, other, titles) for other in made.changed if other != key),
        )


def _asks(placement: Placement) -> object:
    """What is asked for, apart from when."""
    return (
        placement.replicas, frozenset(placement.pins), placement.labels, placement.max_replicas, placement.idle_ms
    )  # fmt: skip


def _extra(catalog: Catalog, key: str) -> int:
    """Replicas on top, as they were decided."""
    assigned = sum(catalog.assignments.get(key, _NOTHING).nodes.values())
    return max(0, assigned - wanted(catalog.placements[key]))


def _text(made: Plan, key: str, picture: Picture) -> str:
    text = made.decision(key).explain()
    need = picture.needs.get(key)
    if need is not None and need.is_guess:
        text += "\n!  no node could tell what a replica needs; it was guessed from the size of the files"
    return text


def _move(catalog: Catalog, made: Plan, key: str, titles: dict[str, str]) -> str:
    before, after = catalog.assignments.get(key, _NOTHING), made.assignments[key]
    return f"{after.name}: {_where(before, titles)} -> {_where(after, titles)}"


def _where(assignment: Assignment, titles: dict[str, str]) -> str:
    words = [titles[node_id] + (f" x{count}" if count > 1 else "") for node_id, count in assignment.nodes.items()]
    words += [f"{assignment.missing} without a place"] if assignment.missing else []
    return ", ".join(words) or "nowhere"


def _view(catalog: Catalog, picture: Picture, key: str) -> PlacementView:
    placement, assignment = catalog.placements[key], catalog.assignments.get(key, _NOTHING)
    need = picture.needs.get(key)
    nodes = tuple(
        ReplicasView(
            node=node.name,
            replicas=assignment.nodes[node.node_id],
            ready=min(assignment.nodes[node.node_id], node.ready.get(key, 0)) if not node.gone_since_ns else 0,
        )
        for node in picture.nodes
        if node.node_id in assignment.nodes
    )
    return PlacementView(
        name=placement.name,
        replicas=placement.replicas,
        ready=sum(one.ready for one in nodes),
        missing=assignment.missing,
        extra=_extra(catalog, key),
        nodes=nodes,
        pins=tuple(_title(catalog, pin) for pin in placement.pins),
        labels=placement.labels,
        max_replicas=placement.max_replicas,
        idle_ms=placement.idle_ms,
        need_bytes=need.model.replica_bytes if need is not None else 0,
        is_guess=need is not None and need.is_guess,
        why=assignment.why,
        changed_ns=placement.changed_ns,
        decided_ns=assignment.decided_ns,
    )


def _title(catalog: Catalog, node_id: str) -> str:
    return catalog.nodes[node_id].name
