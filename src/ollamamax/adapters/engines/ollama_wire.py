"""Ollama's wire form as a client speaks it: requests out, lines and listings in.

Source: Ollama `api/types.go`; docs of /api/chat, /api/generate, /api/embed, /api/tags, /api/ps.
"""

import base64
import re
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from ollamamax.adapters.engines.openai_wire import Logprob, schema_of
from ollamamax.core.modelspec import names
from ollamamax.core.options import said
from ollamamax.core.types import (
    FOREVER_MS,
    ChatRequest,
    EmbedRequest,
    EngineModel,
    GenerationStats,
    LoadedModel,
    Message,
    ModelDetails,
    ModelRecord,
    ToolCall,
)

_NS_PER_MS: Final = 1_000_000
_FRACTION: Final = re.compile(r"\.(\d+)")
_FOREVER_YEAR: Final = 2200  # Ollama writes "forever" as some 292 years from now


class Function(Struct, frozen=True):
    """A call's content."""

    name: str = ""
    index: int | None = None
    arguments: msgspec.Raw = msgspec.Raw()


class Call(Struct, frozen=True):
    """A tool call, whole."""

    id: str = ""
    function: Function = Function()


class LineMessage(Struct, frozen=True):
    """`message` of a chat line."""

    content: str | None = None
    thinking: str | None = None
    tool_calls: list[Call] | None = None


class Line(Struct, frozen=True):
    """One line of /api/chat or /api/generate."""

    message: LineMessage | None = None
    response: str | None = None
    thinking: str | None = None
    tool_calls: list[Call] | None = None
    logprobs: list[Logprob] | None = None
    done: bool = False
    done_reason: str | None = None
    context: tuple[int, ...] | None = None
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    error: msgspec.Raw = msgspec.Raw()


class Details(Struct, frozen=True):
    """`details` of a listed model."""

    parent_model: str | None = None
    format: str | None = None
    family: str | None = None
    families: list[str] | None = None
    parameter_size: str | None = None
    quantization_level: str | None = None
    context_length: int | None = None
    embedding_length: int | None = None


class Listed(Struct, frozen=True):
    """An entry of /api/tags or /api/ps."""

    name: str
    digest: str = ""
    size: int = 0
    modified_at: str = ""
    details: Details | None = None
    capabilities: list[str] | None = None
    expires_at: str = ""
    size_vram: int = 0
    context_length: int = 0


class Listing(Struct, frozen=True):
    """/api/tags and /api/ps."""

    models: list[Listed] | None = None


class Embedded(Struct, frozen=True):
    """The answer of /api/embed. null stands for NaN."""

    embeddings: list[list[float | None]]
    prompt_eval_count: int = 0
    load_duration: int = 0


line_decoder = msgspec.json.Decoder(Line)
listing_decoder = msgspec.json.Decoder(Listing)
embedded_decoder = msgspec.json.Decoder(Embedded)
show_decoder = msgspec.json.Decoder(dict[str, Any])


def request_path_and_body(request: ChatRequest, served_as: str) -> tuple[str, dict[str, Any]]:
    """Where the request goes, and as what. An empty one is forwarded as the load or unload that it is.

    Raises: InvalidOption.
    """
    body: dict[str, Any] = {"model": served_as, "stream": True}
    if options := said(request.options):
        body["options"] = options
    if request.format:
        body["format"] = "json" if request.format == "json" else schema_of(request.format)
    if request.think is not None:
        body["think"] = request.think
    if request.keep_alive_ms is not None:
        body["keep_alive"] = _seconds(request.keep_alive_ms)
    if request.logprobs:
        body["logprobs"] = True
        body["top_logprobs"] = request.top_logprobs
    for name in ("truncate", "shift"):
        if not getattr(request, name):
            body[name] = False
    if request.messages:
        body["messages"] = [_message(message) for message in request.messages]
        if request.tools and request.tool_choice != "none":
            body["tools"] = list(request.tools)
        return "/api/chat", body
    body["prompt"] = request.prompt or ""
    for name in ("raw", "suffix", "system", "template", "context"):
        if value := getattr(request, name):
            body[name] = value
    return "/api/generate", body


