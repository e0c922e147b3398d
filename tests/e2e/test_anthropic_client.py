"""The `anthropic` client from PyPI against a real node."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from nodes import Node

WEATHER: Any = {
    "name": "get_weather",
    "description": "Get the current weather for a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
GREEDY: Any = {"extra_body": {"temperature": 0}}
ROME = "What is the weather in Rome?"


@pytest.fixture
def client(shared_node: Node) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=shared_node.url, api_key="unused", timeout=120, max_retries=0) as client:
        yield client


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def test_messages(client: anthropic.Anthropic) -> None:
    talk: Any = {"model": "tiny", "max_tokens": 100, "messages": [user("What is the capital of France?")]}
    whole = client.messages.create(**talk, **GREEDY)
    [block] = whole.content
    assert block.type == "text"
    assert "Paris" in block.text
    assert (whole.stop_reason, whole.model, whole.role) == ("end_turn", "tiny", "assistant")
    with client.messages.stream(**talk, **GREEDY) as stream:
        pieces = list(stream.text_stream)
        streamed = stream.get_final_message()
    assert len(pieces) > 3
    assert "".join(pieces) == block.text
    assert streamed.usage == whole.usage
    assert streamed.stop_reason == "end_turn"


def test_limits_and_stops(client: anthropic.Anthropic) -> None:
    cut = client.messages.create(model="chain", max_tokens=4, messages=[user("abc")])
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 4)
    stopped = client.messages.create(model="chain", max_tokens=40, messages=[user("abc")], stop_sequences=["ij"])
    [block] = stopped.content
    assert block.type == "text"
    assert block.text == "abcdefgh"
    assert stopped.stop_reason == "end_turn"


@pytest.mark.parametrize("choice", [{"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_tools(client: anthropic.Anthropic, choice: Any) -> None:
    asked: Any = {"model": "tiny", "max_tokens": 100, "tools": [WEATHER], "tool_choice": choice}
    whole = client.messages.create(**asked, messages=[user(ROME)], **GREEDY)
    [call] = whole.content
    assert call.type == "tool_use"
    assert (call.name, call.input, whole.stop_reason) == ("get_weather", {"city": "Rome"}, "tool_use")
    with client.messages.stream(**asked, messages=[user(ROME)], **GREEDY) as stream:
        streamed = stream.get_final_message()
    [block] = streamed.content
    assert block.type == "tool_use"
    assert (block.input, streamed.stop_reason) == ({"city": "Rome"}, "tool_use")


def test_a_result_of_a_tool(client: anthropic.Anthropic) -> None:
    talk = [
        user(ROME),
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Rome"}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny, 21 degrees"}]}
            ],
        },
    ]
    answer = client.messages.create(model="tiny", max_tokens=60, tools=[WEATHER], messages=talk, **GREEDY)  # type: ignore[arg-type]
    [block] = answer.content
    assert block.type == "text"
    assert block.text


def test_no_tool_may_be_called(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(
        model="tiny", max_tokens=60, tools=[WEATHER], tool_choice={"type": "none"}, messages=[user(ROME)], **GREEDY
    )
    assert [block.type for block in answer.content] == ["text"]


def test_thinking_of_a_model_that_can_not_is_dropped(client: anthropic.Anthropic) -> None:
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    answer = client.messages.create(model="tiny", max_tokens=2000, thinking=thinking, messages=[user("Hello!")])
    assert [block.type for block in answer.content] == ["text"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"system": "You are brief."},
        {"tools": [WEATHER]},
        {"tools": [WEATHER], "tool_choice": {"type": "any"}},
        {"system": [{"type": "text", "text": "You are brief."}], "tools": [WEATHER], "tool_choice": {"type": "none"}},
    ],
)
def test_tokens_are_counted_as_they_are_used(client: anthropic.Anthropic, fields: Any) -> None:
    talk: Any = {"model": "tiny", "messages": [user(ROME)], **fields}
    counted = client.messages.count_tokens(**talk)
    assert counted.input_tokens == client.messages.create(**talk, max_tokens=1).usage.input_tokens > 5


def test_errors(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="model 'nobody' not found") as caught:
        client.messages.create(model="nobody", max_tokens=5, messages=[user("x")])
    assert caught.value.body["error"]["type"] == "not_found_error"  # type: ignore[index, call-overload]
    with pytest.raises(anthropic.BadRequestError, match="max_tokens is required and must be positive"):
        client.messages.create(model="tiny", max_tokens=0, messages=[user("x")])
    with pytest.raises(anthropic.BadRequestError, match="does not support chat"):
        client.messages.create(model="embedder", max_tokens=5, messages=[user("x")])
    with pytest.raises(anthropic.BadRequestError, match="does not support chat"):
        client.messages.count_tokens(model="embedder", messages=[user("x")])
