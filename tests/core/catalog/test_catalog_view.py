"""The catalog as a view: grown and read whole, looked up in, and kept apart from what others wrote."""

from collections.abc import Callable

import pytest
from catalog_world import SECRETS, World, founded, founder, founding, id_of, joining, key_of, meta, token
from msgspec import structs

from ollamamax.core.catalog import records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import DropModel, SetInstance, SetModel
from ollamamax.core.catalog.records import Roster
from ollamamax.core.errors import NodeNotFound, StateCorrupt, StateTooNew
from ollamamax.core.types import (
    Delete,
    ModelEntry,
    NodeRecord,
    Put,
    RevokedNode,
    StateBatch,
    StateEntry,
    StateEvent,
    StateRange,
    StateTxn,
    TokenRecord,
)

MODEL = ModelEntry(name="Tiny:latest", digest="d" * 64, size_bytes=5, changed_ns=1)


def entry(key: str, value: bytes, revision: int) -> StateEntry:
    return StateEntry(key, value, revision, revision)


def everything() -> World:
    return founded(
        token(uses=9),
        joining(9, "zoe"),
        joining(2, "bob"),
        SetModel(MODEL),
        SetInstance(id_of(2), "i2", 5),
    )


def test_an_empty_catalog_has_nothing() -> None:
    catalog = Catalog.empty()
    catalog.check_invariants()
    assert catalog.revision == 0
    assert catalog.meta is None
    assert catalog.holder is None
    assert catalog.entries() == StateRange(0, ())
    assert catalog.revision_of("cluster/meta") == 0
    with pytest.raises(NodeNotFound):
        catalog.node("ada")


def test_a_catalog_shows_what_was_written() -> None:
    catalog = everything().catalog
    assert catalog.meta == meta()
    assert catalog.holder == founder()
    assert list(catalog.nodes) == [id_of(1), id_of(9), id_of(2)], "in the order of joining"
    assert [node.sequence for node in catalog.nodes.values()] == [1, 2, 3]
    assert catalog.tokens[id_of(1)].uses_left == 7
    assert catalog.models == {"tiny:latest": MODEL}
    assert catalog.instances == {id_of(2): "i2"}
    assert catalog.revision == 6
    assert catalog.revision_of(records.node_key(id_of(9))) == 3
    assert catalog.stored[records.instance_key(id_of(2))].lease_id == 5


def test_a_snapshot_makes_the_same_catalog() -> None:
    catalog = everything().catalog
    assert Catalog.from_range(catalog.entries()) == catalog
    keys = [item.key for item in catalog.entries().entries]
    assert keys == sorted(keys)


def test_nobody_can_change_a_catalog() -> None:
    catalog = everything().catalog
    with pytest.raises(TypeError):
        catalog.nodes["x"] = founder()  # type: ignore[index]
    with pytest.raises(AttributeError):
        catalog.revision = 7  # type: ignore[misc]


def test_a_batch_leaves_the_older_catalog_as_it_was() -> None:
    world = everything()
    before, models = world.catalog, dict(world.catalog.models)
    world.run(DropModel("tiny:latest"))
    assert world.catalog.models == {}
    assert before.models == models


def test_what_did_not_change_is_shared() -> None:
    world = everything()
    before = world.catalog
    world.run(DropModel("tiny:latest"))
    assert world.catalog.nodes is before.nodes
    assert world.catalog.tokens is before.tokens


def test_a_sign_of_life_moves_the_revision_only() -> None:
    catalog = everything().catalog
    later = catalog.after(StateBatch(catalog.revision + 3, ()))
    assert later.revision == catalog.revision + 3
    assert later.stored is catalog.stored


def test_a_batch_that_was_seen_changes_nothing() -> None:
    catalog = everything().catalog
    for revision in (0, catalog.revision):
        old = StateBatch(revision, (StateEvent(entry("cluster/meta", b"", revision), is_delete=True),))
        assert catalog.after(old) is catalog


def test_foreign_keys_are_kept_and_left_alone() -> None:
    world = everything()
    before = world.catalog
    world.try_txn(StateTxn((), (Put("quotas/ada", b"\xff"), Put("cluster/policy", b"?"))))
    assert world.catalog.nodes is before.nodes
    assert {"quotas/ada", "cluster/policy"} <= {item.key for item in world.catalog.entries().entries}
    world.try_txn(StateTxn((), (Delete("quotas/ada"),)))
    assert "quotas/ada" not in world.catalog.stored
    assert world.catalog.stored["cluster/policy"].value == b"?"


