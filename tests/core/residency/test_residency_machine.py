"""One behaviour each; the random runs are next door."""

from collections.abc import Iterator
from typing import Any

import pytest

from ollamamax.core.errors import GgufUnsupported, LoadTimeout, NoMemory, ShuttingDown
from ollamamax.core.errors import LoadFailed as LoadFailedError
from ollamamax.core.residency.events import (
    Acquire,
    Effect,
    Event,
    Exited,
    Fail,
    Failure,
    Grant,
    Loaded,
    LoadFailed,
    MeasureMemory,
    MemoryMeasured,
    Release,
    Shutdown,
    StartLoad,
    Stopped,
    StopRunner,
    Tick,
    UnloadAsked,
)
from ollamamax.core.residency.fit import Sizing
from ollamamax.core.residency.machine import Residency, ResidencyConfig
from ollamamax.core.residency.runner import Phase, Runner
from ollamamax.core.types import FOREVER_MS, LaunchSpec

BROKEN = Failure(LoadFailedError, "broken")


class Driver:
    """Steps the machine, checks it after each step, and plays the part of memory and processes on demand."""

    def __init__(self, **config: Any) -> None:
        self.machine = Residency(ResidencyConfig(**config))
        self.now_ms = 1_000.0
        self.next_id = 1
        self.free_bytes = self.total_bytes = 1000
        self.gpus = 0

    def send(self, event: Event) -> list[Effect]:
        effects = self.machine.step(event, self.now_ms)
        self.machine.check_invariants()
        if MeasureMemory() in effects:
            effects.remove(MeasureMemory())
            effects += self.send(MemoryMeasured(self.free_bytes, self.total_bytes, self.gpus))
        return effects

    def acquire(
        self,
        key: str,
        need: int = 100,
        parallel: int = 1,
        automatic: tuple[str, ...] = (),
        keep_alive_ms: int | None = None,
        **spec: Any,
    ) -> list[Effect]:
        sizing = (Sizing(parallel, need),)
        launch = LaunchSpec(**{"key": key, "name": key, "model_path": key, "ctx_tokens": 512, **spec})
        request = Acquire(
            request_id=self.next_id,
            spec=launch,
            sizings=sizing,
            automatic=frozenset(automatic),
            keep_alive_ms=keep_alive_ms,
        )
        self.next_id += 1
        return self.send(request)

    def load(self, key: str, **options: Any) -> int:
        """Acquire on an empty place, load, serve; the request's id."""
        started = self.acquire(key, **options)
        assert [type(effect) for effect in started] == [StartLoad]
        (grant,) = self.send(Loaded(key))
        assert isinstance(grant, Grant)
        return grant.request_id

    def load_idle(self, key: str, **options: Any) -> None:
        assert self.send(Release(self.load(key, **options), is_completed=True)) == []

    def wait(self, ms: float) -> list[Effect]:
        self.now_ms += ms
        return self.send(Tick())

    def runner(self, key: str) -> Runner:
        return next(runner for runner in self.machine.runners if runner.key == key)

    @property
    def keys(self) -> list[str]:
        return [runner.key for runner in self.machine.runners]


@pytest.fixture
def driver() -> Iterator[Driver]:
    made = Driver()
    yield made
    made.machine.check_invariants()


def failures(effects: list[Effect]) -> list[tuple[int, type[Exception]]]:
    return [(effect.request_id, effect.failure.kind) for effect in effects if isinstance(effect, Fail)]


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


def test_keep_alive_runs_from_the_last_release(driver: Driver) -> None:
    first = driver.load("a", parallel=2)
    driver.acquire("a", parallel=2)
    driver.send(Release(first))
    assert driver.machine.next_deadline_ms is None
    driver.now_ms += 10_000
    driver.send(Release(2))
    assert driver.machine.next_deadline_ms == driver.now_ms + 300_000
    assert driver.wait(299_999) == []
    assert driver.wait(1) == [StopRunner("a", "expired")]
    assert driver.machine.next_deadline_ms is None
    assert driver.send(Stopped("a")) == []
    assert driver.keys == []


