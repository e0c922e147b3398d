"""What the `openai` and `anthropic` packages build on the wire: events by name, forms as classes, tools run for you."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import openai
import pytest
from anthropic import beta_tool
from nodes import Node
from pydantic import BaseModel

CAPITAL = "What is the capital of France?"
ROME = "What is the weather in Rome?"
PARAMETERS: Any = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class Capital(BaseModel):
    """An answer in a form."""

    capital: Literal["Paris", "Rome"]


@beta_tool
def get_weather(city: str) -> str:
    """Get the current weather for a city

    Args:
        city: its name
    """
    return f"sunny, 21 degrees in {city}"


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


@pytest.fixture
def gpt(shared_node: Node) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shared_node.url}/v1", api_key="unused", timeout=120, max_retries=0) as client:
        yield client


@pytest.fixture
def claude(shared_node: Node) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=shared_node.url, api_key="unused", timeout=120, max_retries=0) as client:
        yield client


def test_a_streamed_chat_put_together(gpt: openai.OpenAI) -> None:
    weather: Any = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS, "strict": True}}
    with gpt.chat.completions.stream(model="tiny", messages=user(CAPITAL), temperature=0) as stream:
        kinds = [event.type for event in stream]
        whole = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= set(kinds)
    assert "Paris" in (whole.choices[0].message.content or "")
    with gpt.chat.completions.stream(model="tiny", messages=user(ROME), tools=[weather], temperature=0) as stream:
        [done] = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    assert (done.name, done.parsed_arguments) == ("get_weather", {"city": "Rome"})


def test_forms(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    asked = f"Answer in JSON: {CAPITAL}"
    chat = gpt.chat.completions.parse(model="tiny", messages=user(asked), response_format=Capital, temperature=0)
    response = gpt.responses.parse(model="tiny", input=asked, text_format=Capital, temperature=0)
    message = claude.messages.parse(
        model="tiny", max_tokens=100, messages=user(asked), output_format=Capital, extra_body={"temperature": 0}
    )
    for answer in (chat.choices[0].message.parsed, response.output_parsed, message.parsed_output):
        assert isinstance(answer, Capital)


def test_events_of_a_response(gpt: openai.OpenAI) -> None:
    with gpt.responses.create(model="tiny", input=CAPITAL, temperature=0, stream=True) as stream:
        events = list(stream)
    kinds = [event.type for event in events]
    deltas = kinds.count("response.output_text.delta")
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_events_of_a_message(claude: anthropic.Anthropic) -> None:
    fields: Any = {"model": "tiny", "max_tokens": 100, "extra_body": {"temperature": 0}}
    tool: Any = {"name": "get_weather", "description": "Get the current weather for a city", "input_schema": PARAMETERS}
    for asked, tools, block in ((CAPITAL, [], "text"), (ROME, [tool], "tool_use")):
        with claude.messages.create(**fields, messages=user(asked), tools=tools, stream=True) as stream:
            events = list(stream)
        kinds = [event.type for event in events]
        deltas = kinds.count("content_block_delta")
        assert kinds == [
            "message_start",
            "content_block_start",
            *["content_block_delta"] * deltas,
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
        assert events[1].content_block.type == block
        assert events[-2].usage.output_tokens > 0
    joined = "".join(event.delta.partial_json for event in events if event.type == "content_block_delta")
    assert json.loads(joined) == {"city": "Rome"}


def test_tools_that_the_client_runs(claude: anthropic.Anthropic) -> None:
    runner = claude.beta.messages.tool_runner(
        model="tiny", max_tokens=100, tools=[get_weather], messages=user(ROME), extra_body={"temperature": 0}
    )
    asked, *_, told = list(runner)
    assert [block.type for block in asked.content] == ["tool_use"]
    assert "sunny" in "".join(block.text for block in told.content if block.type == "text")


async def test_clients_that_do_not_block(shared_node: Node) -> None:
    common: Any = {"api_key": "unused", "timeout": 120, "max_retries": 0}
    async with (
        openai.AsyncOpenAI(base_url=f"{shared_node.url}/v1", **common) as gpt,
        anthropic.AsyncAnthropic(base_url=shared_node.url, **common) as claude,
    ):
        chat = await gpt.chat.completions.create(model="tiny", messages=user(CAPITAL), temperature=0)
        fields: Any = {"model": "tiny", "max_tokens": 100, "extra_body": {"temperature": 0}}
        async with claude.messages.stream(**fields, messages=user(CAPITAL)) as stream:
            text = "".join([piece async for piece in stream.text_stream])
    assert chat.choices[0].message.content == text
