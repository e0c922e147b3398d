"""The waiting room: runs the admission machine, and binds a request to an engine only once one has room."""

import asyncio
import itertools
from typing import Final

import structlog

from ollamamax.core.errors import QueueFull
from ollamamax.core.resilience.admission import Admission, Arrive, Dispatch, Grant, Leave, Queue, Reject
from ollamamax.core.routing.decide import Decision
from ollamamax.core.routing.predict import RequestFacts
from ollamamax.ports import Clock
from ollamamax.services.members import Lease
from ollamamax.services.router import Router
from ollamamax.services.trip import Trip

_LOG: Final = structlog.get_logger(__name__)


class WaitingRoom:
    """Requests enter, perhaps wait, and leave with a lease. Each change of the fleet lets those in for whom is room."""

    def __init__(self, router: Router, admission: Admission, clock: Clock) -> None:
        self._router = router
        self._admission = admission
        self._clock = clock
        self._tickets = itertools.count(1)
        self._waiters: dict[int, tuple[Trip, asyncio.Future[Lease]]] = {}
        router.fleet.watch(self.let_in)

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._admission.waiting

    @property
    def waiting_by_model(self) -> dict[str, int]:
        """The same, by model key."""
        return {key: self._admission.waiting_for(key) for key in self._admission.turns()}

    @property
    def running(self) -> int:
        """Requests that were let in and have not left."""
        return self._admission.running

    def look(self, facts: RequestFacts) -> tuple[Decision, int, float]:
        """What would happen to a request now: the decision, its position in the queue (0 = none) and ETA in ms."""
        key = facts.model_key
        ahead = self._admission.waiting_for(key)
        decision = self._router.choose(facts, ahead, whole=True)
        if decision.best is None or (decision.best.has_room and not ahead):
            return decision, 0, 0.0
        return decision, ahead + 1, self._admission.eta_ms(key, ahead + 1)

    async def enter(self, trip: Trip) -> Lease:
        """Wait for a slot and take it. `leave` must follow in any case.

        Raises: QueueFull, ModelNotFound, InvalidName, NoCandidate (also while waiting).
        """
        facts = trip.facts
        decision = self._router.choose(facts, self._admission.waiting_for(facts.model_key))
        best = decision.best
        if best is None:
            if decision.is_nowhere:
                await self._router.fleet.refresh()
                decision = self._router.choose(facts, self._admission.waiting_for(facts.model_key))
                best = decision.best
            if best is None and not decision.is_open:
                raise self._router.refusal(trip.model, decision)
        ticket = next(self._tickets)
        can_start = best is not None and best.has_room
        effect = self._admission.step(Arrive(ticket, facts.model_key, can_start), self._clock.now_ms())
        if isinstance(effect, Reject):
            raise QueueFull
        trip.ticket = ticket
        if isinstance(effect, Dispatch):
            assert best is not None, "only who has an engine starts"
            return self._router.begin(best, facts)
        assert isinstance(effect, Queue), "who arrives starts, waits or is turned away"
        _LOG.debug("a request waits", model=facts.model_key, position=effect.position, eta_ms=effect.eta_ms)
        return await self._wait(trip, ticket)

    def leave(self, trip: Trip, now_ms: float) -> None:
        """It has ended, or stopped waiting."""
        if trip.ticket:
            self._waiters.pop(trip.ticket, None)
            self._admission.step(Leave(trip.ticket), now_ms)
            trip.ticket = 0

    async def _wait(self, trip: Trip, ticket: int) -> Lease:
        since_ms = self._clock.now_ms()
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._waiters[ticket] = trip, future
        self.let_in()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                # Let in and gone in the same moment.
                self._router.fleet.abandoned(future.result())
            raise
        finally:
            trip.queued_ms = self._clock.now_ms() - since_ms

    def let_in(self) -> None:
        """Start as many waiting requests as there is room for, models in turn. Synchronous, so nobody comes between."""
        while self._admission.waiting and self._let_one_in():
            pass

    def _let_one_in(self) -> bool:
        """Whether anything changed."""
        for key in self._admission.turns():
            ticket = self._admission.head(key)
            trip, future = self._waiters[ticket]
            if future.done():
                self.leave(trip, self._clock.now_ms())
                return True
            decision = self._router.choose(trip.facts, self._admission.waiting_for(key))
            if decision.best is None:
                if decision.is_open:
                    continue
                self.leave(trip, self._clock.now_ms())
                future.set_exception(self._router.refusal(trip.model, decision))
                return True
            if decision.best.has_room:
                self._admission.step(Grant(key), self._clock.now_ms())
                del self._waiters[ticket]
                future.set_result(self._router.begin(decision.best, trip.facts))
                return True
        return False

    def check_invariants(self) -> None:
        """The machine's, and that whoever waits can be found. Raises: AssertionError."""
        self._admission.check_invariants()
        assert len(self._waiters) == self._admission.waiting, "each waiting request has a waiter"
