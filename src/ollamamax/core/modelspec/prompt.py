"""Conversations to prompts, by a model's Go template.

A template that mentions `.Messages` gets the whole conversation at once. One that does not is run once for each turn of
system, prompt and response, and for the last turn only up to where it writes the response, so that the model goes on
from there. Neighbours of one role are merged, save tools'. Images stand as `[img-N]`, counted over the conversation.
Source: Ollama `template/template.go`, `server/prompt.go`, `api/types.go` (Tool).
Differences: merged messages keep their images, calls and thinking; blank ones add no empty lines; a tool's function
prints as its JSON.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from ollamamax.core.errors import BadRequest
from ollamamax.core.modelspec.output import ThinkingSplitter
from ollamamax.core.modelspec.template import Template
from ollamamax.core.modelspec.template.values import JsonMap, Record
from ollamamax.core.modelspec.tool_records import tool_list
from ollamamax.core.types import Message, ToolCall

_IMAGE_PLACE: Final = "[img]"
_SPACING: Final = "\n\n"
_DEFAULT_LEVEL: Final = "medium"


def render_chat(
    template: Template,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    think: bool | str | None,
    today: str,
    yesterday: str,
) -> str:
    """The prompt of a conversation. think: None = not said.  today, yesterday: YYYY-MM-DD.

    Raises: TemplateError; BadRequest where a call's arguments are no JSON object.
    """
    merged = _merged(_marked(messages))
    thinking = _thinking(think)
    if not template.uses("messages"):
        return _render_turns(template, merged, thinking, today, yesterday)
    data: dict[str, Any] = {
        "System": _SPACING.join(message.content for message in merged if message.role == "system"),
        "Messages": [_message_record(message) for message in merged],
        "Tools": tool_list(tools),
        "Response": "",
        **thinking,
    }
    return template.render(data, today, yesterday)


def render_fim(
    template: Template, prompt: str, suffix: str, think: bool | str | None, today: str, yesterday: str
) -> str:
    """The prompt for filling in between `prompt` and `suffix`. Raises: TemplateError."""
    data = {"Prompt": prompt, "Suffix": suffix, "Response": "", **_thinking(think)}
    return template.render(data, today, yesterday)


def without_old_thinking(messages: Sequence[Message], open_tag: str, close_tag: str) -> tuple[Message, ...]:
    """The same without the thinking that stands as text in answers before the last question.

    Ollama does so for the families qwen3 and deepseek-r1, whose models are not to see it again.
    """
    last = max((place for place, message in enumerate(messages) if message.role == "user"), default=-1)

    def cleaned(message: Message) -> Message:
        splitter = ThinkingSplitter(open_tag, close_tag, starts_inside=False)
        content = splitter.feed(message.content)[1] + splitter.finish()[1]
        return msgspec.structs.replace(message, content=content)

    return tuple(
        cleaned(message) if message.role == "assistant" and place < last else message
        for place, message in enumerate(messages)
    )


def _thinking(think: bool | str | None) -> dict[str, Any]:
    level = think if isinstance(think, str) else _DEFAULT_LEVEL if think else ""
    return {"Think": bool(think), "ThinkLevel": level, "IsThinkSet": think is not None}


def _marked(messages: Sequence[Message]) -> list[Message]:
    """With the images' marks: in place of `[img]` where the text has that, else in front."""
    count, marked = 0, list[Message]()
    for message in messages:
        front, content = "", message.content
        for _ in message.images:
            mark = f"[img-{count}]"
            count += 1
            if _IMAGE_PLACE in content:
                content = content.replace(_IMAGE_PLACE, mark, 1)
            else:
                front += mark
        marked.append(msgspec.structs.replace(message, content=front + content) if message.images else message)
    return marked


def _merged(messages: Sequence[Message]) -> list[Message]:
    merged: list[Message] = []
    for message in messages:
        if not merged or merged[-1].role != message.role or message.role == "tool":
            merged.append(message)
            continue
        before = merged[-1]
        merged[-1] = msgspec.structs.replace(
            before,
            content=_joined(before.content, message.content),
            thinking=_joined(before.thinking, message.thinking),
            images=before.images + message.images,
            tool_calls=before.tool_calls + message.tool_calls,
        )
    return merged


def _joined(first: str, second: str) -> str:
    return _SPACING.join(text for text in (first, second) if text)


def _render_turns(
    template: Template, messages: Sequence[Message], thinking: dict[str, Any], today: str, yesterday: str
) -> str:
    """For templates that know one turn only."""
    found: list[str] = []
    turn = {"System": "", "Prompt": "", "Response": ""}
    for message in messages:
        ends_turn = {"system": turn["Prompt"] or turn["Response"], "user": turn["Response"]}
        if ends_turn.get(message.role):
            found.append(template.render({**turn, **thinking}, today, yesterday))
            turn = {"System": "", "Prompt": "", "Response": ""}
        part = {"system": "System", "user": "Prompt", "assistant": "Response"}.get(message.role)
        if part:
            turn[part] = message.content
    found.append(template.until_response().render({**turn, **thinking}, today, yesterday))
    return "".join(found)


def _message_record(message: Message) -> Record:
    fields = {
        "Role": message.role,
        "Content": message.content,
        "Thinking": message.thinking,
        "Images": [_IMAGE_PLACE for _ in message.images],
        "ToolCalls": [_call_record(call) for call in message.tool_calls],
        "ToolName": message.tool_name,
        "ToolCallID": message.tool_call_id,
    }
    return Record("Message", fields)


def _call_record(call: ToolCall) -> Record:
    try:
        arguments = msgspec.json.decode(call.arguments, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise BadRequest("invalid tool call arguments") from None
    function = {"Index": call.index, "Name": call.name, "Arguments": JsonMap(arguments)}
    return Record("ToolCall", {"ID": call.id, "Function": Record("ToolCallFunction", function)})