def test_the_last_keep_alive_wins_and_none_keeps_the_former(driver: Driver) -> None:
    driver.load_idle("a", keep_alive_ms=5_000)
    driver.acquire("a")
    driver.send(Release(2))
    assert driver.machine.next_deadline_ms == driver.now_ms + 5_000
    driver.acquire("a", keep_alive_ms=FOREVER_MS)
    driver.send(Release(3))
    assert driver.machine.next_deadline_ms is None
    driver.acquire("a", keep_alive_ms=0)
    assert driver.send(Release(4)) == [StopRunner("a", "expired")]


def test_unloading_waits_for_those_who_are_there(driver: Driver) -> None:
    driver.load("a")
    driver.acquire("a")
    assert driver.send(UnloadAsked("a")) == []
    assert driver.acquire("a") == []
    assert driver.send(Release(1)) == [Grant(2, "a")]
    assert driver.send(Release(2)) == [StopRunner("a", "asked")]
    assert driver.send(UnloadAsked("a")) == []
    (start,) = driver.send(Stopped("a"))
    assert isinstance(start, StartLoad)
    assert driver.send(Loaded("a")) == [Grant(3, "a")]


def test_unloading_what_is_not_there(driver: Driver) -> None:
    assert driver.send(UnloadAsked("a")) == []


def test_unloading_stops_a_load_that_nobody_wants(driver: Driver) -> None:
    driver.acquire("a")
    driver.send(Release(1))
    assert driver.send(UnloadAsked("a")) == [StopRunner("a", "asked")]
    assert driver.send(Loaded("a")) == []  # it came too late
    assert driver.send(Stopped("a")) == []
    assert driver.keys == []


@pytest.mark.parametrize("end", [LoadFailed("a", BROKEN), Exited("a", "killed")])
def test_a_process_that_ends_while_it_is_stopped_is_gone(driver: Driver, end: Event) -> None:
    driver.load_idle("a")
    driver.send(UnloadAsked("a"))
    assert driver.send(end) == []
    assert driver.keys == []


@pytest.mark.parametrize(
    "changes",
    [
        {"ctx_tokens": 1024},
        {"batch_tokens": 1024},
        {"embedding": True},
        {"adapter_paths": ("x",)},
        {"projector_path": "x"},
        {"gpu_layers": 3},
        {"main_gpu": 1},
        {"threads": 2},
        {"use_mmap": False},
        {"kv_cache_type": "q8_0"},
        {"flash_attention": "off"},
        {"context_shift": False},
    ],
)
def test_a_launch_that_differs_reloads_after_running_requests(driver: Driver, changes: dict[str, Any]) -> None:
    driver.load("a")
    assert driver.acquire("a", **changes) == []
    assert driver.send(Release(1)) == [StopRunner("a", "reload")]
    (start,) = driver.send(Stopped("a"))
    assert isinstance(start, StartLoad)
    for field, value in changes.items():
        assert getattr(start.spec, field) == value


@pytest.mark.parametrize("changes", [{"ctx_tokens": 1024}, {"batch_tokens": 1024}, {"gpu_layers": 3}])
def test_what_nobody_asked_for_does_not_reload(driver: Driver, changes: dict[str, Any]) -> None:
    driver.load("a", **changes)
    driver.send(Release(1))
    assert driver.acquire("a", automatic=tuple(changes)) == [Grant(2, "a")]


def test_names_and_slots_do_not_reload(driver: Driver) -> None:
    driver.load_idle("a")
    assert driver.acquire("a", name="other", parallel=4) == [Grant(2, "a")]
    assert driver.runner("a").spec.name == "a"


def test_a_reload_keeps_the_order_of_one_models_requests(driver: Driver) -> None:
    driver.load("a")
    driver.acquire("a", ctx_tokens=1024)
    assert driver.acquire("a") == []  # would fit the running launch, but came after the other
    driver.send(Release(1))
    driver.send(Stopped("a"))
    assert driver.send(Loaded("a")) == [Grant(2, "a")]
    assert driver.send(Release(2)) == [StopRunner("a", "reload")]
    driver.send(Stopped("a"))
    assert driver.send(Loaded("a")) == [Grant(3, "a")]


