"""Hops 4 to 11 of a request: may it, admit, look, choose, attempt, stream, learn. One Outcome for each, in any case."""

from collections.abc import Awaitable

from msgspec import Struct

from ollamamax.core.access.decide import decide
from ollamamax.core.access.roles import MUTATING, Action
from ollamamax.core.errors import Forbidden
from ollamamax.core.routing.decide import Decision
from ollamamax.core.types import ChatRequest, EmbedRequest, EmbedResult, Principal, RequestContext
from ollamamax.ports import AuditSink, ChunkStream, Clock, Meter
from ollamamax.services.dispatch import Dispatcher
from ollamamax.services.members import Lease
from ollamamax.services.router import Router
from ollamamax.services.trip import Ending, Trip
from ollamamax.services.waiting import WaitingRoom


class Explanation(Struct, frozen=True):
    """Where a request for a model would go now. position: in the queue, 0 = it would start at once."""

    text: str
    decision: Decision
    position: int
    eta_ms: float


class Gateway:
    """What the API talks to."""

    def __init__(
        self, router: Router, room: WaitingRoom, dispatcher: Dispatcher, audit: AuditSink, meter: Meter, clock: Clock
    ) -> None:
        self._router = router
        self._room = room
        self._dispatcher = dispatcher
        self._audit = audit
        self._meter = meter
        self._clock = clock

    def authorize(self, context: RequestContext, action: str, subject: str) -> None:
        """Refusals and changes are audited. action: a value of access.roles.Action. Raises: Forbidden."""
        self._authorize(context.principal, Action(action), subject)

    def chat(self, context: RequestContext, request: ChatRequest) -> ChunkStream:
        """Answer. Closing the generator, or cancelling who reads it, cancels down to the engine.

        Raises: Forbidden, QueueFull, ModelNotFound, InvalidName, NoCandidate, what engines raise.
        """
        return self._dispatcher.stream(request, Trip(context, request.model), self._admit, self._end)

    async def embed(self, context: RequestContext, request: EmbedRequest) -> EmbedResult:
        """Embed. Raises: as chat()."""
        trip = Trip(context, request.model)
        with Ending(trip, self._end):
            self._check_in(trip)
            trip.facts = self._router.facts(request)
            return await self._dispatcher.embed(request, trip, await self._room.enter(trip))

    def load(self) -> tuple[int, int]:
        """Requests waiting for admission, and admitted."""
        return self._room.waiting, self._room.running

    def waiting(self) -> dict[str, int]:
        """Requests waiting for admission, by model key."""
        return self._room.waiting_by_model

    def explain(self, model: str) -> Explanation:
        """Where a request of a few words for the model would go now, and why. Raises: ModelNotFound, InvalidName."""
        facts = self._router.facts(ChatRequest(model=model))
        decision, position, eta_ms = self._room.look(facts)
        if decision.is_nowhere:
            raise self._router.refusal(model, decision)
        return Explanation(decision.explain(), decision, position, eta_ms)

    def _authorize(self, principal: Principal, action: Action, subject: str) -> None:
        verdict = decide(principal, action, subject)
        if not verdict.allowed or action in MUTATING:
            self._audit.record(principal, action.value, subject, verdict.allowed, verdict.rule)
        if not verdict.allowed:
            raise Forbidden(verdict.rule)

    def _check_in(self, trip: Trip) -> None:
        self._authorize(trip.context.principal, Action.INFER, trip.model)

    def _admit(self, request: ChatRequest, trip: Trip) -> Awaitable[Lease] | None:
        """A slot, once there is one; None for a request to unload, which waits for none."""
        self._check_in(trip)
        trip.facts = self._router.facts(request)
        if request.keep_alive_ms == 0 and not request.messages and not request.prompt:
            return None
        return self._room.enter(trip)

    def _end(self, trip: Trip) -> None:
        now_ms = self._clock.now_ms()
        self._room.leave(trip, now_ms)
        self._meter.outcome(trip.outcome(now_ms))
