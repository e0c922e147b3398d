"""Placements, what a planner decides, and drains."""

import pytest
from catalog_world import (
    World,
    assigning,
    does_nothing,
    founded,
    founder,
    id_of,
    joining,
    key_of,
    meta,
    placing,
    refusal,
    token,
)
from msgspec import structs

from ollamamax.core.catalog import records
from ollamamax.core.catalog.apply import apply
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import (
    DropPlacement,
    EndDrain,
    RemoveNode,
    SetAddresses,
    SetCordon,
    SetDrain,
    TakePlanner,
)
from ollamamax.core.catalog.records import Planner
from ollamamax.core.errors import BadRequest, Conflict, NodeNotFound, NotFound
from ollamamax.core.types import Drain, Put, StateEntry, StateRange
from ollamamax.core.types.state import check_txn

ONE, TWO = id_of(1), id_of(2)
KEY = "tiny:latest"


def planned() -> World:
    """Two nodes, the first of which plans, and a placement of two replicas."""
    return founded(token(uses=9), joining(2), TakePlanner(ONE, 5), placing(2))


def drain(**changed: object) -> SetDrain:
    fields: dict[str, object] = {"node_id": TWO, "since_ns": 10}
    return SetDrain(Drain(**{**fields, **changed}))  # type: ignore[arg-type]


# --- placements ----------------------------------------------------------------------------------------------------


def test_a_placement_tells_what_is_asked_for() -> None:
    world = founded(token(), joining(2))
    asked = placing(3, (TWO, ONE, TWO), labels={"gpu": "a100"}, max_replicas=5, idle_ms=0)
    world.run(asked)
    assert world.catalog.placements == {KEY: structs.replace(asked.record, pins=(ONE, TWO))}
    does_nothing(world, asked)
    does_nothing(world, placing(3, (ONE, TWO), labels={"gpu": "a100"}, max_replicas=5, idle_ms=0, changed_ns=7))
    world.run(placing(0))
    assert world.catalog.placements[KEY] == placing(0).record


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"name": "tiny"}, "name of a model"),
        ({"replicas": -1}, "0 to 1000 replicas, not -1"),
        ({"replicas": 1_001}, "0 to 1000 replicas, not 1001"),
        ({"pins": ("x",)}, "node id"),
        ({"pins": (ONE, TWO), "replicas": 1}, "2 pins need as many replicas, not 1"),
        ({"labels": {"Zone": ""}}, "label key"),
        ({"labels": {f"l{number}": "" for number in range(65)}}, "64 labels at most"),
        ({"replicas": 3, "max_replicas": 2}, "3 to 1000 replicas, not 2"),
        ({"max_replicas": 1_001}, "1 to 1000 replicas, not 1001"),
        ({"idle_ms": -1}, "ms, not -1"),
        ({"idle_ms": 30 * 86_400_000 + 1}, "ms, not 2592000001"),
    ],
)
def test_a_placement_is_of_the_grammar(changed: dict[str, object], text: str) -> None:
    assert text in refusal(founded(token(), joining(2)), placing(**changed), BadRequest)  # type: ignore[arg-type]


def test_what_is_not_asked_for_any_more_is_not_decided_either() -> None:
    world = planned()
    world.run(assigning(world.catalog, {ONE: 2}))
    world.run(DropPlacement("TINY:latest"))
    assert world.catalog.placements == world.catalog.assignments == {}
    assert "nothing is asked of the model 'tiny:latest'" in refusal(world, DropPlacement(KEY), NotFound)
    refusal(world, DropPlacement("tiny"), BadRequest)


# --- the planner ---------------------------------------------------------------------------------------------------


def test_one_node_plans_at_a_time() -> None:
    world = founded(token(), joining(2))
    world.run(TakePlanner(ONE, 5))
    assert world.catalog.planner == ONE
    assert world.catalog.stored["planner"].lease_id == 5
    does_nothing(world, TakePlanner(ONE, 5))
    assert "node ada decides" in refusal(world, TakePlanner(TWO, 6), Conflict)
    world.run(TakePlanner(ONE, 7))
    assert world.catalog.stored["planner"].lease_id == 7
    refusal(world, TakePlanner(ONE, 0), BadRequest)


def test_who_was_removed_plans_no_more() -> None:
    world = founded(token(), joining(2), TakePlanner(TWO, 5), RemoveNode(TWO, 1))
    assert "planner" in world.catalog.stored, "until its lease ends"
    assert world.catalog.planner == ""
    world.run(TakePlanner(ONE, 6))
    assert world.catalog.planner == ONE


def test_a_decision_is_written() -> None:
    world = planned()
    decision = assigning(world.catalog, {TWO: 1, ONE: 1}, why=("ada has it",))
    world.run(decision)
    decided = world.catalog.assignments[KEY]
    assert list(decided.nodes.items()) == [(ONE, 1), (TWO, 1)]
    assert decided.why == ("ada has it",)
    does_nothing(world, decision)
    does_nothing(world, structs.replace(decision, record=structs.replace(decision.record, decided_ns=9)))


