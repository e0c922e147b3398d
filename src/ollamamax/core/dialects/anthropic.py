"""Requests of Anthropic's messages, as Ollama reads them: decoded JSON to ChatRequest.

Deliberate differences from Ollama, which ignores both: `tool_choice` is honoured, and so is `output_config.format`.
Tools that only Anthropic's servers can run (web_search and the like) are not told to the model. A thinking budget is
checked and not enforced.
Ignored: metadata, cache_control, container, service_tier and whatever else is not named here.
"""

from typing import Any, Final

from ollamamax.core.dialects.anthropic_blocks import read_messages, read_system
from ollamamax.core.dialects.openai import named_choice
from ollamamax.core.dialects.reading import Fields, decode_object, to_json
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import ChatRequest, Options

_COUNT: Final = frozenset({"model", "messages", "system", "tools", "tool_choice", "thinking", "output_config"})
_MESSAGES: Final = _COUNT | {"max_tokens", "stream", "temperature", "top_p", "top_k", "stop_sequences"}
_TOOL: Final = frozenset({"type", "name", "description", "input_schema"})
_TOOL_CHOICE: Final = frozenset({"type", "name"})
_THINKING: Final = frozenset({"type", "budget_tokens"})
_OUTPUT_CONFIG: Final = frozenset({"effort", "format"})
_FORMAT: Final = frozenset({"type", "schema"})
_SERVER_TOOLS: Final = ("web_search", "web_fetch", "code_execution", "tool_search", "mcp_toolset")
_EFFORTS: Final = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "max"}
_CHARS_PER_TOKEN: Final = 4


def messages_request(body: bytes) -> ChatRequest:
    """A body of /v1/messages. Raises: BadRequest and its children."""
    fields = Fields(decode_object(body, "MessagesRequest"), _MESSAGES, "MessagesRequest.")
    if not fields.text("model"):
        raise BadRequest("model is required")
    max_tokens = fields.integer("max_tokens") or 0
    if max_tokens <= 0:
        raise BadRequest("max_tokens is required and must be positive")
    options = Options(
        num_predict=max_tokens,
        temperature=fields.number("temperature"),
        top_p=fields.number("top_p"),
        top_k=fields.integer("top_k"),
        stop=_stop(fields),
    )
    return ChatRequest(**_conversation(fields), options=options, stream=bool(fields.flag("stream")))


def count_request(body: bytes) -> ChatRequest:
    """A body of /v1/messages/count_tokens: the same conversation, of which nothing but the count is asked.

    Raises: BadRequest and its children.
    """
    fields = Fields(decode_object(body, "CountTokensRequest"), _COUNT, "CountTokensRequest.")
    if not fields.text("model"):
        raise BadRequest("model is required")
    # Should an engine know nothing of counting, the shortest of answers brings the count too.
    return ChatRequest(**_conversation(fields), options=Options(num_predict=1), stream=False, count_only=True)


def estimated_tokens(request: ChatRequest) -> int:
    """A rough count of the prompt, which a stream's first event tells; its last one tells the engine's own."""
    chars = sum(len(message.role) + len(message.content) + len(message.thinking) for message in request.messages)
    chars += sum(len(to_json(tool["function"])) for tool in request.tools)
    return max(1, chars // _CHARS_PER_TOKEN)


def _conversation(fields: Fields) -> dict[str, Any]:
    messages = read_messages(fields)
    if not messages:
        raise BadRequest("messages is required")
    tools = _tools(fields)
    output = fields.nested("output_config", fields.any("output_config"), _OUTPUT_CONFIG, "anthropic.OutputConfig")
    return {
        "model": fields.text("model") or "",
        "messages": (*read_system(fields), *messages),
        "tools": tools,
        "tool_choice": _tool_choice(fields, tools),
        "format": _format(output),
        "think": _think(fields, output),
    }


def _stop(fields: Fields) -> tuple[str, ...] | None:
    stops = fields.array("stop_sequences", "[]string")
    for item in stops or ():
        if not isinstance(item, str):
            raise fields.wrong("stop_sequences", item, "string")
    return tuple(stops) if stops else None


def _tools(fields: Fields) -> tuple[dict[str, Any], ...]:
    tools = []
    for item in fields.array("tools", "[]anthropic.Tool") or ():
        tool = fields.nested("tools", item, _TOOL, "anthropic.Tool")
        if (tool.text("type") or "").startswith(_SERVER_TOOLS):
            continue
        name = tool.text("name")
        if not name:
            raise BadRequest("a tool needs a name")
        schema = tool.object("input_schema", "api.ToolFunctionParameters") or {"type": "object", "properties": {}}
        function = {"name": name, "description": tool.text("description") or "", "parameters": schema}
        tools.append({"type": "function", "function": function})
    return tuple(tools)


def _tool_choice(fields: Fields, tools: tuple[dict[str, Any], ...]) -> str:
    given = fields.object("tool_choice", "anthropic.ToolChoice")
    if given is None or not tools:
        return "auto"
    choice = Fields(given, _TOOL_CHOICE, f"{fields.path}tool_choice.")
    match choice.text("type"):
        case "auto":
            return "auto"
        case "any":
            return "required"
        case "none":
            return "none"
        case "tool":
            return named_choice(choice.text("name") or "", tools)
    raise BadRequest("tool_choice.type must be auto, any, tool or none")


def _format(output: Fields) -> str:
    wanted = output.nested("format", output.any("format"), _FORMAT, "anthropic.OutputFormat")
    schema = wanted.object("schema") if wanted.text("type") == "json_schema" else None
    return "" if schema is None else to_json(schema)


def _think(fields: Fields, output: Fields) -> bool | str | None:
    """Thinking as it is switched; by the effort where it is not."""
    thinking = fields.nested("thinking", fields.any("thinking"), _THINKING, "anthropic.ThinkingConfig")
    thinking.integer("budget_tokens")
    effort = (output.text("effort") or "").strip().lower()
    match thinking.text("type"):
        case "enabled":
            return True
        case "disabled":
            return False
    return _EFFORTS.get(effort)
