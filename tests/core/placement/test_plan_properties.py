"""Plans of small clusters against an exhaustive search: memory, pins, counts, balance, rest."""

from hypothesis import given, settings
from hypothesis import strategies as st
from placement_world import World, asked, need, node, worlds

from ollamamax.core.placement.board import BLOBS_PULL
from ollamamax.core.placement.facts import Availability
from ollamamax.core.placement.plan import Plan


def held_pins(made: Plan, world: World) -> set[tuple[str, str]]:
    return {(key, one.node_id) for key in world.placements for one in made.decision(key).taken if one.is_pinned}


@settings(max_examples=200, deadline=None)
@given(worlds())
def test_what_is_placed_is_what_an_exhaustive_search_places(world: World) -> None:
    made = world.plan()
    pins = world.best_pins()
    assert held_pins(made, world) == pins
    counts = world.best_counts(pins)
    for key, placement in world.placements.items():
        decided = made.decision(key)
        held = sum(key == pinned for pinned, _ in pins)
        assert decided.wanted == (max(placement.replicas, len(placement.pins)) if placement.replicas else 0)
        assert decided.wanted - decided.missing == held + counts[key]
        assert decided.missing == made.assignments[key].missing


@settings(max_examples=100, deadline=None)
@given(worlds(sizes=st.just(3), pinned=False))
def test_of_one_size_no_arrangement_holds_more(world: World) -> None:
    made = world.plan()
    placed = sum(placement.replicas for placement in world.placements.values())
    placed -= sum(assignment.missing for assignment in made.assignments.values())
    assert placed == world.most()


@settings(max_examples=200, deadline=None)
@given(worlds(), st.dictionaries(st.sampled_from("wxyz"), st.integers(0, 3)))
def test_never_over_memory_nor_where_it_may_not_be(world: World, extra: dict[str, int]) -> None:
    world.extra = extra
    for key in list(world.placements):
        one = world.placements[key]
        world.placements[key] = asked(key, one.replicas, one.changed_ns, "".join(one.pins), one.labels, 5)
    made = world.plan()
    sizes = {model.key: model.replica_bytes for model in world.models}
    for one in world.nodes:
        assert sum(sizes[k] * a.nodes.get(one.node_id, 0) for k, a in made.assignments.items() if k in sizes) <= (
            one.total_bytes
        )
        for key, assignment in made.assignments.items():
            count = assignment.nodes.get(one.node_id, 0)
            former = world.current[key].nodes.get(one.node_id, 0) if key in world.current else 0
            if not world.limit(key, one, 9):
                may_stay = one.availability not in (Availability.GONE, Availability.DRAINED)
                assert count <= min(former, one.ready.get(key, 0)) * may_stay
    for key, assignment in made.assignments.items():
        assert assignment.nodes == {k: v for k, v in sorted(assignment.nodes.items()) if v > 0}
        assert assignment.nodes.keys() <= {one.node_id for one in world.nodes}
        assert made.decision(key).extra == min(extra.get(key, 0), max(0, 5 - made.decision(key).wanted)) * (
            world.placements[key].replicas > 0
        )


