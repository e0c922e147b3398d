"""The `openai` client's other routes, and the `anthropic` client, from PyPI against the listener."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import pytest
from api_fakes import Node, serving

from ollamamax.core.errors import EngineCrashed, QueueFull, Unsupported
from ollamamax.core.types import Chunk, GenerationStats, ToolCall

HELLO = "Hello there, how are you?"
HI: Any = [{"role": "user", "content": "hi"}]
PARAMETERS: Any = {"type": "object", "properties": {"city": {"type": "string"}}}
STATS = GenerationStats(prompt_tokens=3, eval_tokens=2)
CALL = ToolCall("call_1", 0, "weather", '{"city":"Rome"}')
THOUGHTFUL = [
    [Chunk(thinking="let "), Chunk(thinking="me see")],
    [Chunk(text="one"), Chunk(text=" moment"), Chunk(tool_calls=(CALL,))],
    [Chunk(done_reason="stop", stats=STATS)],
]


@asynccontextmanager
async def of_openai() -> AsyncIterator[tuple[Node, openai.AsyncOpenAI]]:
    async with serving() as node, openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key="x", max_retries=0) as client:
        yield node, client


@asynccontextmanager
async def of_anthropic() -> AsyncIterator[tuple[Node, anthropic.AsyncAnthropic]]:
    async with serving() as node, anthropic.AsyncAnthropic(base_url=node.url, api_key="x", max_retries=0) as client:
        yield node, client


async def test_openai_completions() -> None:
    async with of_openai() as (node, client):
        whole = await client.completions.create(model="tiny", prompt="hi", max_tokens=2)
        assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("Hello there", "length")
        stream = await client.completions.create(
            model="tiny", prompt="hi", stream=True, stream_options={"include_usage": True}
        )
        parts = [part async for part in stream]
        assert "".join(part.choices[0].text for part in parts if part.choices) == HELLO
        assert parts[-1].usage
        assert parts[-1].usage.completion_tokens == 7
        node.engine.fail_mid = EngineCrashed("it broke")
        with pytest.raises(openai.APIError, match="it broke"):
            [_ async for _ in await client.completions.create(model="tiny", prompt="hi", stream=True)]


async def test_openai_embeddings() -> None:
    async with of_openai() as (_, client):
        packed = await client.embeddings.create(model="tiny", input=["a", "b"])  # asks for base64 by itself
        plain = await client.embeddings.create(model="tiny", input=["a", "b"], encoding_format="float")
        for one, other in zip(packed.data, plain.data, strict=True):
            assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        with pytest.raises(openai.BadRequestError, match="invalid input type"):
            await client.embeddings.create(model="tiny", input=[1, 2, 3])


async def test_openai_responses() -> None:
    async with of_openai() as (node, client):
        node.engine.script = THOUGHTFUL
        tool: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}
        async with client.responses.stream(model="tiny", input="hi", tools=[tool], reasoning={"effort": "low"}) as made:
            kinds = [event.type async for event in made]
            streamed = await made.get_final_response()
        whole = await client.responses.create(model="tiny", input="hi", tools=[tool])
        assert kinds[:2] == ["response.created", "response.in_progress"]
        assert kinds[-1] == "response.completed"
        for answer in (streamed, whole):
            thoughts, message, call = answer.output
            assert thoughts.type == "reasoning"
            assert thoughts.summary[0].text == "let me see"
            assert message.type == "message"
            assert answer.output_text == "one moment"
            assert call.type == "function_call"
            assert (call.call_id, call.name, call.arguments) == ("call_1", "weather", CALL.arguments)
            assert answer.usage
            assert answer.usage.total_tokens == 5
        follow: Any = [*HI, *whole.output, {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}]
        await client.responses.create(model="tiny", input=follow)
        assert [message.role for message in node.engine.requests[-1][0].messages] == ["user", "assistant", "tool"]
        said, result = node.engine.requests[-1][0].messages[1:]
        assert (said.thinking, said.content, said.tool_calls[0].arguments) == (
            "let me see",
            "one moment",
            CALL.arguments,
        )
        assert result.tool_name == "weather"


async def test_openai_responses_that_fail() -> None:
    async with of_openai() as (node, client):
        with pytest.raises(openai.BadRequestError, match="previous_response_id is not supported"):
            await client.responses.create(model="tiny", input="hi", previous_response_id="resp_1")
        node.engine.fail_mid = EngineCrashed("it broke")
        events = [event async for event in await client.responses.create(model="tiny", input="hi", stream=True)]
        last = events[-1]
        assert last.type == "response.failed"
        assert last.response.error
        assert last.response.error.message == "it broke"


async def test_anthropic_messages() -> None:
    async with of_anthropic() as (node, client):
        node.engine.script = THOUGHTFUL
        asked: Any = {
            "model": "tiny",
            "max_tokens": 50,
            "messages": HI,
            "tools": [{"name": "weather", "input_schema": PARAMETERS}],
            "thinking": {"type": "enabled", "budget_tokens": 1024},
        }
        async with client.messages.stream(**asked) as made:
            text = "".join([piece async for piece in made.text_stream])
            streamed = await made.get_final_message()
            assert made.request_id
        whole = await client.messages.create(**asked)
        assert text == "one moment"
        for answer in (streamed, whole):
            thoughts, said, call = answer.content
            assert thoughts.type == "thinking"
            assert (thoughts.thinking, thoughts.signature) == ("let me see", "")
            assert said.type == "text"
            assert said.text == text
            assert call.type == "tool_use"
            assert (call.id, call.name, call.input) == ("call_1", "weather", {"city": "Rome"})
            assert answer.stop_reason == "tool_use"
            assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3, 2)
        result: Any = {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "sunny"}],
        }
        back: Any = {"role": "assistant", "content": whole.content}
        await client.messages.create(**asked | {"messages": [*HI, back, result]})
        told = node.engine.requests[-1][0].messages
        assert [message.role for message in told] == ["user", "assistant", "tool"]
        assert (told[1].thinking, told[1].tool_calls[0].name, told[2].tool_name) == ("let me see", "weather", "weather")


async def test_anthropic_errors() -> None:
    async with of_anthropic() as (node, client):
        with pytest.raises(anthropic.NotFoundError, match="model 'nobody' not found"):
            await client.messages.create(model="nobody", max_tokens=1, messages=HI)
        node.engine.fail_first = QueueFull()
        with pytest.raises(anthropic.InternalServerError, match="server busy") as caught:
            await client.messages.create(model="tiny", max_tokens=1, messages=HI)
        assert caught.value.status_code == 503
        node.engine.fail_first = None
        node.engine.fail_mid = EngineCrashed("it broke")
        with pytest.raises(anthropic.APIStatusError, match="it broke"):
            async with client.messages.stream(model="tiny", max_tokens=9, messages=HI) as made:
                await made.get_final_message()


async def test_anthropic_counts() -> None:
    async with of_anthropic() as (node, client):
        assert (await client.messages.count_tokens(model="tiny", messages=HI)).input_tokens == 1
        node.engine.fail_first = Unsupported("it can't count")
        with pytest.raises(anthropic.BadRequestError, match="it can't count"):
            await client.messages.count_tokens(model="tiny", messages=HI)
