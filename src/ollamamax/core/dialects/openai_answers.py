"""Answers in OpenAI's form: chunks to chat.completion objects and events, lists of models, errors."""

from collections.abc import Iterable
from typing import Any, Final

from ollamamax.core.dialects.framing import SSE_DONE, encode, sse
from ollamamax.core.dialects.ollama_answers import arguments_of
from ollamamax.core.types import Chunk, GenerationStats, ModelRecord, TokenLogprob, ToolCall

FINGERPRINT: Final = "fp_ollama"
_TAIL: Final = b'},"finish_reason":null}]}\n\n'
_ERROR_TYPES: Final = {400: "invalid_request_error", 404: "not_found_error"}


class OpenAiAnswer:
    """One answer of /v1/chat/completions. created_s: unix seconds, one value for the whole stream.

    Mutates: remembers whether the role was told and whether a tool was called.
    """

    __slots__ = ("_base", "_called", "_completion_id", "_created_s", "_head", "_include_usage", "_model", "_started")

    def __init__(self, model: str, completion_id: str, created_s: int, include_usage: bool) -> None:
        self._model = model
        self._completion_id = completion_id
        self._created_s = created_s
        self._include_usage = include_usage
        self._started = False
        self._called = False
        self._base = b""
        """What each event begins with, once there is one."""
        self._head = b""
        """The same of an event with nothing but text."""

    def _object(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._completion_id,
            "object": kind,
            "created": self._created_s,
            "model": self._model,
            "system_fingerprint": FINGERPRINT,
        }

    def frames(self, chunks: Iterable[Chunk], wall_ns: int, elapsed_ns: int) -> bytes:
        """The events of some chunks. The two times are Ollama's affair and unused."""
        parts: list[bytes] = []
        for chunk in chunks:
            if not self._started or chunk.done_reason or chunk.thinking or chunk.tool_calls or chunk.logprobs:
                self._append(chunk, parts)
            elif chunk.text:
                parts += (self._head, encode(chunk.text), _TAIL)
        return b"".join(parts)

    def _append(self, chunk: Chunk, parts: list[bytes]) -> None:
        """Thoughts, text with calls, and the end each get an event of their own."""
        if chunk.thinking:
            parts.append(self._event({"content": "", "reasoning": chunk.thinking}))
        if chunk.text or chunk.tool_calls or chunk.logprobs:
            delta: dict[str, Any] = {"content": chunk.text}
            if chunk.tool_calls:
                self._called = True
                delta["tool_calls"] = [_tool_call(call) for call in chunk.tool_calls]
            parts.append(self._event(delta, logprobs=chunk.logprobs))
        if chunk.done_reason:
            if not self._started:
                parts.append(self._event({"content": ""}))
            parts.append(self._event({}, finish_reason=_finish_reason(chunk, self._called)))
            if self._include_usage:
                usage = {**self._object("chat.completion.chunk"), "choices": [], "usage": usage_of(chunk.stats)}
                parts.append(sse(usage))

    def _event(
        self, delta: dict[str, Any], logprobs: tuple[TokenLogprob, ...] = (), finish_reason: str | None = None
    ) -> bytes:
        if not self._started:
            delta = {"role": "assistant", **delta}
            self._started = True
            self._base = b"data: " + encode(self._object("chat.completion.chunk"))[:-1] + b',"choices":'
            self._head = self._base + b'[{"index":0,"delta":{"content":'
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        if logprobs:
            choice["logprobs"] = {"content": [_logprob(item) for item in logprobs]}
        return self._base + encode([choice]) + b"}\n\n"

    def whole(self, chunk: Chunk, wall_ns: int, elapsed_ns: int) -> bytes:
        """The reply that is not streamed, from the whole answer as one chunk."""
        message: dict[str, Any] = {"role": "assistant", "content": chunk.text}
        if chunk.thinking:
            message["reasoning"] = chunk.thinking
        if chunk.tool_calls:
            message["tool_calls"] = [_tool_call(call) for call in chunk.tool_calls]
        choice: dict[str, Any] = {
            "index": 0,
            "message": message,
            "finish_reason": _finish_reason(chunk, bool(chunk.tool_calls)),
        }
        if chunk.logprobs:
            choice["logprobs"] = {"content": [_logprob(item) for item in chunk.logprobs]}
        return encode({**self._object("chat.completion"), "choices": [choice], "usage": usage_of(chunk.stats)})

    def error(self, text: str) -> bytes:
        """The last event of an answer that failed on the way; no [DONE] follows."""
        return sse(error_body(500, text))

    def end(self) -> bytes:
        """What follows the last chunk."""
        return SSE_DONE


def error_body(status: int, text: str) -> dict[str, Any]:
    """An error for a reply of that HTTP status."""
    kind = _ERROR_TYPES.get(status, "api_error")
    return {"error": {"message": text, "type": kind, "param": None, "code": None}}


def model_object(model_id: str, record: ModelRecord) -> dict[str, Any]:
    """One model. model_id: as it was asked for, or as it is listed."""
    parts = record.name.split("/")
    owner = parts[-2] if len(parts) > 1 else "library"
    return {"id": model_id, "object": "model", "created": record.modified_ns // 1_000_000_000, "owned_by": owner}


def model_list(records: Iterable[ModelRecord]) -> bytes:
    """The reply of /v1/models, newest first; `data` is null where there are none."""
    newest_first = sorted(records, key=lambda record: (-record.modified_ns, record.name))
    return encode({"object": "list", "data": [model_object(record.name, record) for record in newest_first] or None})


def _finish_reason(chunk: Chunk, called: bool) -> str:
    return "tool_calls" if called and chunk.done_reason == "stop" else chunk.done_reason


def _tool_call(call: ToolCall) -> dict[str, Any]:
    arguments_of(call)  # a half-made call must fail here, not in the client
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "index": call.index, "type": "function", "function": function}


def _logprob(item: TokenLogprob) -> dict[str, Any]:
    return {
        "token": item.token,
        "logprob": item.logprob,
        "bytes": item.bytes,
        "top_logprobs": [{"token": rival.token, "logprob": rival.logprob, "bytes": rival.bytes} for rival in item.top],
    }


def usage_of(stats: GenerationStats | None) -> dict[str, int]:
    """OpenAI's count of an answer's tokens; zeros where the engine told nothing."""
    known = stats or GenerationStats()
    return {
        "prompt_tokens": known.prompt_tokens,
        "completion_tokens": known.eval_tokens,
        "total_tokens": known.prompt_tokens + known.eval_tokens,
    }
