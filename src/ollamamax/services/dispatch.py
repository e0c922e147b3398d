"""Attempts: ask an engine, and before its first token another one if it fails.

After the first chunk errors go up as they are: part of the answer has been sent, and continuing it elsewhere is not
there yet. A repeat takes the best engine that is left even if it has no free slot: the request has waited its turn,
and the engine's owner has the last word on its slots.
"""

import asyncio
import math
from collections.abc import Awaitable
from typing import Final, TypeVar

import structlog
from msgspec import Struct

from ollamamax.core.errors import EngineRefused, EngineTimeout, EngineUnavailable, OllamaMaxError, Retry
from ollamamax.core.resilience.retry_budget import Granted, Requested, RetryAsked, RetryBudget
from ollamamax.core.routing.predict import Sample
from ollamamax.core.types import ChatRequest, Chunk, EmbedRequest, EmbedResult, EngineKind, GenerationStats
from ollamamax.ports import ChunkStream, Clock, Meter
from ollamamax.services.members import LOCAL, Lease, Member
from ollamamax.services.patrol import Patrol
from ollamamax.services.router import Router
from ollamamax.services.trip import Trip
from ollamamax.services.watchdog import Watchdog

_LOG: Final = structlog.get_logger(__name__)
_T = TypeVar("_T")
CLOSE_LIMIT_S: Final = 1.0
"""For an engine to take note that nobody reads any more."""
SLACK: Final = 10.0
"""A first token may take so many times the predicted time, if that is more than the fixed limit."""


class DispatchConfig(Struct, frozen=True, kw_only=True):
    """first_token_timeout_ms: for a loaded model's first token.  load_timeout_ms: what loading may take on top of
    it, 0 = no limit.  stall_timeout_ms: between two reads of an answer.
    """

    first_token_timeout_ms: float = 60_000.0
    load_timeout_ms: float = 300_000.0
    stall_timeout_ms: float = 120_000.0


