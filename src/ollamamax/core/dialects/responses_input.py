"""The conversation of an OpenAI response request: a text, or items of several kinds, to messages.

Items that belong to one turn become one message: thoughts stand with what follows them, calls with the assistant's
text before or after them. Instructions and the messages of `system` and `developer` at the beginning become one
message, since many templates refuse a second one.
"""

from typing import Any, Final

from msgspec.structs import replace

from ollamamax.core.dialects.openai_messages import read_arguments, read_image
from ollamamax.core.dialects.reading import Fields, kind_of
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import Message, ToolCall

_MESSAGE: Final = frozenset({"role", "content"})
_CALL: Final = frozenset({"call_id", "name", "namespace", "arguments"})
_OUTPUT: Final = frozenset({"call_id", "output"})
_REASONING: Final = frozenset({"summary", "encrypted_content"})


def read_input(instructions: str, given: Any) -> tuple[Message, ...]:
    """The messages. given: the field `input`. Raises: BadRequest."""
    conversation = _Conversation(instructions)
    if isinstance(given, str):
        if given:
            conversation.say(Message("user", given))
    elif isinstance(given, list):
        for place, item in enumerate(given):
            try:
                _read_item(conversation, item)
            except BadRequest as error:
                raise BadRequest(f"input[{place}]: {error}") from None
    elif given is not None:
        raise BadRequest(f"input must be a string or array: {_not_list(given)}")
    return conversation.whole()


class _Conversation:
    """Messages so far, and thoughts that wait for the message that they belong to."""

    def __init__(self, instructions: str) -> None:
        self._messages = [Message("system", instructions)] if instructions else []
        self._thinking = ""

    def think(self, text: str) -> None:
        self._thinking = text

    def say(self, message: Message) -> None:
        last = self._messages[-1] if self._messages else None
        if message.role == "assistant":
            message = self._with_thoughts(message)
            if last is not None and last.role == "assistant" and last.tool_calls:
                content = "\n".join(filter(None, (last.content, message.content)))
                thinking = message.thinking or last.thinking
                self._messages[-1] = replace(
                    last, content=content, thinking=thinking, images=last.images + message.images
                )
                return
        elif message.role == "system" and len(self._messages) == 1 and last is not None and last.role == "system":
            self._messages[-1] = replace(last, content=f"{last.content}\n\n{message.content}")
            return
        self._messages.append(message)

    def call(self, call_id: str, name: str, arguments: str) -> None:
        last = self._messages[-1] if self._messages else None
        if last is None or last.role != "assistant":
            last = Message("assistant")
            self._messages.append(last)
        made = ToolCall(call_id, len(last.tool_calls), name, arguments)
        self._messages[-1] = self._with_thoughts(replace(last, tool_calls=(*last.tool_calls, made)))

    def answer(self, call_id: str, content: str, images: tuple[bytes, ...]) -> None:
        made = (call for message in reversed(self._messages) for call in message.tool_calls)
        name = next((call.name for call in made if call.id == call_id), "")
        self._messages.append(Message("tool", content, images=images, tool_name=name, tool_call_id=call_id))

    def whole(self) -> tuple[Message, ...]:
        if self._thinking:
            self._messages.append(self._with_thoughts(Message("assistant")))
        return tuple(self._messages)

    def _with_thoughts(self, message: Message) -> Message:
        if not self._thinking:
            return message
        thinking, self._thinking = self._thinking, ""
        return replace(message, thinking=thinking)


def _read_item(conversation: _Conversation, item: Any) -> None:
    if not isinstance(item, dict):
        raise BadRequest(f"json: cannot unmarshal {kind_of(item)} into Go value of type openai.ResponsesInputItem")
    kind = item.get("type") or ("message" if item.get("role") else "")
    match kind:
        case "message":
            conversation.say(_message(Fields(item, _MESSAGE, "ResponsesInputMessage.")))
        case "function_call":
            _call(conversation, Fields(item, _CALL, "ResponsesFunctionCall."))
        case "function_call_output":
            output = Fields(item, _OUTPUT, "ResponsesFunctionCallOutput.")
            content, images = _content(output.any("output"), "output")
            conversation.answer(output.text("call_id") or "", content, images)
        case "reasoning":
            conversation.think(_thoughts(Fields(item, _REASONING, "ResponsesReasoningInput.")))
        case "web_search_call":
            pass  # what was found stands in the assistant's message that follows
        case "":
            raise BadRequest("input item missing required 'type' field")
        case _:
            raise BadRequest(f'unknown input item type: "{kind}"')


def _message(fields: Fields) -> Message:
    role = (fields.text("role") or "").lower()
    content, images = _content(fields.any("content"), "content")
    # The newer name of the same role, which few templates know.
    return Message("system" if role == "developer" else role, content, images=images)


def _call(conversation: _Conversation, fields: Fields) -> None:
    name, namespace = fields.text("name") or "", fields.text("namespace") or ""
    try:
        arguments = read_arguments(fields.text("arguments") or "{}")
    except BadRequest:
        raise BadRequest("failed to parse function call arguments: they are no JSON object") from None
    conversation.call(fields.text("call_id") or "", qualified(namespace, name), arguments)


def qualified(namespace: str, name: str) -> str:
    """A function's name as the model knows it: with its namespace before it."""
    return name if not namespace or name.startswith(f"{namespace}.") else f"{namespace}.{name}"


def _thoughts(fields: Fields) -> str:
    """What the reply gave as `encrypted_content` is the plain text; the summary is the same where that is missing."""
    text = fields.text("encrypted_content")
    if text:
        return text
    parts = fields.array("summary", "[]openai.ResponsesReasoningSummary") or ()
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _content(raw: Any, field: str) -> tuple[str, tuple[bytes, ...]]:
    """Text and images. field: for error texts."""
    if raw is None:
        return "", ()
    if isinstance(raw, str):
        return raw, ()
    if not isinstance(raw, list):
        raise BadRequest(f"{field} must be a string or array: {_not_list(raw)}")
    texts: list[str] = []
    images: list[bytes] = []
    for place, part in enumerate(raw):
        match part:
            case {"type": "input_text" | "output_text", "text": str(text)}:
                texts.append(text)
            case {"type": "input_image", "image_url": str(url)} if url:
                images.append(read_image(url))
            case {"type": "input_image"}:
                pass  # a file of OpenAI's own, which can't be read here
            case {"type": "input_file"}:
                raise BadRequest("file inputs are not currently supported")
            case {"type": "refusal", "refusal": str(text)}:
                texts.append(text)
            case _:
                kind = part.get("type") if isinstance(part, dict) else kind_of(part)
                raise BadRequest(f"{field}[{place}]: unknown content type: {kind}")
    return "".join(texts), tuple(images)


def _not_list(value: Any) -> str:
    return f"json: cannot unmarshal {kind_of(value)} into Go value of type []json.RawMessage"
