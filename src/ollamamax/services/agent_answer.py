"""An engine's answer, asked for as often as it takes: shorter, or first thought about and then held to a format.

Source: Ollama `server/routes.go` (a format holds from where the content begins), `server/prompt.go` (what is dropped).
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec.structs import replace

from ollamamax.core.errors import InputTooLong
from ollamamax.core.types import ChatRequest, Chunk, GenerationStats, Message
from ollamamax.ports import RunningEngine
from ollamamax.services.agent_render import Renderer, without_oldest


async def answered(
    engine: RunningEngine, renderer: Renderer, messages: tuple[Message, ...], truncate: bool, served_as: str
) -> AsyncGenerator[list[Chunk], None]:
    """The answer, taken apart; the oldest messages are dropped one by one while the prompt is too long.

    Raises: TemplateError, BadRequest, InputTooLong, EngineError.
    """
    has_begun = False
    while True:
        shorter = without_oldest(messages) if truncate else None
        # Only when no message is left to drop may the engine cut the last one.
        asked = replace(renderer.engine_request(messages), truncate=truncate and shorter is None)
        try:
            async with aclosing(_attempt(engine, renderer, asked, served_as)) as stream:
                async for chunks in stream:
                    has_begun = True
                    yield chunks
            return
        except InputTooLong:
            if shorter is None or has_begun:
                raise
            messages = shorter


async def _attempt(
    engine: RunningEngine, renderer: Renderer, asked: ChatRequest, served_as: str
) -> AsyncGenerator[list[Chunk], None]:
    tags = renderer.thinking_tags()
    thought = None
    if tags is not None and asked.format:
        thought = _Thought(tags, asked.prompt or "")
        async with aclosing(_thinking(engine, renderer, asked, served_as, thought)) as stream:
            async for chunks in stream:
                yield chunks
        if thought.is_all:
            return
        asked = thought.continued(asked)
    parser = renderer.parser(asked, has_thought=thought is not None)
    async with aclosing(engine.generate(asked, served_as)) as stream:
        async for chunks in stream:
            if thought is not None:
                chunks = [thought.counted(chunk) for chunk in chunks]
            yield parser.feed(chunks) if parser is not None else chunks


async def _thinking(
    engine: RunningEngine, renderer: Renderer, asked: ChatRequest, served_as: str, thought: "_Thought"
) -> AsyncGenerator[list[Chunk], None]:
    """What the model thinks, free of the format, up to where its content begins; all of it if that never does."""
    free = replace(asked, format="", want_context=False)
    parser = renderer.parser(free)
    assert parser is not None, "a template with tags around thinking has a parser"
    async with aclosing(engine.generate(free, served_as)) as stream:
        async for chunks in stream:
            for chunk in chunks:
                pieces = parser.feed([chunk])
                if told := [replace(piece, text="", tool_calls=()) for piece in pieces if piece.thinking]:
                    yield told
                thought.take(chunk)
                if any(piece.text or piece.tool_calls for piece in pieces):
                    return
                if chunk.done_reason and not thought.is_closed:
                    thought.is_all = True
                    yield pieces[-1:]


class _Thought:
    """What was said before the content. is_all: the answer ended before any content."""

    def __init__(self, tags: tuple[str, str], prompt: str) -> None:
        self._open, self._close = tags
        self._starts_inside = prompt.rstrip().endswith(self._open)
        self._text = ""
        self._tokens = 0
        self.is_all = False

    def take(self, chunk: Chunk) -> None:
        """A piece of the first pass."""
        self._tokens += 0 if self.is_closed else len(chunk.token_ids)
        self._text += chunk.text

    @property
    def is_closed(self) -> bool:
        """The thinking has ended."""
        return self._close in self._text and (self._starts_inside or self._text.lstrip().startswith(self._open))

    def continued(self, asked: ChatRequest) -> ChatRequest:
        """The same request behind the thinking; behind nothing if the model did not think."""
        if not self.is_closed:
            self._tokens = 0
            return asked
        said = self._text[: self._text.index(self._close) + len(self._close)]
        options, limit = asked.options, asked.options.num_predict
        if limit is not None and limit > 0:
            options = replace(options, num_predict=max(limit - self._tokens, 1))
        return replace(asked, prompt=(asked.prompt or "") + said, options=options)

    def counted(self, chunk: Chunk) -> Chunk:
        """The figures of both passes; the thinking is taken to have been as fast as the content."""
        stats = chunk.stats
        if stats is None or not self._tokens:
            return chunk
        eval_tokens = stats.eval_tokens + self._tokens
        both: GenerationStats = replace(
            stats,
            prompt_tokens=max(stats.prompt_tokens - self._tokens, 0),
            cached_tokens=max(stats.cached_tokens - self._tokens, 0),
            eval_tokens=eval_tokens,
            eval_ms=stats.eval_ms * eval_tokens / max(stats.eval_tokens, 1),
        )
        return replace(chunk, stats=both)
