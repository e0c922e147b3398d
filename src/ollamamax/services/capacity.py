"""What the nodes are worth as places for models, and what models need: the planner's inputs, from what is known now.

Deliberate limits: memory is counted as the share of a machine's whole that models may take, whatever else runs there;
what is free at the moment changes by the second, and replicas would move with it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.records import PLACED_LEVEL
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.modelspec import names
from ollamamax.core.placement.autoscale import Demand
from ollamamax.core.placement.facts import Availability, ModelNeed, NodeCapacity
from ollamamax.core.residency.machine import FIT_SHARE
from ollamamax.core.types import EngineModel, ModelEntry, NodeEngine, NodeFacts, NodeRecord
from ollamamax.ports import Clock
from ollamamax.services.members import LOCAL
from ollamamax.services.peer_members import Membership, View

GUESS_FACTOR: Final = 1.2
"""Memory that a model is thought to need whose files nobody could look into, as a multiple of their size."""
GONE_MS: Final = 2_000.0
"""A node that does not answer for so long is planned for no more: longer than a node takes to start anew."""
UNKNOWN_MS: Final = 30_000.0
"""So long a node that is there may take to tell of itself; meanwhile nothing is planned."""
_LOAD_STEPS: Final = 4


class Need(Struct, frozen=True):
    """is_guess: from the size of its files."""

    model: ModelNeed
    is_guess: bool


class Picture(Struct, frozen=True):
    """The cluster at one moment. is_whole: every node that is there has told of itself.

    needs, demands: by model key, of those that were asked for.
    """

    nodes: tuple[NodeCapacity, ...]
    needs: dict[str, Need]
    demands: dict[str, Demand]
    is_whole: bool

    @property
    def models(self) -> tuple[ModelNeed, ...]:
        """What each needs."""
        return tuple(need.model for need in self.needs.values())


class Capacities:
    """own: what this node tells of itself now."""

    def __init__(self, node_id: str, membership: Membership, own: Callable[[], NodeFacts], clock: Clock) -> None:
        self._node_id = node_id
        self._membership = membership
        self._own = own
        self._clock = clock
        self._out_since: dict[str, tuple[float, int]] = {}
        """By node, since when it is gone or says nothing: ms for us, wall ns for people."""

    def picture(self, catalog: Catalog, keys: Iterable[str]) -> Picture:
        """Of all members, and the models of these keys."""
        entries = {key: catalog.models[key] for key in keys if key in catalog.models}
        views, own = self._membership.peers(), self._own()
        told = {node_id: view.facts for node_id, view in views.items() if view.facts is not None}
        told[self._node_id] = own
        self._out_since = {node_id: since for node_id, since in self._out_since.items() if node_id in catalog.nodes}
        is_whole = True
        nodes = []
        for node_id, record in catalog.nodes.items():
            view = views.get(node_id)
            availability, gone_since_ns = self._availability(catalog, record, view)
            facts = told.get(node_id)
            if facts is None and availability is not Availability.GONE:
                is_whole = False
            nodes.append(_capacity(record, facts, entries, availability, gone_since_ns))
        there = {one.node_id for one in nodes if one.availability is not Availability.GONE}
        largest = max((one.total_bytes for one in nodes if one.availability is Availability.OPEN), default=0)
        needs = {key: _need(key, entry, told.values(), largest) for key, entry in entries.items()}
        heard = [facts for node_id, facts in told.items() if node_id in there]
        demands = {key: _demand(key, entry, heard) for key, entry in entries.items()}
        return Picture(tuple(nodes), needs, demands, is_whole)

    def _availability(self, catalog: Catalog, record: NodeRecord, view: View | None) -> tuple[Availability, int]:
        """And since when it is gone, 0 if it is not."""
        node_id = record.node_id
        if node_id != self._node_id:
            is_gone = view is None or view.state is PeerState.GONE
            if not is_gone and view is not None and view.facts is not None:
                self._out_since.pop(node_id, None)
            else:
                now_ms = self._clock.now_ms()
                since_ms, since_ns = self._out_since.setdefault(node_id, (now_ms, self._clock.wall_ns()))
                if now_ms - since_ms >= (GONE_MS if is_gone else UNKNOWN_MS):
                    return Availability.GONE, since_ns
        drain = catalog.drains.get(node_id)
        if drain is not None:
            is_over = 0 < drain.deadline_ns <= self._clock.wall_ns()
            return Availability.DRAINED if is_over else Availability.DRAINING, 0
        is_closed = record.cordoned or record.level < PLACED_LEVEL
        return Availability.CORDONED if is_closed else Availability.OPEN, 0


def ready_replicas(facts: NodeFacts, key: str, entry: ModelEntry) -> int:
    """Replicas of a model in a node's memory, under whichever name they were loaded."""
    return sum(names.key(row.name) == key or row.digest == entry.digest for row in facts.loaded)