def test_a_decision_counts_while_all_is_as_it_was_seen() -> None:
    world = planned()
    early = assigning(world.catalog, {ONE: 2})
    world.run(assigning(world.catalog, {TWO: 2}))
    assert "was decided meanwhile: plan it anew" in refusal(world, early, Conflict)
    late = assigning(world.catalog, {ONE: 2})
    world.run(placing(1))
    assert "has changed meanwhile: plan it anew" in refusal(world, late, Conflict)
    world.run(assigning(world.catalog, {ONE: 1}))


def test_only_the_planner_decides() -> None:
    world = planned()
    assert "node bob does not decide" in refusal(world, assigning(world.catalog, {ONE: 2}, planner=2), Conflict)
    assert id_of(9) in refusal(world, assigning(world.catalog, {ONE: 2}, planner=9), Conflict)


def test_only_members_that_can_are_chosen() -> None:
    world = planned()
    refusal(world, assigning(world.catalog, {id_of(9): 2}), NodeNotFound)
    world.run(SetAddresses(TWO, (), "0.9", 1))
    assert "upgrade bob (0.9)" in refusal(world, assigning(world.catalog, {TWO: 2}), Conflict)
    world.run(assigning(world.catalog, {ONE: 2}))


def test_a_model_that_nobody_placed_may_be_decided_and_forgotten() -> None:
    world = founded(TakePlanner(ONE, 5))
    nothing = assigning(world.catalog, {})
    does_nothing(world, nothing)
    world.run(assigning(world.catalog, {ONE: 1}))
    assert world.catalog.assignments[KEY].nodes == {ONE: 1}
    assert "was decided meanwhile" in refusal(world, nothing, Conflict)
    gone = assigning(world.catalog, {})
    world.run(gone)
    assert world.catalog.assignments == {}
    does_nothing(world, gone)


def test_a_decision_for_nobody_stands_while_something_is_asked() -> None:
    world = founded(TakePlanner(ONE, 5), placing(2))
    world.run(assigning(world.catalog, {}, missing=2, why=("no memory",)))
    assert world.catalog.assignments[KEY].missing == 2
    world.run(placing(0))
    world.run(assigning(world.catalog, {}))
    assert world.catalog.assignments[KEY].nodes == {}


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "tiny"},
        {"nodes": {"x": 1}},
        {"nodes": {ONE: 0}},
        {"nodes": {ONE: 1_001}},
        {"missing": -1},
        {"nodes": {ONE: 1}, "missing": 1_000},
        {"why": ("a\nb",)},
    ],
)
def test_a_decision_is_of_the_grammar(changed: dict[str, object]) -> None:
    world = planned()
    decision = assigning(world.catalog, {ONE: 1})
    wrong = structs.replace(decision, record=structs.replace(decision.record, **changed))
    refusal(world, wrong, BadRequest)


def test_reasons_are_cut_to_what_a_person_reads() -> None:
    world = planned()
    world.run(assigning(world.catalog, {ONE: 2}, why=("x" * 1_000,) * 1_000))
    assert world.catalog.assignments[KEY].why == ("x" * 400,) * 64


def test_the_largest_decision_fits_into_the_state() -> None:
    everyone = [
        founder(node_id=id_of(number), name=f"n{number}", key_hash=key_of(number)) for number in range(1, 1_001)
    ]
    told = {records.META_KEY: meta(), records.PLANNER_KEY: Planner(ONE)}
    told |= {records.node_key(node.node_id): node for node in everyone}
    entries = tuple(StateEntry(key, records.encode(record), 1, 1) for key, record in told.items())
    catalog = Catalog.from_range(StateRange(1, entries))
    wish = placing(
        1_000, tuple(node.node_id for node in everyone), labels={f"l{it}" * 21: "v" * 63 for it in range(64)}
    )
    decision = assigning(catalog, {node.node_id: 1 for node in everyone}, why=("\U0001f642" * 400,) * 64)
    for command in (wish, decision):
        check_txn(apply(catalog, command))


# --- drains --------------------------------------------------------------------------------------------------------


def test_a_drained_node_takes_no_work() -> None:
    world = founded(token(), joining(2))
    assert world.catalog.takes_work(TWO)
    world.run(drain())
    assert world.catalog.drains == {TWO: drain().record}
    assert not world.catalog.takes_work(TWO)
    does_nothing(world, drain())
    does_nothing(world, drain(since_ns=50))
    world.run(drain(since_ns=50, deadline_ns=60, on_timeout="keep"))
    assert world.catalog.drains[TWO] == drain(deadline_ns=60, on_timeout="keep").record
    world.run(EndDrain(TWO))
    assert world.catalog.takes_work(TWO)
    does_nothing(world, EndDrain(TWO))


def test_a_drain_that_ends_leaves_a_cordon_alone() -> None:
    world = founded(token(), joining(2), SetCordon(TWO, True), drain(), EndDrain(TWO))
    assert not world.catalog.takes_work(TWO)
    assert not world.catalog.takes_work(id_of(9)), "who is no member"


@pytest.mark.parametrize("changed", [{"deadline_ns": 10}, {"deadline_ns": -1}, {"on_timeout": "flee"}])
def test_a_drain_is_of_the_grammar(changed: dict[str, object]) -> None:
    refusal(founded(token(), joining(2)), drain(**changed), BadRequest)


def test_a_drain_is_written_under_no_lease() -> None:
    (write,) = founded(token(), joining(2)).run(drain()).writes
    assert isinstance(write, Put)
    assert write.lease_id == 0
