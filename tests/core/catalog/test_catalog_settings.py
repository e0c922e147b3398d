"""The settings that all share: versions of them, what is kept, and the way back."""

import pytest
from catalog_world import World, does_nothing, founded, id_of, joining, refusal, token

from ollamamax.core.catalog.commands import ChangeSettings, RemoveNode, RollbackSettings
from ollamamax.core.errors import BadRequest, Conflict, NotFound
from ollamamax.core.types import ClusterSettings

TWO = id_of(2)


def with_bob(*changes: ChangeSettings) -> World:
    return founded(token(), joining(2), *changes)


def test_a_change_is_a_version() -> None:
    world = founded()
    assert world.catalog.settings == ClusterSettings()
    world.run(ChangeSettings(5, {"b.two": "2", "a": ""}, by="ada"))
    first = ClusterSettings(
        version=1, values={"a": "", "b.two": "2"}, changed_ns=5, by="ada", change="a: unset -> , b.two: unset -> 2"
    )
    assert world.catalog.settings == first
    world.run(ChangeSettings(6, {"b.two": "3"}, ("a", "never")))
    second = ClusterSettings(version=2, values={"b.two": "3"}, changed_ns=6, change="a:  -> unset, b.two: 2 -> 3")
    assert world.catalog.settings == second
    assert dict(world.catalog.history) == {1: first, 2: second}


def test_a_change_of_nothing_is_no_version() -> None:
    world = founded(ChangeSettings(1, {"a": "1"}))
    does_nothing(world, ChangeSettings(2, {"a": "1"}, ("b",)))
    does_nothing(world, ChangeSettings(2, {"a": "1"}, expected=0))


def test_a_node_can_have_values_of_its_own() -> None:
    world = with_bob(ChangeSettings(1, {"a": "1"}))
    world.run(ChangeSettings(2, {"a": "2"}, node_id=TWO))
    world.run(ChangeSettings(3, {"b": "3"}, node_id=id_of(1)))
    settings = world.catalog.settings
    assert (settings.values, settings.node_values) == ({"a": "1"}, {id_of(1): {"b": "3"}, TWO: {"a": "2"}})
    assert [it.change for it in world.catalog.history.values()] == [
        "a: unset -> 1",
        "bob: a: unset -> 2",
        "ada: b: unset -> 3",
    ]
    world.run(ChangeSettings(4, unset=("a",), node_id=TWO))
    assert world.catalog.settings.node_values == {id_of(1): {"b": "3"}}
    does_nothing(world, ChangeSettings(4, unset=("a",), node_id=TWO))


def test_a_change_may_count_on_a_version() -> None:
    world = founded(ChangeSettings(1, {"a": "1"}, expected=0), ChangeSettings(1, {"a": "2"}, expected=1))
    text = refusal(world, ChangeSettings(1, {"a": "3"}, expected=1), Conflict)
    assert "they have version 2, not 1" in text
    refusal(world, RollbackSettings(1, 1, expected=1), Conflict)
    world.run(RollbackSettings(1, 1, expected=2))


@pytest.mark.parametrize(
    "command",
    [
        ChangeSettings(1, {"A": "1"}),
        ChangeSettings(1, {"a.": "1"}),
        ChangeSettings(1, {"a" * 129: "1"}),
        ChangeSettings(1, {"a": "x" * 1_025}),
        ChangeSettings(1, {"a": "x\ny"}),
        ChangeSettings(1, unset=("",)),
        ChangeSettings(1, {"a": "1"}, by="x" * 129),
        ChangeSettings(1, {"a": "1"}, by="\x1b"),
    ],
)
def test_settings_are_of_the_grammar(command: ChangeSettings) -> None:
    refusal(founded(), command, BadRequest)


def test_settings_are_of_bounded_size() -> None:
    much = {f"s{number}": "x" * 1_000 for number in range(60)}
    world = founded(ChangeSettings(1, much))
    assert "65536 bytes at most" in refusal(
        world, ChangeSettings(2, much | {"t": "x" * 1_000}, node_id=id_of(1)), BadRequest
    )
    assert len(world.catalog.settings.change) == 400
    assert world.catalog.settings.change.endswith("...")


def test_the_newest_hundred_are_kept() -> None:
    world = founded(*(ChangeSettings(1, {"a": str(number)}) for number in range(1, 131)))
    assert list(world.catalog.history) == list(range(31, 131))
    assert "settings/v/0000000030" not in world.catalog.stored
    text = refusal(world, RollbackSettings(30, 1), NotFound)
    assert "no version 30 of the cluster's settings: 31 to 130 are kept" in text
    world.run(RollbackSettings(31, 1))
    assert world.catalog.settings.values == {"a": "31"}


def test_the_way_back_is_a_version_too() -> None:
    world = with_bob(ChangeSettings(1, {"a": "1"}), ChangeSettings(2, {"b": "2"}, node_id=TWO))
    world.run(RollbackSettings(1, 9, "ada"))
    assert world.catalog.settings == ClusterSettings(
        version=3, values={"a": "1"}, changed_ns=9, by="ada", change="as they were in version 1"
    )
    does_nothing(world, RollbackSettings(1, 10, "ada"))
    does_nothing(world, RollbackSettings(3, 10, "ada"))
    world.run(RollbackSettings(2, 11))
    assert world.catalog.settings.node_values == {TWO: {"b": "2"}}
    world.run(RollbackSettings(0, 12))
    assert (world.catalog.settings.values, world.catalog.settings.node_values) == ({}, {})


def test_there_is_no_way_to_what_never_was() -> None:
    assert "nothing was set yet" in refusal(founded(), RollbackSettings(1, 1), NotFound)
    does_nothing(founded(), RollbackSettings(0, 1))
    refusal(founded(ChangeSettings(1, {"a": "1"})), RollbackSettings(2, 1), NotFound)
    refusal(founded(ChangeSettings(1, {"a": "1"})), RollbackSettings(-1, 1), NotFound)


def test_the_way_back_leaves_out_who_has_gone() -> None:
    world = with_bob(ChangeSettings(1, {"b": "2"}, node_id=TWO))
    world.run(RemoveNode(TWO, 1))
    does_nothing(world, RollbackSettings(1, 2))
    assert world.catalog.history[1].node_values == {TWO: {"b": "2"}}, "what was, was"
    world.run(ChangeSettings(3, {"a": "1"}))
    world.run(RollbackSettings(1, 4))
    assert world.catalog.settings.node_values == {}
