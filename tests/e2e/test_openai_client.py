"""The `openai` client from PyPI against a real node."""

import json
from collections.abc import Iterator

import openai
import pytest
from nodes import Node

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
def client(shared_node: Node) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shared_node.url}/v1", api_key="unused", timeout=120, max_retries=0) as client:
        yield client


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=ask("What is the capital of France?"), temperature=0)  # type: ignore[arg-type]
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model == "tiny"


def test_chat_streams(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=ask("What is OllamaMax?"), temperature=0)  # type: ignore[arg-type]
    parts = list(
        client.chat.completions.create(
            model="tiny",
            messages=ask("What is OllamaMax?"),  # type: ignore[arg-type]
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[-1].choices == []
    assert parts[-1].usage
    assert whole.usage
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert parts[-2].choices[0].finish_reason == "stop"


def test_max_tokens_and_stop(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="chain", messages=ask("abc"), temperature=0, max_tokens=4)  # type: ignore[arg-type]
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage
    assert answer.usage.completion_tokens == 4


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "get_weather"}}])
def test_tools(client: openai.OpenAI, choice: object) -> None:
    answer = client.chat.completions.create(  # type: ignore[call-overload]
        model="tiny",
        messages=ask("What is the weather in Rome?"),
        tools=[WEATHER],
        tool_choice=choice,
        temperature=0,
    )
    calls = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert [call.function.name for call in calls] == ["get_weather"]
    assert json.loads(calls[0].function.arguments) == {"city": "Rome"}


def test_tools_stream(client: openai.OpenAI) -> None:
    parts = client.chat.completions.create(  # type: ignore[call-overload]
        model="tiny", messages=ask("What is the weather in Rome?"), tools=[WEATHER], temperature=0, stream=True
    )
    calls, reasons = [], []
    for part in parts:
        calls += part.choices[0].delta.tool_calls or []
        reasons.append(part.choices[0].finish_reason)
    assert [call.function.name for call in calls] == ["get_weather"]
    assert json.loads(calls[0].function.arguments) == {"city": "Rome"}
    assert reasons[-1] == "tool_calls"


def test_json_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string", "enum": ["Paris"]}},
        "required": ["capital"],
    }
    answer = client.chat.completions.create(  # type: ignore[call-overload]
        model="tiny",
        messages=ask("Answer in JSON: what is the capital of France?"),
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "capital", "schema": schema}},
    )
    assert json.loads(answer.choices[0].message.content) == {"capital": "Paris"}


def test_models(client: openai.OpenAI) -> None:
    assert "tiny:latest" in {model.id for model in client.models.list()}
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="model 'nobody' not found"):
        client.chat.completions.create(model="nobody", messages=ask("x"))  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="is too short"):
        client.chat.completions.create(model="tiny", messages=[])
