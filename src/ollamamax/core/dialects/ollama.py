"""Requests of Ollama's own API: decoded JSON to ChatRequest and EmbedRequest.

Empty prompt or messages mean load, or unload with a keep_alive of 0. Deliberate limits: a tool's schema goes to the
model whole, where Ollama drops the keywords that its structs do not name; raw mode takes no images.
"""

from typing import Any, Final

from ollamamax.core.dialects.durations import keep_alive_ms
from ollamamax.core.dialects.plain import ollama_chat
from ollamamax.core.dialects.reading import Fields, decode_base64, decode_object, kind_of, to_json
from ollamamax.core.errors import BadRequest, InvalidOption, Unsupported
from ollamamax.core.options import parse_options
from ollamamax.core.types import ChatRequest, EmbedRequest, Message, Options, ToolCall

_COMMON: Final = frozenset(
    {
        "model",
        "stream",
        "format",
        "keep_alive",
        "options",
        "think",
        "truncate",
        "shift",
        "logprobs",
        "top_logprobs",
        "_debug_render_only",
    }
)
_GENERATE: Final = _COMMON | {"prompt", "suffix", "system", "template", "context", "raw", "images"}
_CHAT: Final = _COMMON | {"messages", "tools"}
_EMBED: Final = frozenset({"model", "input", "truncate", "dimensions", "keep_alive", "options"})
_EMBEDDINGS: Final = frozenset({"model", "prompt", "keep_alive", "options"})
_MESSAGE: Final = frozenset({"role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id"})
_TOOL_CALL: Final = frozenset({"id", "function"})
_CALLED_FUNCTION: Final = frozenset({"index", "name", "arguments"})
_LEVELS: Final = frozenset({"low", "medium", "high", "max"})
_MAX_TOP_LOGPROBS: Final = 20


def generate_request(body: bytes) -> ChatRequest:
    """A body of /api/generate. Raises: BadRequest and its children."""
    fields = Fields(decode_object(body, "GenerateRequest"), _GENERATE, "GenerateRequest.")
    common = _common(fields)
    prompt = fields.text("prompt") or ""
    suffix = fields.text("suffix") or ""
    system = fields.text("system") or None
    template = fields.text("template") or None
    context = _token_ids(fields)
    images = _images(fields)
    raw = bool(fields.flag("raw"))
    if not prompt:
        return ChatRequest(**common, raw=raw)
    if raw:
        if template or system or context:
            raise BadRequest("raw mode does not support template, system, or context")
        if images:
            raise Unsupported("raw mode does not support images")
        return ChatRequest(**common, prompt=prompt, raw=True)
    return ChatRequest(
        **common,
        messages=(Message("user", prompt, images=images),),
        suffix=suffix,
        system=system,
        template=template,
        context=context,
        want_context=True,
    )


def chat_request(body: bytes) -> ChatRequest:
    """A body of /api/chat. Raises: BadRequest and its children."""
    if (plain := ollama_chat(body)) is not None:
        return plain
    fields = Fields(decode_object(body, "ChatRequest"), _CHAT, "ChatRequest.")
    if not fields.text("model"):
        raise BadRequest("model is required")
    return ChatRequest(
        **_common(fields),
        messages=read_messages(fields, "messages") or (),
        tools=read_tools(fields),
    )


def embed_request(body: bytes) -> EmbedRequest:
    """A body of /api/embed. No inputs mean: only load. Raises: BadRequest and its children."""
    fields = Fields(decode_object(body, "EmbedRequest"), _EMBED, "EmbedRequest.")
    raw = fields.any("input")
    match raw:
        case None | "":
            inputs: tuple[str, ...] = ()
        case str():
            inputs = (raw,)
        case list() if all(isinstance(item, str) for item in raw):
            inputs = tuple(raw)
        case _:
            raise BadRequest("invalid input type")
    truncate = fields.flag("truncate")
    return EmbedRequest(
        model=fields.text("model") or "",
        inputs=inputs,
        truncate=truncate is not False,
        dimensions=fields.integer("dimensions") or 0,
        keep_alive_ms=keep_alive_ms(fields.any("keep_alive")),
        options=read_options(fields),
    )


def embeddings_request(body: bytes) -> EmbedRequest:
    """A body of /api/embeddings, the older form: one text, never cut. Raises: BadRequest and its children."""
    fields = Fields(decode_object(body, "EmbeddingRequest"), _EMBEDDINGS, "EmbeddingRequest.")
    if not fields.text("model"):
        raise BadRequest("model is required")
    prompt = fields.text("prompt")
    return EmbedRequest(
        model=fields.text("model") or "",
        inputs=(prompt,) if prompt else (),
        truncate=False,
        keep_alive_ms=keep_alive_ms(fields.any("keep_alive")),
        options=read_options(fields),
    )


