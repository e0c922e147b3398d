"""Answers in the form of Anthropic's messages: chunks to a message, or to the events of its blocks; errors.

Source: Anthropic API reference, "Messages" and "Streaming messages". A thought has an empty `signature`: nobody
signs it, but clients take the field for granted.
"""

from collections.abc import Iterable
from typing import Any, Final

from ollamamax.core.dialects.framing import encode, sse_named
from ollamamax.core.dialects.ollama_answers import arguments_of
from ollamamax.core.types import Chunk, GenerationStats, ToolCall

_ERROR_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens"}
_THINKING, _TEXT = "thinking", "text"
_PING: Final = sse_named("ping", {"type": "ping"})


class MessageAnswer:
    """One answer of /v1/messages. estimated_tokens: of the prompt, told first.  request_id: for errors.

    Mutates: counts blocks, and remembers which one is open and whether a tool was called.
    """

    __slots__ = (
        "_estimated_tokens",
        "_has_called",
        "_has_started",
        "_head",
        "_index",
        "_message_id",
        "_model",
        "_open",
        "_request_id",
    )

    def __init__(self, model: str, message_id: str, estimated_tokens: int, request_id: str) -> None:
        self._model = model
        self._message_id = message_id
        self._estimated_tokens = estimated_tokens
        self._request_id = request_id
        self._index = -1  # of the block that was opened last
        self._open = ""  # its kind, until it is closed
        self._head = b""
        self._has_called = False
        self._has_started = False

    def frames(self, chunks: Iterable[Chunk], wall_ns: int, elapsed_ns: int) -> bytes:
        """The events of some chunks. The two times are Ollama's affair and unused."""
        parts: list[bytes] = []
        if not self._has_started:
            self._start(parts)
        for chunk in chunks:
            if chunk.thinking:
                self._tell(_THINKING, chunk.thinking, parts)
            if chunk.text:
                self._tell(_TEXT, chunk.text, parts)
            for call in chunk.tool_calls:
                self._call(call, parts)
            if chunk.done_reason:
                self._close(parts)
                delta = {"stop_reason": self._stop_reason(chunk), "stop_sequence": None}
                parts.append(_event("message_delta", {"delta": delta, "usage": _usage(chunk.stats)}))
                parts.append(_event("message_stop", {}))
        return b"".join(parts)

    def _start(self, parts: list[bytes]) -> None:
        self._has_started = True
        started = self._message([], None, {"input_tokens": self._estimated_tokens, "output_tokens": 0})
        parts += (_event("message_start", {"message": started}), _PING)

    def _tell(self, kind: str, text: str, parts: list[bytes]) -> None:
        """A piece of a block's text."""
        if self._open != kind:
            self._close(parts)
            self._begin({"type": kind, kind: ""} | ({"signature": ""} if kind == _THINKING else {}), parts)
            self._open = kind
            self._head = (
                b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
                b'"delta":{"type":"%b_delta","%b":' % (self._index, kind.encode(), kind.encode())
            )
        parts += (self._head, encode(text), b"}}\n\n")

    def _begin(self, block: dict[str, Any], parts: list[bytes]) -> None:
        self._index += 1
        parts.append(_event("content_block_start", {"index": self._index, "content_block": block}))

    def _close(self, parts: list[bytes]) -> None:
        """End the block that is open, if one is."""
        if self._open:
            parts.append(_event("content_block_stop", {"index": self._index}))
            self._open = ""

    def _call(self, call: ToolCall, parts: list[bytes]) -> None:
        self._close(parts)
        self._has_called = True
        arguments_of(call)  # a half-made call must fail here, not in the client
        self._begin({"type": "tool_use", "id": call.id, "name": call.name, "input": {}}, parts)
        delta = {"type": "input_json_delta", "partial_json": call.arguments}
        parts.append(_event("content_block_delta", {"index": self._index, "delta": delta}))
        parts.append(_event("content_block_stop", {"index": self._index}))

    def _stop_reason(self, last: Chunk) -> str:
        return "tool_use" if self._has_called else _STOP_REASONS.get(last.done_reason, "end_turn")

    def _message(self, content: list[dict[str, Any]], stop_reason: str | None, usage: dict[str, int]) -> dict[str, Any]:
        return {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": usage,
        }

    def whole(self, chunk: Chunk, wall_ns: int, elapsed_ns: int) -> bytes:
        """The reply that is not streamed, from the whole answer as one chunk."""
        content: list[dict[str, Any]] = []
        if chunk.thinking:
            content.append({"type": _THINKING, "thinking": chunk.thinking, "signature": ""})
        if chunk.text:
            content.append({"type": _TEXT, "text": chunk.text})
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments_of(call)}
            for call in chunk.tool_calls
        ]
        self._has_called = bool(chunk.tool_calls)
        return encode(self._message(content, self._stop_reason(chunk), _usage(chunk.stats)))

    def error(self, text: str) -> bytes:
        """The last event of an answer that failed on the way."""
        return sse_named("error", error_body(500, text, self._request_id))

    def end(self) -> bytes:
        """What follows the last chunk: nothing."""
        return b""


def token_count(stats: GenerationStats | None) -> bytes:
    """The reply of /v1/messages/count_tokens."""
    known = stats or GenerationStats()
    return encode({"input_tokens": known.prompt_tokens})


def error_body(status: int, text: str, request_id: str) -> dict[str, Any]:
    """An error for a reply of that HTTP status. request_id: as the log has it."""
    error = {"type": _ERROR_TYPES.get(status, "api_error"), "message": text}
    return {"type": "error", "error": error, "request_id": f"req_{request_id}"}


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return sse_named(name, {"type": name, **fields})


def _usage(stats: GenerationStats | None) -> dict[str, int]:
    known = stats or GenerationStats()
    return {"input_tokens": known.prompt_tokens, "output_tokens": known.eval_tokens}
