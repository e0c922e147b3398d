"""The conversation of an Anthropic request: messages of blocks, and the system prompt. Unknown blocks are skipped."""

from collections.abc import Iterable
from typing import Any, Final

from ollamamax.core.dialects.reading import Fields, decode_base64, kind_of, to_json
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import Message, ToolCall

_MESSAGE: Final = frozenset({"role", "content"})
_CALLS: Final = ("tool_use", "server_tool_use")


def read_system(fields: Fields) -> tuple[Message, ...]:
    """The system prompt, a text or blocks of text, as a message; none if it is empty. Raises: BadRequest."""
    given = fields.any("system")
    if given is None or isinstance(given, str):
        text = given or ""
    elif isinstance(given, list):
        text = _text_of(given)
    else:
        raise fields.wrong("system", given, "[]anthropic.ContentBlock")
    return (Message("system", text),) if text else ()


def read_messages(fields: Fields) -> tuple[Message, ...]:
    """All messages, in order. Raises: BadRequest."""
    messages: list[Message] = []
    called: dict[str, str] = {}
    for item in fields.array("messages", "[]anthropic.MessageParam") or ():
        messages += _messages(fields.nested("messages", item, _MESSAGE, "anthropic.MessageParam"), called)
    return tuple(messages)


def _messages(fields: Fields, called: dict[str, str]) -> list[Message]:
    """A user's results of tools come before what the user says. called: names of calls by id; mutated."""
    role = (fields.text("role") or "").lower()
    content = fields.any("content")
    if isinstance(content, str):
        return [Message(role, content)] if content else []
    if not isinstance(content, list):
        raise fields.wrong("content", content, "[]anthropic.ContentBlock")
    calls = tuple(_call(block, index) for index, block in enumerate(_of_kind(content, *_CALLS)))
    called.update((call.id, call.name) for call in calls)
    results = [
        *(_result(block, called) for block in _of_kind(content, "tool_result")),
        *(_found(block, called) for block in _of_kind(content, "web_search_tool_result")),
    ]
    said = Message(
        role,
        _text_of(content),
        thinking="".join(_texts(_of_kind(content, "thinking"), "thinking")),
        images=_images(content),
        tool_calls=calls,
    )
    spoken = [said] if said != Message(role) else []
    return [*results, *spoken] if role == "user" else [*spoken, *results]


def _of_kind(blocks: Iterable[Any], *kinds: str) -> list[dict[str, Any]]:
    return [block for block in blocks if isinstance(block, dict) and block.get("type") in kinds]


def _texts(blocks: Iterable[dict[str, Any]], field: str) -> list[str]:
    return [text for block in blocks if isinstance(text := block.get(field), str)]


def _text_of(blocks: Iterable[Any]) -> str:
    return "".join(_texts(_of_kind(blocks, "text"), "text"))


def _images(blocks: Iterable[Any]) -> tuple[bytes, ...]:
    return tuple(_image(block.get("source")) for block in _of_kind(blocks, "image"))


def _image(source: Any) -> bytes:
    match source:
        case {"type": "base64", "data": str(data)}:
            try:
                return decode_base64(data)
            except BadRequest as error:
                raise BadRequest(f"invalid base64 image data: {error}") from None
        case {"type": str(kind)} if kind != "base64":
            raise BadRequest(f"invalid image source type: {kind}. Only base64 images are supported.")
    raise BadRequest("invalid image source")


def _call(block: dict[str, Any], index: int) -> ToolCall:
    for field in ("id", "name"):
        if not isinstance(block.get(field), str) or not block[field]:
            raise BadRequest(f"{block['type']} block missing required '{field}' field")
    given = block.get("input") or {}
    if not isinstance(given, dict):
        raise BadRequest(f"{block['type']} block: input must be an object, not {kind_of(given)}")
    return ToolCall(block["id"], index, block["name"], to_json(given))


def _result(block: dict[str, Any], called: dict[str, str]) -> Message:
    content = block.get("content")
    blocks = content if isinstance(content, list) else []
    text = content if isinstance(content, str) else _text_of(blocks)
    return _told(block, text, called, _images(blocks))


def _found(block: dict[str, Any], called: dict[str, str]) -> Message:
    """What a search on a server found, from a conversation that was held elsewhere: titles and addresses."""
    content = block.get("content")
    results = _of_kind(content if isinstance(content, list) else [], "web_search_result")
    lines = [f"- {result.get('title', '')}: {result.get('url', '')}\n" for result in results]
    return _told(block, "".join(lines), called)


def _told(block: dict[str, Any], text: str, called: dict[str, str], images: tuple[bytes, ...] = ()) -> Message:
    call_id = block.get("tool_use_id")
    known_id = call_id if isinstance(call_id, str) else ""
    return Message("tool", text, images=images, tool_name=called.get(known_id, ""), tool_call_id=known_id)
