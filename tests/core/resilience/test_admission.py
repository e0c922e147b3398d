"""The queue against lists that anybody can read."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ollamamax.core.resilience.admission import (
    DEFAULT_MAX_QUEUE,
    Admission,
    Arrive,
    Dispatch,
    Effect,
    Grant,
    Leave,
    Queue,
    Reject,
)


def arrive(admission: Admission, ticket: int, key: str = "a", can_start: bool = False, now_ms: float = 0) -> Effect:
    effect = admission.step(Arrive(ticket, key, can_start), now_ms)
    admission.check_invariants()
    return effect


def grant_in_turn(admission: Admission) -> int:
    """Grant to the model whose turn it is; the ticket that started."""
    effect = admission.step(Grant(admission.turns()[0]), 0)
    admission.check_invariants()
    assert isinstance(effect, Dispatch)
    return effect.ticket


def test_who_can_start_starts() -> None:
    admission = Admission()
    assert arrive(admission, 1, can_start=True) == Dispatch(1)
    assert (admission.running, admission.waiting) == (1, 0)
    assert admission.step(Leave(1), 5) is None
    assert (admission.running, admission.waiting) == (0, 0)


def test_first_come_first_served_and_nobody_overtakes() -> None:
    admission = Admission()
    assert arrive(admission, 1) == Queue(1, 1, 0.0)
    assert arrive(admission, 2) == Queue(2, 2, 0.0)
    assert arrive(admission, 3, can_start=True) == Queue(3, 3, 0.0)
    assert [grant_in_turn(admission) for _ in range(3)] == [1, 2, 3]


def test_models_take_turns() -> None:
    admission = Admission()
    for ticket in range(1, 7):
        arrive(admission, ticket, "flood")
    arrive(admission, 7, "rare")
    arrive(admission, 8, "other")
    assert [grant_in_turn(admission) for _ in range(8)] == [1, 7, 8, 2, 3, 4, 5, 6]


def test_another_model_does_not_hold_up_one_that_can_start() -> None:
    admission = Admission()
    arrive(admission, 1, "a")
    assert arrive(admission, 2, "b", can_start=True) == Dispatch(2)


def test_the_513th_is_turned_away() -> None:
    admission = Admission()
    arrive(admission, 0, can_start=True)
    for ticket in range(1, DEFAULT_MAX_QUEUE + 1):
        assert isinstance(arrive(admission, ticket), Queue)
    assert arrive(admission, 513) == Reject(513)
    assert arrive(admission, 514, "b") == Reject(514)
    assert arrive(admission, 515, "b", can_start=True) == Dispatch(515)
    admission.step(Leave(100), 0)
    assert arrive(admission, 516) == Queue(516, DEFAULT_MAX_QUEUE, 0.0)


def test_the_eta_comes_from_how_long_slots_are_held() -> None:
    admission = Admission()
    for ticket in (1, 2):
        arrive(admission, ticket, can_start=True)
    admission.step(Leave(1), 1_000)
    assert arrive(admission, 3) == Queue(3, 1, 1_000.0)
    assert arrive(admission, 4) == Queue(4, 2, 2_000.0)
    assert arrive(admission, 5, "b") == Queue(5, 1, 2_000.0)
    assert admission.eta_ms("c", 1) == 3_000.0
    admission.step(Leave(2), 2_000)
    assert admission.eta_ms("a", 1) == pytest.approx(2 * 1_200)
    assert admission.waiting_for("a") == 2
    assert admission.waiting_for("nobody") == 0


def test_a_ticket_arrives_once() -> None:
    admission = Admission()
    arrive(admission, 1, can_start=True)
    arrive(admission, 2)
    for ticket in (1, 2):
        with pytest.raises(AssertionError):
            admission.step(Arrive(ticket, "a", can_start=False), 0)


def test_a_queue_that_holds_nothing_is_our_bug() -> None:
    with pytest.raises(AssertionError):
        Admission(0)


class AgainstLists(RuleBasedStateMachine):
    LIMIT = 5

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(self.LIMIT)
        self.now_ms = 0.0
        self.tickets = 0
        self.running: list[int] = []
        self.waiting: list[tuple[str, int]] = []
        """In order of arrival."""
        self.turns: list[str] = []

    def queue(self, key: str) -> list[int]:
        return [ticket for other, ticket in self.waiting if other == key]

    @rule(key=st.sampled_from("abc"), can_start=st.booleans(), ms=st.integers(0, 100))
    def arrive(self, key: str, can_start: bool, ms: int) -> None:
        self.now_ms += ms
        self.tickets += 1
        effect = self.admission.step(Arrive(self.tickets, key, can_start), self.now_ms)
        if can_start and not self.queue(key):
            assert effect == Dispatch(self.tickets)
            self.running.append(self.tickets)
        elif len(self.waiting) == self.LIMIT:
            assert effect == Reject(self.tickets)
        else:
            if key not in self.turns:
                self.turns.append(key)
            self.waiting.append((key, self.tickets))
            assert isinstance(effect, Queue)
            assert effect.position == len(self.queue(key))
            assert effect.eta_ms >= 0

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def grant(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.turns))
        first = self.queue(key)[0]
        assert self.admission.head(key) == first
        assert self.admission.step(Grant(key), self.now_ms) == Dispatch(first)
        self.waiting.remove((key, first))
        self.running.append(first)
        self.turns.remove(key)
        if self.queue(key):
            self.turns.append(key)

    @precondition(lambda self: self.running or self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted([*self.running, *(ticket for _, ticket in self.waiting)])))
        assert self.admission.step(Leave(ticket), self.now_ms) is None
        if ticket in self.running:
            self.running.remove(ticket)
            return
        self.waiting = [entry for entry in self.waiting if entry[1] != ticket]
        self.turns = [key for key in self.turns if self.queue(key)]

    @invariant()
    def agrees(self) -> None:
        self.admission.check_invariants()
        assert self.admission.turns() == tuple(self.turns)
        assert self.admission.waiting == len(self.waiting)
        assert self.admission.running == len(self.running)


AgainstLists.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, print_blob=True)
TestAgainstLists = AgainstLists.TestCase


def test_another_limit() -> None:
    admission = Admission(max_queue=2)
    arrive(admission, 1)
    admission.reconfigure(3)
    assert [type(arrive(admission, ticket)) for ticket in (2, 3, 4)] == [Queue, Queue, Reject]
    admission.reconfigure(1)
    admission.check_invariants()
    assert admission.waiting == 3, "who waits keeps the place"
    assert arrive(admission, 5) == Reject(5)
    assert [grant_in_turn(admission) for _ in range(3)] == [1, 2, 3]
    assert [type(arrive(admission, ticket)) for ticket in (6, 7)] == [Queue, Reject]
    with pytest.raises(AssertionError):
        admission.reconfigure(0)