def embed_body(request: EmbedRequest, served_as: str) -> dict[str, Any]:
    """For /api/embed."""
    body: dict[str, Any] = {"model": served_as, "input": list(request.inputs), "truncate": request.truncate}
    if request.dimensions:
        body["dimensions"] = request.dimensions
    if request.keep_alive_ms is not None:
        body["keep_alive"] = _seconds(request.keep_alive_ms)
    if options := said(request.options):
        body["options"] = options
    return body


def tool_calls(calls: list[Call], first_index: int) -> tuple[ToolCall, ...]:
    """Calls of one line; those without an index are numbered on."""
    return tuple(
        ToolCall(
            id=call.id or f"call_{at}",
            index=call.function.index if call.function.index is not None else at,
            name=call.function.name,
            arguments=bytes(call.function.arguments).decode() or "{}",
        )
        for at, call in enumerate(calls, first_index)
    )


def stats(line: Line) -> GenerationStats:
    """Measurements of a final line."""
    return GenerationStats(
        prompt_tokens=line.prompt_eval_count,
        prompt_ms=line.prompt_eval_duration / _NS_PER_MS,
        eval_tokens=line.eval_count,
        eval_ms=line.eval_duration / _NS_PER_MS,
        load_ms=line.load_duration / _NS_PER_MS,
    )


def engine_models(tags: Listing, loaded: Listing) -> tuple[EngineModel, ...]:
    """What the server has, each with its row of /api/ps if it is loaded."""
    running = {model.name: model for model in loaded.models or ()}
    return tuple(
        EngineModel(
            key=names.key(model.name),
            served_as=model.name,
            loaded=model.name in running,
            record=ModelRecord(
                name=model.name,
                digest=model.digest,
                size_bytes=model.size,
                modified_ns=unix_ns(model.modified_at),
                details=_details(model.details),
                capabilities=tuple(model.capabilities or ()),
            ),
            running=_running(running[model.name]) if model.name in running else None,
        )
        for model in tags.models or ()
    )


def unix_ns(text: str) -> int:
    """An RFC 3339 time with up to nine fraction digits as unix nanoseconds; 0 for what is none."""
    fraction = _FRACTION.search(text)
    whole = text[: fraction.start()] + text[fraction.end() :] if fraction else text
    try:
        moment = datetime.fromisoformat(whole)
    except ValueError:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    nanoseconds = int(fraction[1][:9].ljust(9, "0")) if fraction else 0
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + nanoseconds


def _running(model: Listed) -> LoadedModel:
    is_forever = model.expires_at[:4].isdigit() and int(model.expires_at[:4]) >= _FOREVER_YEAR
    return LoadedModel(
        name=model.name,
        digest=model.digest,
        size_bytes=model.size,
        vram_bytes=model.size_vram,
        context_length=model.context_length,
        expires_ns=FOREVER_MS if is_forever else unix_ns(model.expires_at),
        details=_details(model.details),
    )


def _details(details: Details | None) -> ModelDetails:
    if details is None:
        return ModelDetails()
    return ModelDetails(
        parent_model=details.parent_model or "",
        format=details.format or "",
        family=details.family or "",
        families=tuple(details.families or ()),
        parameter_size=details.parameter_size or "",
        quantization_level=details.quantization_level or "",
        context_length=details.context_length or 0,
        embedding_length=details.embedding_length or 0,
    )


def _seconds(ms: int) -> int | float:
    if ms < 0:
        return -1
    return ms // 1000 if ms % 1000 == 0 else ms / 1000


def _message(message: Message) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking:
        made["thinking"] = message.thinking
    if message.images:
        made["images"] = [base64.b64encode(image).decode() for image in message.images]
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": call.id,
                "function": {"index": call.index, "name": call.name, "arguments": msgspec.Raw(call.arguments.encode())},
            }
            for call in message.tool_calls
        ]
    if message.tool_name:
        made["tool_name"] = message.tool_name
    if message.tool_call_id:
        made["tool_call_id"] = message.tool_call_id
    return made
