"""Attempts: ask an engine, and before its first token another one if it fails.

After the first chunk of a stream errors go up as they are: part of the answer has been sent, and continuing it
elsewhere is not there yet. An answer that is to be sent whole is held back until its end; where it breaks off, it is
asked for again from the beginning, as if no token had come. A repeat takes the best engine that is left even if it has
no free slot: the request has waited its turn, and the engine's owner has the last word on its slots.

When a node is found to have gone, attempts at its engines end at once instead of at their deadlines.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import structlog
from msgspec import Struct

from ollamamax.core.errors import (
    EngineError,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    LoadFailed,
    NoMemory,
    NotFound,
    OllamaMaxError,
    Retry,
    ShuttingDown,
    StoreError,
)
from ollamamax.core.resilience.retry_budget import Granted, Requested, RetryAsked, RetryBudget
from ollamamax.core.routing.decide import FETCH_TIER
from ollamamax.core.routing.predict import Sample
from ollamamax.core.types import ChatRequest, Chunk, EmbedRequest, EmbedResult, EngineKind, GenerationStats
from ollamamax.ports import ChunkStream, Clock, Meter
from ollamamax.services.members import LOCAL, Lease, Member
from ollamamax.services.patrol import Patrol
from ollamamax.services.router import Router
from ollamamax.services.trip import Ending, Trip
from ollamamax.services.watchdog import Watchdog

_LOG: Final = structlog.get_logger(__name__)
_T = TypeVar("_T")
Admit = Callable[[ChatRequest, Trip], Awaitable[Lease] | None]
"""Gives the lease for the first attempt; None for what waits for no slot, to unload."""
Ended = Callable[[Trip], None]
_REQUESTED: Final = Requested()
CLOSE_LIMIT_S: Final = 1.0
"""For an engine to take note that nobody reads any more."""
SLACK: Final = 10.0
"""A first token may take so many times the predicted time, if that is more than the fixed limit."""
FREE_ATTEMPTS: Final = 3
"""A request may be sent so often, whatever the budget, when nodes go: who has gone gets no more work from it."""


class DispatchConfig(Struct, frozen=True, kw_only=True):
    """first_token_timeout_ms: for a loaded model's first token.  load_timeout_ms: what loading may take on top of
    it, 0 = no limit.  stall_timeout_ms: between two reads of an answer.
    """

    first_token_timeout_ms: float = 60_000.0
    load_timeout_ms: float = 300_000.0
    stall_timeout_ms: float = 120_000.0


class Dispatcher:
    """Makes attempts until one becomes the answer. Each lease that it is given or takes ends here.

    ensure: brings a model, by its key, to this node's store. Raises: ModelNotFound, StoreError, PeerError.
    """

    def __init__(
        self,
        router: Router,
        budget: RetryBudget,
        meter: Meter,
        clock: Clock,
        config: DispatchConfig,
        ensure: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._router = router
        self._fleet = router.fleet
        self._budget = budget
        self._meter = meter
        self._clock = clock
        self._ensure = ensure
        self._patrol = Patrol()
        self.reconfigure(config)

    def reconfigure(self, config: DispatchConfig) -> None:
        """Other deadlines, for those that begin from now on."""
        self._config = config
        self._stall_s = config.stall_timeout_ms / 1000

    async def stream(self, request: ChatRequest, trip: Trip, admit: Admit, ended: Ended) -> ChunkStream:
        """The answer, from admission to the end of the trip: one generator, as each costs again at each chunk.

        ended: told in the end, whatever happened.  Raises: what `admit` or the last engine raised; EngineTimeout;
        EngineUnavailable for a stream without an end.
        """
        with Ending(trip, ended):
            admitted = admit(request, trip)
            if admitted is None:
                yield await self.unload(request, trip)
                return
            lease = await admitted
            self._budget.step(_REQUESTED, self._clock.now_ms())
            held: list[Chunk] = []
            while True:
                watchdog = Watchdog(self._patrol)
                (answer, read), lease = await self._attempts(trip, lease, watchdog, partial(self._first_read, request))
                trip.begun(self._clock.now_ms())
                limit_s = self._stall_s
                try:
                    while True:
                        if read:
                            trip.chunks += len(read)
                            lease.progress(len(read))
                            if read[-1].done_reason:
                                trip.completed(read[-1], self._clock.now_ms())
                                limit_s = CLOSE_LIMIT_S  # there is nothing to wait for but the end of the stream
                            if request.stream:
                                yield read
                            else:
                                held += read
                        watchdog.watch(0.0 if lease.is_lost else limit_s)
                        read = await answer.__anext__()
                        watchdog.rest()
                except BaseException as error:  # noqa: BLE001 - raised again behind the end of the stream
                    failure = _failure(error, trip, lease, watchdog, limit_s)
                watchdog.close()
                await self._end_stream(trip, lease, answer, failure)
                if failure is None or (trip.stats is not None and isinstance(failure, OllamaMaxError)):
                    break
                lease = self._turn_back(request, trip, lease, failure)
                held.clear()
            if held:
                yield held

    async def embed(self, request: EmbedRequest, trip: Trip, lease: Lease) -> EmbedResult:
        """The vectors. Raises: what the last engine raised; EngineTimeout."""
        watchdog = Watchdog(self._patrol)
        self._budget.step(_REQUESTED, self._clock.now_ms())
        result, lease = await self._attempts(trip, lease, watchdog, partial(self._vectors, request))
        watchdog.close()
        trip.stats = GenerationStats(prompt_tokens=result.prompt_tokens, load_ms=result.load_ms)
        self._fleet.succeeded(lease, Sample(load_ms=0.0 if lease.was_loaded else result.load_ms))
        return result

    async def unload(self, request: ChatRequest, trip: Trip) -> list[Chunk]:
        """Have the model leave memory wherever it is; waits for no slot. Raises: ModelNotFound, EngineError."""
        key = trip.facts.model_key
        if not self._fleet.offers(key):
            await self._fleet.refresh()
            decision = self._router.choose(trip.facts)
            if decision.is_nowhere:
                raise self._router.refusal(trip.model, decision)
        # The local engine may be about to load it. OpenAI-compatible servers know no unloading.
        holders = [
            (member, model.served_as)
            for member, model in self._fleet.offers(key)
            if member.engine_id == LOCAL or (model.loaded and member.kind is not EngineKind.OPENAI)
        ]
        for member, _ in holders:
            trip.engine_id = member.engine_id
            trip.attempts += 1
        told = (self._tell_unload(member, request, served_as) for member, served_as in holders)
        for result in await asyncio.gather(*told, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        last = Chunk(done_reason="unload", stats=GenerationStats())
        trip.completed(last, self._clock.now_ms())
        return [last]

    async def _tell_unload(self, member: Member, request: ChatRequest, served_as: str) -> None:
        limit_s = self._config.first_token_timeout_ms / 1000
        try:
            async with asyncio.timeout(limit_s):
                async for _ in member.engine.generate(request, served_as):
                    pass
        except TimeoutError:
            raise EngineTimeout(f"engine '{member.engine_id}' did not answer within {limit_s:g} s") from None

    async def _attempts(
        self, trip: Trip, lease: Lease, watchdog: Watchdog, work: Callable[[Lease], Awaitable[_T]]
    ) -> tuple[_T, Lease]:
        """`work` within its lease's limit, at one engine after the other until it succeeds: its result, and the lease
        that it was with, still open. All others have ended.

        Raises: what the last one raises; EngineTimeout; EngineUnavailable if the engine's node goes meanwhile.
        """
        try:
            while True:
                limit_s = self._first_limit_s(lease)
                try:
                    if lease.member.leases is not None:
                        if lease.is_lost:
                            raise _end_of_wait(lease, limit_s)
                        lease.on_lost = watchdog.bark
                    trip.attempts += 1
                    trip.engine_id = lease.engine_id
                    watchdog.watch(limit_s)
                    result = await work(lease)
                except OllamaMaxError as error:
                    failure = error
                except asyncio.CancelledError:
                    if not watchdog.has_barked():
                        self._fleet.abandoned(lease)
                        raise
                    failure = _end_of_wait(lease, limit_s)
                except BaseException:
                    self._fleet.abandoned(lease)
                    raise
                else:
                    watchdog.rest()
                    self._fleet.responded(lease)
                    return result, lease
                watchdog.rest()
                lease = self._turn_to_next(trip, lease, failure)
        except BaseException:
            watchdog.close()
            raise

    async def _first_read(self, request: ChatRequest, lease: Lease) -> tuple[ChunkStream, list[Chunk]]:
        """The stream, and its first read that holds a chunk.

        Raises: what the engine raises, EngineUnavailable if none comes.
        """
        if lease.must_fetch:
            await self._fetch(lease)
        answer = lease.member.engine.generate(request, lease.served_as)
        async for read in answer:
            if read:
                return answer, read
        raise EngineUnavailable("the engine closed the stream before it answered")

    async def _vectors(self, request: EmbedRequest, lease: Lease) -> EmbedResult:
        if lease.must_fetch:
            await self._fetch(lease)
        return await lease.member.engine.embed(request, lease.served_as)

    async def _fetch(self, lease: Lease) -> None:
        """Another node does so itself."""
        if self._ensure is not None and not lease.member.node_id:
            await self._ensure(lease.key)

    def _turn_to_next(self, trip: Trip, lease: Lease, error: OllamaMaxError) -> Lease:
        """End the lease of a failed attempt, and take one for the next. Raises: `error` if there is to be none."""
        if not _is_clients_fault(error):
            self._meter.attempt_failed(lease.engine_id, error.code)
        self._fleet.failed(lease, error)
        return self._following(trip, lease, error)

    def _turn_back(self, request: ChatRequest, trip: Trip, lease: Lease, failure: BaseException) -> Lease:
        """After an answer that broke off, and whose lease has ended, take one for all of it again.

        Raises: `failure` if there is to be none.
        """
        if request.stream or not isinstance(failure, OllamaMaxError):
            raise failure
        return self._following(trip, lease, failure)

    def _following(self, trip: Trip, lease: Lease, error: OllamaMaxError) -> Lease:
        following = self._next_lease(trip, lease, error)
        if following is None:
            raise error
        _LOG.info("trying another engine", failed=lease.engine_id, error=str(error), next=following.engine_id)
        return following

    def _first_limit_s(self, lease: Lease) -> float:
        """For the first token; infinite = none.

        A node's own engine may have to load even a loaded model anew (`num_ctx`). Fetching it counts as loading.
        """
        limit_ms = max(self._config.first_token_timeout_ms, SLACK * lease.ttft_ms)
        if lease.member.is_pool or not lease.was_loaded:
            if not self._config.load_timeout_ms:
                return math.inf
            limit_ms += self._config.load_timeout_ms
        return limit_ms / 1000

    def _next_lease(self, trip: Trip, lease: Lease, error: OllamaMaxError) -> Lease | None:
        """A slot for one more attempt; None if that is of no use or not allowed."""
        if not _may_go_elsewhere(lease, error):
            return None
        trip.tried[lease.engine_id] = f"failed: {error}"
        decision = self._router.choose(trip.facts, tried=trip.tried)
        ranked = next((one for one in decision.ranked if one.has_room), decision.best)
        if ranked is None or (ranked.tier == FETCH_TIER and not _is_worth_a_transfer(lease, error)):
            return None
        if _is_free(trip, lease, error):
            return self._router.begin(ranked, trip.facts)
        if not isinstance(self._budget.step(RetryAsked(), self._clock.now_ms()), Granted):
            _LOG.warning("no retry: the budget is spent", failed=lease.engine_id, error=str(error))
            return None
        return self._router.begin(ranked, trip.facts)

    async def _end_stream(self, trip: Trip, lease: Lease, answer: ChunkStream, failure: BaseException | None) -> None:
        """Close the engine's stream, then give the slot back."""
        try:
            if failure is not None:
                async with asyncio.timeout(CLOSE_LIMIT_S):
                    await answer.aclose()
        except TimeoutError:
            _LOG.warning("an engine's stream does not close", engine=lease.engine_id)
        finally:
            if trip.stats is not None:
                self._fleet.succeeded(lease, trip.sample(lease))
            elif isinstance(failure, OllamaMaxError):
                if not _is_clients_fault(failure):
                    self._meter.attempt_failed(lease.engine_id, failure.code)
                self._fleet.failed(lease, failure)
            else:
                self._fleet.abandoned(lease)