@settings(max_examples=200, deadline=None)
@given(worlds(), st.dictionaries(st.sampled_from("wxyz"), st.integers(0, 2)))
def test_planning_again_changes_nothing(world: World, extra: dict[str, int]) -> None:
    world.extra = extra
    first = world.agree()
    second = world.plan()
    assert second.changed == ()
    assert second.removed == ()
    assert all(second.assignments[key] is first.assignments[key] for key in first.assignments)


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_it_comes_to_rest_with_nothing_on_nodes_that_are_emptied(world: World) -> None:
    world.settle()
    made = world.plan()
    for one in world.nodes:
        for key, assignment in made.assignments.items():
            if not world.limit(key, one, 9) and one.node_id in assignment.nodes:
                assert assignment.missing, "it stays only where nobody can take its place"


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(20, 60), st.sampled_from([0.0, 0.3, 1.0]), st.booleans()), min_size=1, max_size=6),
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
)
def test_pressure_is_balanced_within_the_bound(machines: list[tuple[int, float, bool]], sizes: list[int]) -> None:
    """One replica of each model on nodes with room for all: BLOBS_PULL, plus half the share of one replica."""
    names, keys = "abcdef", "vwxyz"
    nodes = [
        node(name, total, load=load, has=keys if has else "")
        for name, (total, load, has) in zip(names, machines, strict=False)
    ]
    models = [need(key, size) for key, size in zip(keys, sizes, strict=False)]
    world = World({model.key: asked(model.key) for model in models}, nodes, models)
    world.agree()
    used = {one.node_id: 0 for one in nodes}
    for model in models:
        (name,) = world.where(model.key)
        used[name] += model.replica_bytes
    pressure = {one.node_id: (used[one.node_id] / one.total_bytes + one.load) / 2 for one in nodes}
    largest = max(model.replica_bytes for model in models)
    for taken in (one for one in nodes if used[one.node_id]):
        for other in nodes:
            bound = BLOBS_PULL + largest / other.total_bytes / 2
            assert pressure[taken.node_id] <= pressure[other.node_id] + bound + 1e-9


@settings(max_examples=60, deadline=None)
@given(
    st.integers(3, 6),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=5),
    st.integers(0, 5),
)
def test_when_a_node_is_lost_nothing_moves_that_need_not(
    machines: int, models: list[tuple[int, int]], lost: int
) -> None:
    names = "abcdef"[:machines]
    lost_name = names[lost % machines]
    keyed = dict(zip("vwxyz", models, strict=False))
    world = World(
        {key: asked(key, replicas) for key, (replicas, _) in keyed.items()},
        [node(name, 60) for name in names],
        [need(key, size) for key, (_, size) in keyed.items()],
    )
    world.settle()
    before = {key: world.where(key) for key in keyed}
    world.change(lost_name, availability=Availability.GONE, ready={})
    world.agree()
    for key, (replicas, _) in keyed.items():
        after = world.where(key)
        assert sum(after.values()) == replicas
        assert lost_name not in after
        kept = {name: count for name, count in before[key].items() if name != lost_name}
        assert kept.items() <= after.items() or replicas > machines - 1
    # It comes back, still warm: what was built meanwhile stays, and nobody has more than was asked for.
    rebuilt = {key: world.where(key) for key in keyed}
    world.load_all()
    warm = {key: count[lost_name] for key, count in before.items() if lost_name in count}
    world.change(lost_name, availability=Availability.OPEN, ready=warm)
    world.agree()
    for key, (replicas, _) in keyed.items():
        if replicas <= machines - 1:
            assert world.where(key) == rebuilt[key]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 5),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4),
    st.integers(0, 4),
    st.data(),
)
def test_a_drain_never_leaves_fewer_ready_than_are_wanted(
    machines: int, models: list[tuple[int, int]], drained: int, data: st.DataObject
) -> None:
    """With memory for all, whatever becomes ready first; and in the end the node is empty."""
    names = "abcde"[:machines]
    leaving = names[drained % machines]
    keyed = dict(zip("wxyz", models, strict=False))
    world = World(
        {key: asked(key, replicas) for key, (replicas, _) in keyed.items()},
        [node(name, 60) for name in names],
        [need(key, size) for key, (_, size) in keyed.items()],
    )
    world.settle()
    world.change(leaving, availability=Availability.DRAINING)
    for _ in range(30):
        world.agree()
        for one in world.nodes:
            planned = {key: world.where(key).get(one.node_id, 0) for key in keyed}
            ready = {key: min(one.ready.get(key, 0), count) for key, count in planned.items()}
            loading = [key for key, count in planned.items() if count > ready[key]]
            if loading and data.draw(st.booleans()):
                ready[loading[0]] += 1
            world.change(one.node_id, ready=ready)
        for key, (replicas, _) in keyed.items():
            assert sum(one.ready[key] for one in world.nodes) >= replicas
    world.settle()
    assert all(leaving not in world.where(key) for key in keyed)
