"""Where the state lives: moves of it, undone ones, and other hosts."""

import pytest
from catalog_world import World, does_nothing, founded, founding, id_of, joining, meta, moved, placing, refusal, token
from msgspec import structs

from ollamamax.core.catalog.apply import apply
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import (
    BeginMove,
    ChangeSettings,
    Command,
    DropModel,
    DropToken,
    EndDrain,
    FinishMove,
    SetAddresses,
    SetCordon,
    SetHosts,
    SweepTokens,
    UndoMove,
)
from ollamamax.core.errors import BadRequest, Conflict, NodeNotFound, StateUnavailable
from ollamamax.core.types import StateHome

ONE, TWO, THREE = id_of(1), id_of(2), id_of(3)
TO_ETCD = StateHome(kind="etcd", hosts=(THREE, ONE, TWO))


def three() -> World:
    return founded(token(uses=9), joining(2), joining(3, "eve"))


def moving() -> tuple[World, StateHome]:
    world = three()
    world.run(BeginMove(TO_ETCD, ONE))
    target = world.catalog.home.target
    assert target is not None
    return world, target


def test_the_founder_is_the_first_home() -> None:
    assert Catalog.empty().home == StateHome()
    assert Catalog.empty().hosts == ()
    catalog = founded().catalog
    assert catalog.home == StateHome(kind="sqlite", hosts=(ONE,))
    assert [node.name for node in catalog.hosts] == ["ada"]


def test_a_move_is_begun_and_finished() -> None:
    world, target = moving()
    home = world.catalog.home
    assert (home.kind, home.hosts, home.phase, home.generation, home.mover) == ("sqlite", (ONE,), "moving", 0, ONE)
    assert target == StateHome(kind="etcd", hosts=(ONE, TWO, THREE), generation=1)
    does_nothing(world, BeginMove(TO_ETCD, ONE))
    world.run(FinishMove(target))
    assert world.catalog.home == target
    assert world.catalog.hosts == tuple(world.catalog.nodes.values())
    assert world.catalog.meta == meta(), "who held it last"
    does_nothing(world, FinishMove(target))


def test_one_moves_it_at_a_time() -> None:
    world, _ = moving()
    assert "node ada is moving the cluster's state already" in refusal(world, BeginMove(TO_ETCD, TWO), Conflict)
    refusal(world, BeginMove(StateHome(kind="etcd", hosts=(TWO,)), ONE), Conflict)


@pytest.mark.parametrize(
    "command",
    [
        token(2),
        DropToken(ONE),
        SweepTokens(1),
        DropModel("tiny:latest"),
        SetCordon(TWO, True),
        SetAddresses(TWO, (), "2.0"),
        placing(),
        EndDrain(TWO),
        ChangeSettings(1, {"a": "1"}),
        SetHosts((TWO,)),
    ],
)
def test_while_it_moves_nothing_is_written(command: Command) -> None:
    world, target = moving()
    text = refusal(world, command, StateUnavailable)
    assert "node ada is moving the cluster's state to a new home" in text
    does_nothing(world, founding())
    assert not world.try_txn(apply(three().catalog, token(2))), "nor by one who has not heard"
    assert not world.try_txn(apply(three().catalog, DropToken(ONE)))
    world.run(UndoMove(target))


def test_a_move_is_undone() -> None:
    world, target = moving()
    world.run(UndoMove(target))
    assert world.catalog.home == StateHome(hosts=(ONE,), generation=1)
    does_nothing(world, UndoMove(target))
    refusal(world, FinishMove(target), Conflict)
    world.run(BeginMove(TO_ETCD, TWO))
    assert world.catalog.home.target == structs.replace(target, generation=2)
    refusal(world, FinishMove(target), Conflict)
    does_nothing(world, UndoMove(target))
    assert world.catalog.home.phase == "moving", "the belated undoing of another move"


def test_a_finished_move_is_not_undone() -> None:
    world, target = moving()
    world.run(FinishMove(target))
    assert "move it back instead" in refusal(world, UndoMove(target), Conflict)


