"""The conversation of an OpenAI chat request. Each part of a message's content becomes a message of its own."""

from typing import Any, Final

import msgspec

from ollamamax.core.dialects.reading import Fields, decode_base64
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import Message, ToolCall

_MESSAGE: Final = frozenset({"role", "content", "reasoning", "tool_calls", "name", "tool_call_id"})
_TOOL_CALL: Final = frozenset({"id", "index", "type", "function"})
_CALLED_FUNCTION: Final = frozenset({"name", "arguments"})
_DATA_URLS: Final = (
    "data:image/jpeg;base64,",
    "data:image/jpg;base64,",
    "data:image/png;base64,",
    "data:image/webp;base64,",
    "data:;base64,",
)
_GO_TYPES: Final = {
    type(None): "<nil>",
    bool: "bool",
    int: "float64",
    float: "float64",
    dict: "map[string]interface {}",
}


def read_conversation(fields: Fields) -> tuple[Message, ...]:
    """All messages, in order. Raises: BadRequest."""
    raw = fields.array("messages", "[]openai.Message") or ()
    sources = [fields.nested("messages", item, _MESSAGE, "openai.Message") for item in raw]
    calls = [_tool_calls(source) for source in sources]
    called = {call.id: call.name for made in calls for call in made}
    messages: list[Message] = []
    for source, made in zip(sources, calls, strict=True):
        messages += _messages(source, made, called)
    return tuple(messages)


def _messages(fields: Fields, tool_calls: tuple[ToolCall, ...], called: dict[str, str]) -> list[Message]:
    role = (fields.text("role") or "").lower()
    tool_call_id = fields.text("tool_call_id") or ""
    tool_name = ""
    if role == "tool":
        tool_name = fields.text("name") or called.get(tool_call_id, "")
    base = Message(role, tool_name=tool_name, tool_call_id=tool_call_id)
    said = {"thinking": fields.text("reasoning") or "", "tool_calls": tool_calls}
    content = fields.any("content")
    if isinstance(content, str):
        return [msgspec.structs.replace(base, content=content, **said)]
    if isinstance(content, list):
        # Several messages may come of one: the last of them carries the calls and the thoughts.
        *parts, last = [_part(base, part) for part in content] or [base]
        return [*parts, msgspec.structs.replace(last, **said)] if content or tool_calls else []
    if content is None and tool_calls:
        return [msgspec.structs.replace(base, **said)]
    raise BadRequest(f"invalid message content type: {_GO_TYPES[type(content)]}")


def _part(base: Message, part: Any) -> Message:
    match part:
        case {"type": "text", "text": str(text)}:
            return msgspec.structs.replace(base, content=text)
        case {"type": "image_url", "image_url": {"url": str(url)}} | {"type": "image_url", "image_url": str(url)}:
            return msgspec.structs.replace(base, images=(read_image(url),))
        case {"type": "input_audio", "input_audio": {"data": str(data)}}:
            return msgspec.structs.replace(base, images=(decode_base64(data),))
    raise BadRequest("invalid message format")


def read_image(url: str) -> bytes:
    """The image of a data URL. Raises: BadRequest."""
    if url.startswith(("http://", "https://")):
        raise BadRequest("image URLs are not currently supported, please use base64 encoded data instead")
    for prefix in _DATA_URLS:
        if url.startswith(prefix):
            try:
                return decode_base64(url[len(prefix) :])
            except BadRequest:
                break
    raise BadRequest("invalid image input")


def _tool_calls(fields: Fields) -> tuple[ToolCall, ...]:
    calls = []
    for position, item in enumerate(fields.array("tool_calls", "[]openai.ToolCall") or ()):
        call = fields.nested("tool_calls", item, _TOOL_CALL, "openai.ToolCall")
        function = call.nested("function", call.any("function"), _CALLED_FUNCTION, "openai.ToolCallFunction")
        index = call.integer("index")
        calls.append(
            ToolCall(
                id=call.text("id") or "",
                index=position if index is None else index,
                name=function.text("name") or "",
                arguments=read_arguments(function.text("arguments") or "{}"),
            )
        )
    return tuple(calls)


def read_arguments(text: str) -> str:
    """The text of a JSON object, as it came. Raises: BadRequest if it is none."""
    try:
        msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        raise BadRequest("invalid tool call arguments") from None
    return text
