"""All chunks of an answer to one, for replies that are not streamed."""

from collections.abc import Iterable

from ollamamax.core.types import Chunk, TokenLogprob, ToolCall


class Gatherer:
    """Collects an answer. `whole()` tells it once the last chunk was added."""

    __slots__ = ("_last", "_logprobs", "_texts", "_thoughts", "_tool_calls")

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._tool_calls: list[ToolCall] = []
        self._logprobs: list[TokenLogprob] = []
        self._last: Chunk | None = None

    def add(self, chunks: Iterable[Chunk]) -> None:
        """Take the next pieces."""
        for chunk in chunks:
            self._texts.append(chunk.text)
            self._thoughts.append(chunk.thinking)
            self._tool_calls.extend(chunk.tool_calls)
            self._logprobs.extend(chunk.logprobs)
            if chunk.done_reason:
                self._last = chunk

    def whole(self) -> Chunk | None:
        """The answer as one chunk, or None if its last chunk has not come."""
        last = self._last
        if last is None:
            return None
        return Chunk(
            text="".join(self._texts),
            thinking="".join(self._thoughts),
            tool_calls=tuple(self._tool_calls),
            logprobs=tuple(self._logprobs),
            done_reason=last.done_reason,
            stats=last.stats,
            context=last.context,
        )
