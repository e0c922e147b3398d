"""The chat requests that most clients send, read in one step: texts and options, no tools, no images, no odd casing.

Whatever does not fit exactly is none of these, and is read field by field (ollama.py, openai.py), which also knows
what is wrong with it. That the two ways agree is a property that the tests check.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from ollamamax.core.dialects.durations import keep_alive_ms
from ollamamax.core.options import parse_options
from ollamamax.core.types import ChatRequest, Message, Options

_INT64_MAX: Final = (1 << 63) - 1
_Int64 = Annotated[int, Meta(ge=-_INT64_MAX, le=_INT64_MAX)]
_Text = Annotated[str, Meta(min_length=1)]
_FAILURES: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Message(Struct, forbid_unknown_fields=True, gc=False):
    content: str
    role: str = ""


class _Chat(Struct, forbid_unknown_fields=True):
    """Of /api/chat."""

    model: _Text
    messages: list[_Message]
    stream: bool = True
    options: dict[str, Any] | None = None
    keep_alive: str | float | None = None
    think: bool | None = None


class _StreamOptions(Struct, forbid_unknown_fields=True, gc=False):
    include_usage: bool = False


class _Completion(Struct, forbid_unknown_fields=True):
    """Of /v1/chat/completions."""

    model: _Text
    messages: Annotated[list[_Message], Meta(min_length=1)]
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: _Int64 | None = None
    seed: _Int64 | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    frequency_penalty: float | None = None
    presence_penalty: float | None = None


_decode_chat: Final = msgspec.json.Decoder(_Chat).decode
_decode_completion: Final = msgspec.json.Decoder(_Completion).decode


def ollama_chat(body: bytes) -> ChatRequest | None:
    """A plain body of /api/chat, else None. Raises: BadRequest, InvalidOption."""
    try:
        asked = _decode_chat(body)
    except _FAILURES:
        return None
    return ChatRequest(
        model=asked.model,
        messages=_conversation(asked.messages),
        stream=asked.stream,
        options=parse_options(asked.options)[0] if asked.options else Options(),
        think=asked.think,
        keep_alive_ms=keep_alive_ms(asked.keep_alive),
    )


def openai_chat(body: bytes) -> tuple[ChatRequest, bool] | None:
    """A plain body of /v1/chat/completions, and whether usage is to be told; else None."""
    try:
        asked = _decode_completion(body)
    except _FAILURES:
        return None
    options = Options(
        num_predict=asked.max_tokens,
        seed=asked.seed,
        temperature=asked.temperature,
        top_p=asked.top_p,
        frequency_penalty=asked.frequency_penalty,
        presence_penalty=asked.presence_penalty,
    )
    messages = _conversation(asked.messages)
    request = ChatRequest(model=asked.model, messages=messages, options=options, stream=asked.stream)
    return request, asked.stream_options is not None and asked.stream_options.include_usage


def _conversation(messages: list[_Message]) -> tuple[Message, ...]:
    return tuple([Message(message.role.lower(), message.content) for message in messages])