def _common(fields: Fields) -> dict[str, Any]:
    return {
        "model": fields.text("model") or "",
        "stream": fields.flag("stream") is not False,
        "format": _format(fields.any("format")),
        "options": read_options(fields),
        "think": _think(fields.any("think")),
        "keep_alive_ms": keep_alive_ms(fields.any("keep_alive")),
        "truncate": fields.flag("truncate") is not False,
        "shift": fields.flag("shift") is not False,
        "logprobs": bool(fields.flag("logprobs")),
        "top_logprobs": read_top_logprobs(fields),
        "render_only": bool(fields.flag("_debug_render_only")),
    }


def read_options(fields: Fields) -> Options:
    """The object in `options`; unknown names in it are ignored. Raises: BadRequest, InvalidOption."""
    raw = fields.object("options")
    return parse_options(raw)[0] if raw else Options()


def read_top_logprobs(fields: Fields) -> int:
    """The number in `top_logprobs`. Raises: BadRequest outside 0 to 20."""
    count = fields.integer("top_logprobs") or 0
    if not 0 <= count <= _MAX_TOP_LOGPROBS:
        raise BadRequest(f"top_logprobs must be between 0 and {_MAX_TOP_LOGPROBS}")
    return count


def _format(value: Any) -> str:
    if value is None or value == "":
        return ""
    if value == "json":
        return "json"
    if isinstance(value, dict):
        return to_json(value)
    quoted = to_json(to_json(value))  # Go prints the value's JSON text as a quoted string
    raise InvalidOption(f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')


def _think(value: Any) -> bool | str | None:
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise BadRequest('think must be a boolean or string ("high", "medium", "low", "max", true, or false)')
    if value not in _LEVELS:
        raise BadRequest(f'invalid think value: "{value}" (must be "high", "medium", "low", "max", true, or false)')
    return value


def _token_ids(fields: Fields) -> tuple[int, ...]:
    raw = fields.array("context", "[]int") or []
    for item in raw:
        if type(item) is not int:
            raise fields.wrong("context", item, "int")
    return tuple(raw)


def _images(fields: Fields) -> tuple[bytes, ...]:
    images = []
    for item in fields.array("images", "[]api.ImageData") or ():
        if not isinstance(item, str):
            raise fields.wrong("images", item, "[]uint8")
        images.append(decode_base64(item))
    return tuple(images)


def read_messages(fields: Fields, name: str) -> tuple[Message, ...] | None:
    """The conversation in the field `name`, None if unset. Raises: BadRequest."""
    raw = fields.array(name, "[]api.Message")
    return None if raw is None else tuple(_message(fields.nested(name, item, _MESSAGE, "api.Message")) for item in raw)


def _message(fields: Fields) -> Message:
    return Message(
        role=(fields.text("role") or "").lower(),
        content=fields.text("content") or "",
        thinking=fields.text("thinking") or "",
        images=_images(fields),
        tool_calls=_tool_calls(fields),
        tool_name=fields.text("tool_name") or "",
        tool_call_id=fields.text("tool_call_id") or "",
    )


def _tool_calls(fields: Fields) -> tuple[ToolCall, ...]:
    calls = []
    for position, item in enumerate(fields.array("tool_calls", "[]api.ToolCall") or ()):
        call = fields.nested("tool_calls", item, _TOOL_CALL, "api.ToolCall")
        function = call.nested("function", call.any("function"), _CALLED_FUNCTION, "api.ToolCallFunction")
        index = function.integer("index")
        calls.append(
            ToolCall(
                id=call.text("id") or "",
                index=position if index is None else index,
                name=function.text("name") or "",
                arguments=to_json(function.object("arguments") or {}),
            )
        )
    return tuple(calls)


def read_tools(fields: Fields) -> tuple[dict[str, Any], ...]:
    """The tools in `tools`, each with a named function, otherwise as they came. Raises: BadRequest."""
    tools = []
    for item in fields.array("tools", "api.Tools") or ():
        if not isinstance(item, dict):
            raise fields.wrong("tools", item, "api.Tool")
        function = item.get("function")
        if not isinstance(function, dict):
            raise fields.wrong("tools.function", function, "api.ToolFunction")
        if not isinstance(function.get("name"), str):
            raise BadRequest(f"json: a tool's function.name must be a string, not {kind_of(function.get('name'))}")
        tools.append(item if item.get("type") == "function" else {**item, "type": "function"})
    return tuple(tools)
