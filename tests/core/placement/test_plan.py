"""Single cases of planning: priority, pins, nodes that are lost, come back or are emptied, extra replicas, words."""

import pytest
from placement_world import GIB, World, asked, assigned, need, node

from ollamamax.core.placement.facts import Availability
from ollamamax.core.placement.repair import WINDOW
from ollamamax.core.types import Placement

GPU = {"gpu": "yes"}


def cluster(names: str, *placed: Placement, total: int = 10, size: int = 4) -> World:
    """Equal nodes and models of one size."""
    keys = {one.name.removesuffix(":latest"): one for one in placed}
    return World(keys, [node(name, total) for name in names], [need(key, size) for key in keys])


def test_replicas_lie_on_different_nodes_and_share_one_only_where_nodes_are_few() -> None:
    world = cluster("abc", asked("x", 3))
    world.agree()
    assert world.where("x") == {"a": 1, "b": 1, "c": 1}
    world = cluster("ab", asked("x", 3))
    world.agree()
    assert world.where("x") == {"a": 2, "b": 1}
    # The third node could hold one, were it not full: it counts, so that nobody shares.
    world = cluster("abc", asked("w", 1, 0, "c"), asked("x", 3, 1), total=5)
    assert world.agree().assignments["x"].missing == 1
    assert world.where("x") == {"a": 1, "b": 1}


def test_a_new_replica_goes_where_the_model_runs_then_where_files_and_room_are() -> None:
    nodes = [node("a"), node("b", has="x"), node("c", ready={"x": 1}, load=1.0)]
    world = World({"x": asked("x", 3)}, nodes, [need("x", 2)])
    lines = world.plan().assignments["x"].why
    assert lines == ("node-a: 1.00 GiB to be fetched", "node-b: has the files", "node-c: runs there")
    for replicas, where in ((1, {"c"}), (2, {"b", "c"})):
        world.placements["x"] = asked("x", replicas)
        assert world.plan().assignments["x"].nodes.keys() == where


def test_files_pull_so_far_and_no_further() -> None:
    world = World({"x": asked("x")}, [node("a"), node("b", has="x", load=0.5)], [need("x", 2)])
    assert world.plan().assignments["x"].nodes == {"b": 1}
    world.change("b", load=0.51)
    made = world.plan()
    assert made.assignments["x"].nodes == {"a": 1}
    assert made.assignments["x"].why == ("node-a: 1.00 GiB to be fetched", "node-b: is not needed")


def test_the_elder_wish_is_served_first_and_the_loser_is_told() -> None:
    world = cluster("ab", asked("y", 1, 5), asked("x", 2, 9), total=5)
    world.nodes[1] = node("b", 7)
    made = world.agree()
    assert world.where("y") == {"b": 1}
    assert world.where("x") == {"a": 1}
    assert made.assignments["x"].why == (
        "1 replica of 2 without a place: the nodes that could hold it are full, and pins and elder placements come "
        "first; add a node or ask for less",
        "node-a: 2.00 GiB to be fetched",
        "node-b: has 3.00 GiB left beside y:latest, a replica needs 4.00 GiB",
    )
    # A third, older than both, drives out the youngest; nothing else moves.
    world.placements["w"], world.models = asked("w", 1, 1), [*world.models, need("w", 5)]
    made = world.agree()
    assert (world.where("w"), world.where("y"), world.where("x")) == ({"a": 1}, {"b": 1}, {})


def test_those_that_run_move_when_that_makes_room_for_all() -> None:
    world = World(
        {"x": asked("x", 1, 1), "y": asked("y", 1, 2)},
        [node("a", 10), node("b", 4)],
        [need("x", 4), need("y", 8)],
        {"x": assigned("x", {"a": 1})},
    )
    made = world.agree()
    assert (world.where("x"), world.where("y")) == ({"b": 1}, {"a": 1})
    assert made.changed == ("x", "y")


def test_a_pin_is_held_there_or_nowhere() -> None:
    world = cluster("ab", asked("x", 1, 0, "b"), total=5)
    world.agree()
    assert world.where("x") == {"b": 1}
    world.change("b", availability=Availability.GONE, gone_since_ns=1)
    made = world.agree()
    assert made.assignments["x"].nodes == {}
    assert made.assignments["x"].missing == 1
    assert made.assignments["x"].why[:2] == (
        "pinned to node-b, which is gone",
        "1 replica of 1 without a place: a pinned replica runs on its node or not at all",
    )
    # With more replicas than pins, one lies elsewhere instead, until the node is back.
    world.placements["x"] = asked("x", 2, 99, "b")
    made = world.agree()
    assert made.assignments["x"].nodes == {"a": 1}
    assert made.assignments["x"].missing == 1
    world.change("b", availability=Availability.OPEN)
    world.settle()
    assert world.where("x") == {"a": 1, "b": 1}