def test_the_same_in_both_homes() -> None:
    """What is copied and then told of the end of the move is the same state, whatever its revisions are."""
    world, target = moving()
    copy = World()
    copy.store.revision, copy.store.entries = (
        70,
        {key: structs.replace(entry, created=70, revision=70) for key, entry in world.store.entries.items()},
    )
    copy.catalog = Catalog.from_range(copy.store.range())
    for one in (copy, world):
        one.run(FinishMove(target))
    values = [{key: entry.value for key, entry in one.store.entries.items()} for one in (copy, world)]
    assert values[0] == values[1]


def test_back_to_one_node_tells_older_programs_where() -> None:
    world = three()
    moved(world, "etcd", 1, 2, 3)
    home = moved(world, "sqlite", 2)
    assert home == StateHome(kind="sqlite", hosts=(TWO,), generation=2)
    assert world.catalog.meta == meta(holder_id=TWO)
    assert world.catalog.holder == world.catalog.nodes[TWO]
    world.run(joining(4, level=1))


def test_a_move_leads_elsewhere() -> None:
    world = three()
    refusal(world, BeginMove(StateHome(hosts=(ONE,)), ONE), Conflict)
    moved(world, "etcd", 1, 2)
    assert "lives there already" in refusal(world, BeginMove(StateHome(kind="etcd", hosts=(TWO, ONE)), ONE), Conflict)
    world.run(BeginMove(StateHome(kind="etcd", hosts=(TWO, THREE)), ONE))


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"kind": "paper"}, "'paper' is no home of the state"),
        ({"hosts": ()}, "1 to 7 hosts, not 0"),
        ({"hosts": tuple(map(id_of, range(1, 9)))}, "1 to 7 hosts, not 8"),
        ({"kind": "sqlite"}, "1 to 1 hosts, not 3"),
        ({"endpoints": ("a:1",)}, "no endpoints, not 1"),
        ({"kind": "external"}, "1 to 16 endpoints, not 0"),
        ({"kind": "external", "endpoints": tuple(f"a:{port}" for port in range(1, 18))}, "1 to 16 endpoints, not 17"),
        ({"kind": "external", "endpoints": ("a",)}, "the port is missing"),
    ],
)
def test_a_home_is_of_the_grammar(changed: dict[str, object], text: str) -> None:
    assert text in refusal(three(), BeginMove(structs.replace(TO_ETCD, **changed), ONE), BadRequest)


def test_other_nodes_hold_it() -> None:
    world = three()
    assert "ha enable" in refusal(world, SetHosts((TWO,)), Conflict)
    home = moved(world, "etcd", 1, 2)
    does_nothing(world, SetHosts((TWO, ONE)))
    world.run(SetHosts((THREE, TWO), expected=(TWO, ONE)))
    assert world.catalog.home == structs.replace(home, hosts=(TWO, THREE))
    does_nothing(world, SetHosts((THREE, TWO), expected=(TWO, ONE)))
    assert "others hold" in refusal(world, SetHosts((ONE,), expected=(ONE, TWO)), Conflict)
    refusal(world, SetHosts((id_of(9),)), NodeNotFound)
    refusal(world, SetHosts(()), BadRequest)
    refusal(world, SetHosts((ONE,), endpoints=("a:1",)), BadRequest)


def test_an_external_home_is_found_at_other_endpoints() -> None:
    world = three()
    home = moved(world, "external", 1)
    world.run(SetHosts((ONE, TWO)))
    assert world.catalog.home == structs.replace(home, hosts=(ONE, TWO))
    world.run(SetHosts((ONE,), endpoints=("OTHER:02379", "other:2379")))
    assert world.catalog.home == structs.replace(home, hosts=(ONE,), endpoints=("other:2379",))


def test_a_host_finds_the_state_by_its_program() -> None:
    world = three()
    moved(world, "etcd", 1)
    world.run(SetAddresses(TWO, (), "0.9", 1))
    assert "upgrade bob (0.9)" in refusal(world, SetHosts((ONE, TWO)), Conflict)
    world.run(SetHosts((ONE, THREE)))