def test_all_can_be_deleted() -> None:
    world = everything()
    writes = tuple(Delete(key) for key in world.catalog.stored)
    world.try_txn(StateTxn((), writes))
    assert world.catalog == structs.replace(Catalog.empty(), revision=7)
    gone = StateEvent(entry("models/never:was", b"", 8), is_delete=True)
    assert world.catalog.after(StateBatch(8, (gone,))).models == {}


def test_a_lost_lease_takes_the_instance_along() -> None:
    world = everything()
    world.try_txn(StateTxn((), (Delete(records.instance_key(id_of(2))),)))
    assert world.catalog.instances == {}


def test_what_cannot_be_read_is_told_by_its_key() -> None:
    catalog = everything().catalog
    bad = StateEvent(entry("cluster/roster", b"{", 9))
    with pytest.raises(StateCorrupt, match="cluster/roster"):
        catalog.after(StateBatch(9, (bad,)))
    with pytest.raises(StateTooNew, match="cluster/roster"):
        Catalog.from_range(StateRange(1, (entry("cluster/roster", b'{"v":99}', 1),)))


@pytest.mark.parametrize("text", ["bob", "BOB", id_of(2)])
def test_a_node_is_found_by_name_and_id(text: str) -> None:
    assert everything().catalog.node(text).node_id == id_of(2)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("bop", "'bop' is in the cluster: did you mean bob?"),
        ("aba", "did you mean ada?"),
        ("xyzzy", "`ollamamax nodes` lists those that there are"),
        ("", "`ollamamax nodes` lists those that there are"),
        ("b" * 100_000, "lists those that there are"),
    ],
)
def test_who_is_not_found_is_told_of_close_names(text: str, hint: str) -> None:
    with pytest.raises(NodeNotFound) as caught:
        everything().catalog.node(text)
    assert hint in str(caught.value)
    assert len(str(caught.value)) < 300


def with_node(catalog: Catalog, **changed: object) -> Catalog:
    node = structs.replace(catalog.nodes[id_of(2)], **changed)
    return structs.replace(catalog, nodes={**catalog.nodes, node.node_id: node})


def removed(node: NodeRecord, **changed: object) -> RevokedNode:
    gone = RevokedNode(node_id=node.node_id, name=node.name, key_hash=node.key_hash, removed_ns=1)
    return structs.replace(gone, **changed)


def spoilt_token() -> TokenRecord:
    return structs.replace(token(secret=SECRETS[1]).record, uses_left=-1)


@pytest.mark.parametrize(
    ("number", "spoil"),
    [
        ("C1", lambda it: structs.replace(it, meta=None)),
        ("C2", lambda it: structs.replace(it, meta=meta(holder_id=id_of(7)))),
        ("C3", lambda it: with_node(it, name="ada")),
        ("C4", lambda it: with_node(it, sequence=1)),
        ("C4", lambda it: with_node(it, sequence=4)),
        ("C4", lambda it: with_node(it, sequence=0)),
        ("C5", lambda it: with_node(it, key_hash=key_of(1))),
        ("C6", lambda it: structs.replace(it, revoked={id_of(2): removed(it.nodes[id_of(2)], key_hash="0" * 64)})),
        ("C6", lambda it: structs.replace(it, revoked={id_of(3): removed(it.nodes[id_of(2)], node_id=id_of(3))})),
        ("C7", lambda it: structs.replace(it, instances={id_of(3): "i3"})),
        ("C8", lambda it: structs.replace(it, tokens={id_of(1): spoilt_token()})),
        ("C9", lambda it: structs.replace(it, nodes=dict(reversed(it.nodes.items())))),
        ("C10", lambda it: structs.replace(it, revision=1)),
        ("C10", lambda it: structs.replace(it, stored={"x": StateEntry("x", b"", 3, 2)})),
    ],
)
def test_each_invariant_is_checked(number: str, spoil: Callable[[Catalog], Catalog]) -> None:
    catalog = everything().catalog
    catalog.check_invariants()
    with pytest.raises(AssertionError, match=f"^{number}:"):
        spoil(catalog).check_invariants()


def test_foreign_keys_may_come_before_the_cluster() -> None:
    world = World()
    world.try_txn(StateTxn((), (Put("quotas/ada", b""),)))
    world.run(founding())
    roster = world.catalog.stored[records.ROSTER_KEY]
    assert records.decode(records.ROSTER_KEY, roster.value) == Roster(2)
