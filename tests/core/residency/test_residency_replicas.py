"""Replicas that are kept for placements, and several of one model on one machine."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from residency_driver import BROKEN, Driver, failures

from ollamamax.core.errors import NoMemory, ShuttingDown
from ollamamax.core.residency.events import (
    Effect,
    Exited,
    Fail,
    Grant,
    LetGo,
    Loaded,
    LoadFailed,
    Release,
    StartLoad,
    Stopped,
    StopRunner,
    StopServing,
    UnloadAsked,
)
from ollamamax.core.residency.runner import Phase


@pytest.fixture
def driver() -> Driver:
    return Driver(keep_alive_ms=1_000)


def test_a_kept_replica_stays_until_it_is_let_go(driver: Driver) -> None:
    driver.keep("a")
    assert driver.wait(10_000) == []
    assert driver.send(UnloadAsked("a")) == []
    (grant,) = driver.acquire("a", keep_alive_ms=0)
    assert isinstance(grant, Grant)
    assert driver.send(Release(grant.request_id)) == []
    assert driver.send(LetGo("a")) == [StopRunner("a", "expired")], "by the keep-alive of the last request"
    driver.send(Stopped("a"))
    assert driver.send(LetGo("a")) == [], "it is gone"


def test_its_keep_alive_begins_when_it_is_let_go(driver: Driver) -> None:
    driver.keep("a")
    driver.wait(10_000)
    assert driver.send(LetGo("a")) == []
    assert driver.send(LetGo("a")) == []
    assert driver.wait(999) == []
    assert driver.wait(1) == [StopRunner("a", "expired")]


def test_one_that_is_busy_or_loads_is_let_go_later(driver: Driver) -> None:
    driver.keep("a")
    driver.acquire("a")
    assert driver.send(LetGo("a")) == []
    assert driver.runner("a").idle_since_ms is None
    driver.acquire("b", keep_for="b")
    assert driver.send(LetGo("b")) == []
    assert driver.send(Release(3)) == [StopRunner("b", "asked")]


def test_one_that_waits_for_its_restart_is_let_go_at_once(driver: Driver) -> None:
    driver.keep("a")
    driver.send(Exited("a", "killed"))
    assert driver.runner("a").phase is Phase.BACKOFF
    driver.send(LetGo("a"))
    assert driver.keys == []


def test_a_wish_to_keep_takes_over_what_a_request_loaded(driver: Driver) -> None:
    driver.load_idle("a")
    (grant,) = driver.acquire("a", keep_for="x")
    assert isinstance(grant, Grant)
    assert driver.keys == ["a"]
    assert driver.runner("a").kept_for == "x"


def test_one_more_replica_is_a_runner_of_its_own(driver: Driver) -> None:
    driver.keep("a")
    driver.keep("a", "a#1")
    driver.keep("a", "a#2")
    assert driver.keys == ["a", "a#1", "a#2"]
    assert [driver.acquire("a") for _ in range(3)] == [[Grant(4, "a")], [Grant(5, "a#1")], [Grant(6, "a#2")]]
    for key in ("a", "a#1", "a#2"):
        driver.send(LetGo(key))
    driver.send(Release(4))
    driver.send(UnloadAsked("a"))
    assert driver.send(Release(5)) == [StopRunner("a#1", "asked")]
    assert driver.keys == ["a", "a#1", "a#2"]
    driver.send(Stopped("a#1"))
    driver.send(Stopped("a"))
    driver.send(Release(6))
    driver.send(Stopped("a#2"))
    driver.keep("a")
    assert driver.keys == ["a"], "the smallest free number"


def test_who_waits_is_served_by_the_first_replica_that_is_free(driver: Driver) -> None:
    driver.keep("a")
    driver.keep("a", "a#1")
    for _ in range(5):
        driver.acquire("a")
    assert driver.send(Release(4)) == [Grant(5, "a#1")]
    assert driver.send(Release(5)) == [Grant(6, "a#1")], "though it waits for the other one"
    assert driver.send(Release(3)) == [Grant(7, "a")]


def test_who_waits_for_a_crashed_replica_goes_to_another(driver: Driver) -> None:
    driver.keep("a")
    driver.keep("a", "a#1")
    for _ in range(4):
        driver.acquire("a")
    assert driver.send(Exited("a", "killed")) == []
    assert driver.send(Release(4)) == [Grant(5, "a#1")]
    assert driver.send(Release(5)) == [Grant(6, "a#1")]


def test_a_wish_to_keep_waits_for_its_own_replica(driver: Driver) -> None:
    driver.keep("a")
    driver.acquire("a", keep_for="a")
    assert driver.acquire("a") == [Grant(3, "a")]
    assert driver.acquire("a") == []
    assert driver.send(Release(3)) == [Grant(4, "a")]
    assert driver.send(Loaded("a#1")) == [Grant(2, "a#1")]


def test_a_wish_to_keep_that_fails_leaves_nothing(driver: Driver) -> None:
    driver.keep("a")
    driver.acquire("a", keep_for="a")
    assert failures(driver.send(LoadFailed("a#1", BROKEN))) == [(2, BROKEN.kind)]
    assert driver.keys == ["a"]


def test_nobody_evicts_what_is_kept(driver: Driver) -> None:
    driver.keep("a", need=400)
    driver.load_idle("b", need=100)
    assert driver.acquire("c", need=450) == [StopRunner("b", "evicted")]
    (start,) = driver.send(Stopped("b"))
    assert isinstance(start, StartLoad)
    driver.send(LoadFailed("c", BROKEN))
    assert failures(driver.acquire("d", need=600)) == [(4, NoMemory)]
    assert failures(driver.acquire("a", need=600, keep_for="a")) == [(5, NoMemory)]
    assert driver.keys == ["a"]


def test_another_launch_stands_beside_a_kept_one_if_there_is_room(driver: Driver) -> None:
    driver.keep("a", need=100)
    (start,) = driver.acquire("a", need=100, ctx_tokens=1024)
    assert isinstance(start, StartLoad)
    assert driver.send(Loaded("a#1")) == [Grant(2, "a#1")]
    assert driver.acquire("a") == [Grant(3, "a")]


def test_where_there_is_no_room_it_takes_the_place_of_a_kept_one(driver: Driver) -> None:
    driver.keep("a", need=600)
    driver.acquire("a", need=600)
    assert driver.acquire("a", need=600, ctx_tokens=1024) == []
    assert driver.runner("a").condemned == "reload"
    assert driver.acquire("d", need=600) == [], "something leaves already"
    assert driver.send(Release(2)) == [StopRunner("a", "reload")]
    (start,) = driver.send(Stopped("a"))
    assert isinstance(start, StartLoad)
    assert start.spec.ctx_tokens == 1024


def test_a_kept_one_that_waits_for_its_restart_goes_at_once_for_another_launch(driver: Driver) -> None:
    driver.keep("a", need=600)
    driver.send(Exited("a", "killed"))
    (start,) = driver.acquire("a", need=600, ctx_tokens=1024)
    assert isinstance(start, StartLoad)
    assert driver.keys == ["a"]


def test_the_limit_is_for_those_that_nobody_keeps() -> None:
    driver = Driver(max_loaded=1)
    driver.load_idle("a", need=10)
    driver.keep("b", need=10)
    driver.keep("c", need=10)
    assert driver.acquire("d", need=10) == [StopRunner("a", "evicted")]


def test_another_launch_reloads_what_nobody_keeps(driver: Driver) -> None:
    driver.keep("a")
    driver.keep("a", "a#1")
    driver.send(LetGo("a"))
    assert driver.acquire("a", ctx_tokens=1024) == [StopRunner("a", "reload")]
    (start,) = driver.send(Stopped("a"))
    assert isinstance(start, StartLoad)
    assert driver.send(Loaded("a")) == [Grant(3, "a")]
    assert driver.acquire("a") == [Grant(4, "a#1")]
    assert driver.acquire("a") == [], "the other one was launched otherwise"


def test_a_drain_ends_all(driver: Driver) -> None:
    driver.keep("a")
    driver.acquire("a")
    driver.acquire("a")
    driver.acquire("b")
    driver.acquire("c")
    effects = driver.send(StopServing())
    assert {kind for _, kind in failures(effects)} == {ShuttingDown}
    assert {number for number, _ in failures(effects)} == {3, 4, 5}
    assert StopRunner("a", "drained") in effects
    assert StopRunner("b", "drained") in effects
    driver.send(Stopped("a"))
    driver.send(Stopped("b"))
    assert driver.keys == []
    driver.load_idle("a")


class Machine:
    """Random events; each request is answered once, and what is kept is not stopped for others' sake."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.driver = Driver(keep_alive_ms=1_000)
        self.open: set[int] = set()
        self.waiting: set[int] = set()

    def see(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Grant):
                assert effect.request_id in self.waiting, "R11"
                self.waiting.remove(effect.request_id)
                self.open.add(effect.request_id)
            elif isinstance(effect, Fail):
                assert effect.request_id in self.waiting, "R11"
                self.waiting.remove(effect.request_id)
            elif isinstance(effect, StopRunner):
                assert effect.reason in ("reload", "load_timeout") or not self.driver.runner(effect.key).kept_for, "R16"

    def step(self) -> None:
        driver, dice = self.driver, self.dice
        runners = driver.machine.runners
        one = dice.choice(runners) if runners else None
        choice = dice.randrange(8)
        if choice < 3 or one is None:
            key, ctx_tokens = dice.choice("ab"), dice.choice((512, 512, 1024))
            self.waiting.add(driver.next_id)
            keep_for = key if dice.random() < 0.3 else ""
            self.see(driver.acquire(key, need=dice.choice((100, 300)), ctx_tokens=ctx_tokens, keep_for=keep_for))
        elif choice == 3 and self.open | self.waiting:
            request_id = dice.choice(sorted(self.open | self.waiting))
            self.open.discard(request_id)
            self.waiting.discard(request_id)
            self.see(driver.send(Release(request_id, is_completed=True)))
        elif choice == 4:
            self.see(driver.send(LetGo(one.key)))
        elif choice == 5:
            self.see(driver.wait(dice.choice((10, 600, 2_000))))
        elif one.phase is Phase.LOADING:
            self.see(driver.send(Loaded(one.key) if dice.random() < 0.7 else LoadFailed(one.key, BROKEN)))
        elif one.phase is Phase.STOPPING:
            self.see(driver.send(Stopped(one.key)))
        elif one.phase is Phase.READY and dice.random() < 0.3:
            self.open -= one.serving
            self.see(driver.send(Exited(one.key, "killed")))


@given(st.integers(0, 1 << 32))
@settings(max_examples=200, deadline=None)
def test_random_events(seed: int) -> None:
    machine = Machine(seed)
    for _ in range(80):
        machine.step()
