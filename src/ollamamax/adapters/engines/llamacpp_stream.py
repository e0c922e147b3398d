"""Completion events to chunks: each with the ids of the tokens behind its text.

llama.cpp streams one event per token, save that a token which leaves an incomplete UTF-8 character gets none: the
count jumps, and the ids of the jump are found again by tokenizing the text that completes the character. Text held
back for a possible stop string arrives with a later event, while its ids arrive at once; they wait here.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from ollamamax.adapters.engines import llamacpp_wire as wire
from ollamamax.adapters.engines.http import error_text, garbage
from ollamamax.adapters.engines.openai_stream import stats_of
from ollamamax.adapters.engines.openai_wire import Logprob, Timings, token_logprobs
from ollamamax.core.errors import EngineRefused
from ollamamax.core.types import Chunk, TokenLogprob


class Splitter(Protocol):
    """Parts thinking from content."""

    def feed(self, text: str) -> tuple[str, str]:
        """What is certain by now: (thinking, content)."""
        ...

    def finish(self) -> tuple[str, str]:
        """The rest."""
        ...


class Vocabulary(Protocol):
    """The engine's tokenizer."""

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Ids of a piece of text, without special tokens around it."""
        ...

    async def detokenize(self, tokens: tuple[int, ...]) -> str:
        """Text of ids."""
        ...


class CompletionGatherer:
    """The state of one streamed completion.

    splitter: None = all text is content.  top_logprobs: rivals to pass on, -1 = no logprobs.  prompt_ids: awaited for
    the final chunk's context; None = no context is wanted.
    """

    def __init__(
        self,
        name: str,
        vocabulary: Vocabulary,
        splitter: Splitter | None,
        top_logprobs: int,
        prompt_ids: Callable[[], Awaitable[tuple[int, ...]]] | None,
    ) -> None:
        self._name = name
        self._vocabulary = vocabulary
        self._splitter = splitter
        self._top_logprobs = top_logprobs
        self._prompt_ids = prompt_ids
        self._seen = 0  # tokens that events told of, or jumped over
        self._lost = 0  # of these, tokens without an event since text came last
        self._waiting: tuple[int, ...] = ()  # ids whose text has not come yet
        self._ready: tuple[int, ...] | None = ()  # ids of text that the splitter holds; None = not all are known
        self._logprobs: list[Logprob] = []
        self._answer_ids: list[int] = []
        self._answer_text: list[str] = []
        self._is_exact = True
        self.is_done = False

    async def feed(self, pieces: list[bytes], chunks: list[Chunk]) -> None:
        """Append the chunks of the events of one read. Raises: EngineProtocol, EngineRefused."""
        for data in pieces:
            try:
                event = wire.event_decoder.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise garbage(self._name, data, error) from None
            if event.error is not None:
                status = event.error.get("code")
                raise EngineRefused(error_text(event.error), status if isinstance(status, int) else 500)
            if event.stop:
                await self._finish(event, chunks)
                break
            await self._take(event, chunks)

    def finish(self) -> list[Chunk]:
        """Nothing: llama.cpp always sends a last event."""
        return []

    async def _take(self, event: wire.CompletionEvent, chunks: list[Chunk]) -> None:
        jump = event.tokens_predicted - self._seen
        self._seen = event.tokens_predicted
        self._lost += max(jump - len(event.tokens), 0)
        self._waiting += event.tokens
        if event.completion_probabilities and self._top_logprobs >= 0:
            self._logprobs += event.completion_probabilities
        if event.content:
            await self._emit(event.content, chunks)

    async def _emit(self, text: str, chunks: list[Chunk]) -> None:
        """Text came: the waiting ids are its own."""
        ids: tuple[int, ...] | None = self._waiting
        if self._lost:
            ids = await self._found_again(text, len(self._waiting) + self._lost)
        self._waiting, self._lost = (), 0
        if ids is None:
            self._is_exact = False
        if self._prompt_ids is not None:
            self._answer_ids += ids or ()
            self._answer_text.append(text)
        if self._splitter is None:
            chunks.append(Chunk(text=text, token_ids=ids or (), logprobs=self._take_logprobs()))
            return
        self._ready = None if self._ready is None or ids is None else self._ready + ids
        thinking, content = self._splitter.feed(text)
        if thinking or content:
            self._append(chunks, thinking, content)

    def _append(self, chunks: list[Chunk], thinking: str, content: str) -> None:
        ids, self._ready = self._ready or (), ()
        chunks.append(Chunk(text=content, thinking=thinking, token_ids=ids, logprobs=self._take_logprobs()))

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        if not self._logprobs:
            return ()
        taken, self._logprobs = self._logprobs, []
        return token_logprobs(taken, self._top_logprobs)

    async def _found_again(self, text: str, count: int) -> tuple[int, ...] | None:
        """The ids behind `text`, of which only some are known; None if the tokenizer sees it otherwise.

        A tokenizer that puts a space before each text answers with more ids than asked for; then the last ones are
        taken if their text is the same.
        """
        ids = await self._vocabulary.tokenize(text)
        if len(ids) < count or ids[-1:] != self._waiting[-1:]:
            return None
        tail = ids[-count:]
        return tail if len(ids) == count or await self._vocabulary.detokenize(tail) == text else None

    async def _finish(self, event: wire.CompletionEvent, chunks: list[Chunk]) -> None:
        """The last event. What still waits is the end token, a stop string, or text held for a stop that never came."""
        self.is_done = True
        is_cut = event.stop_type == "limit"
        if is_cut and self._waiting and not self._lost and (text := await self._vocabulary.detokenize(self._waiting)):
            await self._emit(text, chunks)
        if self._splitter is not None:
            thinking, content = self._splitter.finish()
            if thinking or content:
                self._append(chunks, thinking, content)
        chunks.append(
            Chunk(
                done_reason="length" if is_cut else "stop",
                stats=stats_of(event.timings or Timings()),
                context=await self._context(),
            )
        )

    async def _context(self) -> tuple[int, ...]:
        if self._prompt_ids is None:
            return ()
        prompt = await self._prompt_ids()
        if self._is_exact:
            return (*prompt, *self._answer_ids)
        return (*prompt, *await self._vocabulary.tokenize("".join(self._answer_text)))
