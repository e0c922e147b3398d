"""Who may start, who waits, who is turned away: one bounded queue, bound late.

Requests wait centrally, first come first served per model, while no engine can take one of that model. The caller
knows the engines: it says on arrival whether one has room, and grants a model's turn when it finds room. Models take
turns, so that many requests for one do not starve another. Invariants A1 to A5: docs/invariants.md.

Deliberate limits: no priorities, no deadlines of waiting requests (a client that stops waiting leaves).
"""

from typing import Final

from msgspec import Struct

DEFAULT_MAX_QUEUE: Final = 512
_ROOM_FOR_NONE: Final = "a queue that holds nothing would reject whoever can't start at once"
_HOLD_WEIGHT: Final = 0.2


class Arrive(Struct, frozen=True, gc=False):
    """A request comes. ticket: a number that rises with each arrival (clients' request ids may repeat).

    can_start: an engine has room for it now.
    """

    ticket: int
    model_key: str
    can_start: bool


class Grant(Struct, frozen=True, gc=False):
    """Room was found for the next waiting request of a model (one of `turns()`)."""

    model_key: str


class Leave(Struct, frozen=True, gc=False):
    """A request ends, or stops waiting."""

    ticket: int


class Dispatch(Struct, frozen=True, gc=False):
    """The request may start."""

    ticket: int


class Queue(Struct, frozen=True, gc=False):
    """The request waits. position: 1 = next of its model.  eta_ms: a guess, 0 while nothing has been measured."""

    ticket: int
    position: int
    eta_ms: float


class Reject(Struct, frozen=True, gc=False):
    """The queue is full."""

    ticket: int


Event = Arrive | Grant | Leave
Effect = Dispatch | Queue | Reject | None


class Admission:
    """The machine. max_queue: requests that may wait."""

    def __init__(self, max_queue: int = DEFAULT_MAX_QUEUE) -> None:
        assert max_queue > 0, _ROOM_FOR_NONE
        self._max_queue = self._most_waiting = max_queue
        self._queues: dict[str, dict[int, None]] = {}
        """Waiting tickets by model, both in order: the models by turn, the tickets by arrival."""
        self._model_of: dict[int, str] = {}
        """Of each waiting ticket."""
        self._running: dict[int, float] = {}
        """Start of each running ticket, ms."""
        self._hold_ms = 0.0
        """Moving average of the time from start to end."""

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._model_of)

    @property
    def running(self) -> int:
        """Requests that were dispatched and have not left."""
        return len(self._running)

    def reconfigure(self, max_queue: int) -> None:
        """Another limit from now on. Those who wait already keep their places."""
        assert max_queue > 0, _ROOM_FOR_NONE
        self._max_queue = max_queue
        self._most_waiting = max(max_queue, self.waiting)

    def turns(self) -> tuple[str, ...]:
        """Models with waiting requests; the one whose turn it is stands first."""
        return tuple(self._queues)

    def head(self, model_key: str) -> int:
        """The ticket that a grant to this model would start."""
        return next(iter(self._queues[model_key]))

    def waiting_for(self, model_key: str) -> int:
        """Requests that wait for this model."""
        return len(self._queues.get(model_key, ()))

    def eta_ms(self, model_key: str, position: int) -> float:
        """When a request at this position of the model's queue would start, from now: a guess.

        A slot frees every hold / running, and each waiting model gets one slot in turn. 0 while nothing is known.
        """
        models = len(self._queues) + (model_key not in self._queues)
        return position * models * self._hold_ms / max(self.running, 1)

    def step(self, event: Event, now_ms: float) -> Effect:
        """Advance. Mutates self; the effect is for the caller to run."""
        if isinstance(event, Arrive):
            return self._arrive(event.ticket, event.model_key, event.can_start, now_ms)
        if isinstance(event, Grant):
            return self._grant(event.model_key, now_ms)
        self._leave(event.ticket, now_ms)
        return None

    def _arrive(self, ticket: int, model_key: str, can_start: bool, now_ms: float) -> Effect:
        assert ticket not in self._running, "a ticket arrives once"
        assert ticket not in self._model_of, "a ticket arrives once"
        queue = self._queues.get(model_key)
        if can_start and queue is None:
            self._running[ticket] = now_ms
            return Dispatch(ticket)
        if self.waiting >= self._max_queue:
            return Reject(ticket)
        if queue is None:
            queue = self._queues[model_key] = {}
        queue[ticket] = None
        self._model_of[ticket] = model_key
        return Queue(ticket, len(queue), self.eta_ms(model_key, len(queue)))

    def _grant(self, model_key: str, now_ms: float) -> Effect:
        ticket = self.head(model_key)
        if self._take_out(ticket, model_key):
            self._queues[model_key] = self._queues.pop(model_key)
        self._running[ticket] = now_ms
        return Dispatch(ticket)

    def _leave(self, ticket: int, now_ms: float) -> None:
        started_ms = self._running.pop(ticket, None)
        if started_ms is None:
            self._take_out(ticket, self._model_of[ticket])
            return
        held_ms = now_ms - started_ms
        self._hold_ms += _HOLD_WEIGHT * (held_ms - self._hold_ms) if self._hold_ms else held_ms

    def _take_out(self, ticket: int, model_key: str) -> dict[int, None]:
        queue = self._queues[model_key]
        del queue[ticket], self._model_of[ticket]
        if not queue:
            del self._queues[model_key]
        return queue

    def check_invariants(self) -> None:
        """A1 to A5 of docs/invariants.md. Raises: AssertionError."""
        queued = [(ticket, key) for key, queue in self._queues.items() for ticket in queue]
        assert self.waiting <= self._most_waiting, "A1: no more wait than the queue holds"
        assert dict(queued) == self._model_of, "A2: who waits stands in the queue of its model"
        assert len(queued) == len(self._model_of), "A2: and in no other"
        assert not self._running.keys() & self._model_of.keys(), "A3: nobody waits and runs"
        assert all(self._queues.values()), "A4: only models that somebody waits for take turns"
        for queue in self._queues.values():
            assert list(queue) == sorted(queue), "A5: first come, first served (tickets rise)"
