"""Each command by hand: what it writes, when it is refused and in which words, and that a repeat does no harm."""

import pytest
from catalog_world import CLUSTER, SECRETS, World, founded, founder, founding, id_of, joining, key_of, meta, token
from msgspec import structs

from ollamamax.core.catalog.apply import apply
from ollamamax.core.catalog.commands import (
    AddToken,
    Command,
    DropModel,
    DropToken,
    FoundCluster,
    RemoveNode,
    RenameNode,
    SetAddresses,
    SetCordon,
    SetInstance,
    SetLabels,
    SetModel,
    SweepTokens,
)
from ollamamax.core.errors import (
    BadRequest,
    Conflict,
    NodeConflict,
    NodeNotFound,
    NotFound,
    OllamaMaxError,
    TokenRefused,
)
from ollamamax.core.types import Delete, ModelEntry, RevokedNode

MODEL = ModelEntry(name="Tiny:latest", digest="d" * 64, size_bytes=5, changed_ns=1)
OTHER = structs.replace(MODEL, digest="e" * 64)
OF_MEMBERS: list[Command] = [
    RenameNode(id_of(7), "eve"),
    SetAddresses(id_of(7), (), "1.0"),
    SetLabels(id_of(7)),
    SetCordon(id_of(7), True),
    SetInstance(id_of(7), "i", 1),
    RemoveNode(id_of(7), 1),
]


def refusal(world: World, command: Command, kind: type[OllamaMaxError]) -> str:
    with pytest.raises(kind) as caught:
        apply(world.catalog, command)
    assert type(caught.value) is kind
    return str(caught.value)


def does_nothing(world: World, command: Command) -> None:
    before = world.catalog
    txn = world.run(command)
    assert txn.writes == ()
    assert txn.compares, "that it is done can be tried"
    assert world.catalog == before


# --- founding ------------------------------------------------------------------------------------------------------


def test_founding_makes_a_cluster_of_one() -> None:
    world = World()
    world.run(FoundCluster(meta(), founder(sequence=9, addresses=("ADA:080",), labels={"zone": "b"})))
    assert world.catalog.meta == meta()
    assert world.catalog.holder == founder(addresses=("ada:80",), labels={"zone": "b"})
    assert world.catalog.next_sequence == 2
    does_nothing(world, founding())


def test_one_state_is_of_one_cluster() -> None:
    text = refusal(founded(), FoundCluster(meta(cluster_id="d" * 16), founder()), Conflict)
    assert CLUSTER in text
    usurper = FoundCluster(meta(holder_id=id_of(2)), founder(node_id=id_of(2)))
    refusal(founded(), usurper, Conflict)


def test_the_founder_holds_the_state() -> None:
    assert "has to hold the state" in refusal(World(), FoundCluster(meta(holder_id=id_of(2)), founder()), BadRequest)


@pytest.mark.parametrize("changed", [{"cluster_id": "x"}, {"name": ""}])
def test_a_cluster_has_an_id_and_a_name(changed: dict[str, object]) -> None:
    refusal(World(), FoundCluster(meta(**changed), founder()), BadRequest)


@pytest.mark.parametrize(
    "command", [*OF_MEMBERS, joining(2), token(), DropToken("x"), SweepTokens(1), SetModel(MODEL), DropModel("x")]
)
def test_without_a_cluster_nothing_can_be_done(command: Command) -> None:
    assert "no cluster here yet" in refusal(World(), command, Conflict)


# --- joining -------------------------------------------------------------------------------------------------------


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


# --- nodes ---------------------------------------------------------------------------------------------------------


def test_a_removed_node_is_gone_and_remembered() -> None:
    world = founded(token(), joining(2), SetInstance(id_of(2), "i2", 1))
    world.run(RemoveNode(id_of(2), 77))
    assert list(world.catalog.nodes) == [id_of(1)]
    assert world.catalog.instances == {}
    gone = RevokedNode(node_id=id_of(2), name="bob", key_hash=key_of(2), removed_ns=77)
    assert world.catalog.revoked == {id_of(2): gone}
    does_nothing(world, RemoveNode(id_of(2), 78))


def test_the_holder_is_not_removed() -> None:
    assert "the cluster's state lives there" in refusal(founded(), RemoveNode(id_of(1), 1), Conflict)


@pytest.mark.parametrize("command", OF_MEMBERS)
def test_who_is_no_member_is_not_changed(command: Command) -> None:
    assert id_of(7) in refusal(founded(), command, NodeNotFound)


def test_renaming() -> None:
    world = founded(token(), joining(2))
    world.run(RenameNode(id_of(2), "eve"))
    assert world.catalog.node("eve").node_id == id_of(2)
    does_nothing(world, RenameNode(id_of(2), "eve"))
    assert "taken" in refusal(world, RenameNode(id_of(2), "ada"), NodeConflict)
    refusal(world, RenameNode(id_of(2), "A"), BadRequest)


def test_addresses() -> None:
    world = founded()
    world.run(SetAddresses(id_of(1), ("ADA:1", "ada:01", "bob:2"), "2.0"))
    node = world.catalog.nodes[id_of(1)]
    assert (node.addresses, node.version) == (("ada:1", "bob:2"), "2.0")
    does_nothing(world, SetAddresses(id_of(1), ("ada:1", "bob:2"), "2.0"))
    world.run(SetAddresses(id_of(1), ("ada:1", "bob:2"), "2.1"))
    refusal(world, SetAddresses(id_of(1), ("ada",), "2.0"), BadRequest)
    refusal(world, SetAddresses(id_of(1), (), "a b"), BadRequest)