def test_a_reload_of_a_sleeping_runner_takes_no_time(driver: Driver) -> None:
    driver.load_idle("a")
    driver.send(Exited("a", "killed"))
    (start,) = driver.acquire("a", ctx_tokens=1024)
    assert isinstance(start, StartLoad)
    assert start.spec.ctx_tokens == 1024


def test_a_failed_load_fails_those_who_wait_with_its_own_reason(driver: Driver) -> None:
    driver.acquire("a")
    driver.acquire("a")
    effects = driver.send(LoadFailed("a", Failure(GgufUnsupported, "no such architecture")))
    assert failures(effects) == [(1, GgufUnsupported), (2, GgufUnsupported)]
    assert driver.keys == []
    assert len(driver.acquire("a")) == 1  # the next one tries again


def test_a_load_that_takes_too_long() -> None:
    driver = Driver(load_timeout_ms=5_000)
    driver.acquire("a")
    assert driver.machine.next_deadline_ms == driver.now_ms + 5_000
    assert driver.wait(4_999) == []
    effects = driver.wait(1)
    assert failures(effects) == [(1, LoadTimeout)]
    assert effects[1:] == [StopRunner("a", "load_timeout")]
    assert isinstance(effects[0], Fail)
    assert "within 5 s" in effects[0].failure.text
    driver.send(Stopped("a"))
    assert driver.keys == []


def test_no_load_timeout() -> None:
    driver = Driver(load_timeout_ms=0)
    driver.acquire("a")
    assert driver.machine.next_deadline_ms is None
    assert driver.wait(10_000_000) == []


def test_a_crash_is_followed_by_a_restart_that_serves_those_who_wait(driver: Driver) -> None:
    driver.load("a")
    driver.acquire("a")
    assert driver.send(Exited("a", "killed by signal 9")) == []
    assert driver.send(Release(1)) == []  # its stream has broken; nobody is granted on a dead runner
    assert driver.acquire("a") == []
    assert driver.machine.next_deadline_ms == driver.now_ms + 1_000
    assert driver.wait(999) == []
    (start,) = driver.wait(1)
    assert isinstance(start, StartLoad)
    assert driver.send(Loaded("a")) == [Grant(2, "a")]
    assert driver.send(Release(2, is_completed=True)) == [Grant(3, "a")]
    driver.send(Exited("a", "again"))
    assert driver.machine.next_deadline_ms == driver.now_ms + 1_000  # a completed answer had made good


def test_waits_between_restarts_double_to_30_s_and_the_sixth_failure_in_a_row_fails_those_who_wait(
    driver: Driver,
) -> None:
    driver.load("a")
    driver.acquire("a")
    driver.send(Exited("a", "killed"))
    for wait_ms in (1_000, 2_000, 4_000, 8_000):
        assert driver.machine.next_deadline_ms == driver.now_ms + wait_ms
        assert len(driver.wait(wait_ms)) == 1
        assert driver.send(LoadFailed("a", BROKEN)) == []
    driver.wait(16_000)
    effects = driver.send(LoadFailed("a", BROKEN))
    assert failures(effects) == [(2, LoadFailedError)]
    assert isinstance(effects[0], Fail)
    assert effects[0].failure.text == "model a failed 6 times in a row: broken"
    driver.acquire("a")
    for _ in range(2):
        assert driver.machine.next_deadline_ms == driver.now_ms + 30_000
        assert len(driver.wait(30_000)) == 1
        effects = driver.send(LoadFailed("a", BROKEN))
    assert driver.acquire("a") == []
    driver.wait(30_000)
    assert driver.send(Loaded("a")) == [Grant(4, "a")]


def test_a_minute_of_being_ready_makes_good(driver: Driver) -> None:
    driver.load("a")
    driver.send(Exited("a", "killed"))
    driver.acquire("a")
    driver.wait(1_000)
    driver.send(Loaded("a"))
    driver.now_ms += 59_999
    driver.send(Exited("a", "killed"))
    assert driver.machine.next_deadline_ms == driver.now_ms + 2_000
    driver.wait(2_000)
    driver.send(Loaded("a"))
    driver.now_ms += 60_000
    driver.send(Exited("a", "killed"))
    assert driver.machine.next_deadline_ms == driver.now_ms + 1_000


