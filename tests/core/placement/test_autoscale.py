"""Extra replicas: they come while requests wait, go when they were idle, and do neither under a steady load."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from ollamamax.core.placement.autoscale import AutoscaleConfig, Autoscaler, Demand
from ollamamax.core.types import Assignment, Placement

CONFIG = AutoscaleConfig(grow_after_ms=5_000.0)
IDLE_MS = 60_000


class Cluster:
    """One model; what is wanted is ready at once, as far as there is room."""

    def __init__(self, replicas: int, max_replicas: int, slots: tuple[int, ...], pins: tuple[str, ...] = ()) -> None:
        self.placement = Placement(
            name="x", replicas=replicas, max_replicas=max_replicas, changed_ns=0, idle_ms=IDLE_MS, pins=pins
        )
        self.slots = slots
        self.now_ms = 0.0
        self.scaler = Autoscaler(CONFIG)
        self.extra = 0
        self.base = max(replicas, len(pins)) if replicas else 0
        self.is_ready = True

    @property
    def assigned(self) -> int:
        return min(self.base + self.extra, len(self.slots))

    def step(self, load: int, seconds: float = 1.0) -> int:
        """load: requests that wait or are under way."""
        self.now_ms += seconds * 1000
        slots = self.slots[: self.assigned if self.is_ready else self.base]
        in_flight = min(load, sum(slots))
        demand = Demand(waiting=load - in_flight, in_flight=in_flight, slots=slots)
        missing = max(0, self.base - len(self.slots))
        assignment = Assignment(name="x", nodes={"a": self.assigned}, decided_ns=0, missing=missing)
        made = self.scaler.step({"x": self.placement}, {"x": assignment}, {"x": demand}, self.now_ms)
        self.scaler.check_invariants()
        self.extra = made.get("x", 0)
        return self.extra


def test_a_queue_that_lasts_brings_one_more_and_then_another() -> None:
    cluster = Cluster(1, 3, (2, 2, 2, 2))
    seen = [cluster.step(9) for _ in range(20)]
    assert seen == [0] * 5 + [1] * 6 + [2] * 9


def test_a_short_queue_brings_none() -> None:
    cluster = Cluster(1, 3, (2, 2, 2))
    assert [cluster.step(0 if n % 5 == 4 else 9) for n in range(30)] == [0] * 30


def test_the_next_one_comes_when_the_last_one_answers() -> None:
    cluster = Cluster(1, 3, (2, 2, 2))
    for _ in range(6):
        cluster.step(9)
    cluster.is_ready = False
    assert [cluster.step(9) for _ in range(10)] == [1] * 10
    cluster.is_ready = True
    assert [cluster.step(9) for _ in range(6)] == [1] * 5 + [2]


def test_who_finds_no_place_gets_no_company() -> None:
    cluster = Cluster(1, 3, (2,))
    assert [cluster.step(9) for _ in range(20)] == [0] * 5 + [1] * 15
    # Nobody waits any more: it goes although requests are under way, as they fit without it.
    assert [cluster.step(1, 30.0) for _ in range(3)] == [1, 1, 0]


def test_what_is_missing_of_those_asked_for_does_not_stand_in_the_way() -> None:
    cluster = Cluster(1, 4, (2, 2, 2), pins=("a", "b", "c", "d"))
    assert [cluster.step(99) for _ in range(12)] == [0] * 12, "there are as many pins as there may be replicas"
    cluster = Cluster(2, 3, (2,))
    assert max(cluster.step(99) for _ in range(12)) == 1


def test_it_goes_after_its_idle_time_one_by_one() -> None:
    cluster = Cluster(1, 3, (2, 2, 2))
    for _ in range(12):
        cluster.step(9)
    assert cluster.extra == 2
    assert [cluster.step(2, 20.0) for _ in range(8)] == [2, 2, 2, 1, 1, 1, 0, 0]
    assert cluster.step(0, 1000.0) == 0


def test_the_largest_of_them_counts_as_the_one_that_goes() -> None:
    cluster = Cluster(1, 2, (1, 4))
    for _ in range(6):
        cluster.step(9)
    assert cluster.extra == 1
    assert [cluster.step(2, 30.0) for _ in range(5)] == [1] * 5
    assert [cluster.step(1, 30.0) for _ in range(3)] == [1, 1, 0]


def test_another_planner_goes_on_with_what_is_assigned() -> None:
    placement = Placement(name="x", replicas=1, max_replicas=3, changed_ns=0)
    demands = {"x": Demand(slots=(1, 1))}

    def first(assigned: int, placed: Placement = placement) -> dict[str, int]:
        assignments = {"x": Assignment(name="x", nodes={"a": assigned}, decided_ns=0)}
        return Autoscaler(CONFIG).step({"x": placed}, assignments, demands, 0.0)

    assert first(2) == {"x": 1}
    assert first(9) == {"x": 2}
    assert first(0) == {}
    none = Placement(name="x", replicas=0, max_replicas=3, changed_ns=0)
    assert first(2, none) == {}
    assert Autoscaler(CONFIG).step({"x": placement}, {}, {}, 0.0) == {}


def test_a_placement_that_is_gone_is_forgotten() -> None:
    cluster = Cluster(1, 2, (1, 1))
    for _ in range(6):
        cluster.step(9)
    assert cluster.scaler.step({}, {}, {}, cluster.now_ms) == {}
    assignment = Assignment(name="x", nodes={"a": 1}, decided_ns=0)
    assert cluster.scaler.step({"x": cluster.placement}, {"x": assignment}, {}, cluster.now_ms) == {}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 3),
    st.integers(0, 6),
    st.lists(st.integers(1, 4), min_size=6, max_size=6).map(lambda slots: tuple(sorted(slots))),
    st.lists(st.integers(0, 12), max_size=20),
    st.integers(0, 12),
    st.sampled_from([0.5, 1.0, 7.0, 45.0]),
)
def test_it_keeps_its_bounds_and_a_steady_load_brings_it_to_rest(
    replicas: int, most: int, slots: tuple[int, ...], restless: list[int], load: int, seconds: float
) -> None:
    cluster = Cluster(replicas, most, slots)
    for one in restless:
        assert 0 <= cluster.step(one, seconds) <= max(0, most - replicas)
    seen = [cluster.step(load, seconds) for _ in range(int(8 * IDLE_MS / 1000 / seconds) + 60)]
    turns = [after - before for before, after in pairwise(seen) if after != before]
    assert not turns or max(turns) * min(turns) > 0, "once it shrinks or grows, it never turns round"
    settled = seen[-1]
    assert {cluster.step(load, seconds) for _ in range(int(3 * IDLE_MS / 1000 / seconds))} == {settled}
    if replicas and settled < most - replicas:
        assert load <= sum(slots[: replicas + settled]), "nobody waits where there could be one more"