def test_labels() -> None:
    world = founded()
    world.run(SetLabels(id_of(1), {"zone": "b", "gpu": "a100"}))
    world.run(SetLabels(id_of(1), {"zone": "c"}, ("gpu", "never-there")))
    assert world.catalog.nodes[id_of(1)].labels == {"zone": "c"}
    does_nothing(world, SetLabels(id_of(1), {"zone": "c"}, ("zone",)))
    refusal(world, SetLabels(id_of(1), {"Zone": "c"}), BadRequest)
    refusal(world, SetLabels(id_of(1), {"zone": "c d"}), BadRequest)
    assert "64 labels at most, not 65" in refusal(
        world, SetLabels(id_of(1), {f"l{number}": "" for number in range(64)}), BadRequest
    )


def test_cordon() -> None:
    world = founded()
    does_nothing(world, SetCordon(id_of(1), False))
    world.run(SetCordon(id_of(1), True))
    assert world.catalog.nodes[id_of(1)].cordoned
    does_nothing(world, SetCordon(id_of(1), True))


def test_one_process_runs_as_a_node() -> None:
    world = founded()
    world.run(SetInstance(id_of(1), "first", 5))
    does_nothing(world, SetInstance(id_of(1), "first", 5))
    world.run(SetInstance(id_of(1), "first", 6))
    assert world.catalog.stored[f"instances/{id_of(1)}"].lease_id == 6
    assert "runs as another process" in refusal(world, SetInstance(id_of(1), "second", 7), NodeConflict)
    refusal(world, SetInstance(id_of(1), "second", 7, expected="third"), NodeConflict)
    world.run(SetInstance(id_of(1), "second", 7, expected="first"))
    assert world.catalog.instances == {id_of(1): "second"}


def test_an_instance_may_follow_one_that_has_gone_meanwhile() -> None:
    world = founded()
    world.run(SetInstance(id_of(1), "second", 7, expected="first"))
    assert world.catalog.instances == {id_of(1): "second"}


def test_an_instance_has_a_lease_and_a_form() -> None:
    refusal(founded(), SetInstance(id_of(1), "i", 0), BadRequest)
    refusal(founded(), SetInstance(id_of(1), "", 1), BadRequest)


# --- join tokens ---------------------------------------------------------------------------------------------------


def test_a_token_is_added_once() -> None:
    world = founded(token(uses=2), joining(2))
    does_nothing(world, token(uses=2))
    assert world.catalog.tokens[id_of(1)].uses_left == 1
    assert "draw another id" in refusal(world, token(secret=SECRETS[1]), Conflict)


@pytest.mark.parametrize("changed", [{"token_id": "x"}, {"secret_hash": "x"}, {"uses_left": 0}, {"expires_ns": 0}])
def test_a_token_is_of_the_grammar(changed: dict[str, object]) -> None:
    refusal(founded(), AddToken(structs.replace(token().record, **changed)), BadRequest)


def test_a_dropped_token_is_good_no_more() -> None:
    world = founded(token())
    assert world.run(DropToken(id_of(1))).compares == ()
    refusal(world, joining(2), TokenRefused)
    assert "join token" in refusal(world, DropToken(id_of(1)), NotFound)


def test_expired_tokens_are_swept() -> None:
    world = founded(token(1, expires_ns=10), token(2, expires_ns=11), token(3, expires_ns=12))
    world.run(SweepTokens(11))
    assert set(world.catalog.tokens) == {id_of(3)}
    assert world.run(SweepTokens(11)).writes == ()


def test_a_sweep_is_of_bounded_size() -> None:
    world = founded(*(token(number, expires_ns=10) for number in range(1, 131)))
    assert len(world.run(SweepTokens(10)).writes) == 100
    assert len(world.run(SweepTokens(10)).writes) == 30


# --- models --------------------------------------------------------------------------------------------------------


def test_a_model_stands_for_a_manifest() -> None:
    world = founded()
    world.run(SetModel(MODEL, replaces_digest=""))
    assert world.catalog.models == {"tiny:latest": MODEL}
    does_nothing(world, SetModel(structs.replace(MODEL, changed_ns=9), replaces_digest=""))
    assert "changed meanwhile" in refusal(world, SetModel(OTHER, replaces_digest=""), Conflict)
    refusal(world, SetModel(OTHER, replaces_digest=OTHER.digest), Conflict)
    world.run(SetModel(OTHER, replaces_digest=MODEL.digest))
    world.run(SetModel(MODEL))
    refusal(founded(), SetModel(MODEL, replaces_digest=MODEL.digest), Conflict)


def test_models_have_no_case_but_keep_their_writing() -> None:
    world = founded()
    world.run(SetModel(MODEL))
    world.run(SetModel(structs.replace(MODEL, name="tiny:LATEST")))
    assert [entry.name for entry in world.catalog.models.values()] == ["tiny:LATEST"]
    assert world.run(DropModel("TINY:latest")).writes == (Delete("models/tiny:latest"),)
    assert "knows no model" in refusal(world, DropModel("tiny:latest"), NotFound)


@pytest.mark.parametrize("changed", [{"name": "tiny"}, {"digest": "sha256:" + "d" * 64}, {"size_bytes": -1}])
def test_a_model_is_of_the_grammar(changed: dict[str, object]) -> None:
    refusal(founded(), SetModel(structs.replace(MODEL, **changed)), BadRequest)
