"""Two commands computed from one catalog: the second fails its compares where the first one matters to it."""

import msgspec
import pytest
from catalog_world import World, assigning, founded, founder, founding, id_of, joining, meta, moved, placing, token
from msgspec import structs

from ollamamax.core.catalog.apply import apply
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import (
    BeginMove,
    ChangeSettings,
    Command,
    DropPlacement,
    DropToken,
    EndDrain,
    FoundCluster,
    RemoveNode,
    RenameNode,
    RollbackSettings,
    SetAddresses,
    SetCordon,
    SetDrain,
    SetHosts,
    SetInstance,
    SetLabels,
    SetModel,
    SweepTokens,
    TakePlanner,
)
from ollamamax.core.catalog.records import LEVEL
from ollamamax.core.types import Drain, ModelEntry, StateHome

MODEL = ModelEntry(name="Tiny:latest", digest="d" * 64, size_bytes=5, changed_ns=1)
OTHER = structs.replace(MODEL, digest="e" * 64)
ETCD = BeginMove(StateHome(kind="etcd", hosts=(id_of(1),)), id_of(1))


def race(world: World, first: Command, second: Command) -> bool:
    """Both are computed from one catalog; whether the second one's compares hold after the first was carried out."""
    old = world.catalog
    second_txn = apply(old, second)
    assert world.try_txn(apply(old, first))
    return world.try_txn(second_txn)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (joining(2, "eve"), joining(3, "eve", token_number=2)),
        (joining(2, "eve"), joining(3, "mia", token_number=2)),
        (joining(2, "eve"), joining(3, "eve")),
        (joining(2, "eve", key=8), joining(3, "mia", key=8, token_number=2)),
        (joining(2, "eve"), RenameNode(id_of(1), "eve")),
        (RenameNode(id_of(1), "eve"), joining(2, "eve")),
        (RenameNode(id_of(1), "eve"), RenameNode(id_of(9), "eve")),
        (RemoveNode(id_of(9), 1), joining(9, "bob", addresses=("new:1",))),
        (RemoveNode(id_of(9), 1), SetLabels(id_of(9), {"a": "b"})),
        (RemoveNode(id_of(9), 1), SetInstance(id_of(9), "i", 1)),
        (RemoveNode(id_of(9), 1), joining(2, "bob")),
        (SetCordon(id_of(9), True), SetLabels(id_of(9), {"a": "b"})),
        (SetCordon(id_of(9), True), SetCordon(id_of(9), False)),
        (SetInstance(id_of(9), "i", 1), SetInstance(id_of(9), "j", 2)),
        (DropToken(id_of(1)), joining(2, "eve")),
        (SetModel(MODEL, ""), SetModel(OTHER, "")),
        (RemoveNode(id_of(9), 1), placing(1, (id_of(9),))),
        (RemoveNode(id_of(9), 1), SetDrain(Drain(node_id=id_of(9), since_ns=1))),
        (RemoveNode(id_of(9), 1), EndDrain(id_of(9))),
        (RemoveNode(id_of(9), 1), TakePlanner(id_of(9), 4)),
        (RemoveNode(id_of(9), 1), ChangeSettings(1, {"a": "1"}, node_id=id_of(9))),
        (RemoveNode(id_of(9), 1), BeginMove(StateHome(kind="etcd", hosts=(id_of(9),)), id_of(1))),
        (joining(2, "eve", level=1), placing()),
        (joining(2, "eve", level=1), ChangeSettings(1, {"a": "1"})),
        (SetAddresses(id_of(9), (), "0.9", 1), placing()),
        (joining(9, "bob", token_number=9, level=1), SetDrain(Drain(node_id=id_of(1), since_ns=1))),
        (placing(2), placing(3)),
        (placing(2), DropPlacement("tiny:latest")),
        (SetDrain(Drain(node_id=id_of(9), since_ns=1)), EndDrain(id_of(9))),
        (TakePlanner(id_of(1), 3), TakePlanner(id_of(9), 4)),
        (ChangeSettings(1, {"a": "1"}), ChangeSettings(1, {"b": "1"})),
        (ChangeSettings(1, {"a": "1"}), RollbackSettings(0, 1)),
        (ETCD, BeginMove(StateHome(kind="etcd", hosts=(id_of(9),)), id_of(9))),
        *((ETCD, it) for it in (SetModel(MODEL), SweepTokens(1), DropToken(id_of(1)), SetCordon(id_of(1), True))),
        *((ETCD, it) for it in (joining(2, "eve"), RemoveNode(id_of(9), 1), TakePlanner(id_of(1), 3))),
    ],
)
def test_the_second_of_two_is_computed_anew(first: Command, second: Command) -> None:
    world = founded(token(9, 9), joining(9, "bob", token_number=9), token(1), token(2), placing())
    assert not race(world, first, second)


@pytest.mark.parametrize(
    "first",
    [
        placing(2),
        DropPlacement("tiny:latest"),
        RemoveNode(id_of(9), 1),
        SetAddresses(id_of(9), (), "0.9", 1),
        TakePlanner(id_of(1), 9),
        ETCD,
    ],
)
def test_a_decision_is_of_what_the_planner_saw(first: Command) -> None:
    world = founded(token(9), joining(9, "bob", token_number=9), placing(), TakePlanner(id_of(1), 3))
    assert not race(world, first, assigning(world.catalog, {id_of(9): 1}))


def test_two_decisions_from_one_sight_are_one() -> None:
    world = founded(placing(), TakePlanner(id_of(1), 3))
    first, second = (assigning(world.catalog, {id_of(1): number}) for number in (1, 2))
    assert not race(world, first, second)


def test_a_removed_host_takes_no_place() -> None:
    remove, set_hosts = RemoveNode(id_of(9), 1), SetHosts((id_of(1), id_of(9)))
    for first, second in ((remove, set_hosts), (set_hosts, remove)):
        world = founded(token(9), joining(9, "bob", token_number=9))
        moved(world, "etcd", 1)
        assert not race(world, first, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (SetModel(MODEL), SetCordon(id_of(9), True)),
        (SetLabels(id_of(1), {"a": "b"}), SetLabels(id_of(9), {"a": "b"})),
        (joining(2, "eve"), SetAddresses(id_of(9), ("new:1",), "2.0", LEVEL)),
        (placing(), SetModel(MODEL)),
        (placing(), placing(name="other:latest")),
        (placing(1, (id_of(9),)), RemoveNode(id_of(9), 1)),
        (SetDrain(Drain(node_id=id_of(9), since_ns=1)), RemoveNode(id_of(9), 1)),
        (ChangeSettings(1, {"a": "1"}, node_id=id_of(9)), RemoveNode(id_of(9), 1)),
        (ChangeSettings(1, {"a": "1"}), SetCordon(id_of(9), True)),
        (joining(2, "eve"), DropToken(id_of(1))),
    ],
)
def test_two_that_do_not_meet_both_stand(first: Command, second: Command) -> None:
    world = founded(token(9), joining(9, "bob", token_number=9), token(1))
    assert race(world, first, second)


def test_two_foundings_make_one_cluster() -> None:
    other = FoundCluster(meta(cluster_id="d" * 16, holder_id=id_of(2)), founder(node_id=id_of(2)))
    world = World()
    assert not race(world, founding(), other)
    assert world.catalog.meta == meta()


def test_the_same_command_gives_the_same_transaction() -> None:
    world = founded(token(uses=9))
    again = Catalog.from_range(world.store.range())
    assert msgspec.json.encode(apply(world.catalog, joining(2))) == msgspec.json.encode(apply(again, joining(2)))
