"""The catalog as a view: grown and read whole, looked up in, and kept apart from what others wrote."""

from collections.abc import Callable

import pytest
from catalog_world import (
    SECRETS,
    World,
    assigning,
    founded,
    founder,
    founding,
    id_of,
    joining,
    key_of,
    meta,
    moved,
    placing,
    token,
)
from msgspec import structs

from ollamamax.core.catalog import records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import ChangeSettings, DropModel, SetDrain, SetInstance, SetModel, TakePlanner
from ollamamax.core.catalog.records import LEVEL, Roster
from ollamamax.core.errors import NodeNotFound, StateCorrupt, StateTooNew
from ollamamax.core.types import (
    Delete,
    Drain,
    ModelEntry,
    NodeRecord,
    Put,
    RevokedNode,
    StateBatch,
    StateEntry,
    StateEvent,
    StateHome,
    StateRange,
    StateTxn,
    TokenRecord,
)

DRAIN = Drain(node_id=id_of(2), since_ns=1)
MODEL = ModelEntry(name="Tiny:latest", digest="d" * 64, size_bytes=5, changed_ns=1)


def entry(key: str, value: bytes, revision: int) -> StateEntry:
    return StateEntry(key, value, revision, revision)


def everything() -> World:
    world = founded(
        token(uses=9),
        joining(9, "zoe"),
        joining(2, "bob"),
        SetModel(MODEL),
        SetInstance(id_of(2), "i2", 5),
        placing(2, (id_of(2),)),
        TakePlanner(id_of(9), 5),
        SetDrain(DRAIN),
        ChangeSettings(1, {"a": "1"}),
        ChangeSettings(2, {"b": "2"}, node_id=id_of(2)),
    )
    world.run(assigning(world.catalog, {id_of(2): 2}, planner=9))
    return world


def test_an_empty_catalog_has_nothing() -> None:
    catalog = Catalog.empty()
    catalog.check_invariants()
    assert catalog.revision == 0
    assert catalog.meta is None
    assert catalog.holder is None
    assert catalog.hosts == ()
    assert catalog.min_level == LEVEL
    assert not catalog.takes_work(id_of(1))
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
    assert catalog.placements == {"tiny:latest": placing(2, (id_of(2),)).record}
    assert catalog.assignments["tiny:latest"].nodes == {id_of(2): 2}
    assert catalog.drains == {id_of(2): DRAIN}
    assert catalog.planner == id_of(9)
    assert (catalog.settings.values, catalog.settings.node_values) == ({"a": "1"}, {id_of(2): {"b": "2"}})
    assert list(catalog.history) == [1, 2]
    assert catalog.history[2] == catalog.settings
    assert catalog.hosts == (founder(),)
    assert catalog.min_level == LEVEL
    assert catalog.revision == 12
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
    assert world.catalog == structs.replace(Catalog.empty(), revision=13)
    gone = StateEvent(entry("models/never:was", b"", 14), is_delete=True)
    assert world.catalog.after(StateBatch(14, (gone,))).models == {}


def test_a_lost_lease_takes_the_instance_along() -> None:
    world = everything()
    world.try_txn(StateTxn((), (Delete(records.instance_key(id_of(2))),)))
    assert world.catalog.instances == {}


def test_who_is_no_member_is_not_shown() -> None:
    """As after a removal by an older program, which leaves alone what it does not know."""
    world = everything()
    world.try_txn(StateTxn((), tuple(Delete(f"{prefix}/{id_of(2)}") for prefix in ("nodes", "instances"))))
    catalog = world.catalog
    assert (catalog.placements["tiny:latest"].pins, catalog.placements["tiny:latest"].replicas) == ((), 2)
    assert catalog.assignments["tiny:latest"].nodes == {}
    assert catalog.drains == catalog.settings.node_values == {}
    assert catalog.history[2].node_values == {id_of(2): {"b": "2"}}
    assert f"drains/{id_of(2)}" in catalog.stored
    assert catalog.planner == id_of(9)
    world.try_txn(StateTxn((), (Delete(f"nodes/{id_of(9)}"),)))
    assert world.catalog.planner == ""


def test_a_record_may_come_with_its_member_or_before() -> None:
    world = everything()
    keys = (f"nodes/{id_of(2)}", f"instances/{id_of(2)}")
    back = tuple(Put(key, world.catalog.stored[key].value) for key in keys)
    before = world.catalog
    world.try_txn(StateTxn((), tuple(Delete(key) for key in keys)))
    world.try_txn(StateTxn((), back))
    for view in ("placements", "assignments", "drains", "settings"):
        assert getattr(world.catalog, view) == getattr(before, view)


def test_a_host_that_is_lost_is_left_out() -> None:
    world = founded(token(), joining(2))
    home = moved(world, "etcd", 1, 2)
    catalog = structs.replace(world.catalog, nodes={id_of(2): world.catalog.nodes[id_of(2)]})
    assert catalog.home == home
    assert [node.name for node in catalog.hosts] == ["bob"]
    assert catalog.holder == catalog.hosts[0]


def test_what_cannot_be_read_is_told_by_its_key() -> None:
    catalog = everything().catalog
    bad = StateEvent(entry("cluster/roster", b"{", 99))
    with pytest.raises(StateCorrupt, match="cluster/roster"):
        catalog.after(StateBatch(99, (bad,)))
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


def with_placement(catalog: Catalog, **changed: object) -> Catalog:
    asked = structs.replace(catalog.placements["tiny:latest"], **changed)
    return structs.replace(catalog, placements={"tiny:latest": asked})


def with_assignment(catalog: Catalog, nodes: dict[str, int]) -> Catalog:
    decided = structs.replace(catalog.assignments["tiny:latest"], nodes=nodes)
    return structs.replace(catalog, assignments={"tiny:latest": decided})


def with_settings(catalog: Catalog, **changed: object) -> Catalog:
    return structs.replace(catalog, settings=structs.replace(catalog.settings, **changed))


def with_home(catalog: Catalog, **changed: object) -> Catalog:
    return structs.replace(catalog, told_home=structs.replace(catalog.home, **changed))


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
        ("C2", lambda it: structs.replace(it, told_home=StateHome(kind="etcd", hosts=(id_of(1), id_of(7))))),
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
        ("C11", lambda it: with_placement(it, pins=(id_of(7),))),
        ("C11", lambda it: with_assignment(it, {id_of(7): 1})),
        ("C11", lambda it: structs.replace(it, drains={id_of(7): DRAIN})),
        ("C11", lambda it: structs.replace(it, planner=id_of(7))),
        ("C11", lambda it: with_settings(it, node_values={id_of(7): {}})),
        ("C12", lambda it: with_placement(it, replicas=0)),
        ("C12", lambda it: with_assignment(it, {id_of(1): 0})),
        ("C13", lambda it: structs.replace(it, history={2: it.history[2]})),
        ("C13", lambda it: with_settings(it, version=1)),
        ("C13", lambda it: with_settings(it, values={})),
        ("C14", lambda it: with_home(it, phase="moving")),
        ("C14", lambda it: with_home(it, phase="moving", target=it.home)),
        ("C14", lambda it: with_home(it, phase="moving", target=it.home, mover=id_of(1))),
        ("C14", lambda it: with_home(it, mover=id_of(1))),
        ("C14", lambda it: with_home(it, hosts=(id_of(1), id_of(2)))),
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
