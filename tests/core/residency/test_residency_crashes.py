"""Failed loads, crashes, restarts and shutdown."""

import pytest
from residency_driver import BROKEN, Driver, failures

from ollamamax.core.errors import GgufUnsupported, LoadTimeout, ShuttingDown
from ollamamax.core.errors import LoadFailed as LoadFailedError
from ollamamax.core.residency.events import (
    Acquire,
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
from ollamamax.core.residency.runner import Phase
from ollamamax.core.types import LaunchSpec


@pytest.fixture
def driver() -> Driver:
    return Driver()


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
