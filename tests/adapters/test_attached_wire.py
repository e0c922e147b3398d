"""Attached engines: what goes over the wire."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from attached_talk import TOOL, answer, attach, talk
from ollamamax.adapters.engines.connector import Connector
from ollamamax.core.errors import (
    EngineCrashed,
    EngineRefused,
    InvalidOption,
    Unsupported,
)
from ollamamax.core.types import (
    FOREVER_MS,
    ChatRequest,
    Chunk,
    EngineKind,
    Message,
    Options,
    ToolCall,
)
from ollamamax.testing.clock import FakeClock, SeededDice
from servers import FakeOllama, FakeOpenAI, RawServer, http_answer


@pytest.fixture
async def connector() -> AsyncIterator[Connector]:
    made = Connector(FakeClock(), SeededDice())
    async with asyncio.timeout(20):
        yield made
        await made.aclose()


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_an_openai_url_may_name_the_version(connector: Connector, suffix: str) -> None:
    async with FakeOpenAI() as server:
        (model,) = await attach(connector, server.url + suffix, EngineKind.OPENAI).models()
        assert (model.key, model.served_as, model.loaded) == ("tiny:latest", "tiny:latest", True)
        assert server.requests[0][0] == "/v1/models"


async def test_ollamas_listing(connector: Connector) -> None:
    async with FakeOllama(models=("Tiny:latest", "other:7b")) as server:
        engine = attach(connector, server.url, EngineKind.OLLAMA)
        first, second = await engine.models()
        assert (first.key, first.served_as, first.loaded, second.loaded) == ("tiny:latest", "Tiny:latest", True, False)
        assert first.record is not None
        assert first.record.modified_ns == 1_767_323_045_123_456_789
        assert (first.record.details.family, first.record.details.families) == ("llama", ())
        assert first.running is not None
        assert first.running.expires_ns == FOREVER_MS
        assert await engine.describe("tiny") == {
            "model_info": {"general.architecture": "llama"},
            "capabilities": ["completion"],
        }
        server.refusal = (404, "model 'x' not found")
        assert await engine.describe("x") is None


async def test_what_ollama_is_sent(connector: Connector) -> None:
    call = ToolCall("call_1", 0, "add", '{"b":1,"a":2}')
    messages = (
        Message("user", "look", images=(b"\x89PNG",)),
        Message("assistant", thinking="hm", tool_calls=(call,)),
        Message("tool", "3", tool_name="add", tool_call_id="call_1"),
    )
    async with FakeOllama() as server:
        engine = attach(connector, server.url, EngineKind.OLLAMA)
        await answer(engine, talk(messages=messages, tools=(TOOL,), think="high", keep_alive_ms=90_500, logprobs=True))
        path, body, _ = server.requests[-1]
        assert path == "/api/chat"
        assert body["messages"] == [
            {"role": "user", "content": "look", "images": ["iVBORw=="]},
            {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [
                {"id": "call_1", "function": {"index": 0, "name": "add", "arguments": {"b": 1, "a": 2}}}]},
            {"role": "tool", "content": "3", "tool_name": "add", "tool_call_id": "call_1"},
        ]  # fmt: skip
        assert (body["tools"], body["think"], body["keep_alive"]) == ([TOOL], "high", 90.5)
        assert (body["logprobs"], body["top_logprobs"]) == (True, 0)
        assert "format" not in body
        assert "truncate" not in body
        raw = ChatRequest(
            model="m",
            prompt="hi",
            raw=True,
            suffix="!",
            context=(1, 2),
            truncate=False,
            format='{"type":"array"}',
            keep_alive_ms=FOREVER_MS,
            options=Options(num_ctx=99, stop=("x",)),
        )
        assert (await answer(engine, raw))[-1].context[:2] == (1, 2)
        path, body, _ = server.requests[-1]
        assert path == "/api/generate"
        assert body == {"model": "tiny:latest", "stream": True, "prompt": "hi", "raw": True, "suffix": "!",
                        "context": [1, 2], "format": {"type": "array"}, "truncate": False, "keep_alive": -1,
                        "options": {"num_ctx": 99, "stop": ["x"]}}  # fmt: skip
        (chunk,) = await answer(engine, ChatRequest(model="m", keep_alive_ms=0))
        assert chunk.done_reason == "unload"
        with pytest.raises(Unsupported, match="force"):
            await answer(engine, talk(tools=(TOOL,), tool_choice="required"))


async def test_what_ollama_answers(connector: Connector) -> None:
    lines = (
        b'{"message":{"role":"assistant","content":"","thinking":"hm"},"done":false}\n'
        b'{"message":{"content":"x","tool_calls":[{"function":{"name":"add","arguments":{"b":1, "a":2}}}]},'
        b'"logprobs":[{"token":"x","logprob":-0.5,"bytes":[120]}],"done":false}\n\n'
        b'{"message":{"content":""},"done":true,"prompt_eval_count":7,"eval_count":2,"load_duration":3000000}'
    )
    async with RawServer(http_answer(lines)) as server:
        chunks = await answer(attach(connector, server.url, EngineKind.OLLAMA), talk(logprobs=True))
    assert chunks[0] == Chunk(thinking="hm")
    assert chunks[1].tool_calls == (ToolCall("call_0", 0, "add", '{"b":1, "a":2}'),)
    assert chunks[1].logprobs[0].logprob == -0.5
    assert chunks[2].done_reason == "stop"
    assert chunks[2].stats is not None
    assert (chunks[2].stats.prompt_tokens, chunks[2].stats.load_ms) == (7, 3.0)


async def test_a_far_runner_that_died_is_a_crash(connector: Connector) -> None:
    line = b'{"error":"model runner has unexpectedly stopped, this may be due to resource limitations"}\n'
    async with RawServer(http_answer(line)) as server:
        with pytest.raises(EngineCrashed, match="unexpectedly stopped"):
            await answer(attach(connector, server.url, EngineKind.OLLAMA), talk())


async def test_what_openai_is_sent(connector: Connector) -> None:
    async with FakeOpenAI() as server:
        engine = attach(connector, server.url, EngineKind.OPENAI)
        options = Options(temperature=0.5, num_predict=4, seed=-1, top_k=9, repeat_penalty=1.1, num_ctx=77)
        chunks = await answer(
            engine, talk(options=options, tools=(TOOL,), tool_choice="=add", format="json", think=False)
        )
        assert chunks[-1].done_reason == "length"
        path, body, _ = server.requests[-1]
        assert path == "/v1/chat/completions"
        assert body == {
            "model": "tiny:latest", "stream": True, "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": "hello"}], "temperature": 0.5, "max_tokens": 4, "top_k": 9,
            "repeat_penalty": 1.1, "repetition_penalty": 1.1, "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "add"}},
            "response_format": {"type": "json_object"}, "chat_template_kwargs": {"enable_thinking": False},
        }  # fmt: skip
        await answer(engine, ChatRequest(model="m", prompt="say", system="be kind", logprobs=True, top_logprobs=2))
        path, body, _ = server.requests[-1]
        assert path == "/v1/chat/completions"
        assert [message["content"] for message in body["messages"]] == ["be kind", "say"]
        assert (body["logprobs"], body["top_logprobs"]) == (True, 2)
        await answer(engine, ChatRequest(model="m", prompt="def", suffix="end"))
        path, body, _ = server.requests[-1]
        assert (path, body["prompt"], body["suffix"]) == ("/v1/completions", "def", "end")
        for refused in ({"template": "{{ .Prompt }}"}, {"context": (1,)}):
            with pytest.raises(Unsupported):
                await answer(engine, ChatRequest(model="m", prompt="x", **refused))
        with pytest.raises(InvalidOption, match="'sub'"):
            await answer(engine, talk(tools=(TOOL,), tool_choice="=sub"))
        with pytest.raises(EngineRefused, match="model 'other' not found"):
            await anext(engine.generate(ChatRequest(model="m"), "other"))
        assert await engine.describe("tiny") is None


async def test_what_openai_answers(connector: Connector) -> None:
    events = (
        b": ping\r\n\r\n"
        b'data: {"choices":[{"delta":{"role":"assistant","content":null,"reasoning_content":"hm"}}]}\r\n\r\n'
        b'data: {"choices":[{"delta":{"content":"x"},"logprobs":{"content":[{"token":"x","logprob":-1,'
        b'"top_logprobs":[{"token":"y","logprob":-2},{"token":"z","logprob":-3}]}]}}]}\n\n'
        b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c1",'
        b'"function":{"name":"add","arguments":""}}]}}]}\n\n'
        b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\\"a\\":"}}]}}]}\n\n'
        b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}},'
        b'{"index":1,"function":{"name":"sub","arguments":null}}]}}]}\n\n'
        b'data: {"choices":[{"delta":{},"finish_reason":"tool_calls"}]}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":9,'
        b'"prompt_tokens_details":{"cached_tokens":5}}}'
    )
    async with RawServer(http_answer(events)) as server:
        chunks = await answer(attach(connector, server.url, EngineKind.OPENAI), talk(logprobs=True, top_logprobs=1))
    assert chunks[0] == Chunk(thinking="hm")
    assert chunks[1].text == "x"
    assert [rival.token for rival in chunks[1].logprobs[0].top] == ["y"]
    first, second = chunks[2].tool_calls
    assert first == ToolCall("c1", 0, "add", '{"a":1}')
    assert (second.index, second.name, second.arguments) == (1, "sub", "{}")
    assert second.id.startswith("call_")
    last = chunks[3]
    assert last.done_reason == "stop"
    assert last.stats is not None
    assert (last.stats.prompt_tokens, last.stats.cached_tokens, last.stats.eval_tokens) == (7, 5, 9)
