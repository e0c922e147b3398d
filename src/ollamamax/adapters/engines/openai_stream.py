"""OpenAI's streamed events to chunks: deltas merged, tool calls made whole, the end told once."""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from ollamamax.adapters.engines import openai_wire as wire
from ollamamax.adapters.engines.http import error_text, garbage
from ollamamax.core.errors import EngineRefused
from ollamamax.core.types import Chunk, GenerationStats, TokenLogprob, ToolCall

_DONE: Final = b"[DONE]"
_NO_USAGE: Final = wire.Usage()


class _Call(Struct):
    """A tool call under construction."""

    id: str = ""
    name: str = ""
    arguments: str = ""


class ToolCallGatherer:
    """Pieces of calls in, whole calls out. make_id: for servers that give none."""

    def __init__(self, make_id: Callable[[], str]) -> None:
        self._make_id = make_id
        self._calls: dict[int, _Call] = {}

    def add(self, deltas: list[wire.CallDelta]) -> None:
        """Merge by index. A piece without an index starts a call where it brings an id, else continues the last."""
        for delta in deltas:
            last = max(self._calls, default=-1)
            index = delta.index if delta.index is not None else last + 1 if delta.id or last < 0 else last
            call = self._calls.setdefault(index, _Call())
            call.id = call.id or delta.id or ""
            if delta.function is not None:
                call.name = call.name or delta.function.name or ""
                call.arguments += _text(delta.function.arguments)

    def finish(self) -> tuple[ToolCall, ...]:
        """All calls, numbered from 0; arguments default to an empty object."""
        if not self._calls:
            return ()
        calls = [call for _, call in sorted(self._calls.items()) if call.name]
        self._calls = {}
        return tuple(
            ToolCall(id=call.id or self._make_id(), index=index, name=call.name, arguments=call.arguments or "{}")
            for index, call in enumerate(calls)
        )


def _text(raw: msgspec.Raw) -> str:
    """A string's value; an object's own text; "" for nothing."""
    data = bytes(raw)
    if not data or data == b"null":
        return ""
    return msgspec.json.decode(data, type=str) if data.startswith(b'"') else data.decode()


class EventGatherer:
    """The state of one streamed answer.

    name: the engine's, for errors.  now_ms: monotonic.  top_logprobs: how many rivals to pass on, -1 = no logprobs.
    """

    def __init__(self, name: str, now_ms: Callable[[], float], make_id: Callable[[], str], top_logprobs: int) -> None:
        self._name = name
        self._now_ms = now_ms
        self._top_logprobs = top_logprobs
        self._calls = ToolCallGatherer(make_id)
        self._started_ms = self._last_ms = now_ms()
        self._first_ms: float | None = None
        self._pieces = 0
        self._reason = ""
        self._usage = _NO_USAGE
        self._timings: wire.Timings | None = None
        self.is_done = False

    async def feed(self, pieces: list[bytes], chunks: list[Chunk]) -> None:
        """Append the chunks of the events of one read; the final one comes with `[DONE]`, or from `finish`.

        Raises: EngineProtocol, EngineRefused.
        """
        for data in pieces:
            if data == _DONE:
                chunks += self.finish()
                break
            try:
                event = wire.event_decoder.decode(data)
                self._take(event, chunks)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise garbage(self._name, data, error) from None

    def finish(self) -> list[Chunk]:
        """The end of the stream: the final chunk if a finish reason came, else nothing."""
        if self.is_done or not self._reason:
            return []
        self.is_done = True
        chunks: list[Chunk] = []
        if calls := self._calls.finish():
            chunks.append(Chunk(tool_calls=calls))
        chunks.append(Chunk(done_reason=self._reason, stats=self._stats()))
        return chunks

    def _take(self, event: wire.Event, chunks: list[Chunk]) -> None:
        if event.error is not None:
            status = event.error.get("code") if isinstance(event.error, dict) else None
            shown = status if isinstance(status, int) and 400 <= status < 600 else 500
            raise EngineRefused(error_text(event.error) or f"engine {self._name} failed", shown)
        if event.usage is not None:
            self._usage = event.usage
        if event.timings is not None:
            self._timings = event.timings
        for choice in event.choices or ():
            self._take_choice(choice, chunks)

    def _take_choice(self, choice: wire.Choice, chunks: list[Chunk]) -> None:
        delta = choice.delta
        text = choice.text or ""
        thinking = ""
        if delta is not None:
            text = delta.content or text
            thinking = delta.reasoning_content or delta.reasoning or ""
            if delta.tool_calls:
                self._calls.add(delta.tool_calls)
                self._count()
        if text or thinking:
            self._count()
            logprobs: tuple[TokenLogprob, ...] = ()
            if self._top_logprobs >= 0 and delta is not None:
                logprobs = wire.chat_logprobs(choice.logprobs, self._top_logprobs)
            chunks.append(Chunk(text, thinking, logprobs=logprobs))
        if choice.finish_reason:
            self._reason = "length" if choice.finish_reason == "length" else "stop"

    def _count(self) -> None:
        self._last_ms = self._now_ms()
        if self._first_ms is None:
            self._first_ms = self._last_ms
        self._pieces += 1

    def _stats(self) -> GenerationStats:
        usage, timings = self._usage, self._timings
        if timings is not None:
            return stats_of(timings)
        details = usage.prompt_tokens_details
        first_ms = self._first_ms if self._first_ms is not None else self._now_ms()
        return GenerationStats(
            prompt_tokens=usage.prompt_tokens or 0,
            cached_tokens=(details.cached_tokens or 0) if details is not None else 0,
            prompt_ms=first_ms - self._started_ms,
            eval_tokens=usage.completion_tokens if usage.completion_tokens is not None else self._pieces,
            eval_ms=max(self._last_ms - first_ms, 0.0),
        )


def stats_of(timings: wire.Timings) -> GenerationStats:
    """llama.cpp's measurements as the port's."""
    return GenerationStats(
        prompt_tokens=timings.cache_n + timings.prompt_n,
        cached_tokens=timings.cache_n,
        prompt_ms=timings.prompt_ms,
        eval_tokens=timings.predicted_n,
        eval_ms=timings.predicted_ms,
    )
