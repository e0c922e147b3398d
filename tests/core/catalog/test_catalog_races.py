"""Two commands computed from one catalog: the second fails its compares where the first one matters to it."""

import msgspec
import pytest
from catalog_world import World, founded, founder, founding, id_of, joining, meta, token
from msgspec import structs

from ollamamax.core.catalog.apply import apply
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import (
    Command,
    DropToken,
    FoundCluster,
    RemoveNode,
    RenameNode,
    SetAddresses,
    SetCordon,
    SetInstance,
    SetLabels,
    SetModel,
)
from ollamamax.core.types import ModelEntry

MODEL = ModelEntry(name="Tiny:latest", digest="d" * 64, size_bytes=5, changed_ns=1)
OTHER = structs.replace(MODEL, digest="e" * 64)


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
    ],
)
def test_the_second_of_two_is_computed_anew(first: Command, second: Command) -> None:
    world = founded(token(9), joining(9, "bob", token_number=9), token(1), token(2))
    assert not race(world, first, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (SetModel(MODEL), SetCordon(id_of(9), True)),
        (SetLabels(id_of(1), {"a": "b"}), SetLabels(id_of(9), {"a": "b"})),
        (joining(2, "eve"), SetAddresses(id_of(9), ("new:1",), "2.0")),
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
