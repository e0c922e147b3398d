"""Requests of OpenAI's responses, as Ollama reads them: decoded JSON to ChatRequest, and what the reply repeats.

Nothing is kept from one response to the next: `previous_response_id` and `conversation` are errors, where Ollama
ignores them and answers without what went before. Other deliberate differences from Ollama, which ignores them:
`tool_choice` is honoured, `text.format` may be `json_object`, and `metadata` is repeated.
Tools that only OpenAI's servers can run (web_search, file_search, mcp ...) are not told to the model.
Ignored: background, include, parallel_tool_calls, store, user and whatever else is not named here.
"""

from typing import Any, Final

from msgspec import Raw, Struct

from ollamamax.core.dialects.openai import (
    DEFAULT_TEMPERATURE,
    DEFAULT_TOP_P,
    WRONG_CHOICE,
    named_choice,
    think_of,
)
from ollamamax.core.dialects.reading import Fields, decode_object, to_json
from ollamamax.core.dialects.responses_input import qualified, read_input
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import ChatRequest, Options

_RESPONSE: Final = frozenset(
    {
        "model",
        "input",
        "instructions",
        "stream",
        "max_output_tokens",
        "temperature",
        "top_p",
        "reasoning",
        "text",
        "tools",
        "tool_choice",
        "truncation",
        "metadata",
        "previous_response_id",
        "conversation",
    }
)
_REASONING: Final = frozenset({"effort", "summary"})
_TEXT: Final = frozenset({"format"})
_FORMAT: Final = frozenset({"type", "schema"})
_TOOL: Final = frozenset({"type", "name", "description", "parameters", "tools"})


class ResponseRequest(Struct, frozen=True):
    """A chat request, and the fields of it, as JSON, that each object of the reply repeats."""

    request: ChatRequest
    repeated: dict[str, Raw]


def response_request(body: bytes) -> ResponseRequest:
    """A body of /v1/responses. Raises: BadRequest and its children."""
    fields = Fields(decode_object(body, "ResponsesRequest"), _RESPONSE, "ResponsesRequest.")
    _refuse_state(fields)
    model = fields.text("model") or ""
    instructions = fields.text("instructions") or ""
    messages = read_input(instructions, fields.any("input"))
    if not model:
        raise BadRequest("model is required")
    tools = _tools(fields, "")
    effort, reasoning = _reasoning(fields)
    format_text, told_format = _format(fields)
    temperature, top_p = fields.number("temperature"), fields.number("top_p")
    max_tokens = fields.integer("max_output_tokens")
    request = ChatRequest(
        model=model,
        messages=messages,
        tools=tools,
        tool_choice=_tool_choice(fields.any("tool_choice"), tools),
        format=format_text,
        options=Options(
            num_predict=max_tokens,
            temperature=DEFAULT_TEMPERATURE if temperature is None else temperature,
            top_p=top_p,
        ),
        think=think_of(effort),
        stream=bool(fields.flag("stream")),
    )
    repeated = {
        "instructions": instructions or None,
        "tools": fields.any("tools") or [],
        "tool_choice": fields.any("tool_choice") or "auto",
        "truncation": fields.text("truncation") or "disabled",
        "text": {"format": told_format},
        "top_p": DEFAULT_TOP_P if top_p is None else top_p,
        "temperature": request.options.temperature,
        "reasoning": reasoning,
        "max_output_tokens": max_tokens,
        "metadata": fields.object("metadata") or {},
    }
    return ResponseRequest(request, {name: Raw(to_json(value).encode()) for name, value in repeated.items()})


def _refuse_state(fields: Fields) -> None:
    for name in ("previous_response_id", "conversation"):
        if fields.any(name):
            raise BadRequest(f"{name} is not supported: responses are not kept here; send the earlier turns in 'input'")


def _reasoning(fields: Fields) -> tuple[str, dict[str, str | None] | None]:
    """The effort, and what the reply says of it."""
    asked = fields.nested("reasoning", fields.any("reasoning"), _REASONING, "openai.ResponsesReasoning")
    effort, summary = asked.text("effort") or "", asked.text("summary") or ""
    return effort, {"effort": effort or None, "summary": summary or None} if effort or summary else None


def _format(fields: Fields) -> tuple[str, dict[str, Any]]:
    """ChatRequest's `format`, and what the reply says of it."""
    text = fields.nested("text", fields.any("text"), _TEXT, "openai.ResponsesText")
    told = text.object("format", "openai.ResponsesTextFormat")
    if not told:
        return "", {"type": "text"}
    wanted = Fields(told, _FORMAT, f"{text.path}format.")
    match wanted.text("type"):
        case "json_object":
            return "json", told
        case "json_schema":
            schema = wanted.object("schema")
            return "" if schema is None else to_json(schema), told
    return "", told


def _tools(fields: Fields, namespace: str) -> tuple[dict[str, Any], ...]:
    tools: list[dict[str, Any]] = []
    for item in fields.array("tools", "[]openai.ResponsesTool") or ():
        tool = fields.nested("tools", item, _TOOL, "openai.ResponsesTool")
        name = tool.text("name") or ""
        match tool.text("type"):
            case "namespace" if not namespace:  # they do not nest
                tools += _tools(tool, name)
            case "function":
                if not name:
                    raise BadRequest("a tool of type function needs a name")
                function: dict[str, Any] = {"name": qualified(namespace, name)}
                function["description"] = tool.text("description") or ""
                function["parameters"] = tool.object("parameters") or {"type": "object", "properties": {}}
                tools.append({"type": "function", "function": function})
    return tuple(tools)


def _tool_choice(value: Any, tools: tuple[dict[str, Any], ...]) -> str:
    if value is None or not tools:
        return "auto"
    match value:
        case "auto" | "none" | "required":
            return str(value)
        case {"type": "function", "name": str(name)}:
            return named_choice(name, tools)
    raise BadRequest(WRONG_CHOICE)
