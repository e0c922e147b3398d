"""Joining by a token, and what the levels of the members' programs allow."""

import pytest
from catalog_world import (
    SECRETS,
    does_nothing,
    founded,
    id_of,
    joining,
    moved,
    placing,
    refusal,
    token,
)
from msgspec import structs

from ollamamax.core.catalog import levels
from ollamamax.core.catalog.apply import LEVELS
from ollamamax.core.catalog.commands import (
    BeginMove,
    ChangeSettings,
    Command,
    RemoveNode,
    RenameNode,
    RollbackSettings,
    SetAddresses,
    SetCordon,
    SetDrain,
    SetLabels,
)
from ollamamax.core.catalog.records import LEVEL
from ollamamax.core.errors import (
    BadRequest,
    Conflict,
    NodeConflict,
    TokenRefused,
)
from ollamamax.core.types import Drain, StateHome


def test_a_joining_adds_a_node_and_uses_the_token() -> None:
    world = founded(token(uses=2))
    world.run(joining(2, "bob", addresses=("BOB:1", "bob:1", "[0::1]:2")))
    node = world.catalog.nodes[id_of(2)]
    assert (node.name, node.sequence, node.joined_ns) == ("bob", 2, 100)
    assert node.addresses == ("bob:1", "[::1]:2")
    assert (node.labels, node.cordoned) == ({}, False)
    assert world.catalog.tokens[id_of(1)].uses_left == 1
    assert world.catalog.next_sequence == 3


def test_a_taken_name_gets_a_number() -> None:
    world = founded(token(uses=9), *(joining(number, "ada") for number in (2, 3, 4)))
    assert [node.name for node in world.catalog.nodes.values()] == ["ada", "ada-2", "ada-3", "ada-4"]


def test_a_number_fits_into_a_long_name() -> None:
    long = "a" * 60 + "-bc"
    world = founded(token(uses=9), joining(2, long), joining(3, long), joining(4, long))
    names = [node.name for node in world.catalog.nodes.values()]
    assert names[1:] == [long, "a" * 60 + "-2", "a" * 60 + "-3"]


def test_a_token_is_used_as_often_as_it_may() -> None:
    world = founded(token(uses=1), joining(2))
    assert "used up" in refusal(world, joining(3), TokenRefused)
    assert id_of(3) not in world.catalog.nodes


def test_a_token_expires() -> None:
    world = founded(token(expires_ns=100))
    assert "expired" in refusal(world, joining(2, at_ns=100), TokenRefused)
    world.run(joining(2, at_ns=99))


def test_a_stranger_learns_nothing() -> None:
    """Unknown token, wrong secret, wrong secret of an expired or used-up token: one text, and before all else."""
    world = founded(
        token(1), token(2, expires_ns=50), token(3), joining(3, token_number=3), RemoveNode(id_of(3), 1), token(4)
    )
    guesses = [joining(2, token_number=number, secret=SECRETS[1]) for number in (1, 2, 3, 9)]
    guesses.append(joining(1, "ada", key=7, token_number=4, secret=SECRETS[1]))
    guesses.append(joining(3, token_number=4, secret=SECRETS[1]))
    assert len({refusal(world, guess, TokenRefused) for guess in guesses}) == 1


def test_an_all_zero_hash_is_no_key_to_unknown_tokens() -> None:
    guess = structs.replace(joining(2, token_number=9), secret_hash="0" * 64)
    assert "not known" in refusal(founded(token()), guess, TokenRefused)


def test_who_joins_again_stays_who_it_was() -> None:
    world = founded(
        token(uses=1),
        joining(2),
        SetLabels(id_of(2), {"zone": "b"}),
        SetCordon(id_of(2), True),
        RenameNode(id_of(2), "eve"),
    )
    does_nothing(world, joining(2))
    before = world.catalog.nodes[id_of(2)]
    world.run(joining(2, "bob", at_ns=200, addresses=("new:1",), version="2.0"))
    assert world.catalog.nodes[id_of(2)] == structs.replace(before, addresses=("new:1",), version="2.0")
    assert world.catalog.tokens[id_of(1)].uses_left == 0


def test_who_joins_again_needs_a_token_that_lives() -> None:
    world = founded(token(expires_ns=150), joining(2))
    refusal(world, joining(2, at_ns=150), TokenRefused)
    refusal(world, joining(2, secret=SECRETS[1]), TokenRefused)


