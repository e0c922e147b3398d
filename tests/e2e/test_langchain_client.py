"""`langchain-ollama` from PyPI against a real node."""

from collections.abc import Callable, Iterator
from typing import Any

import ollama
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from nodes import Node
from pydantic import BaseModel, Field

FRANCE = "What is the capital of France?"
ROME = "What is the weather in Rome?"


@tool
def get_weather(city: str) -> str:
    """Get the current weather for a city"""
    return f"sunny in {city}"


class Capital(BaseModel):
    """An answer in a form."""

    capital: str = Field(pattern="^(Paris|Rome)$")


Made = Callable[..., Any]


@pytest.fixture
def make(shared_node: Node) -> Iterator[Made]:
    """Makes models of langchain's kinds that ask the node; closes their connections, which langchain leaves open."""
    models: list[Any] = []

    def made(kind: type[Any], model: str = "tiny", **options: Any) -> Any:
        models.append(kind(model=model, base_url=shared_node.url, **options))
        return models[-1]

    yield made
    for model in models:
        model._client._client.close()


@pytest.fixture
def chat(make: Made) -> Made:
    """Makes chat models of `tiny`."""
    return lambda **options: make(ChatOllama, temperature=0, **options)


def test_chat(chat: Made) -> None:
    model = chat(validate_model_on_init=True, num_predict=100)
    whole = model.invoke([SystemMessage("Be brief."), HumanMessage(FRANCE)])
    assert "Paris" in whole.text
    assert whole.response_metadata["done_reason"] == "stop"
    assert whole.usage_metadata
    assert whole.usage_metadata["total_tokens"] > whole.usage_metadata["output_tokens"] > 0
    parts = list(model.stream([SystemMessage("Be brief."), HumanMessage(FRANCE)]))
    assert len(parts) > 3
    joined: AIMessageChunk = parts[0]
    for part in parts[1:]:
        joined += part
    assert joined.text == whole.text
    assert joined.usage_metadata == whole.usage_metadata


async def test_chat_async(chat: Made) -> None:
    model = chat()
    whole = await model.ainvoke(FRANCE)
    assert "".join([part.text async for part in model.astream(FRANCE)]) == whole.text
    await model._async_client._client.aclose()


def test_limits(make: Made) -> None:
    cut = make(ChatOllama, "chain", temperature=0, num_predict=4).invoke("abc")
    assert (len(cut.text), cut.response_metadata["done_reason"]) == (4, "length")
    stopped = make(ChatOllama, "chain", temperature=0, stop=["ij"]).invoke("abc")
    assert stopped.text.endswith("gh")


@pytest.mark.parametrize("streams", [False, True])
def test_tools(chat: Made, streams: bool) -> None:
    model = chat().bind_tools([get_weather])
    talk: list[Any] = [HumanMessage(ROME)]
    if streams:
        parts = list(model.stream(talk))
        asked: Any = parts[0]
        for part in parts[1:]:
            asked += part  # type: ignore[operator]
    else:
        asked = model.invoke(talk)
    [call] = asked.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Rome"})
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    told = model.invoke([*talk, AIMessage(asked.content, tool_calls=asked.tool_calls), result])
    assert "sunny" in told.text.lower()


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output(chat: Made, method: Any) -> None:
    if method == "function_calling":
        answer: Any = chat().with_structured_output(get_weather, method=method).invoke(ROME)
        assert answer == {"city": "Rome"}
    elif method == "json_schema":
        question = f"Answer in JSON: {FRANCE}"
        answer = chat().with_structured_output(Capital, method=method).invoke(question)
        assert answer.capital in ("Paris", "Rome")
    else:
        model = chat(num_predict=100)
        answer = model.with_structured_output({"type": "object"}, method=method).invoke(f"Answer in JSON: {FRANCE}")
        assert isinstance(answer, dict)


def test_text(make: Made) -> None:
    model = make(OllamaLLM, temperature=0)
    whole = model.invoke(FRANCE)
    assert "Paris" in whole
    assert "".join(model.stream(FRANCE)) == whole
    generated = model.generate([FRANCE]).generations[0][0]
    assert generated.generation_info
    assert generated.generation_info["done_reason"] == "stop"


def test_embeddings(make: Made) -> None:
    model = make(OllamaEmbeddings, "embedder")
    one, two = model.embed_documents(["one", "two"])
    assert len(one) == len(two) == 64
    assert model.embed_query("one") == pytest.approx(one, abs=1e-4)
    assert one != pytest.approx(two, abs=1e-4)


def test_errors(chat: Made, make: Made) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nobody' not found"):
        make(ChatOllama, "nobody").invoke("x")
    with pytest.raises(ollama.ResponseError, match='"tiny" does not support thinking'):
        chat(reasoning=True).invoke("x")
