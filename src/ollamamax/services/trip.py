"""One request on its way: filled in by those it passes, turned into its one Outcome at the end."""

import asyncio
from collections.abc import Callable

from ollamamax.core.errors import (
    Busy,
    ClientGone,
    EngineError,
    EngineRefused,
    OllamaMaxError,
)
from ollamamax.core.routing.predict import RequestFacts, Sample
from ollamamax.core.types import Chunk, GenerationStats, Outcome, OutcomeKind, RequestContext
from ollamamax.services.members import Lease

_NO_STATS = GenerationStats()


class Trip:
    """facts: once it is understood.  ticket: while it waits or is admitted, else 0.

    tried: engines that failed it, and why.  first_ms, last_ms: when the first and the last chunk came.  chunks: so
    far, without an empty last one.  stats: of the last chunk, None before it came.
    """

    __slots__ = (
        "attempts",
        "chunks",
        "context",
        "engine_id",
        "error",
        "facts",
        "first_ms",
        "is_token_less",
        "last_ms",
        "model",
        "queued_ms",
        "stats",
        "ticket",
        "tried",
    )

    def __init__(self, context: RequestContext, model: str) -> None:
        self.context = context
        self.model = model
        self.facts = RequestFacts(model)
        self.ticket = 0
        self.tried: dict[str, str] = {}
        self.engine_id = ""
        self.attempts = 0
        self.queued_ms = 0.0
        self.first_ms = 0.0
        self.last_ms = 0.0
        self.chunks = 0
        self.stats: GenerationStats | None = None
        self.is_token_less = False
        self.error: BaseException | None = None

    def begun(self, now_ms: float) -> None:
        """The first chunk came; of an answer that is asked for again, again."""
        self.first_ms = now_ms
        self.chunks = 0

    def completed(self, last: Chunk, now_ms: float) -> None:
        """The last chunk came."""
        self.stats = last.stats or _NO_STATS
        if not (last.text or last.thinking or last.tool_calls):
            self.chunks -= 1
        self.is_token_less = last.done_reason in ("load", "unload")
        self.last_ms = now_ms

    @property
    def output_tokens(self) -> int:
        """As the engine counted; until it says, one per chunk."""
        return self.stats.eval_tokens if self.stats is not None and self.stats.eval_tokens else self.chunks

    def sample(self, lease: Lease) -> Sample:
        """What a whole answer showed of its engine; where that does not measure, seen from here."""
        stats = self.stats
        assert stats is not None, "only a whole answer is a sample"
        if self.is_token_less:
            return Sample(load_ms=0.0 if lease.was_loaded else self.last_ms - lease.began_ms)
        ttft_ms = self.first_ms - lease.began_ms
        prompt_ms = stats.prompt_ms or (ttft_ms if lease.was_loaded else 0.0)
        output, output_ms = stats.eval_tokens, stats.eval_ms
        if not output_ms:
            output, output_ms = self.output_tokens - 1, self.last_ms - self.first_ms
        load_ms = 0.0 if lease.was_loaded else stats.load_ms
        return Sample(stats.prompt_tokens - stats.cached_tokens, prompt_ms, output, output_ms, load_ms)

    def outcome(self, now_ms: float) -> Outcome:
        """The record of the finished request."""
        kind, error_code = self._end()
        context = self.context
        arrived_ms = context.arrived_ms
        has_tokens = self.chunks > 0 and not self.is_token_less
        output_tokens = self.output_tokens
        tpot_ms = None
        if self.stats is not None and has_tokens and output_tokens > 1:
            tpot_ms = (self.last_ms - self.first_ms) / (output_tokens - 1)
        return Outcome(
            request_id=context.request_id,
            route=context.route,
            model=self.facts.model_key,
            kind=kind,
            error_code=error_code,
            engine_id=self.engine_id,
            attempts=self.attempts,
            queued_ms=self.queued_ms,
            ttft_ms=self.first_ms - arrived_ms if has_tokens else None,
            tpot_ms=tpot_ms,
            total_ms=now_ms - arrived_ms,
            prompt_tokens=self.stats.prompt_tokens if self.stats is not None else 0,
            output_tokens=0 if self.is_token_less else output_tokens,
            traceparent=context.traceparent,
        )

    def _end(self) -> tuple[OutcomeKind, str]:
        """A client that leaves after the last chunk has got its answer."""
        match self.error:
            case None:
                return OutcomeKind.OK, ""
            case GeneratorExit() | asyncio.CancelledError():
                return (OutcomeKind.OK, "") if self.stats is not None else (OutcomeKind.CLIENT_GONE, ClientGone.code)
            case OllamaMaxError() as error:
                return _kind_of(error), error.code
        return OutcomeKind.INTERNAL, OllamaMaxError.code


class Ending:
    """A context that tells the end of a trip, whatever it is."""

    __slots__ = ("_ended", "_trip")

    def __init__(self, trip: Trip, ended: Callable[[Trip], None]) -> None:
        self._trip = trip
        self._ended = ended

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        self._trip.error = error
        self._ended(self._trip)


def _kind_of(error: OllamaMaxError) -> OutcomeKind:
    match error:
        case ClientGone():
            return OutcomeKind.CLIENT_GONE
        case Busy():
            return OutcomeKind.REJECTED
        case EngineRefused() if error.is_clients_fault:
            return OutcomeKind.CLIENT_ERROR
        case EngineError():
            return OutcomeKind.ENGINE_FAILED
    return OutcomeKind.CLIENT_ERROR if error.deterministic else OutcomeKind.INTERNAL