class Dispatcher:
    """Makes attempts until one becomes the answer. Each lease that it is given or takes ends here."""

    def __init__(self, router: Router, budget: RetryBudget, meter: Meter, clock: Clock, config: DispatchConfig) -> None:
        self._router = router
        self._fleet = router.fleet
        self._budget = budget
        self._meter = meter
        self._clock = clock
        self._config = config
        self._patrol = Patrol()

    async def stream(self, request: ChatRequest, trip: Trip, lease: Lease) -> ChunkStream:
        """The answer. lease: for the first attempt.

        Raises: what the last engine raised; EngineTimeout; EngineUnavailable for a stream without an end.
        """
        watchdog = Watchdog(self._patrol)
        answer, read, lease = await self._open(request, trip, lease, watchdog)
        failure: BaseException | None = None
        trip.first_ms = self._clock.now_ms()
        stall_s = self._config.stall_timeout_ms / 1000
        try:
            while True:
                if read:
                    trip.chunks += len(read)
                    lease.progress(len(read))
                    if read[-1].done_reason:
                        trip.completed(read[-1], self._clock.now_ms())
                    yield read
                # After the last chunk there is nothing to wait for but the end of the stream.
                watchdog.watch(stall_s if trip.stats is None else CLOSE_LIMIT_S)
                read = await answer.__anext__()
                watchdog.rest()
        except StopAsyncIteration:
            if trip.stats is None:
                failure = EngineUnavailable(f"engine '{lease.engine_id}' closed the stream before its end")
                raise failure from None
        except asyncio.CancelledError as error:
            failure = error
            if not watchdog.has_barked():
                raise
            failure = _silence(lease, stall_s)
            if trip.stats is None:
                raise failure from None
        except OllamaMaxError as error:
            failure = error
            if trip.stats is None:
                raise
        except BaseException as error:
            failure = error
            raise
        finally:
            watchdog.close()
            await self._end_stream(trip, lease, answer, failure)

    async def _open(
        self, request: ChatRequest, trip: Trip, lease: Lease, watchdog: Watchdog
    ) -> tuple[ChunkStream, list[Chunk], Lease]:
        """Attempts until a first read comes: the stream, that read, and the lease of the engine."""
        self._budget.step(Requested(), self._clock.now_ms())
        try:
            while True:
                answer = lease.member.engine.generate(request, lease.served_as)
                try:
                    read = await self._attempt(trip, lease, watchdog, _first_read(answer))
                except OllamaMaxError as error:
                    lease = self._turn_to_next(trip, lease, error)
                else:
                    return answer, read, lease
        except BaseException:
            watchdog.close()
            raise

    async def embed(self, request: EmbedRequest, trip: Trip, lease: Lease) -> EmbedResult:
        """The vectors. Raises: what the last engine raised; EngineTimeout."""
        self._budget.step(Requested(), self._clock.now_ms())
        watchdog = Watchdog(self._patrol)
        try:
            while True:
                try:
                    work = lease.member.engine.embed(request, lease.served_as)
                    result = await self._attempt(trip, lease, watchdog, work)
                except OllamaMaxError as error:
                    lease = self._turn_to_next(trip, lease, error)
                else:
                    break
        finally:
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
            if member.engine_id == LOCAL or (model.loaded and member.engine.kind is not EngineKind.OPENAI)
        ]
        for member, served_as in holders:
            trip.engine_id = member.engine_id
            trip.attempts += 1
            await self._tell_unload(member, request, served_as)
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

    async def _attempt(self, trip: Trip, lease: Lease, watchdog: Watchdog, work: Awaitable[_T]) -> _T:
        """`work` within the lease's limit. Its lease stays open for an OllamaMaxError, and ends for anything else.

        Raises: what `work` raises; EngineTimeout.
        """
        trip.attempts += 1
        trip.engine_id = lease.engine_id
        limit_s = self._first_limit_s(lease)
        watchdog.watch(limit_s)
        try:
            result = await work
        except OllamaMaxError:
            raise
        except asyncio.CancelledError:
            if watchdog.has_barked():
                raise _silence(lease, limit_s) from None
            self._fleet.abandoned(lease)
            raise
        except BaseException:
            self._fleet.abandoned(lease)
            raise
        finally:
            watchdog.rest()
        self._fleet.responded(lease)
        return result

    def _turn_to_next(self, trip: Trip, lease: Lease, error: OllamaMaxError) -> Lease:
        """End the lease of a failed attempt, and take one for the next. Raises: `error` if there is to be none."""
        if not _is_clients_fault(error):
            self._meter.attempt_failed(lease.engine_id, error.code)
        self._fleet.failed(lease, error)
        following = self._next_lease(trip, lease, error)
        if following is None:
            raise error
        _LOG.info("trying another engine", failed=lease.engine_id, error=str(error), next=following.engine_id)
        return following

    def _first_limit_s(self, lease: Lease) -> float:
        """For the first token; infinite = none.

        This node's own engine may have to load even a loaded model anew (`num_ctx`).
        """
        limit_ms = max(self._config.first_token_timeout_ms, SLACK * lease.ttft_ms)
        if lease.is_local or not lease.was_loaded:
            if not self._config.load_timeout_ms:
                return math.inf
            limit_ms += self._config.load_timeout_ms
        return limit_ms / 1000

    def _next_lease(self, trip: Trip, lease: Lease, error: OllamaMaxError) -> Lease | None:
        """A slot for one more attempt; None if that is of no use or not allowed."""
        if error.retry is not Retry.OTHER_ENGINE or _is_clients_fault(error):
            return None
        trip.tried[lease.engine_id] = f"failed: {error}"
        decision = self._router.choose(trip.facts, tried=trip.tried)
        ranked = next((one for one in decision.ranked if one.has_room), decision.best)
        if ranked is None:
            return None
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


def _silence(lease: Lease, limit_s: float) -> EngineTimeout:
    return EngineTimeout(f"engine '{lease.engine_id}' sent nothing for {limit_s:g} s")


async def _first_read(answer: ChunkStream) -> list[Chunk]:
    """The first read that holds a chunk. Raises: what the engine raises, EngineUnavailable if none comes."""
    async for read in answer:
        if read:
            return read
    raise EngineUnavailable("the engine closed the stream before it answered")


def _is_clients_fault(error: OllamaMaxError) -> bool:
    return error.deterministic or (isinstance(error, EngineRefused) and error.is_clients_fault)