def test_an_id_or_a_key_is_one_members() -> None:
    world = founded(token(uses=9), joining(2))
    assert f"the id of node {id_of(2)}" in refusal(world, joining(2, key=3), NodeConflict)
    assert f"the key of node {id_of(3)}" in refusal(world, joining(3, key=2), NodeConflict)
    assert world.catalog.tokens[id_of(1)].uses_left == 8


def test_a_removed_node_comes_back_as_another_only() -> None:
    world = founded(token(uses=9), joining(2), RemoveNode(id_of(2), 5))
    assert "was removed" in refusal(world, joining(2), NodeConflict)
    assert "was removed" in refusal(world, joining(3, key=2), NodeConflict)
    assert "was removed" in refusal(world, joining(2, key=3), NodeConflict)
    world.run(joining(3))
    assert world.catalog.nodes[id_of(3)].name == "bob"
    assert world.catalog.nodes[id_of(3)].sequence == 3, "numbers are not given twice"


@pytest.mark.parametrize(
    "changed",
    [
        {"node_id": "x"},
        {"name": "Not A Name"},
        {"addresses": ("0.0.0.0:1",)},
        {"addresses": ("ada:1",) * 9},
        {"key_hash": "x"},
        {"version": ""},
        {"token_id": "x"},
        {"secret_hash": "\ud800"},
    ],
)
def test_a_joining_is_of_the_grammar(changed: dict[str, object]) -> None:
    refusal(founded(token()), structs.replace(joining(2), **changed), BadRequest)


# --- levels --------------------------------------------------------------------------------------------------------


def test_a_level_is_told_with_the_program() -> None:
    world = founded(token(), joining(2, level=7))
    assert world.catalog.nodes[id_of(2)].level == 7
    assert world.catalog.min_level == LEVEL
    world.run(SetAddresses(id_of(2), ("bob:1",), "1.0"))
    assert (world.catalog.nodes[id_of(2)].level, world.catalog.min_level) == (1, 1)
    world.run(joining(2, level=3))
    assert world.catalog.nodes[id_of(2)].level == 3
    for level in (0, 1_001):
        refusal(world, SetAddresses(id_of(2), (), "1.0", level), BadRequest)


@pytest.mark.parametrize(
    "command",
    [
        placing(),
        SetDrain(Drain(node_id=id_of(1), since_ns=1)),
        ChangeSettings(1, {"a": "1"}),
        RollbackSettings(0, 1),
        BeginMove(StateHome(kind="etcd", hosts=(id_of(1),)), id_of(1)),
    ],
)
def test_what_older_programs_do_not_know_waits_for_them(command: Command) -> None:
    world = founded(token(uses=9), *(joining(number, "bob", level=1) for number in range(2, 9)))
    text = refusal(world, command, Conflict)
    assert "upgrade bob (1.0), bob-2 (1.0), bob-3 (1.0), bob-4 (1.0), bob-5 (1.0) and 2 more first" in text
    for number in range(2, 9):
        assert refusal(world, command, Conflict).count("bob") == min(5, 9 - number)
        world.run(SetAddresses(id_of(number), (), "2.0", 2))
    world.run(command)


def test_people_are_told_what_waits_and_for_whom() -> None:
    assert set(levels.NEW_AT) == set(range(2, LEVEL + 1)), "each level is worth something"
    assert set(LEVELS.values()) <= set(levels.NEW_AT), "who is refused can be told before"
    world = founded(token(uses=9), joining(2, "bob", level=1), joining(3, "eve"))
    assert levels.waiting(world.catalog.nodes.values()) == (f"{levels.NEW_AT[2]} wait for bob (1.0)",)
    world.run(SetAddresses(id_of(2), (), "2.0", LEVEL))
    assert levels.waiting(world.catalog.nodes.values()) == ()


def test_an_older_program_does_not_join_where_it_would_not_find_the_state() -> None:
    world = founded(token(uses=9), joining(2))
    moved(world, "etcd", 1)
    assert "upgrade eve (0.9)" in refusal(world, joining(3, "eve", version="0.9", level=1), Conflict)
    refusal(world, joining(3, "eve", secret=SECRETS[1], level=1), TokenRefused)
    refusal(world, joining(2, level=1), Conflict)
    world.run(joining(3, "eve"))