def test_a_keep_alive_that_ends_during_the_wait_drops_the_runner() -> None:
    driver = Driver(keep_alive_ms=500)
    driver.load_idle("a")
    driver.send(Exited("a", "killed"))
    assert driver.machine.next_deadline_ms == driver.now_ms + 500
    assert driver.wait(500) == []
    assert driver.keys == []


def test_a_crash_with_no_keep_alive_and_nobody_waiting_is_the_end(driver: Driver) -> None:
    driver.load("a", keep_alive_ms=0)
    assert driver.send(Exited("a", "killed")) == []
    assert driver.keys == []


def test_restarts_wait_for_each_other(driver: Driver) -> None:
    for key in "ab":
        driver.load_idle(key)
    driver.send(Exited("b", "killed"))
    driver.send(Exited("a", "killed"))
    (start,) = driver.wait(1_000)
    assert isinstance(start, StartLoad)
    assert start.spec.key == "a"
    assert driver.send(Tick()) == []
    assert driver.machine.next_deadline_ms == driver.now_ms + 299_000  # b's keep-alive; its restart waits for a's load
    (start,) = driver.send(Loaded("a"))
    assert isinstance(start, StartLoad)
    assert start.spec.key == "b"


def test_a_measurement_that_comes_during_a_restart_is_taken_again(driver: Driver) -> None:
    driver.load_idle("a")
    driver.send(Exited("a", "killed"))
    step = driver.machine.step
    request = Acquire(
        request_id=77,
        spec=LaunchSpec(key="b", name="b", model_path="b", ctx_tokens=512),
        sizings=(Sizing(1, 100),),
    )
    assert step(request, driver.now_ms) == [MeasureMemory()]
    assert step(Tick(), driver.now_ms) == []  # asked once
    driver.now_ms += 1_000
    assert [type(effect) for effect in step(Tick(), driver.now_ms)] == [StartLoad]
    assert step(MemoryMeasured(1000, 1000), driver.now_ms) == []
    assert step(Loaded("a"), driver.now_ms) == [MeasureMemory()]


def test_a_runner_told_to_go_is_restarted_for_those_who_waited_before(driver: Driver) -> None:
    driver.load("a")
    driver.acquire("a")
    driver.send(UnloadAsked("a"))
    driver.send(Exited("a", "killed"))
    driver.wait(1_000)
    assert driver.send(Loaded("a")) == [Grant(2, "a")]
    assert driver.send(Release(2)) == [StopRunner("a", "asked")]


def test_shutting_down_lets_running_requests_finish(driver: Driver) -> None:
    driver.load_idle("a")
    driver.load("b")
    driver.acquire("b")
    driver.acquire("c")
    effects = driver.send(Shutdown())
    assert sorted(failures(effects)) == [(3, ShuttingDown), (4, ShuttingDown)]
    assert StopRunner("a", "shutdown") in effects
    assert StopRunner("c", "shutdown") in effects
    assert failures(driver.acquire("a")) == [(5, ShuttingDown)]
    assert driver.send(Release(2)) == [StopRunner("b", "shutdown")]
    for key in "abc":
        driver.send(Stopped(key))
    assert driver.keys == []


def test_a_forced_shutdown_stops_everything(driver: Driver) -> None:
    driver.load("a")
    assert driver.send(Shutdown()) == []
    assert driver.send(Shutdown(is_forced=True)) == [StopRunner("a", "shutdown")]
    assert driver.send(Release(1)) == []
    assert driver.runner("a").phase is Phase.STOPPING
    driver.send(Stopped("a"))
    assert driver.keys == []


def test_shutting_down_fails_the_line(driver: Driver) -> None:
    driver.load("a")
    driver.acquire("a", ctx_tokens=1024)
    assert driver.machine.pending == (2,)
    assert failures(driver.send(Shutdown())) == [(2, ShuttingDown)]
