"""An existing Ollama server as an engine."""

from typing import Any

import msgspec

from ollamamax.adapters.engines import ollama_wire as wire
from ollamamax.adapters.engines import vectors
from ollamamax.adapters.engines.http import Deadlines, EngineHttp, error_text, garbage
from ollamamax.adapters.engines.openai_wire import token_logprobs
from ollamamax.adapters.engines.relay import relay
from ollamamax.adapters.engines.splitters import LineSplitter
from ollamamax.core.errors import EngineCrashed, EngineError, EngineProtocol, EngineRefused, InputTooLong, Unsupported
from ollamamax.core.types import (
    AttachedEngine,
    ChatRequest,
    Chunk,
    EmbedRequest,
    EmbedResult,
    EngineKind,
    EngineModel,
)
from ollamamax.ports import ChunkStream

_NOT_FOUND = 404
_RUNNER_DIED = "model runner has unexpectedly stopped"
_INPUT_TOO_LONG = "the input length exceeds the context length"


class OllamaEngine:
    """Requests are passed on as they are, under the model's name there."""

    def __init__(self, engine: AttachedEngine, deadlines: Deadlines | None = None) -> None:
        self._name = engine.name
        self._http = EngineHttp(engine.url, engine.name, engine.api_key, deadlines)

    @property
    def kind(self) -> EngineKind:
        """OLLAMA."""
        return EngineKind.OLLAMA

    async def models(self) -> tuple[EngineModel, ...]:
        """/api/tags, with /api/ps. Raises: EngineError."""
        tags = await self._http.get("/api/tags", wire.listing_decoder)
        try:
            loaded = await self._http.get("/api/ps", wire.listing_decoder)
        except EngineRefused as error:  # servers that imitate Ollama often lack it
            if error.status != _NOT_FOUND:
                raise
            loaded = wire.Listing()
        return wire.engine_models(tags, loaded)

    def generate(self, request: ChatRequest, served_as: str) -> ChunkStream:
        """Through /api/chat, or /api/generate for a prompt. Raises: EngineError, Unsupported, InvalidOption."""

        def ask() -> tuple[str, Any]:
            if request.count_only:
                raise Unsupported("Ollama's API can't count tokens; use a model of this node's own store")
            if request.render_only:
                raise Unsupported("an attached engine renders prompts itself and does not show them")
            if request.tools and request.tool_choice not in ("auto", "none"):
                raise Unsupported(
                    "Ollama's API can't force a tool call; leave tool_choice at auto, or use another engine"
                )
            return wire.request_path_and_body(request, served_as)

        gatherer = LineGatherer(self._name, request.top_logprobs if request.logprobs else -1)
        return relay(self._name, self._http.stream(ask), LineSplitter(), gatherer)

    async def embed(self, request: EmbedRequest, served_as: str) -> EmbedResult:
        """Through /api/embed. Raises: EngineError, InputTooLong, BadRequest."""
        try:
            answer = await self._http.post("/api/embed", wire.embed_body(request, served_as), wire.embedded_decoder)
        except EngineRefused as error:
            if _INPUT_TOO_LONG in str(error):
                raise InputTooLong(_INPUT_TOO_LONG) from None
            raise
        if len(answer.embeddings) != len(request.inputs):
            raise EngineProtocol(
                f"engine {self._name} gave {len(answer.embeddings)} vectors for {len(request.inputs)} inputs"
            )
        return EmbedResult(
            vectors=tuple(vectors.finished(vector, request.dimensions) for vector in answer.embeddings),
            prompt_tokens=answer.prompt_eval_count,
            load_ms=answer.load_duration / 1_000_000,
        )

    async def describe(self, served_as: str) -> dict[str, Any] | None:
        """/api/show; None if it has no such model. Raises: EngineError."""
        try:
            return await self._http.post("/api/show", {"model": served_as}, wire.show_decoder, is_brisk=True)
        except EngineRefused as error:
            if error.status != _NOT_FOUND:
                raise
            return None

    async def close(self) -> None:
        """End its connections. Idempotent."""
        await self._http.close()


class LineGatherer:
    """The state of one streamed answer. top_logprobs: rivals to pass on, -1 = no logprobs."""

    def __init__(self, name: str, top_logprobs: int) -> None:
        self._name = name
        self._top_logprobs = top_logprobs
        self._calls = 0
        self.is_done = False

    async def feed(self, pieces: list[bytes], chunks: list[Chunk]) -> None:
        """Append the chunks of the lines of one read. Raises: EngineProtocol, EngineRefused, EngineCrashed."""
        for data in pieces:
            try:
                line = wire.line_decoder.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise garbage(self._name, data, error) from None
            if bytes(line.error):
                raise _failure(self._name, bytes(line.error))
            self._take(line, chunks)
            if self.is_done:
                break

    def finish(self) -> list[Chunk]:
        """Nothing: a stream without a `done` line is broken."""
        return []

    def _take(self, line: wire.Line, chunks: list[Chunk]) -> None:
        message = line.message
        text = (message.content if message is not None else line.response) or ""
        thinking = (message.thinking if message is not None else line.thinking) or ""
        calls = (message.tool_calls if message is not None else line.tool_calls) or []
        logprobs = token_logprobs(line.logprobs, self._top_logprobs) if self._top_logprobs >= 0 else ()
        if text or thinking or calls or logprobs:
            made = wire.tool_calls(calls, self._calls)
            self._calls += len(made)
            chunks.append(Chunk(text=text, thinking=thinking, tool_calls=made, logprobs=logprobs))
        if line.done:
            self.is_done = True
            chunks.append(
                Chunk(done_reason=line.done_reason or "stop", stats=wire.stats(line), context=line.context or ())
            )


def _failure(name: str, raw: bytes) -> EngineError:
    text = error_text({"error": msgspec.json.decode(raw)}) or f"engine {name} failed"
    return EngineCrashed(text) if _RUNNER_DIED in text else EngineRefused(text, 500)
