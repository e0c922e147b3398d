"""Keep-alive, unloading and reloads."""

from typing import Any

import pytest
from residency_driver import BROKEN, Driver

from ollamamax.core.residency.events import (
    Event,
    Exited,
    Grant,
    Loaded,
    LoadFailed,
    Release,
    StartLoad,
    Stopped,
    StopRunner,
    UnloadAsked,
)
from ollamamax.core.residency.machine import ResidencyConfig
from ollamamax.core.types import FOREVER_MS


@pytest.fixture
def driver() -> Driver:
    return Driver()


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


def test_other_limits_are_for_what_is_loaded_from_then_on(driver: Driver) -> None:
    driver.load_idle("a")
    driver.machine.reconfigure(ResidencyConfig(keep_alive_ms=10, max_loaded=1, load_timeout_ms=7))
    assert driver.wait(11) == [], "it keeps the time that it was loaded with"
    assert driver.acquire("b") == [StopRunner("a", "evicted")]
    assert [type(effect) for effect in driver.send(Stopped("a"))] == [StartLoad]
    assert driver.machine.next_deadline_ms == driver.now_ms + 7
    driver.send(Loaded("b"))
    driver.send(Release(2, is_completed=True))
    assert driver.wait(10) == [StopRunner("b", "expired")]
