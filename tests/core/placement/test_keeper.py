"""One action at a time, from any state to what is assigned; nothing is unloaded that is still needed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollamamax.core.placement.keeper import (
    Action,
    Actual,
    Doable,
    Fetch,
    Instance,
    Keeper,
    Load,
    Nothing,
    Phase,
    Unload,
)

READY, LOADING, UNLOADING = Phase.READY, Phase.LOADING, Phase.UNLOADING


def step(
    desired: dict[str, int], *instances: Instance, has: str = "", fetching: str = "", held: str = "", now_ms: float = 0
) -> Action:
    actual = Actual(has=frozenset(has), fetching=frozenset(fetching), instances=instances)
    return Keeper().step(desired, actual, now_ms, frozenset(held))


def test_files_then_a_load_then_nothing() -> None:
    assert step({"x": 1}) == Fetch("x")
    assert step({"x": 1}, has="x") == Load("x")
    assert step({"x": 1}, Instance("1", "x", READY), has="x") == Nothing()
    assert step({"x": 2}, Instance("1", "x", READY), has="x") == Load("x")
    assert step({"x": 0}) == Nothing()
    assert step({}) == Nothing()


def test_what_is_too_much_goes_first_what_loads_before_what_is_ready() -> None:
    instances = Instance("1", "x", READY), Instance("2", "x", LOADING), Instance("3", "x", UNLOADING)
    assert step({"y": 1}, *instances, has="y") == Unload("x", "2")
    assert step({"y": 1}, instances[0], has="y") == Unload("x", "1")
    assert step({"x": 1}, *instances, has="x") == Unload("x", "2")
    assert step({"x": 2}, *instances, has="x") == Nothing()


def test_what_is_busy_is_left_and_the_rest_goes_on() -> None:
    busy, idle = Instance("1", "x", READY, True), Instance("2", "x", READY)
    assert step({}, busy) == Nothing()
    assert step({}, busy, idle) == Unload("x", "2")
    assert step({"x": 1}, busy, idle) == Unload("x", "2")
    assert step({"y": 1}, busy, has="y") == Load("y")


def test_the_last_ready_replica_stays_while_it_is_held() -> None:
    first, second = Instance("1", "x", READY), Instance("2", "x", READY)
    assert step({}, first, held="x") == Nothing()
    assert step({}, first, held="y") == Unload("x", "1")
    assert step({}, first, second, held="x") == Unload("x", "1")
    assert step({}, first, Instance("3", "x", LOADING), held="x") == Unload("x", "3")
    assert step({}, Instance("3", "x", LOADING), held="x") == Unload("x", "3")


def test_one_load_and_one_fetch_at_a_time() -> None:
    loading = Instance("1", "x", LOADING)
    assert step({"x": 1, "y": 1}, loading, has="xy") == Nothing()
    assert step({"x": 1, "y": 1}, loading, has="x") == Fetch("y")
    assert step({"x": 1}, Instance("1", "y", UNLOADING), has="x") == Nothing()
    assert step({"x": 1, "y": 1}, fetching="x") == Nothing()
    assert step({"x": 1}, fetching="z") == Fetch("x"), "somebody else's pull is none of its own"


def test_failures_back_off_up_to_a_minute_and_others_go_on() -> None:
    keeper, actual, now_ms = Keeper(), Actual(has=frozenset("y"), instances=()), 0.0
    pauses = []
    for _ in range(9):
        action = keeper.step({"x": 1}, actual, now_ms)
        assert action == Fetch("x")
        keeper.failed(action, now_ms)
        keeper.check_invariants()
        put_off = keeper.step({"x": 1}, actual, now_ms)
        assert isinstance(put_off, Nothing)
        assert put_off.until_ms is not None
        assert keeper.step({"x": 1, "y": 1}, actual, now_ms) == Load("y")
        pauses.append(put_off.until_ms - now_ms)
        assert keeper.step({"x": 1}, actual, put_off.until_ms - 1) == put_off
        now_ms = put_off.until_ms
    assert pauses == [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]
    keeper.done(Fetch("x"))
    keeper.done(Fetch("x"))
    keeper.failed(Fetch("x"), now_ms)
    assert keeper.step({"x": 1}, actual, now_ms) == Nothing(now_ms + 1_000)


def test_the_soonest_of_those_put_off_is_told() -> None:
    keeper, actual = Keeper(), Actual()
    keeper.failed(Fetch("x"), 0.0)
    keeper.failed(Fetch("y"), 500.0)
    keeper.failed(Fetch("z"), 0.0)
    keeper.failed(Fetch("z"), 0.0)
    assert keeper.step({"x": 1, "y": 1, "z": 1}, actual, 900.0) == Nothing(1_000.0)
    assert keeper.step({"y": 1, "z": 1}, actual, 900.0) == Nothing(1_500.0)


def test_failures_are_forgotten_with_the_wish_but_not_while_it_is_tried() -> None:
    keeper, actual = Keeper(), Actual(has=frozenset("x"))
    keeper.failed(Load("x"), 0.0)
    keeper.step({"x": 1}, Actual(has=frozenset("x"), instances=(Instance("1", "x", LOADING),)), 1_000.0)
    keeper.failed(Load("x"), 1_000.0)
    assert keeper.step({"x": 1}, actual, 1_000.0) == Nothing(3_000.0)
    keeper.step({}, actual, 1_000.0)
    assert keeper.step({"x": 1}, actual, 1_000.0) == Load("x")
    stuck = Instance("1", "x", READY)
    keeper.failed(Unload("x", "1"), 0.0)
    assert keeper.step({}, Actual(instances=(stuck,)), 500.0) == Nothing(1_000.0)
    keeper.step({}, Actual(), 500.0)
    assert keeper.step({}, Actual(instances=(stuck,)), 500.0) == Unload("x", "1")


class Node:
    """A store and instances that do what they are told, or fail, or lose everything in memory."""

    def __init__(self, has: set[str], instances: list[Instance]) -> None:
        self.has, self.fetching = set(has), set[str]()
        self.instances = {one.instance_id: one for one in instances}
        self.drawn = 100

    def actual(self) -> Actual:
        return Actual(
            has=frozenset(self.has), fetching=frozenset(self.fetching), instances=tuple(self.instances.values())
        )

    def begin(self, action: Doable) -> None:
        match action:
            case Fetch(key):
                self.fetching.add(key)
            case Load(key):
                assert key in self.has, "only what is there is loaded"
                self.drawn += 1
                self.instances[str(self.drawn)] = Instance(str(self.drawn), key, LOADING)
            case Unload(key, instance_id):
                one = self.instances[instance_id]
                assert not one.busy, "what is busy stays"
                self.instances[instance_id] = Instance(instance_id, key, UNLOADING)

    def pass_time(self) -> None:
        """All that is under way is done."""
        self.has |= self.fetching
        self.fetching.clear()
        for name, one in list(self.instances.items()):
            if one.phase is UNLOADING:
                del self.instances[name]
            elif one.phase is LOADING:
                self.instances[name] = Instance(name, one.key, READY)
            else:
                self.instances[name] = Instance(name, one.key, READY, False)

    def restart(self) -> None:
        """kill -9: only files stay."""
        self.fetching.clear()
        self.instances.clear()

    def counts(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for one in self.instances.values():
            found[one.key] = found.get(one.key, 0) + 1
        return found


KEYS = "xyz"
INSTANCES = st.lists(
    st.builds(
        Instance,
        st.integers(0, 20).map(str),
        st.sampled_from(KEYS),
        st.sampled_from(Phase),
        st.booleans(),
    ),
    max_size=6,
    unique_by=lambda one: one.instance_id,
)
WHATEVER = st.sampled_from(["done", "begun", "failed", "crash before", "crash after"])


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS), st.integers(0, 3)),
    st.sets(st.sampled_from(KEYS)),
    INSTANCES,
    st.lists(WHATEVER, max_size=12),
    st.sets(st.sampled_from(KEYS)),
)
def test_it_converges_from_any_state_through_crashes_anywhere(
    desired: dict[str, int], has: set[str], instances: list[Instance], happens: list[str], held: set[str]
) -> None:
    node, keeper, now_ms = Node(has, instances), Keeper(), 0.0
    for what in [*happens, *["done"] * 40]:
        before = node.counts()
        ready = {key: sum(one.key == key and one.phase is READY for one in node.instances.values()) for key in KEYS}
        action = keeper.step(desired, node.actual(), now_ms, held)
        keeper.check_invariants()
        assert action == keeper.step(desired, node.actual(), now_ms, held), "asked again, it says the same"
        if isinstance(action, Nothing):
            node.pass_time()
            now_ms = max(now_ms, action.until_ms or 0.0)
        elif what == "failed":
            keeper.failed(action, now_ms)
        elif what != "crash before":
            node.begin(action)
            keeper.done(action)
            if isinstance(action, Load):
                assert before.get(action.key, 0) < desired[action.key], "never more than needed"
                assert sum(one.phase is LOADING for one in node.instances.values()) == 1
            if isinstance(action, Unload):
                was_ready = next(one for one in node.actual().instances if one.instance_id == action.instance_id)
                assert was_ready.phase is UNLOADING
                left = sum(one.key == action.key and one.phase is READY for one in node.instances.values())
                assert left or not ready[action.key] or action.key not in held, "the last ready one stays"
            if what == "done":
                node.pass_time()
        if what.startswith("crash"):
            node.restart()
            keeper = Keeper()
    for _ in range(20):
        action = keeper.step(desired, node.actual(), now_ms)
        if isinstance(action, Nothing):
            node.pass_time()
            now_ms = max(now_ms, action.until_ms or 0.0)
        else:
            node.begin(action)
            node.pass_time()
    assert keeper.step(desired, node.actual(), now_ms) == Nothing()
    assert node.counts() == {key: count for key, count in desired.items() if count}
    assert all(one.phase is READY for one in node.instances.values())


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_drain_gives_up_the_last_one_when_it_may(replicas: int) -> None:
    node, keeper = Node(set("x"), [Instance(str(n), "x", READY) for n in range(replicas)]), Keeper()
    seen = []
    for held in [True] * 4 + [False] * 4:
        action = keeper.step({}, node.actual(), 0.0, frozenset("x") if held else frozenset())
        if not isinstance(action, Nothing):
            node.begin(action)
            node.pass_time()
        seen.append(node.counts().get("x", 0))
    assert seen == [1] * 4 + [0] * 4
