"""Requests of OpenAI's chat completions, as Ollama reads them: decoded JSON to ChatRequest.

Deliberate differences from Ollama, which ignores both: `tool_choice` is honoured, and `max_completion_tokens` counts
where `max_tokens` is not given. A `stop` that is neither text nor a list of texts is an error.
Ignored: n, logit_bias, user, parallel_tool_calls, store and whatever else is not named here.
"""

from typing import Any, Final

from msgspec import Struct

from ollamamax.core.dialects.ollama import read_tools, read_top_logprobs
from ollamamax.core.dialects.openai_messages import read_conversation
from ollamamax.core.dialects.plain import openai_chat
from ollamamax.core.dialects.reading import Fields, decode_object, to_json
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import ChatRequest, Options

_CHAT: Final = frozenset(
    {
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "seed",
        "stop",
        "temperature",
        "top_p",
        "frequency_penalty",
        "presence_penalty",
        "response_format",
        "tools",
        "tool_choice",
        "reasoning",
        "reasoning_effort",
        "logprobs",
        "top_logprobs",
    }
)
_STREAM_OPTIONS: Final = frozenset({"include_usage"})
WRONG_CHOICE: Final = 'tool_choice must be "auto", "none", "required" or name a function'
_RESPONSE_FORMAT: Final = frozenset({"type", "json_schema"})
_JSON_SCHEMA: Final = frozenset({"schema"})
_REASONING: Final = frozenset({"effort"})
DEFAULT_TEMPERATURE: Final = 1.0
DEFAULT_TOP_P: Final = 1.0
_EFFORTS: Final[dict[str, bool | str | None]] = {
    "": None,
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "max": "max",
    "xhigh": "max",
    "ultra": "max",
}


class ChatCompletion(Struct, frozen=True):
    """A chat request and what OpenAI's form adds to it."""

    request: ChatRequest
    include_usage: bool = False


def chat_completion(body: bytes) -> ChatCompletion:
    """A body of /v1/chat/completions. Raises: BadRequest and its children."""
    if (plain := openai_chat(body)) is not None:
        return ChatCompletion(*plain)
    fields = Fields(decode_object(body, "ChatCompletionRequest"), _CHAT, "ChatCompletionRequest.")
    model = fields.text("model") or ""
    messages = read_conversation(fields)
    if not messages:
        raise BadRequest("[] is too short - 'messages'")
    if not model:
        raise BadRequest("model is required")
    tools = read_tools(fields)
    request = ChatRequest(
        model=model,
        messages=messages,
        tools=tools,
        tool_choice=_tool_choice(fields.any("tool_choice"), tools),
        format=_format(fields),
        options=_options(fields),
        think=_think(fields),
        stream=bool(fields.flag("stream")),
        logprobs=bool(fields.flag("logprobs")),
        top_logprobs=read_top_logprobs(fields),
    )
    return ChatCompletion(request, include_usage=read_include_usage(fields))


def read_include_usage(fields: Fields) -> bool:
    """What `stream_options` says of it. Raises: BadRequest."""
    asked = fields.nested("stream_options", fields.any("stream_options"), _STREAM_OPTIONS, "openai.StreamOptions")
    return bool(asked.flag("include_usage"))


def _options(fields: Fields) -> Options:
    temperature = fields.number("temperature")
    top_p = fields.number("top_p")
    max_tokens = fields.integer("max_tokens")
    if max_tokens is None:
        max_tokens = fields.integer("max_completion_tokens")
    return Options(
        num_predict=max_tokens,
        seed=fields.integer("seed"),
        stop=read_stop(fields.any("stop")),
        temperature=DEFAULT_TEMPERATURE if temperature is None else temperature,
        top_p=DEFAULT_TOP_P if top_p is None else top_p,
        frequency_penalty=fields.number("frequency_penalty"),
        presence_penalty=fields.number("presence_penalty"),
    )


def read_stop(value: Any) -> tuple[str, ...] | None:
    """The value of `stop`: a text or a list of texts. Raises: BadRequest."""
    match value:
        case None:
            return None
        case str():
            return (value,)
        case list() if all(isinstance(item, str) for item in value):
            return tuple(value)
    raise BadRequest("stop must be a string or an array of strings")


def _format(fields: Fields) -> str:
    wanted = fields.nested("response_format", fields.any("response_format"), _RESPONSE_FORMAT, "openai.ResponseFormat")
    match wanted.text("type"):
        case "json_object":
            return "json"
        case "json_schema":
            named = wanted.nested("json_schema", wanted.any("json_schema"), _JSON_SCHEMA, "openai.JsonSchema")
            schema = named.object("schema")
            return "" if schema is None else to_json(schema)
    return ""


def _think(fields: Fields) -> bool | str | None:
    if fields.any("reasoning") is not None:
        reasoning = fields.nested("reasoning", fields.any("reasoning"), _REASONING, "openai.Reasoning")
        effort = reasoning.text("effort") or ""
    else:
        effort = fields.text("reasoning_effort") or ""
    return think_of(effort)


def think_of(effort: str) -> bool | str | None:
    """What an effort of reasoning means for `think`. Raises: BadRequest."""
    if effort not in _EFFORTS:
        raise BadRequest(
            f'invalid reasoning value: "{effort}" (must be "minimal", "low", "medium", "high", "xhigh", "ultra", '
            '"max", or "none")'
        )
    return _EFFORTS[effort]


def _tool_choice(value: Any, tools: tuple[dict[str, Any], ...]) -> str:
    if value is None or not tools:
        return "auto"
    match value:
        case "auto" | "none" | "required":
            return str(value)
        case {"type": "function", "function": {"name": str(name)}}:
            return named_choice(name, tools)
    raise BadRequest(WRONG_CHOICE)


def named_choice(name: str, tools: tuple[dict[str, Any], ...]) -> str:
    """The choice of one tool by its name. Raises: BadRequest if there is none of that name."""
    if all(tool["function"]["name"] != name for tool in tools):
        raise BadRequest(f"tool_choice names '{name}', which is not among the tools")
    return f"={name}"