def _failure(
    error: BaseException, trip: Trip, lease: Lease, watchdog: Watchdog, limit_s: float
) -> BaseException | None:
    """What the end of a stream means; None if it is in order."""
    if isinstance(error, StopAsyncIteration):
        if trip.stats is not None:
            return None
        return EngineUnavailable(f"engine '{lease.engine_id}' closed the stream before its end")
    if isinstance(error, asyncio.CancelledError) and watchdog.has_barked():
        return _end_of_wait(lease, limit_s)
    return error


def _end_of_wait(lease: Lease, limit_s: float) -> EngineError:
    """Why the watchdog barked."""
    if lease.is_lost:
        return EngineUnavailable(f"engine '{lease.engine_id}' is gone: its node does not answer any more")
    return EngineTimeout(f"engine '{lease.engine_id}' sent nothing for {limit_s:g} s")


def _may_go_elsewhere(lease: Lease, error: OllamaMaxError) -> bool:
    """Whether the request may succeed at another engine."""
    member = lease.member
    if isinstance(error, NotFound):
        return bool(member.node_id)  # what is known of another node is a moment old
    if isinstance(error, StoreError):
        return member.is_pool  # each node has a store of its own
    return error.retry is Retry.OTHER_ENGINE and not _is_clients_fault(error)


def _is_worth_a_transfer(lease: Lease, error: OllamaMaxError) -> bool:
    """Whether the model should be brought to another node now. One that fails where it is would fail there too."""
    if lease.must_fetch:
        return not isinstance(error, LoadFailed)
    return isinstance(error, NoMemory | ShuttingDown | EngineUnavailable)


def _is_free(trip: Trip, lease: Lease, error: OllamaMaxError) -> bool:
    """Whether a repeat costs the budget nothing: all attempts at a node fail when it goes, which is no storm."""
    is_gone = lease.is_lost or (bool(lease.member.node_id) and isinstance(error, EngineUnavailable | ShuttingDown))
    return is_gone and trip.attempts < FREE_ATTEMPTS


def _is_clients_fault(error: OllamaMaxError) -> bool:
    return error.deterministic or (isinstance(error, EngineRefused) and error.is_clients_fault)
