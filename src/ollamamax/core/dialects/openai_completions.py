"""OpenAI's text completions, as Ollama reads and answers them: a prompt goes through the model's template.

Deliberate differences from Ollama: `logprobs` are told where they are asked for, and a `stop` that is neither text
nor a list of texts is an error. Ignored: best_of, echo, logit_bias, n, user and whatever else is not named here.
"""

from collections.abc import Iterable
from typing import Any, Final

from msgspec import Struct

from ollamamax.core.dialects.framing import SSE_DONE, encode, sse
from ollamamax.core.dialects.openai import (
    DEFAULT_TEMPERATURE,
    DEFAULT_TOP_P,
    read_include_usage,
    read_stop,
)
from ollamamax.core.dialects.openai_answers import FINGERPRINT, error_body, usage_of
from ollamamax.core.dialects.reading import Fields, decode_object
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import ChatRequest, Chunk, GenerationStats, Message, Options, TokenLogprob

_COMPLETION: Final = frozenset(
    {
        "model",
        "prompt",
        "suffix",
        "stream",
        "stream_options",
        "max_tokens",
        "seed",
        "stop",
        "temperature",
        "top_p",
        "frequency_penalty",
        "presence_penalty",
        "logprobs",
    }
)
_MAX_LOGPROBS: Final = 20


class Completion(Struct, frozen=True):
    """A text completion and what OpenAI's form adds to it."""

    request: ChatRequest
    include_usage: bool = False


def completion(body: bytes) -> Completion:
    """A body of /v1/completions. Without a prompt the model is only loaded. Raises: BadRequest and its children."""
    fields = Fields(decode_object(body, "CompletionRequest"), _COMPLETION, "CompletionRequest.")
    prompt = fields.text("prompt") or ""
    top = fields.integer("logprobs")
    if top is not None and not 0 <= top <= _MAX_LOGPROBS:
        raise BadRequest(f"top_logprobs must be between 0 and {_MAX_LOGPROBS}")
    request = ChatRequest(
        model=fields.text("model") or "",
        messages=(Message("user", prompt),) if prompt else (),
        suffix=fields.text("suffix") or "",
        options=_options(fields),
        stream=bool(fields.flag("stream")),
        logprobs=top is not None,
        top_logprobs=top or 0,
    )
    return Completion(request, include_usage=read_include_usage(fields))


def _options(fields: Fields) -> Options:
    temperature = fields.number("temperature")
    return Options(
        num_predict=fields.integer("max_tokens"),
        seed=fields.integer("seed"),
        stop=read_stop(fields.any("stop")),
        temperature=DEFAULT_TEMPERATURE if temperature is None else temperature,
        top_p=fields.number("top_p") or DEFAULT_TOP_P,
        frequency_penalty=fields.number("frequency_penalty") or 0.0,
        presence_penalty=fields.number("presence_penalty") or 0.0,
    )


class CompletionAnswer:
    """One answer of /v1/completions. created_s: unix seconds, one value for the whole stream.

    Mutates: counts the characters that were told, which is where the next logprobs stand.
    """

    __slots__ = ("_head", "_identity", "_include_usage", "_offset", "_tail")

    def __init__(self, model: str, completion_id: str, created_s: int, include_usage: bool) -> None:
        self._identity = {
            "id": completion_id,
            "object": "text_completion",
            "created": created_s,
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }
        self._include_usage = include_usage
        self._offset = 0
        usage = b',"usage":' + encode(usage_of(GenerationStats())) if include_usage else b""
        self._head = b"data: " + encode(self._identity)[:-1] + b',"choices":[{"text":'
        self._tail = b',"index":0,"finish_reason":null}]' + usage + b"}\n\n"

    def frames(self, chunks: Iterable[Chunk], wall_ns: int, elapsed_ns: int) -> bytes:
        """The events of some chunks; thoughts are not told. The two times are Ollama's affair and unused."""
        parts: list[bytes] = []
        for chunk in chunks:
            if chunk.done_reason or chunk.logprobs:
                self._append(chunk, parts)
            elif chunk.text:
                parts += (self._head, encode(chunk.text), self._tail)
                self._offset += len(chunk.text)
        return b"".join(parts)

    def _append(self, chunk: Chunk, parts: list[bytes]) -> None:
        event: dict[str, Any] = {**self._identity, "choices": [self._choice(chunk)]}
        if self._include_usage:
            event["usage"] = usage_of(GenerationStats())
        parts.append(sse(event))
        if chunk.done_reason and self._include_usage:
            parts.append(sse({**self._identity, "choices": [], "usage": usage_of(chunk.stats)}))

    def _choice(self, chunk: Chunk) -> dict[str, Any]:
        choice: dict[str, Any] = {"text": chunk.text, "index": 0, "finish_reason": chunk.done_reason or None}
        if chunk.logprobs:
            choice["logprobs"] = _logprobs(chunk.logprobs, self._offset)
        self._offset += len(chunk.text)
        return choice

    def whole(self, chunk: Chunk, wall_ns: int, elapsed_ns: int) -> bytes:
        """The reply that is not streamed, from the whole answer as one chunk."""
        return encode({**self._identity, "choices": [self._choice(chunk)], "usage": usage_of(chunk.stats)})

    def error(self, text: str) -> bytes:
        """The last event of an answer that failed on the way; no [DONE] follows."""
        return sse(error_body(500, text))

    def end(self) -> bytes:
        """What follows the last chunk."""
        return SSE_DONE


def _logprobs(items: tuple[TokenLogprob, ...], offset: int) -> dict[str, Any]:
    """offset: of the first token in the answer's text, in characters."""
    offsets = []
    for item in items:
        offsets.append(offset)
        offset += len(item.token)
    return {
        "tokens": [item.token for item in items],
        "token_logprobs": [item.logprob for item in items],
        "top_logprobs": [{rival.token: rival.logprob for rival in item.top} for item in items],
        "text_offset": offsets,
    }
