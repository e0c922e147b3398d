"""Where models run: what people ask for, what the planner decides, which nodes are emptied.

There is one planner at a time, by a key under its lease. What it decides counts only while the placement and the
assignment are as it saw them, so two that both think they plan do no harm.
"""

from msgspec import structs

from ollamamax.core.catalog import grammar, records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import (
    DropPlacement,
    EndDrain,
    SetAssignment,
    SetDrain,
    SetPlacement,
    TakePlanner,
)
from ollamamax.core.catalog.records import PLACED_LEVEL, Planner
from ollamamax.core.catalog.transactions import changes, member, name_of, put, require_level, txn
from ollamamax.core.errors import BadRequest, Conflict, NotFound
from ollamamax.core.types import Assignment, Delete, Drain, Placement, StateTxn


def set_placement(catalog: Catalog, command: SetPlacement) -> StateTxn:
    """Raises: BadRequest, NodeNotFound for a pin."""
    asked = _checked_placement(command.record)
    for node_id in asked.pins:
        member(catalog, node_id)
    key = records.placement_key(asked.name)
    standing = catalog.placements.get(grammar.model_key(asked.name))
    is_known = standing is not None and structs.replace(standing, changed_ns=asked.changed_ns) == asked
    return txn(catalog, (key,), *(() if is_known else (put(key, asked),)))


def _checked_placement(asked: Placement) -> Placement:
    """The record with each pin once, sorted. Raises: BadRequest."""
    grammar.model_key(asked.name)
    grammar.labels(asked.labels)
    pins = tuple(sorted({grammar.node_id(pin) for pin in asked.pins}))
    if not 0 <= asked.replicas <= grammar.MAX_REPLICAS:
        raise BadRequest(f"a model has 0 to {grammar.MAX_REPLICAS} replicas, not {asked.replicas}")
    if len(pins) > asked.replicas:
        raise BadRequest(f"{len(pins)} pins need as many replicas, not {asked.replicas}: each pin runs one")
    if asked.max_replicas and not asked.replicas <= asked.max_replicas <= grammar.MAX_REPLICAS:
        raise BadRequest(
            f"at most there are {asked.replicas} to {grammar.MAX_REPLICAS} replicas, not {asked.max_replicas}; "
            "0 = no more than are asked for"
        )
    if not 0 <= asked.idle_ms <= grammar.MAX_IDLE_MS:
        raise BadRequest(f"an extra replica is idle for 0 to {grammar.MAX_IDLE_MS} ms, not {asked.idle_ms}")
    return structs.replace(asked, pins=pins)


def drop_placement(catalog: Catalog, command: DropPlacement) -> StateTxn:
    """Raises: BadRequest, NotFound."""
    key = records.placement_key(command.name)
    if key not in catalog.stored:
        raise NotFound(f"nothing is asked of the model {grammar.shown(command.name)}: `ollamamax placements` lists all")
    return txn(catalog, (key,), Delete(key), Delete(records.assignment_key(command.name)))


def set_assignment(catalog: Catalog, command: SetAssignment) -> StateTxn:
    """Raises: BadRequest, NodeNotFound, Conflict if another node plans, or planned meanwhile, or all has changed."""
    decided = _checked_assignment(command.record)
    key, wish = records.assignment_key(decided.name), records.placement_key(decided.name)
    read = (records.PLANNER_KEY, records.ROSTER_KEY, wish, key)
    if command.planner != catalog.planner:
        raise Conflict(f"node {name_of(catalog, command.planner)} does not decide where models run (any more)")
    require_level([member(catalog, node_id) for node_id in decided.nodes], PLACED_LEVEL)
    if catalog.revision_of(wish) != command.placement_revision:
        raise Conflict(f"what is asked of the model {decided.name} has changed meanwhile: plan it anew")
    is_empty = wish not in catalog.stored and not decided.nodes and not decided.missing
    standing = catalog.assignments.get(grammar.model_key(decided.name))
    if is_empty and key not in catalog.stored:
        return txn(catalog, read)
    if standing is not None and structs.replace(standing, decided_ns=decided.decided_ns) == decided and not is_empty:
        return txn(catalog, read)
    if catalog.revision_of(key) != command.assignment_revision:
        raise Conflict(f"where the model {decided.name} runs was decided meanwhile: plan it anew")
    return txn(catalog, read, Delete(key) if is_empty else put(key, decided))


def _checked_assignment(decided: Assignment) -> Assignment:
    """The record with nodes sorted; of too many reasons the first. Raises: BadRequest."""
    grammar.model_key(decided.name)
    for node_id, replicas in decided.nodes.items():
        grammar.node_id(node_id)
        if replicas < 1:
            raise BadRequest(f"a node that is chosen runs a replica at least, not {replicas}")
    if decided.missing < 0 or sum(decided.nodes.values()) + decided.missing > grammar.MAX_REPLICAS:
        raise BadRequest(f"a model has up to {grammar.MAX_REPLICAS} replicas, those included that are missing")
    why = tuple(line[: grammar.MAX_WHY_CHARS] for line in decided.why[: grammar.MAX_WHY])
    if not all(line.isprintable() for line in why):
        raise BadRequest("a reason is one line of printable text")
    return structs.replace(decided, nodes=dict(sorted(decided.nodes.items())), why=why)


def take_planner(catalog: Catalog, command: TakePlanner) -> StateTxn:
    """Raises: NodeNotFound, BadRequest, Conflict if another node plans."""
    node = member(catalog, command.node_id)
    if command.lease_id < 1:
        raise BadRequest("a node plans under a lease: grant one first")
    if catalog.planner not in ("", node.node_id):
        raise Conflict(f"node {name_of(catalog, catalog.planner)} decides where models run already")
    key = records.PLANNER_KEY
    is_told = catalog.planner == node.node_id and catalog.stored[key].lease_id == command.lease_id
    told = () if is_told else (put(key, Planner(node.node_id), command.lease_id),)
    return txn(catalog, (records.node_key(node.node_id), key), *told)


def set_drain(catalog: Catalog, command: SetDrain) -> StateTxn:
    """Raises: NodeNotFound, BadRequest."""
    drain = command.record
    node = member(catalog, drain.node_id)
    if drain.deadline_ns and drain.deadline_ns <= drain.since_ns:
        raise BadRequest("a drain ends after it began: give it a time-out above 0, or none")
    if drain.on_timeout not in ("stop", "keep"):
        raise BadRequest(f"what is left when a drain's time is over is ended by stop or keep, not {drain.on_timeout!r}")
    key = records.drain_key(node.node_id)
    standing: Drain | None = catalog.drains.get(node.node_id)
    if standing is not None:
        drain = structs.replace(drain, since_ns=standing.since_ns)
    return txn(catalog, (records.node_key(node.node_id), key), *changes(key, standing, drain))


def end_drain(catalog: Catalog, command: EndDrain) -> StateTxn:
    """Raises: NodeNotFound."""
    node = member(catalog, command.node_id)
    key = records.drain_key(node.node_id)
    over = (Delete(key),) if key in catalog.stored else ()
    return txn(catalog, (records.node_key(node.node_id), key), *over)
