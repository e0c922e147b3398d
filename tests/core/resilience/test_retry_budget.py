"""The budget against a model that remembers every moment."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ollamamax.core.resilience.retry_budget import (
    SLICES,
    Granted,
    Refused,
    Requested,
    RetryAsked,
    RetryBudget,
    RetryConfig,
)


def asked(budget: RetryBudget, times: int, now_ms: float) -> int:
    """How many of so many retries are granted."""
    return sum(isinstance(budget.step(RetryAsked(), now_ms), Granted) for _ in range(times))


def test_the_minimum_without_any_requests() -> None:
    budget = RetryBudget(RetryConfig())
    assert asked(budget, 30, 0) == 10
    assert budget.step(RetryAsked(), 9_999) == Refused()
    assert asked(budget, 30, 10_000) == 10


def test_a_share_of_the_recent_requests_on_top() -> None:
    budget = RetryBudget(RetryConfig(ratio=0.2, min_per_window=10))
    for _ in range(100):
        assert budget.step(Requested(), 500) is None
    assert asked(budget, 100, 600) == 30
    assert asked(budget, 100, 20_000) == 10


def test_none_at_all() -> None:
    budget = RetryBudget(RetryConfig(ratio=0.0, min_per_window=0))
    budget.step(Requested(), 0)
    assert asked(budget, 5, 0) == 0


def test_a_window_without_length_is_our_bug() -> None:
    with pytest.raises(AssertionError):
        RetryBudget(RetryConfig(window_ms=0))


class AgainstMoments(RuleBasedStateMachine):
    CONFIG = RetryConfig(ratio=0.5, min_per_window=2, window_ms=1_000)

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 0
        self.budget = RetryBudget(self.CONFIG)
        self.requests: list[int] = []
        self.retries: list[int] = []

    def recent(self, moments: list[int]) -> int:
        slice_ms = int(self.CONFIG.window_ms / SLICES)
        return sum(moment // slice_ms > self.now_ms // slice_ms - SLICES for moment in moments)

    @rule(ms=st.sampled_from([1, 50, 333, 999, 5_000]))
    def wait(self, ms: int) -> None:
        self.now_ms += ms

    @rule(times=st.integers(1, 5))
    def request(self, times: int) -> None:
        for _ in range(times):
            self.budget.step(Requested(), self.now_ms)
            self.requests.append(self.now_ms)

    @rule()
    def retry(self) -> None:
        allowed = 2 + 0.5 * self.recent(self.requests) - self.recent(self.retries) >= 1
        effect = self.budget.step(RetryAsked(), self.now_ms)
        assert effect == (Granted() if allowed else Refused())
        if allowed:
            self.retries.append(self.now_ms)

    @invariant()
    def holds(self) -> None:
        self.budget.check_invariants()


AgainstMoments.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, print_blob=True)
TestAgainstMoments = AgainstMoments.TestCase


def test_another_share() -> None:
    budget = RetryBudget(RetryConfig(ratio=0.0, min_per_window=1))
    for _ in range(10):
        budget.step(Requested(), 0)
    assert asked(budget, 9, 0) == 1
    budget.reconfigure(RetryConfig(ratio=0.5, min_per_window=1))
    assert asked(budget, 9, 1) == 5
    budget.reconfigure(RetryConfig(ratio=0.0, min_per_window=0))
    assert asked(budget, 9, 2) == 0
    budget.check_invariants()
    with pytest.raises(AssertionError):
        budget.reconfigure(RetryConfig(window_ms=1))
