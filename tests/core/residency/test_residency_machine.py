"""Loading, lines and eviction: one behaviour each; the random runs are next door."""

import pytest
from residency_driver import Driver, failures

from ollamamax.core.errors import NoMemory
from ollamamax.core.residency.events import (
    Acquire,
    Exited,
    Fail,
    Grant,
    Loaded,
    MeasureMemory,
    MemoryMeasured,
    Release,
    StartLoad,
    Stopped,
    StopRunner,
)
from ollamamax.core.residency.fit import Sizing
from ollamamax.core.types import FOREVER_MS, LaunchSpec


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_a_request_loads_its_model_and_is_served(driver: Driver) -> None:
    measure = driver.machine.step(
        Acquire(
            request_id=9,
            spec=LaunchSpec(key="a", name="a", model_path="a", ctx_tokens=512),
            sizings=(Sizing(4, 900), Sizing(2, 500), Sizing(1, 300)),
        ),
        0.0,
    )
    assert measure == [MeasureMemory()]
    (start,) = driver.machine.step(MemoryMeasured(600, 1000), 0.0)
    assert isinstance(start, StartLoad)
    assert (start.spec.parallel, start.need_bytes) == (2, 500)
    assert driver.machine.step(Loaded("a"), 0.0) == [Grant(9, "a")]


def test_equal_loads_coalesce_and_slots_are_given_in_order(driver: Driver) -> None:
    assert len(driver.acquire("a", parallel=2)) == 1
    assert [driver.acquire("a", parallel=2) for _ in range(3)] == [[], [], []]
    assert driver.send(Loaded("a")) == [Grant(1, "a"), Grant(2, "a")]
    assert driver.send(Release(2)) == [Grant(3, "a")]
    assert driver.send(Release(1)) == [Grant(4, "a")]


def test_one_load_at_a_time_in_order_while_ready_models_go_on(driver: Driver) -> None:
    driver.load_idle("a")
    assert len(driver.acquire("b")) == 1
    assert driver.acquire("c") == []
    assert driver.acquire("a") == [Grant(4, "a")]
    effects = driver.send(Loaded("b"))
    assert effects[0] == Grant(2, "b")
    assert isinstance(effects[1], StartLoad)
    assert effects[1].spec.key == "c"


def test_a_withdrawn_request_leaves_its_place(driver: Driver) -> None:
    driver.acquire("a")
    driver.acquire("a")
    driver.acquire("b")
    driver.acquire("b")
    assert driver.send(Release(1)) == []
    assert driver.send(Release(3)) == []
    effects = driver.send(Loaded("a"))
    assert effects[0] == Grant(2, "a")
    assert driver.send(Loaded("b")) == [Grant(4, "b")]


def test_no_more_than_the_limit(driver: Driver) -> None:
    for key in "abc":
        driver.load_idle(key)
    assert driver.acquire("d") == [StopRunner("a", "evicted")]
    (start,) = driver.send(Stopped("a"))
    assert isinstance(start, StartLoad)
    driver.gpus = 2
    driver.send(Loaded("d"))
    (start,) = driver.acquire("e")
    assert isinstance(start, StartLoad)  # six with two GPUs


def test_a_configured_limit() -> None:
    driver = Driver(max_loaded=1)
    driver.load_idle("a")
    assert driver.acquire("b") == [StopRunner("a", "evicted")]


def test_idle_ones_go_first_then_the_shortest_keep_alive(driver: Driver) -> None:
    driver.load_idle("a", keep_alive_ms=FOREVER_MS)
    driver.load("b", keep_alive_ms=1_000)
    driver.load_idle("c", keep_alive_ms=2_000)
    assert driver.acquire("d") == [StopRunner("c", "evicted")]
    driver.send(Stopped("c"))
    driver.send(Loaded("d"))  # a idle; b and d busy
    assert driver.acquire("e") == [StopRunner("a", "evicted")]


def test_equal_keep_alives_go_by_key(driver: Driver) -> None:
    for key in "cab":
        driver.load_idle(key)
    assert driver.acquire("d") == [StopRunner("a", "evicted")]


def test_a_busy_one_is_told_to_go_and_takes_nobody_new(driver: Driver) -> None:
    for key, keep_alive_ms in (("a", 3_000), ("b", 1_000), ("c", 2_000)):
        driver.load(key, keep_alive_ms=keep_alive_ms)
    assert driver.acquire("d") == []
    assert driver.runner("b").condemned == "evicted"
    assert driver.acquire("b") == []  # it waits behind d, not on the old b
    assert driver.send(Release(2)) == [StopRunner("b", "evicted")]
    (start,) = driver.send(Stopped("b"))
    assert isinstance(start, StartLoad)
    assert start.spec.key == "d"


def test_one_that_falls_idle_goes_before_the_busy_one_that_was_told_to(driver: Driver) -> None:
    for key, keep_alive_ms in (("a", 3_000), ("b", 1_000), ("c", 2_000)):
        driver.load(key, keep_alive_ms=keep_alive_ms)
    assert driver.acquire("d") == []
    assert driver.send(Release(3)) == [StopRunner("c", "evicted")]
    (start,) = driver.send(Stopped("c"))
    assert isinstance(start, StartLoad)
    assert start.spec.key == "d"


def test_beside_others_a_model_takes_at_most_80_percent(driver: Driver) -> None:
    driver.load_idle("a", need=100)
    driver.free_bytes = 500
    assert driver.acquire("b", need=401) == [StopRunner("a", "evicted")]
    driver.send(Stopped("a"))
    driver.send(Loaded("b"))
    driver.send(Release(2))
    (start,) = driver.acquire("c", need=400)
    assert isinstance(start, StartLoad)


def test_mapped_weights_are_not_free(driver: Driver) -> None:
    driver.load_idle("a", need=600)
    driver.free_bytes = 1000  # what the system says: pages of files can be dropped
    assert driver.acquire("b", need=321) == [StopRunner("a", "evicted")]


def test_a_sleeping_runners_memory_is_not_free(driver: Driver) -> None:
    driver.load_idle("a", need=300)
    driver.send(Exited("a", "killed"))
    driver.free_bytes = 600
    (start,) = driver.acquire("b", need=240)
    assert isinstance(start, StartLoad)
    assert driver.keys == ["a", "b"]


def test_evicting_a_sleeping_runner_takes_no_time(driver: Driver) -> None:
    driver.load_idle("a", need=300)
    driver.send(Exited("a", "killed"))
    driver.free_bytes = 600
    (start,) = driver.acquire("b", need=241)
    assert isinstance(start, StartLoad)
    assert driver.keys == ["b"]


def test_the_first_model_may_exceed_free_memory_but_not_all(driver: Driver) -> None:
    driver.free_bytes = 10
    (start,) = driver.acquire("a", need=1000)
    assert isinstance(start, StartLoad)


def test_what_exceeds_all_memory_fails_and_costs_nobody_his_place(driver: Driver) -> None:
    driver.load_idle("a")
    driver.total_bytes = 3 << 30
    effects = driver.acquire("b", need=4 << 30)
    assert failures(effects) == [(2, NoMemory)]
    assert isinstance(effects[0], Fail)
    text = str(effects[0].failure.error())
    assert text == (
        "model b needs 4.00 GiB with a context of 512 tokens, but this machine has 3.00 GiB; "
        "use a smaller quantisation of it or a smaller num_ctx"
    )
    assert driver.keys == ["a"]