def test_a_pin_moves_others_away_and_drives_out_who_finds_no_place() -> None:
    world = cluster("ab", asked("x", 1, 5), total=5)
    world.agree()
    assert world.where("x") == {"a": 1}
    world.placements["y"], world.models = asked("y", 1, 9, "a"), [*world.models, need("y", 4)]
    world.agree()
    assert (world.where("y"), world.where("x")) == ({"a": 1}, {"b": 1})
    world.placements["z"], world.models = asked("z", 1, 10, "b"), [*world.models, need("z", 4)]
    world.agree()
    assert (world.where("z"), world.where("x")) == ({"b": 1}, {})
    # Of two pins to one node the elder is held.
    world.placements["w"], world.models = asked("w", 1, 1, "a"), [*world.models, need("w", 4)]
    made = world.agree()
    assert (world.where("w"), world.where("y")) == ({"a": 1}, {})
    assert made.assignments["y"].why[0] == (
        "pinned to node-a, which has 1.00 GiB left beside w:latest, a replica needs 4.00 GiB"
    )


def test_a_pin_takes_over_the_replica_that_moved_to_its_node() -> None:
    """x gives way to the pin on a and comes to lie on b, to which it is pinned, too."""
    world = World(
        {"w": asked("w", 1, 0, "a"), "x": asked("x", 2, 1, "b")},
        [node("a", 5), node("b", 5), node("c", 5)],
        [need("w", 4), need("x", 4)],
        {"x": assigned("x", {"a": 1, "c": 1})},
    )
    made = world.agree()
    assert (world.where("w"), world.where("x")) == ({"a": 1}, {"b": 1, "c": 1})
    assert [one.is_pinned for one in made.decision("x").taken] == [True, False]


def test_what_a_pin_made_superfluous_leaves_once_the_pin_runs() -> None:
    world = cluster("abc", asked("x", 2, 0, "c"))
    world.change("c", availability=Availability.GONE)
    world.settle()
    assert world.where("x") == {"a": 1, "b": 1}
    world.change("c", availability=Availability.OPEN)
    made = world.agree()
    assert world.where("x") == {"a": 1, "b": 1, "c": 1}
    assert "node-b: 1 replica of 1 leaving once others are ready" in made.assignments["x"].why
    world.settle()
    assert world.where("x") == {"a": 1, "c": 1}


def test_a_lost_node_is_replaced_and_stays_so_when_it_is_back() -> None:
    world = cluster("abc", asked("x", 2))
    world.settle()
    assert world.where("x") == {"a": 1, "b": 1}
    world.change("a", availability=Availability.GONE)
    world.agree()
    assert world.where("x") == {"b": 1, "c": 1}
    # Back, and warm, while the other still loads: the warm one stays.
    world.change("a", availability=Availability.OPEN)
    world.agree()
    assert world.where("x") == {"a": 1, "b": 1}
    # Had the other been ready, it would have stayed.
    world.current["x"] = assigned("x", {"b": 1, "c": 1})
    world.change("c", ready={"x": 1})
    assert world.plan().changed == ()


def test_a_second_replica_on_a_node_moves_to_the_node_that_is_back() -> None:
    world = cluster("ab", asked("x", 2))
    world.change("b", availability=Availability.GONE)
    world.settle()
    assert world.where("x") == {"a": 2}
    world.change("b", availability=Availability.OPEN)
    world.agree()
    assert world.where("x") == {"a": 2, "b": 1}
    world.settle()
    assert world.where("x") == {"a": 1, "b": 1}


def test_a_node_that_is_drained_keeps_what_is_ready_until_it_is_ready_elsewhere() -> None:
    world = cluster("abc", asked("x", 2))
    world.settle()
    world.change("a", availability=Availability.DRAINING)
    made = world.agree()
    assert world.where("x") == {"a": 1, "b": 1, "c": 1}
    assert made.assignments["x"].missing == 0
    assert world.plan().changed == ()
    world.change("c", ready={"x": 1})
    world.agree()
    assert world.where("x") == {"b": 1, "c": 1}


