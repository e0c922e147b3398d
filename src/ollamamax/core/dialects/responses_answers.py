"""Answers in the form of OpenAI's responses: chunks to a response object, or to its events in their order.

An answer is a list of items: thoughts, a message, calls. Each is opened, told piece by piece and closed before the
next one; the last event holds them all. Source: OpenAI API reference, "Responses" and its streaming events.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Raw

from ollamamax.core.dialects.framing import encode, sse_named
from ollamamax.core.dialects.ollama_answers import arguments_of
from ollamamax.core.types import Chunk, GenerationStats, ToolCall

_NS_PER_S: Final = 1_000_000_000
_THOUGHTS, _MESSAGE = "reasoning", "message"


class ResponseAnswer:
    """One answer of /v1/responses. repeated: fields of the request.  number: makes its ids unique.

    created_s: unix seconds.  Mutates: counts events, and keeps the items that it has told.
    """

    __slots__ = (
        "_created_s",
        "_has_called",
        "_head",
        "_item_id",
        "_items",
        "_model",
        "_number",
        "_open",
        "_repeated",
        "_sequence",
        "_texts",
    )

    def __init__(self, model: str, repeated: Mapping[str, Raw], number: str, created_s: int) -> None:
        self._model = model
        self._repeated = repeated
        self._number = number
        self._created_s = created_s
        self._sequence = 0
        self._items: list[dict[str, Any]] = []
        self._open = ""  # the kind of the item that is being told
        self._item_id = ""
        self._texts: list[str] = []
        self._head = b""
        self._has_called = False

    # --- streamed -----------------------------------------------------------------------------------------------

    def frames(self, chunks: Iterable[Chunk], wall_ns: int, elapsed_ns: int) -> bytes:
        """The events of some chunks. Text after a call is dropped, as Ollama does. elapsed_ns: unused."""
        parts: list[bytes] = []
        if not self._sequence:
            begun = {"response": self._object("in_progress")}
            parts += (self._event("response.created", begun), self._event("response.in_progress", begun))
        for chunk in chunks:
            if chunk.thinking:
                self._tell(_THOUGHTS, chunk.thinking, parts)
            if chunk.text and not self._has_called:
                self._tell(_MESSAGE, chunk.text, parts)
            for call in chunk.tool_calls:
                self._call(call, parts)
            if chunk.done_reason:
                self._close(parts)
                whole = self._object("completed", wall_ns // _NS_PER_S, chunk.stats)
                parts.append(self._event("response.completed", {"response": whole}))
        return b"".join(parts)

    def _event(self, name: str, fields: dict[str, Any]) -> bytes:
        body = sse_named(name, {"type": name, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return body

    def _tell(self, kind: str, text: str, parts: list[bytes]) -> None:
        """A piece of an item's text."""
        if self._open != kind:
            self._close(parts)
            self._begin(kind, parts)
        self._texts.append(text)
        parts += (self._head, b"%d" % self._sequence, b',"delta":', encode(text), b"}\n\n")
        self._sequence += 1

    def _begin(self, kind: str, parts: list[bytes]) -> None:
        self._open, self._texts = kind, []
        if kind == _THOUGHTS:
            self._item_id = self._id("rs")
            name, place = "response.reasoning_summary_text.delta", {"summary_index": 0}
            item: dict[str, Any] = {"id": self._item_id, "type": _THOUGHTS, "summary": []}
        else:
            self._item_id = self._id("msg")
            name, place = "response.output_text.delta", {"content_index": 0}
            item = _message(self._item_id, "in_progress", [])
        index = {"output_index": len(self._items)}
        parts.append(self._event("response.output_item.added", {**index, "item": item}))
        if kind == _MESSAGE:
            fields = {"item_id": self._item_id, **index, **place, "part": _text_part("")}
            parts.append(self._event("response.content_part.added", fields))
        head = {"type": name, "item_id": self._item_id, **index, **place}
        if kind == _MESSAGE:
            head["logprobs"] = []
        self._head = b"event: " + name.encode() + b"\ndata: " + encode(head)[:-1] + b',"sequence_number":'

    def _close(self, parts: list[bytes]) -> None:
        """End the item that is open, if one is."""
        if not self._open:
            return
        text, kind = "".join(self._texts), self._open
        index = {"output_index": len(self._items)}
        place = {"item_id": self._item_id, **index}
        if kind == _THOUGHTS:
            item = _thoughts(self._item_id, text)
            fields: dict[str, Any] = {**place, "summary_index": 0, "text": text}
            parts.append(self._event("response.reasoning_summary_text.done", fields))
        else:
            item = _message(self._item_id, "completed", [_text_part(text)])
            place["content_index"] = 0
            parts.append(self._event("response.output_text.done", {**place, "text": text, "logprobs": []}))
            parts.append(self._event("response.content_part.done", {**place, "part": _text_part(text)}))
        parts.append(self._event("response.output_item.done", {**index, "item": item}))
        self._items.append(item)
        self._open = ""

    def _call(self, call: ToolCall, parts: list[bytes]) -> None:
        self._close(parts)
        self._has_called = True
        item = _function_call(self._id("fc"), call)
        index = {"output_index": len(self._items)}
        place = {"item_id": item["id"], **index}
        started = {**item, "status": "in_progress", "arguments": ""}
        parts += (
            self._event("response.output_item.added", {**index, "item": started}),
            self._event("response.function_call_arguments.delta", {**place, "delta": call.arguments}),
            self._event("response.function_call_arguments.done", {**place, "arguments": call.arguments}),
            self._event("response.output_item.done", {**index, "item": item}),
        )
        self._items.append(item)

    def error(self, text: str) -> bytes:
        """The last event of an answer that failed on the way."""
        failed = self._object("failed", error={"code": "server_error", "message": text})
        return self._event("response.failed", {"response": failed})

    def end(self) -> bytes:
        """What follows the last chunk: nothing."""
        return b""

    # --- whole --------------------------------------------------------------------------------------------------

    def whole(self, chunk: Chunk, wall_ns: int, elapsed_ns: int) -> bytes:
        """The reply that is not streamed, from the whole answer as one chunk. elapsed_ns: unused."""
        if chunk.thinking:
            self._items.append(_thoughts(self._id("rs"), chunk.thinking))
        if chunk.text or not chunk.tool_calls:
            self._items.append(_message(self._id("msg"), "completed", [_text_part(chunk.text)]))
        for call in chunk.tool_calls:
            self._items.append(_function_call(self._id("fc"), call))
        return encode(self._object("completed", wall_ns // _NS_PER_S, chunk.stats))

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._number}_{len(self._items)}"

    def _object(
        self,
        status: str,
        completed_s: int | None = None,
        stats: GenerationStats | None = None,
        error: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """The response with what is told of it so far."""
        repeated = self._repeated
        return {
            "id": f"resp_{self._number}",
            "object": "response",
            "created_at": self._created_s,
            "completed_at": completed_s,
            "status": status,
            "incomplete_details": None,
            "model": self._model,
            "previous_response_id": None,
            "instructions": repeated["instructions"],
            "output": self._items,
            "error": error,
            "tools": repeated["tools"],
            "tool_choice": repeated["tool_choice"],
            "truncation": repeated["truncation"],
            "parallel_tool_calls": True,
            "text": repeated["text"],
            "top_p": repeated["top_p"],
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": repeated["temperature"],
            "reasoning": repeated["reasoning"],
            "usage": _usage(stats) if completed_s is not None else None,
            "max_output_tokens": repeated["max_output_tokens"],
            "max_tool_calls": None,
            "store": False,
            "background": False,
            "service_tier": "default",
            "metadata": repeated["metadata"],
            "safety_identifier": None,
            "prompt_cache_key": None,
        }


def _thoughts(item_id: str, text: str) -> dict[str, Any]:
    """encrypted_content: the same in plain text; it comes back in the next request."""
    summary = [{"type": "summary_text", "text": text}]
    return {"id": item_id, "type": _THOUGHTS, "summary": summary, "encrypted_content": text}


def _message(item_id: str, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": item_id, "type": _MESSAGE, "status": status, "role": "assistant", "content": content}


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _function_call(item_id: str, call: ToolCall) -> dict[str, Any]:
    arguments_of(call)  # a half-made call must fail here, not in the client
    return {
        "id": item_id,
        "type": "function_call",
        "status": "completed",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    }


def _usage(stats: GenerationStats | None) -> dict[str, Any]:
    known = stats or GenerationStats()
    return {
        "input_tokens": known.prompt_tokens,
        "output_tokens": known.eval_tokens,
        "total_tokens": known.prompt_tokens + known.eval_tokens,
        "input_tokens_details": {"cached_tokens": known.cached_tokens},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
