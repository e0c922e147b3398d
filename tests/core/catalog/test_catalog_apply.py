"""Each command by hand: what it writes, when it is refused and in which words, and that a repeat does no harm."""

import pytest
from catalog_world import (
    CLUSTER,
    SECRETS,
    World,
    assigning,
    does_nothing,
    founded,
    founder,
    founding,
    id_of,
    joining,
    key_of,
    meta,
    moved,
    placing,
    refusal,
    token,
)
from msgspec import structs

from ollamamax.core.catalog import records
from ollamamax.core.catalog.commands import (
    AddToken,
    BeginMove,
    ChangeSettings,
    Command,
    DropModel,
    DropToken,
    EndDrain,
    FoundCluster,
    RemoveNode,
    RenameNode,
    SetAddresses,
    SetCordon,
    SetDrain,
    SetInstance,
    SetLabels,
    SetModel,
    SweepTokens,
    TakePlanner,
)
from ollamamax.core.errors import (
    BadRequest,
    Conflict,
    NodeConflict,
    NodeNotFound,
    NotFound,
    TokenRefused,
)
from ollamamax.core.types import Compare, Delete, DeletedModel, Drain, ModelEntry, RevokedNode, StateHome

MODEL = ModelEntry(name="Tiny:latest", digest="d" * 64, size_bytes=5, changed_ns=1)
OTHER = structs.replace(MODEL, digest="e" * 64)
OF_MEMBERS: list[Command] = [
    RenameNode(id_of(7), "eve"),
    SetAddresses(id_of(7), (), "1.0"),
    SetLabels(id_of(7)),
    SetCordon(id_of(7), True),
    SetInstance(id_of(7), "i", 1),
    RemoveNode(id_of(7), 1),
    TakePlanner(id_of(7), 1),
    SetDrain(Drain(node_id=id_of(7), since_ns=1)),
    EndDrain(id_of(7)),
    placing(1, (id_of(7),)),
    ChangeSettings(1, {"a": "1"}, node_id=id_of(7)),
    BeginMove(StateHome(kind="etcd", hosts=(id_of(7),)), id_of(1)),
    BeginMove(StateHome(kind="etcd", hosts=(id_of(1),)), id_of(7)),
]


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


# --- nodes ---------------------------------------------------------------------------------------------------------


def test_a_removed_node_is_gone_and_remembered() -> None:
    world = founded(
        token(),
        joining(2),
        SetInstance(id_of(2), "i2", 1),
        SetDrain(Drain(node_id=id_of(2), since_ns=1)),
        placing(2, (id_of(1), id_of(2))),
        ChangeSettings(1, {"a.b": "1"}, node_id=id_of(2)),
        TakePlanner(id_of(2), 1),
    )
    world.run(assigning(world.catalog, {id_of(1): 1, id_of(2): 1}, planner=2))
    world.run(RemoveNode(id_of(2), 77))
    assert list(world.catalog.nodes) == [id_of(1)]
    assert world.catalog.instances == {}
    gone = RevokedNode(node_id=id_of(2), name="bob", key_hash=key_of(2), removed_ns=77)
    assert world.catalog.revoked == {id_of(2): gone}
    assert f"drains/{id_of(2)}" not in world.catalog.stored
    assert world.catalog.placements["tiny:latest"].pins == (id_of(1),)
    assert world.catalog.assignments["tiny:latest"].nodes == {id_of(1): 1}
    assert world.catalog.settings.node_values == {}
    assert world.catalog.planner == ""
    does_nothing(world, RemoveNode(id_of(2), 78))


def test_the_holder_is_not_removed() -> None:
    assert "the cluster's state lives there" in refusal(founded(), RemoveNode(id_of(1), 1), Conflict)


def test_a_node_that_the_state_needs_is_not_removed() -> None:
    world = founded(token(uses=9), joining(2), joining(3))
    moved(world, "etcd", 2, 3)
    text = refusal(world, RemoveNode(id_of(2), 1), Conflict)
    assert "`ollamamax cluster ha replace bob`" in text
    world.run(RemoveNode(id_of(1), 1))
    assert world.catalog.holder == world.catalog.nodes[id_of(2)]


def test_an_external_state_needs_one_host() -> None:
    world = founded(token(uses=9), joining(2))
    moved(world, "external", 1, 2)
    world.run(RemoveNode(id_of(1), 1))
    assert world.catalog.home.hosts == (id_of(2),)
    refusal(world, RemoveNode(id_of(2), 1), Conflict)


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
    assert world.run(DropToken(id_of(1))).compares == (Compare("state/home", 0),)
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
    assert world.run(DropModel("TINY:latest")).writes[0] == Delete("models/tiny:latest")
    assert "knows no model" in refusal(world, DropModel("tiny:latest"), NotFound)


def test_a_deletion_is_remembered_until_the_name_stands_for_it_again() -> None:
    world = founded(SetModel(MODEL), SetModel(OTHER))
    world.run(DropModel("tiny:latest", at_ns=9))
    gone = DeletedModel(name="tiny:latest", digests=(OTHER.digest,), deleted_ns=9, next_sequence=2)
    assert world.catalog.deleted["tiny:latest"] == structs.replace(gone, name=OTHER.name)
    assert "was deleted" in refusal(world, SetModel(OTHER, replaces_digest=""), Conflict)
    world.run(SetModel(MODEL, replaces_digest=""))
    assert "tiny:latest" in world.catalog.deleted, "the other one is still deleted"
    world.run(DropModel("tiny:latest", at_ns=10))
    assert world.catalog.deleted["tiny:latest"].digests == (OTHER.digest, MODEL.digest)
    world.run(SetModel(OTHER))
    assert world.catalog.deleted["tiny:latest"].digests == (MODEL.digest,)
    world.run(SetModel(MODEL))
    assert not world.catalog.deleted


def test_old_deletions_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "DELETIONS_KEPT", 3)
    monkeypatch.setattr(records, "DIGESTS_KEPT", 2)
    world = founded()
    for number in range(5):
        world.run(SetModel(structs.replace(MODEL, name=f"m{number}:latest")))
        world.run(DropModel(f"m{number}:latest", at_ns=10 - number))
    assert set(world.catalog.deleted) == {"m0:latest", "m1:latest", "m4:latest"}
    for digit in "abc":
        world.run(SetModel(structs.replace(MODEL, name="m4:latest", digest=digit * 64)))
        world.run(DropModel("m4:latest", at_ns=20))
    assert world.catalog.deleted["m4:latest"].digests == ("b" * 64, "c" * 64)


@pytest.mark.parametrize("changed", [{"name": "tiny"}, {"digest": "sha256:" + "d" * 64}, {"size_bytes": -1}])
def test_a_model_is_of_the_grammar(changed: dict[str, object]) -> None:
    refusal(founded(), SetModel(structs.replace(MODEL, **changed)), BadRequest)