@pytest.mark.parametrize(("availability", "where"), [(Availability.DRAINING, {"a": 1}), (Availability.DRAINED, {})])
def test_without_room_elsewhere_it_stays_as_long_as_there_is_time(
    availability: Availability, where: dict[str, int]
) -> None:
    world = cluster("a", asked("x"))
    world.settle()
    world.change("a", availability=availability)
    made = world.agree()
    assert world.where("x") == where
    assert made.assignments["x"].missing == 1
    assert made.assignments["x"].why[0] == (
        "1 replica of 1 without a place: no node that takes replicas, has the labels asked for and 4.00 GiB for models"
    )


def test_a_pinned_replica_waits_for_nobody_when_its_node_is_drained() -> None:
    world = cluster("ab", asked("x", 1, 0, "a"))
    world.settle()
    world.change("a", availability=Availability.DRAINING)
    world.agree()
    assert world.where("x") == {}


def test_a_cordoned_node_keeps_what_it_has_and_gets_nothing_new() -> None:
    world = cluster("ab", asked("x"))
    world.settle()
    world.change("a", availability=Availability.CORDONED)
    assert world.plan().changed == ()
    world.placements["x"] = asked("x", 3)
    world.agree()
    assert world.where("x") == {"a": 1, "b": 2}


def test_fewer_are_asked_for_the_colder_go() -> None:
    world = cluster("abc", asked("x", 3))
    world.settle()
    world.change("a", ready={})
    world.placements["x"] = asked("x", 2)
    world.agree()
    assert world.where("x") == {"b": 1, "c": 1}
    world.placements["x"] = asked("x", 0, 0, "b")
    made = world.agree()
    assert world.where("x") == {}
    assert made.assignments["x"].why == ()
    assert made.decision("x").refused[0].reason == "no replicas are asked for"
    del world.placements["x"]
    assert world.plan().removed == ("x",)


def test_extra_replicas_take_what_is_left_and_give_way() -> None:
    world = cluster("abc", asked("x", 1, 5, max_replicas=3), total=5)
    world.extra = {"x": 2, "unknown": 4}
    world.settle()
    assert world.where("x") == {"a": 1, "b": 1, "c": 1}
    world.placements["y"], world.models = asked("y", 1, 9), [*world.models, need("y", 4)]
    made = world.agree()
    assert sum(world.where("x").values()) == 2
    assert sum(world.where("y").values()) == 1
    decided = made.decision("x")
    assert (decided.wanted, decided.extra, decided.missing, decided.extra_missing) == (1, 2, 0, 1)
    assert made.assignments["x"].missing == 0
    assert decided.explain().startswith("x:latest: 1 replica wanted and 2 extra, 1 without a place\n1x node-")
    world.extra = {}
    world.settle()
    assert sum(world.where("x").values()) == 1


def test_extra_replicas_that_run_are_spared_where_there_is_other_room() -> None:
    world = cluster("abc", asked("x", 1, 5, max_replicas=2), total=5)
    world.extra = {"x": 1}
    world.settle()
    assert world.where("x") == {"a": 1, "b": 1}
    world.placements["w"], world.models = asked("w", 1, 1), [*world.models, need("w", 4)]
    world.change("c", load=1.0)
    world.agree()
    assert (world.where("w"), world.where("x")) == ({"c": 1}, {"a": 1, "b": 1})


