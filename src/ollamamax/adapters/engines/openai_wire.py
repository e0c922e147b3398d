"""OpenAI's wire form, spoken by OpenAI-compatible servers and by llama.cpp's chat endpoint.

Requests are dicts ready for JSON; answers are structs with only the fields that are read.
Source: OpenAI API reference, "Chat completions" and its streaming events; `reasoning_content`, `timings` and the
extra sampling fields are llama.cpp's and vLLM's.
"""

import base64
from typing import Any, Final

import msgspec
from msgspec import Struct

from ollamamax.core.errors import InvalidOption
from ollamamax.core.modelspec.media import audio_format
from ollamamax.core.types import ChatRequest, Message, TokenLogprob

_IMAGE_KINDS: Final = ((b"\x89PNG", "png"), (b"GIF8", "gif"), (b"RIFF", "webp"))


class Timings(Struct, frozen=True):
    """llama.cpp's measurements of one answer."""

    cache_n: int = 0
    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0


class Logprob(Struct, frozen=True):
    """One token of a `logprobs.content` list."""

    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None
    top_logprobs: "list[Logprob] | None" = None


class Logprobs(Struct, frozen=True):
    """The `logprobs` object of a chat choice."""

    content: list[Logprob] | None = None


class FunctionDelta(Struct, frozen=True):
    """A piece of a call. arguments: text to append, or a whole object from servers that send one."""

    name: str | None = None
    arguments: msgspec.Raw = msgspec.Raw()


class CallDelta(Struct, frozen=True):
    """A piece of one of the calls."""

    index: int | None = None
    id: str | None = None
    function: FunctionDelta | None = None


class Delta(Struct, frozen=True):
    """What a chat event adds."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[CallDelta] | None = None


class Choice(Struct, frozen=True):
    """One choice of an event; `text` is of /v1/completions. logprobs: left raw, its form differs by endpoint."""

    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: msgspec.Raw = msgspec.Raw()


class CachedTokens(Struct, frozen=True):
    """Part of the usage."""

    cached_tokens: int | None = None


class Usage(Struct, frozen=True):
    """Token counts."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: CachedTokens | None = None


class Event(Struct, frozen=True):
    """One streamed event."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    error: Any = None


class Embedding(Struct, frozen=True):
    """One vector. null stands for NaN."""

    embedding: list[float | None]
    index: int = 0


class Embeddings(Struct, frozen=True):
    """The answer of /v1/embeddings."""

    data: list[Embedding]
    usage: Usage | None = None


event_decoder = msgspec.json.Decoder(Event)
embeddings_decoder = msgspec.json.Decoder(Embeddings)
_logprobs_decoder = msgspec.json.Decoder(Logprobs)


def messages_json(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """The conversation; images as data URLs."""
    return [_message(message) for message in messages]


def schema_of(text: str) -> dict[str, Any]:
    """The JSON Schema in a request's `format`; "json" asks for any object.

    Raises: InvalidOption.
    """
    if text == "json":
        return {"type": "object"}
    try:
        schema = msgspec.json.decode(text)
    except msgspec.DecodeError:
        schema = None
    if not isinstance(schema, dict):
        raise InvalidOption(f'invalid format: {text}; expected "json" or a valid JSON Schema object')
    return schema


def response_format(text: str) -> dict[str, Any]:
    """A request's `format` as response_format. Raises: InvalidOption."""
    if text == "json":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema_of(text), "strict": True}}


def named_tool(request: ChatRequest) -> str:
    """The function that tool_choice names, or "". Raises: InvalidOption if it is not among the tools."""
    name = request.tool_choice[1:] if request.tool_choice.startswith("=") else ""
    if name and not any(tool.get("function", {}).get("name") == name for tool in request.tools):
        raise InvalidOption(f"tool_choice names {name!r}, which is not among the tools")
    return name


def token_logprobs(items: list[Logprob] | None, top: int) -> tuple[TokenLogprob, ...]:
    """As the port has them, with at most `top` rivals each."""
    return tuple(
        TokenLogprob(
            token=item.token,
            logprob=item.logprob,
            bytes=tuple(item.bytes if item.bytes is not None else item.token.encode()),
            top=token_logprobs((item.top_logprobs or [])[:top], 0),
        )
        for item in items or ()
    )


def chat_logprobs(raw: msgspec.Raw, top: int) -> tuple[TokenLogprob, ...]:
    """Those of a chat choice; () where there are none."""
    if not bytes(raw) or bytes(raw) == b"null":
        return ()
    return token_logprobs(_logprobs_decoder.decode(raw).content, top)


def _message(message: Message) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        parts: list[dict[str, Any]] = [{"type": "text", "text": message.content}] if message.content else []
        parts += [_attachment(data) for data in message.images]
        made["content"] = parts
    if message.thinking:
        made["reasoning_content"] = message.thinking
    if message.tool_calls:
        made["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_name:
        made["name"] = message.tool_name
    if message.tool_call_id:
        made["tool_call_id"] = message.tool_call_id
    return made


def _attachment(data: bytes) -> dict[str, Any]:
    if sound := audio_format(data):
        return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": sound}}
    return {"type": "image_url", "image_url": {"url": _data_url(data)}}


def _data_url(image: bytes) -> str:
    kind = next((kind for magic, kind in _IMAGE_KINDS if image.startswith(magic)), "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
