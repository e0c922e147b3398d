"""`litellm` from PyPI against a real node, by each of its ways to speak to one."""

import inspect
import json
from collections.abc import Iterator
from typing import Any

import litellm
import pytest
from nodes import Node

FRANCE: Any = [{"role": "user", "content": "What is the capital of France?"}]
ROME: Any = [{"role": "user", "content": "What is the weather in Rome?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CHATS = ["ollama", "ollama_chat", "openai", "anthropic"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*using the `ReadOnly` qualifier:UserWarning"),  # its own types
    pytest.mark.usefixtures("closed"),
]


@pytest.fixture(scope="module")
def closed() -> Iterator[None]:
    """At the end closes the connections that litellm keeps for the process's life."""
    yield
    for client in litellm.in_memory_llm_clients_cache.cache_dict.values():
        if not inspect.iscoroutinefunction(client.close):
            client.close()
    litellm.in_memory_llm_clients_cache.flush_cache()
    litellm.module_level_client.close()


def ask(node: Node, provider: str, **fields: Any) -> Any:
    base = f"{node.url}/v1" if provider == "openai" else node.url
    asked = {"model": f"{provider}/tiny", "temperature": 0, "max_tokens": 100, **fields}
    asked["_skip_mcp_handler"] = True  # else tools need the package mcp, wherever they come from
    return litellm.completion(api_base=base, api_key="unused", timeout=120, num_retries=0, **asked)


@pytest.mark.parametrize("provider", CHATS)
def test_completion(shared_node: Node, provider: str) -> None:
    whole = ask(shared_node, provider, messages=FRANCE)
    [choice] = whole.choices
    if provider != "ollama":  # which makes one text of the messages, in a form that the model was not taught
        assert "Paris" in choice.message.content
    assert choice.finish_reason == "stop"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 5
    parts = list(ask(shared_node, provider, messages=FRANCE, stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == choice.message.content
    assert parts[-1].choices[0].finish_reason == "stop"
    cut = ask(shared_node, provider, messages=FRANCE, max_tokens=2)
    assert cut.usage.completion_tokens == 2
    if provider != "ollama":  # which always says that an answer stopped
        assert cut.choices[0].finish_reason == "length"


@pytest.mark.parametrize("provider", ["ollama_chat", "openai", "anthropic"])
def test_tools(shared_node: Node, provider: str) -> None:
    whole = ask(shared_node, provider, messages=ROME, tools=[WEATHER])
    [call] = whole.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Rome"})
    assert whole.choices[0].finish_reason == "tool_calls"
    parts = list(ask(shared_node, provider, messages=ROME, tools=[WEATHER], stream=True))
    rebuilt = litellm.stream_chunk_builder(parts)
    assert rebuilt is not None
    [streamed] = rebuilt.choices[0].message.tool_calls
    assert json.loads(streamed.function.arguments) == {"city": "Rome"}
    result = {"role": "tool", "tool_call_id": call.id, "name": "get_weather", "content": "sunny"}
    told = ask(shared_node, provider, messages=[*ROME, whole.choices[0].message, result], tools=[WEATHER])
    assert told.choices[0].message.content


@pytest.mark.parametrize("provider", ["ollama", "ollama_chat", "openai"])
def test_structured_output(shared_node: Node, provider: str) -> None:
    schema = {"type": "object", "properties": {"capital": {"enum": ["Paris"]}}, "required": ["capital"]}
    form = {"type": "json_schema", "json_schema": {"name": "capital", "schema": schema}}
    answer = ask(shared_node, provider, messages=FRANCE, response_format=form)
    assert json.loads(answer.choices[0].message.content) == {"capital": "Paris"}


@pytest.mark.parametrize("provider", ["ollama", "openai"])
def test_embedding(shared_node: Node, provider: str) -> None:
    base = f"{shared_node.url}/v1" if provider == "openai" else shared_node.url
    found = litellm.embedding(f"{provider}/embedder", input=["one", "two"], api_base=base, api_key="unused")
    assert [len(item["embedding"]) for item in found.data] == [64, 64]


@pytest.mark.parametrize("provider", CHATS)
def test_errors(shared_node: Node, provider: str) -> None:
    with pytest.raises(litellm.NotFoundError, match="model 'nobody' not found"):
        ask(shared_node, provider, model=f"{provider}/nobody", messages=FRANCE)
