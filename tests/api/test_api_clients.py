"""The `ollama` and `openai` clients from PyPI against the listener."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import ollama
import openai
import pytest
from api_fakes import Node, serving

from ollamamax.core.errors import EngineCrashed, QueueFull
from ollamamax.core.types import Chunk, GenerationStats, ToolCall

HELLO = "Hello there, how are you?"
HI: Any = [{"role": "user", "content": "hi"}]
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
STATS = GenerationStats(prompt_tokens=3, prompt_ms=1, eval_tokens=2, eval_ms=2, load_ms=1)


@asynccontextmanager
async def native() -> AsyncIterator[tuple[Node, ollama.AsyncClient]]:
    async with serving() as node:
        client = ollama.AsyncClient(host=node.url)
        yield node, client
        await client._client.aclose()


@asynccontextmanager
async def compatible() -> AsyncIterator[tuple[Node, openai.AsyncOpenAI]]:
    async with serving() as node, openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key="x", max_retries=0) as client:
        yield node, client


async def test_ollama_chat() -> None:
    async with native() as (_, client):
        whole = await client.chat("tiny", messages=HI)
        assert whole.message.content == HELLO
        parts = [part async for part in await client.chat("tiny", messages=HI, stream=True)]
        assert "".join(part.message.content or "" for part in parts) == HELLO
        assert [part.done for part in parts] == [False] * 7 + [True]
        assert parts[-1].eval_count == whole.eval_count == 7
        assert parts[-1].total_duration


async def test_ollama_generate_and_embed() -> None:
    async with native() as (_, client):
        assert (await client.generate("tiny", "hi", options={"num_predict": 2})).response == "Hello there"
        assert (await client.generate("tiny", keep_alive=0)).done_reason == "unload"
        assert len((await client.embed("tiny", ["a", "b"])).embeddings) == 2


async def test_ollama_tools() -> None:
    async with native() as (node, client):
        call = ToolCall("call_1", 0, "weather", '{"city":"Rome"}')
        node.engine.script = [[Chunk(tool_calls=(call,))], [Chunk(done_reason="stop", stats=STATS)]]
        answer = await client.chat("tiny", messages=HI, tools=[TOOL])
        assert answer.message.tool_calls
        assert answer.message.tool_calls[0].function.arguments == {"city": "Rome"}
        follow = [*HI, answer.message, {"role": "tool", "content": "sunny", "tool_name": "weather"}]
        await client.chat("tiny", messages=follow)
        request, _ = node.engine.requests[-1]
        assert request.messages[1].tool_calls[0].arguments == call.arguments
        assert request.messages[2].tool_name == "weather"


async def test_ollama_models() -> None:
    async with native() as (node, client):
        assert [row.model for row in (await client.list()).models] == ["someone/other:v1", "tiny:latest"]
        assert (await client.ps()).models[0].context_length == 4096
        assert (await client.show("tiny")).modelinfo == {"general.architecture": "llama"}
        await client.copy("tiny", "new")
        await client.delete("new")
        assert (await client.create("new", from_="tiny", parameters={"num_ctx": 8})).status == "success"
        assert [part.status async for part in await client.create("new", from_="tiny", stream=True)][-1] == "success"
        assert node.library.created[0].parameters == {"num_ctx": 8}


async def test_ollama_blob(tmp_path: Any) -> None:
    async with native() as (node, client):
        path = tmp_path / "a.gguf"
        path.write_bytes(b"GGUF" * 100_000)
        digest = await client.create_blob(path)
        assert node.library.blobs[digest] == path.read_bytes()


async def test_ollama_errors() -> None:
    async with native() as (node, client):
        with pytest.raises(ollama.ResponseError) as caught:
            await client.chat("nobody", messages=HI)
        assert (caught.value.status_code, caught.value.error) == (404, "model 'nobody' not found")
        node.engine.fail_mid = EngineCrashed("it broke")
        with pytest.raises(ollama.ResponseError, match="it broke"):
            [_ async for _ in await client.chat("tiny", messages=HI, stream=True)]


async def test_openai_chat() -> None:
    async with compatible() as (_, client):
        whole = await client.chat.completions.create(model="tiny", messages=HI)
        assert whole.choices[0].message.content == HELLO
        assert whole.usage
        assert whole.usage.completion_tokens == 7
        stream = await client.chat.completions.create(
            model="tiny", messages=HI, stream=True, stream_options={"include_usage": True}
        )
        parts = [part async for part in stream]
        assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == HELLO
        assert parts[-1].usage == whole.usage
        assert parts[-2].choices[0].finish_reason == "stop"


async def test_openai_tools() -> None:
    async with compatible() as (node, client):
        call = ToolCall("call_1", 0, "weather", '{"city":"Rome"}')
        node.engine.script = [[Chunk(tool_calls=(call,), done_reason="stop", stats=STATS)]]
        choice: Any = {"type": "function", "function": {"name": "weather"}}
        answer = await client.chat.completions.create(model="tiny", messages=HI, tools=[TOOL], tool_choice=choice)
        assert answer.choices[0].finish_reason == "tool_calls"
        assert answer.choices[0].message.tool_calls
        told = answer.choices[0].message.tool_calls[0]
        assert told.type == "function"
        assert told.function.arguments == '{"city":"Rome"}'
        assert node.engine.requests[-1][0].tool_choice == "=weather"
        follow: Any = [*HI, answer.choices[0].message, {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]
        await client.chat.completions.create(model="tiny", messages=follow)
        assert node.engine.requests[-1][0].messages[2].tool_name == "weather"


async def test_openai_models_and_errors() -> None:
    async with compatible() as (node, client):
        assert [model.id async for model in client.models.list()] == ["someone/other:v1", "tiny:latest"]
        assert (await client.models.retrieve("tiny")).id == "tiny"
        with pytest.raises(openai.NotFoundError, match="model 'nobody' not found"):
            await client.chat.completions.create(model="nobody", messages=HI)
        node.engine.fail_first = QueueFull()
        with pytest.raises(openai.InternalServerError, match="server busy, please try again"):
            await client.chat.completions.create(model="tiny", messages=HI)
        node.engine.fail_first = None
        node.engine.fail_mid = EngineCrashed("it broke")
        with pytest.raises(openai.APIError, match="it broke"):
            [_ async for _ in await client.chat.completions.create(model="tiny", messages=HI, stream=True)]


async def test_openai_client_that_leaves() -> None:
    async with compatible() as (node, client):
        node.engine.next_gate.clear()
        stream = await client.chat.completions.create(model="tiny", messages=HI, stream=True)
        async for _ in stream:
            break
        await stream.close()
        async with asyncio.timeout(1):
            await node.engine.until(lambda: node.engine.active == 0)
