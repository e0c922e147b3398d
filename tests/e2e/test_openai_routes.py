"""The `openai` client's other routes against a real node: completions, embeddings, responses."""

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from nodes import Node

PARAMETERS: Any = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a city",
    "parameters": PARAMETERS,
    "strict": False,
}
CAPITAL = "What is the capital of France?"
ROME = "What is the weather in Rome?"


@pytest.fixture
def client(shared_node: Node) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shared_node.url}/v1", api_key="unused", timeout=120, max_retries=0) as client:
        yield client


def test_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="tiny", prompt=CAPITAL, temperature=0, logprobs=2)
    choice = whole.choices[0]
    assert "Paris" in choice.text
    assert choice.finish_reason == "stop"
    assert choice.logprobs
    assert "".join(choice.logprobs.tokens or []) == choice.text
    assert all(
        choice.text[at:].startswith(token)
        for at, token in zip(choice.logprobs.text_offset or [], choice.logprobs.tokens or [], strict=True)
    )
    parts = list(client.completions.create(model="tiny", prompt=CAPITAL, temperature=0, stream=True))
    assert "".join(part.choices[0].text for part in parts) == choice.text
    assert [part.choices[0].finish_reason for part in parts] == [None] * (len(parts) - 1) + ["stop"]


def test_completions_end_where_they_are_told_to(client: openai.OpenAI) -> None:
    cut = client.completions.create(model="chain", prompt="abc", temperature=0, max_tokens=5)
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage
    assert cut.usage.completion_tokens == 5
    stopped = client.completions.create(model="chain", prompt="abc", temperature=0, max_tokens=40, stop="ij")
    assert stopped.choices[0].text == "abcdefgh"
    with pytest.raises(openai.BadRequestError, match="does not support insert"):
        client.completions.create(model="chain", prompt="abc", suffix="xyz")


def test_embeddings(client: openai.OpenAI, shared_node: Node) -> None:
    found = client.embeddings.create(model="embedder", input=["one", "two"])
    assert [len(item.embedding) for item in found.data] == [64, 64]
    assert sum(value * value for value in found.data[0].embedding) == pytest.approx(1.0, abs=1e-5)
    assert found.usage.prompt_tokens > 0
    cut = client.embeddings.create(model="embedder", input="one", dimensions=8, encoding_format="float")
    assert len(cut.data[0].embedding) == 8
    body = {"model": "embedder", "input": "one", "encoding_format": "base64"}
    packed = shared_node.ask("POST", "/v1/embeddings", body).json()["data"][0]["embedding"]
    assert struct.unpack("<64f", base64.b64decode(packed)) == pytest.approx(found.data[0].embedding, abs=1e-6)
    with pytest.raises(openai.BadRequestError, match="does not support embeddings"):
        client.embeddings.create(model="tiny", input="one")


def test_a_response(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="tiny", input=CAPITAL, temperature=0, metadata={"a": "b"})
    assert "Paris" in whole.output_text
    assert (whole.status, whole.metadata, whole.model) == ("completed", {"a": "b"}, "tiny")
    assert whole.usage
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    with client.responses.stream(model="tiny", input=CAPITAL, temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        streamed = stream.get_final_response()
    assert len(deltas) > 3
    assert "".join(deltas) == streamed.output_text == whole.output_text
    assert streamed.usage
    assert streamed.usage.output_tokens == whole.usage.output_tokens


def test_a_response_goes_on(client: openai.OpenAI) -> None:
    first = client.responses.create(model="tiny", input=[{"role": "user", "content": CAPITAL}], temperature=0)
    talk: Any = [{"role": "user", "content": CAPITAL}, *first.output, {"role": "user", "content": "And of Italy?"}]
    second = client.responses.create(model="tiny", input=talk, instructions="Be brief.", temperature=0)
    assert second.output_text
    assert second.usage
    assert first.usage
    assert second.usage.input_tokens > first.usage.input_tokens
    short = client.responses.create(model="chain", input="abc", max_output_tokens=4)
    assert short.output_text == "abcd"
    assert short.status == "completed"


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "name": "get_weather"}])
def test_a_response_calls_a_tool(client: openai.OpenAI, choice: Any) -> None:
    whole = client.responses.create(model="tiny", input=ROME, tools=[WEATHER], tool_choice=choice, temperature=0)
    [call] = whole.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Rome"})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"weather": "sunny"}'}
    talk: Any = [{"role": "user", "content": ROME}, call, result]
    assert client.responses.create(model="tiny", input=talk, tools=[WEATHER], temperature=0).output_text


def test_a_streamed_response_calls_a_tool(client: openai.OpenAI) -> None:
    with client.responses.stream(model="tiny", input=ROME, tools=[WEATHER], temperature=0) as stream:
        kinds = [event.type for event in stream]
        [call] = stream.get_final_response().output
    assert kinds[2:] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"city": "Rome"}


def test_a_response_holds_to_a_schema(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"capital": {"enum": ["Paris"]}}, "required": ["capital"]}
    text: Any = {"format": {"type": "json_schema", "name": "capital", "schema": schema}}
    answer = client.responses.create(model="tiny", input=f"Answer in JSON: {CAPITAL}", text=text, temperature=0)
    assert json.loads(answer.output_text) == {"capital": "Paris"}


def test_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="model 'nobody' not found"):
        client.responses.create(model="nobody", input="x")
    with pytest.raises(openai.NotFoundError, match="model 'nobody' not found"):
        client.completions.create(model="nobody", prompt="x")
    with pytest.raises(openai.BadRequestError, match="previous_response_id is not supported"):
        client.responses.create(model="tiny", input="x", previous_response_id="resp_1")
