"""The breaker against its table, and against a model that keeps the whole history."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ollamamax.core.resilience.breaker import (
    Abandoned,
    Breaker,
    BreakerConfig,
    Changed,
    Event,
    Failed,
    Responded,
    Started,
    State,
    Succeeded,
)

CONFIG = BreakerConfig(failures=3, window_ms=1_000, open_ms=100)


def opened(at_ms: float = 0.0) -> Breaker:
    breaker = Breaker(CONFIG)
    for _ in range(3):
        breaker.step(Failed(at_ms, is_silence=True), at_ms)
    assert breaker.state is State.OPEN
    return breaker


def probing(at_ms: float = 100.0) -> Breaker:
    breaker = opened()
    assert breaker.step(Started(), at_ms) == Changed(State.HALF_OPEN)
    return breaker


TABLE = [
    (State.CLOSED, Started(), State.CLOSED),
    (State.CLOSED, Responded(200), State.CLOSED),
    (State.CLOSED, Succeeded(200), State.CLOSED),
    (State.CLOSED, Failed(200), State.CLOSED),
    (State.CLOSED, Abandoned(200), State.CLOSED),
    (State.OPEN, Started(), State.HALF_OPEN),
    (State.OPEN, Responded(200), State.OPEN),
    (State.OPEN, Succeeded(200), State.OPEN),
    (State.OPEN, Failed(200), State.OPEN),
    (State.OPEN, Abandoned(200), State.OPEN),
    (State.HALF_OPEN, Responded(200), State.CLOSED),
    (State.HALF_OPEN, Succeeded(200), State.CLOSED),
    (State.HALF_OPEN, Failed(200), State.OPEN),
    (State.HALF_OPEN, Abandoned(200), State.OPEN),
    # News of attempts from before the probe.
    (State.HALF_OPEN, Responded(50), State.HALF_OPEN),
    (State.HALF_OPEN, Succeeded(50), State.HALF_OPEN),
    (State.HALF_OPEN, Failed(50), State.HALF_OPEN),
    (State.HALF_OPEN, Abandoned(50), State.HALF_OPEN),
]


@pytest.mark.parametrize(("state", "event", "expected"), TABLE)
def test_the_table(state: State, event: Event, expected: State) -> None:
    breaker = {State.CLOSED: lambda: Breaker(CONFIG), State.OPEN: opened, State.HALF_OPEN: probing}[state]()
    changed = breaker.step(event, 200)
    assert breaker.state is expected
    assert changed == (Changed(expected) if expected is not state else None)
    breaker.check_invariants()


def test_failures_in_a_row_open_it_and_one_probe_closes_it() -> None:
    breaker = Breaker(CONFIG)
    assert breaker.is_clean
    for now_ms in (10, 20):
        breaker.step(Failed(now_ms - 5), now_ms)
        assert breaker.allows(now_ms)
        assert not breaker.is_clean
    assert breaker.step(Failed(25), 30) == Changed(State.OPEN)
    assert not breaker.allows(129)
    assert breaker.allows(130)
    breaker.step(Started(), 130)
    assert not breaker.allows(1_000_000)
    breaker.step(Succeeded(130), 150)
    assert breaker.is_clean


def test_a_success_between_breaks_the_row() -> None:
    breaker = Breaker(CONFIG)
    for now_ms in range(0, 200, 10):
        breaker.step(Failed(now_ms + 1) if now_ms % 30 else Succeeded(now_ms), now_ms + 2)
    assert breaker.state is State.CLOSED


def test_failures_far_apart_are_no_row() -> None:
    breaker = Breaker(CONFIG)
    for now_ms in range(0, 20_000, 1_001):
        breaker.step(Failed(now_ms), now_ms)
    assert breaker.state is State.CLOSED


def test_one_crash_is_one_failure_however_many_it_hit() -> None:
    breaker = Breaker(CONFIG)
    for began_ms in range(50):
        breaker.step(Failed(began_ms), 100)
    assert breaker.failures == 1


def test_each_silence_is_news() -> None:
    breaker = Breaker(CONFIG)
    for began_ms in range(3):
        breaker.step(Failed(began_ms, is_silence=True), 100)
    assert breaker.state is State.OPEN


def test_a_probe_that_dies_in_the_middle_opens_again_at_once() -> None:
    breaker = probing()
    breaker.step(Responded(100), 900)
    assert breaker.allows(900)
    assert breaker.step(Failed(100), 1_500) == Changed(State.OPEN)
    assert not breaker.allows(1_599)


def test_a_probe_whose_client_left_makes_room_for_the_next() -> None:
    breaker = probing()
    breaker.step(Abandoned(100), 150)
    assert breaker.allows(150)


def test_an_attempt_that_is_not_allowed_is_our_bug() -> None:
    with pytest.raises(AssertionError):
        opened().step(Started(), 99)


@pytest.mark.parametrize("config", [BreakerConfig(failures=0), BreakerConfig(open_ms=0)])
def test_senseless_limits_are_our_bug(config: BreakerConfig) -> None:
    with pytest.raises(AssertionError):
        Breaker(config)


class AgainstHistory(RuleBasedStateMachine):
    """Random attempts; the model re-reads all that happened to say whether one may start."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 0.0
        self.breaker = Breaker(CONFIG)
        self.running: dict[int, float] = {}
        self.started = 0
        self.history: list[tuple[str, int, float, float]] = []
        """(what, attempt, began, now), in order."""

    def note(self, what: str, attempt: int, event: Event) -> None:
        self.history.append((what, attempt, self.running[attempt], self.now_ms))
        self.breaker.step(event, self.now_ms)

    def oracle(self) -> tuple[bool, bool]:
        """(open or probing, may start), read from the history."""
        row: list[float] = []
        last_ms = row_ms = opened_ms = float("-inf")
        probe: int | None = None
        is_open = False
        for what, attempt, began, now in self.history:
            if what == "start":
                probe = attempt if is_open else probe
            elif is_open and attempt != probe:
                continue
            elif is_open and what == "abandon":
                probe, opened_ms = None, float("-inf")
            elif is_open and what == "respond":
                is_open, probe, row, row_ms = False, None, [0.0] * (CONFIG.failures - 1), now
            elif what == "succeed":
                is_open, probe, row = False, None, []
            elif what in ("fail", "silence"):
                if not is_open and (what == "silence" or began > last_ms):
                    row = [*row, now] if now - row_ms <= CONFIG.window_ms else [now]
                    last_ms = row_ms = now
                if is_open or len(row) >= CONFIG.failures:
                    is_open, probe, row, last_ms, row_ms, opened_ms = True, None, [0.0] * CONFIG.failures, now, now, now
                    last_ms = now
        return is_open, not is_open or (probe is None and self.now_ms >= opened_ms + CONFIG.open_ms)

    @rule(ms=st.sampled_from([1, 40, 100, 2_000]))
    def wait(self, ms: int) -> None:
        self.now_ms += ms

    @precondition(lambda self: self.breaker.allows(self.now_ms))
    @rule()
    def start(self) -> None:
        self.started += 1
        self.running[self.started] = self.now_ms
        self.note("start", self.started, Started())

    @precondition(lambda self: self.running)
    @rule(data=st.data(), what=st.sampled_from(["respond", "succeed", "fail", "silence", "abandon"]))
    def end(self, data: st.DataObject, what: str) -> None:
        attempt = data.draw(st.sampled_from(sorted(self.running)))
        began = self.running[attempt]
        event = {
            "respond": Responded(began),
            "succeed": Succeeded(began),
            "fail": Failed(began),
            "silence": Failed(began, is_silence=True),
            "abandon": Abandoned(began),
        }[what]
        self.note(what, attempt, event)
        if what != "respond":
            del self.running[attempt]

    @invariant()
    def agrees(self) -> None:
        self.breaker.check_invariants()
        is_open, may_start = self.oracle()
        assert (self.breaker.state is not State.CLOSED) == is_open
        assert self.breaker.allows(self.now_ms) == may_start


AgainstHistory.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, print_blob=True)
TestAgainstHistory = AgainstHistory.TestCase


def test_other_limits() -> None:
    breaker = Breaker(CONFIG)
    breaker.step(Failed(0), 0)
    breaker.step(Failed(1), 1)
    breaker.reconfigure(BreakerConfig(failures=2, window_ms=1_000, open_ms=50))
    breaker.check_invariants()
    assert breaker.state is State.CLOSED, "only a failure opens it"
    assert breaker.step(Failed(2), 2) == Changed(State.OPEN)
    breaker.reconfigure(BreakerConfig(failures=9, window_ms=1_000, open_ms=500))
    breaker.check_invariants()
    assert breaker.allows(52), "a probe may go when it was told to"
    breaker.step(Started(), 52)
    assert breaker.step(Failed(52), 60) == Changed(State.OPEN)
    assert [breaker.allows(at_ms) for at_ms in (559, 560)] == [False, True]
    with pytest.raises(AssertionError):
        breaker.reconfigure(BreakerConfig(failures=0))