def test_all_is_explained() -> None:
    world = World(
        {
            "x": asked("x", 2, 1, "ab?", GPU),
            "y": asked("y", 1, 2, "", {"gpu": "no", "disk": "ssd"}),
            "z": asked("z", 1, 3),
        },
        [
            node("a", 9, labels=GPU, ready={"x": 1}, has="x"),
            node("b", labels={}),
            node("c", labels=GPU, availability=Availability.GONE, gone_since_ns=0),
            node("d", 1, labels=GPU, load=7.0),
            node("e", labels=GPU, availability=Availability.GONE, gone_since_ns=5 * GIB),
        ],
        [need("x", 6), need("y", 2)],
    )
    world.now_ns = 5 * GIB + 42_000_000_000
    made = world.plan()
    assert made.decision("x").explain().splitlines() == [
        "x:latest: 3 replicas wanted, 2 without a place",
        "!  pinned to ?, which is no member of the cluster",
        "!  pinned to node-b, which lacks the label gpu=yes",
        "!  2 replicas of 3 without a place: a pinned replica runs on its node or not at all",
        "1x node-a: runs there, pinned; warm=1.00 files=1.00 memory=0.33 idle=1.00",
        "-  node-d: has 1.00 GiB for models, a replica needs 6.00 GiB; warm=0.00 files=0.00 memory=0.00 idle=0.00",
        "-  node-b: lacks the label gpu=yes; warm=0.00 files=0.00 memory=0.40 idle=1.00",
        "-  node-c: is gone; warm=0.00 files=0.00 memory=0.40 idle=1.00",
        "-  node-e: is gone for 42 s; warm=0.00 files=0.00 memory=0.40 idle=1.00",
    ]
    assert "-  node-b: lacks the labels disk=ssd, gpu=no; " in made.decision("y").explain()
    assert made.assignments["z"].why == ("the cluster does not have the model",)
    assert made.decision("z").refused[0].reason == "the cluster does not have the model"
    assert made.decision("z").name == "z:latest"


def test_what_is_explained_is_renewed_when_the_wish_or_its_trouble_is_new() -> None:
    world = cluster("ab", asked("x", 2, 7), total=5)
    world.change("b", availability=Availability.CORDONED)
    made = world.agree()
    assert made.assignments["x"].missing == 1
    assert made.assignments["x"].why[1:] == ("node-a: 2.00 GiB to be fetched", "node-b: is cordoned")
    world.change("b", availability=Availability.GONE)
    assert world.plan().changed == ()
    # A clock that is ahead made the wish: it is decided once.
    world.placements["x"] = asked("x", 2, 1_000)
    assert world.agree().changed == ("x",)
    assert world.plan().changed == ()


def test_many_nodes_are_searched_less_but_one_move_is_found() -> None:
    names = [chr(ord("A") + n) for n in range(2 * WINDOW)]
    nodes = [node(name, 4) for name in names] + [node("z", 10)]
    world = World(
        {"x": asked("x", 1, 1), "y": asked("y", 1, 2)},
        nodes,
        [need("x", 4), need("y", 8)],
        {"x": assigned("x", {"z": 1})},
    )
    made = world.agree()
    assert world.where("y") == {"z": 1}
    assert made.assignments["x"].missing == 0


def test_nothing_is_searched_for_ever() -> None:
    """Many models of many sizes on few nodes, all full: it ends, nobody has too much, and it comes to rest."""
    placements = {f"m{n}": asked(f"m{n}", 3, n) for n in range(60)}
    models = [need(f"m{n}", 3 + n * 7 % 11) for n in range(60)]
    world = World(placements, [node(name, 30 + 3 * n) for n, name in enumerate("abcdefgh")], models)
    made = world.agree()
    sizes = {model.key: model.replica_bytes for model in models}
    for one in world.nodes:
        assert sum(sizes[k] * a.nodes.get(one.node_id, 0) for k, a in made.assignments.items()) <= one.total_bytes
    assert any(assignment.missing for assignment in made.assignments.values())
    world.settle()


def test_no_more_go_than_must() -> None:
    world = cluster("a", asked("x", 2, 5))
    world.settle()
    assert world.where("x") == {"a": 2}
    world.placements["w"], world.models = asked("w", 1, 1), [*world.models, need("w", 5)]
    made = world.agree()
    assert (world.where("w"), world.where("x")) == ({"a": 1}, {"a": 1})
    assert made.assignments["x"].missing == 1


def test_who_is_served_first_moves_and_who_is_served_last_goes_to_make_room() -> None:
    world = World(
        {"w": asked("w", 1, 0), "x": asked("x", 1, 1), "y": asked("y", 1, 2)},
        [node("a", 8), node("b", 4)],
        [need("w", 4), need("x", 8), need("y", 4)],
        {"w": assigned("w", {"a": 1}), "y": assigned("y", {"b": 1})},
    )
    world.agree()
    assert (world.where("w"), world.where("x"), world.where("y")) == ({"b": 1}, {"a": 1}, {})


def test_an_extra_replica_is_replaced_when_its_node_is_lost() -> None:
    world = cluster("abc", asked("x", 1, 0, max_replicas=2))
    world.extra = {"x": 1}
    world.settle()
    assert world.where("x") == {"a": 1, "b": 1}
    world.change("b", availability=Availability.GONE)
    world.settle()
    assert world.where("x") == {"a": 1, "c": 1}