def _pool(facts: NodeFacts) -> NodeEngine | None:
    """The node's own engines."""
    return next((engine for engine in facts.engines if engine.name == LOCAL), None)


def _capacity(
    record: NodeRecord,
    facts: NodeFacts | None,
    entries: Mapping[str, ModelEntry],
    availability: Availability,
    gone_since_ns: int,
) -> NodeCapacity:
    if facts is None:
        return NodeCapacity(
            node_id=record.node_id, name=record.name, total_bytes=0, labels=record.labels,
            availability=availability, gone_since_ns=gone_since_ns,
        )  # fmt: skip
    pool = _pool(facts)
    offered: Sequence[EngineModel] = pool.models if pool is not None else ()
    ready = {key: count for key, entry in entries.items() if (count := ready_replicas(facts, key, entry))}
    return NodeCapacity(
        node_id=record.node_id,
        name=record.name,
        total_bytes=int(facts.total_memory_bytes * FIT_SHARE),
        labels=record.labels,
        has=frozenset(model.key for model in offered if _is_of(model, entries.get(model.key))),
        ready=ready,
        load=_load(pool, len(facts.loaded)),
        availability=availability,
        gone_since_ns=gone_since_ns,
    )


def _is_of(model: EngineModel, entry: ModelEntry | None) -> bool:
    """Whether it is the version that the cluster means."""
    return entry is not None and model.record is not None and model.record.digest == entry.digest


def _load(pool: NodeEngine | None, runners: int) -> float:
    """In coarse steps, so that not each request is a reason to plan anew."""
    if pool is None or not pool.slots:
        return 0.0
    share = min(1.0, pool.in_flight / (pool.slots * max(runners, 1)))
    return math.floor(share * _LOAD_STEPS) / _LOAD_STEPS


def _need(key: str, entry: ModelEntry, told: Iterable[NodeFacts], largest_bytes: int) -> Need:
    """With as many slots as the largest node has room for: other nodes' engines then take no more."""
    for facts in told:
        pool = _pool(facts)
        for model in pool.models if pool is not None else ():
            if model.key == key and model.needs_bytes and _is_of(model, entry):
                wanted = model.needs_bytes
                need_bytes = next((need for need in wanted if need <= largest_bytes), wanted[-1])
                return Need(_model_need(key, entry, need_bytes), is_guess=False)
    return Need(_model_need(key, entry, int(entry.size_bytes * GUESS_FACTOR)), is_guess=True)


def _model_need(key: str, entry: ModelEntry, replica_bytes: int) -> ModelNeed:
    return ModelNeed(key=key, name=entry.name, replica_bytes=replica_bytes, disk_bytes=entry.size_bytes)


def _demand(key: str, entry: ModelEntry, told: Sequence[NodeFacts]) -> Demand:
    waiting = in_flight = 0
    slots: list[int] = []
    for facts in told:
        waiting += facts.waiting.get(key, 0)
        pool = _pool(facts)
        if pool is None:
            continue
        in_flight += (pool.busy or {}).get(key, 0)
        ready = ready_replicas(facts, key, entry)
        own = next((model.slots for model in pool.models if model.key == key), 0)
        slots += [own // ready if own >= ready else pool.slots for _ in range(ready)]
    return Demand(waiting, in_flight, tuple(slots))
