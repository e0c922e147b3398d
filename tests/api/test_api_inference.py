import asyncio
import json
from typing import Any

import pytest
from api_fakes import ask, serving

from ollamamax.core.errors import (
    EngineCrashed,
    EngineRefused,
    InvalidOption,
    NoMemory,
    OllamaMaxError,
    QueueFull,
    Unsupported,
)
from ollamamax.core.types import Chunk, GenerationStats, OutcomeKind, ToolCall

HELLO = "Hello there, how are you?"


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def events(text: str) -> list[Any]:
    parts = text.split("\n\n")
    assert parts.pop() == ""
    return [part[6:] if part == "data: [DONE]" else json.loads(part[6:]) for part in parts]


async def test_chat_streams_by_default() -> None:
    async with serving() as node:
        reply = await node.post("/api/chat", ask())
        assert reply.status_code == 200
        assert reply.headers["content-type"] == "application/x-ndjson"
        assert reply.headers["transfer-encoding"] == "chunked"
        told = lines(reply.text)
        assert "".join(line["message"]["content"] for line in told) == HELLO
        assert [line["done"] for line in told] == [False] * 7 + [True]
        assert {line["model"] for line in told} == {"tiny"}
        assert told[-1]["done_reason"] == "stop"
        assert told[-1]["eval_count"] == 7
        assert told[-1]["total_duration"] >= 1
        [context] = node.gateway.contexts
        assert (context.route, context.principal.name) == ("/api/chat", "someone")
        assert node.meter.outcomes == []  # the gateway writes them


async def test_chat_at_once() -> None:
    async with serving() as node:
        reply = await node.post("/api/chat", ask(stream=False))
        assert reply.headers["content-type"] == "application/json; charset=utf-8"
        told = reply.json()
        assert told["message"] == {"role": "assistant", "content": HELLO}
        assert told["done"] is True


async def test_generate_brings_context() -> None:
    async with serving() as node:
        told = lines((await node.post("/api/generate", {"model": "tiny", "prompt": "hi"})).text)
        assert "".join(line["response"] for line in told) == HELLO
        assert len(told[-1]["context"]) == 8
        whole = (await node.post("/api/generate", {"model": "tiny", "prompt": "hi", "stream": False})).json()
        assert whole["context"] == told[-1]["context"]
        assert whole["response"] == HELLO


@pytest.mark.parametrize(("keep_alive", "reason"), [(None, "load"), (0, "unload")])
async def test_nothing_to_answer_is_one_object(keep_alive: int | None, reason: str) -> None:
    async with serving() as node:
        told = await node.post("/api/generate", {"model": "tiny", "keep_alive": keep_alive})
        assert told.headers["content-type"].startswith("application/json")
        assert told.json().keys() == {"model", "created_at", "response", "done", "done_reason"}
        assert told.json()["done_reason"] == reason
        told = await node.post("/api/chat", {"model": "tiny", "messages": [], "keep_alive": keep_alive})
        assert told.json()["message"] == {"role": "assistant", "content": ""}
        assert told.json()["done_reason"] == reason


async def test_embed() -> None:
    async with serving() as node:
        told = (await node.post("/api/embed", {"model": "tiny", "input": ["a b", "c"]})).json()
        assert [len(vector) for vector in told["embeddings"]] == [8, 8]
        assert told["prompt_eval_count"] == 3
        assert (await node.post("/api/embed", {"model": "tiny"})).json() == {"model": "tiny", "embeddings": []}


async def test_completion_streams_events() -> None:
    async with serving() as node:
        reply = await node.post("/v1/chat/completions", ask(stream=True, stream_options={"include_usage": True}))
        assert reply.headers["content-type"] == "text/event-stream"
        *told, done = events(reply.text)
        assert done == "[DONE]"
        assert "".join(item["choices"][0]["delta"].get("content", "") for item in told[:-1]) == HELLO
        assert told[0]["choices"][0]["delta"]["role"] == "assistant"
        assert told[-2]["choices"][0]["finish_reason"] == "stop"
        assert told[-1]["usage"]["completion_tokens"] == 7
        assert len({(item["id"], item["created"]) for item in told}) == 1


async def test_completion_at_once_is_the_default() -> None:
    async with serving() as node:
        call = ToolCall("call_1", 0, "now", "{}")
        node.engine.script = [
            [Chunk(tool_calls=(call,))],
            [Chunk(done_reason="stop", stats=GenerationStats(3, eval_tokens=2))],
        ]
        told = (await node.post("/v1/chat/completions", ask())).json()
        assert told["object"] == "chat.completion"
        assert told["choices"][0]["finish_reason"] == "tool_calls"
        assert told["choices"][0]["message"]["tool_calls"][0]["id"] == "call_1"
        assert told["usage"]["total_tokens"] == 5


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/api/generate", {"model": ""}, 404, "model '' not found"),
        ("/api/generate", {"model": "../x", "prompt": "a"}, 400, "invalid model name"),
        ("/api/generate", {"model": "Nobody", "prompt": "a"}, 404, "model 'Nobody' not found"),
        ("/api/chat", {"messages": []}, 400, "model is required"),
        ("/api/chat", {"model": "a b", "messages": []}, 400, "invalid model name"),
        ("/api/chat", {"model": "nobody:v1", "messages": []}, 404, "model 'nobody:v1' not found"),
        ("/api/embed", {"input": "x"}, 404, "model '' not found"),
        ("/api/embed", {"model": "a/b/c/d", "input": "x"}, 400, "invalid model name"),
        ("/api/embed", {"model": "nobody", "input": "x"}, 404, 'model "nobody" not found, try pulling it first'),
        ("/api/chat", b"", 400, "missing request body"),
        ("/api/generate", b" \n", 400, "missing request body"),
        ("/api/embed", b"", 400, "missing request body"),
        ("/api/chat", b'{"model": "tiny", "messages": [', 400, "unexpected EOF"),
        (
            "/api/chat",
            ask(format="xml"),
            500,
            'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object',
        ),
        ("/api/chat", ask(options={"num_ctx": "x"}), 500, 'option "num_ctx" must be of type integer'),
        (
            "/api/chat",
            {"model": "tiny", "messages": [{"content": []}]},
            400,
            "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string",
        ),
    ],
)
async def test_bad_requests(path: str, body: Any, status: int, text: str) -> None:
    async with serving() as node:
        reply = await node.post(path, body)
        assert (reply.status_code, reply.json()) == (status, {"error": text})
        assert reply.headers["content-type"] == "application/json; charset=utf-8"


async def test_a_request_that_never_reached_the_gateway_has_an_outcome() -> None:
    async with serving() as node:
        await node.post("/api/chat", b"{")
        await node.post("/api/chat", ask() | {"model": "nobody"})
        [outcome] = node.meter.outcomes
        assert (outcome.route, outcome.kind, outcome.error_code) == (
            "/api/chat",
            OutcomeKind.CLIENT_ERROR,
            "bad_request",
        )


@pytest.mark.parametrize(
    ("body", "status", "kind", "text"),
    [
        ({"model": "x", "messages": []}, 400, "invalid_request_error", "[] is too short - 'messages'"),
        (ask() | {"model": "x"}, 404, "not_found_error", "model 'x' not found"),
        (b"", 400, "invalid_request_error", "missing request body"),
    ],
)
async def test_bad_completions(body: Any, status: int, kind: str, text: str) -> None:
    async with serving() as node:
        reply = await node.post("/v1/chat/completions", body)
        told = {"error": {"message": text, "type": kind, "param": None, "code": None}}
        assert (reply.status_code, reply.json()) == (status, told)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (QueueFull(), 503),
        (NoMemory("no room"), 503),
        (EngineCrashed("crashed"), 500),
        (EngineRefused("too long", 400), 400),
        (EngineRefused("no embeddings", 501), 501),
        (EngineRefused("bad key", 401), 502),
        (EngineRefused("odd", 200), 502),
        (Unsupported('"tiny" does not support chat'), 400),
        (InvalidOption("x"), 500),
    ],
)
async def test_an_error_before_the_first_chunk_decides_the_status(
    error: OllamaMaxError, status: int, stream: bool
) -> None:
    async with serving() as node:
        node.engine.fail_first = error
        reply = await node.post("/api/chat", ask(stream=stream))
        assert (reply.status_code, reply.json()) == (status, {"error": str(error)})
        assert reply.headers.get("retry-after") == ("1" if status == 503 else None)


async def test_an_unexpected_error_tells_only_where_to_look() -> None:
    async with serving() as node:
        node.engine.fail_first = ZeroDivisionError("secret")
        reply = await node.post("/api/chat", ask(), headers={"X-Request-Id": "r-1"})
        assert (reply.status_code, reply.json()) == (
            500,
            {"error": "internal error; the log tells more of request r-1"},
        )


async def test_an_error_after_the_first_chunk_is_the_last_line() -> None:
    async with serving() as node:
        node.engine.fail_mid = EngineCrashed("model runner has unexpectedly stopped")
        reply = await node.post("/api/chat", ask())
        assert reply.status_code == 200
        first, last = lines(reply.text)
        assert first["message"]["content"] == "Hello"
        assert last == {"error": "model runner has unexpectedly stopped"}
        first, last = events((await node.post("/v1/chat/completions", ask(stream=True))).text)
        assert first["choices"][0]["delta"]["content"] == "Hello"
        assert last["error"]["message"] == "model runner has unexpectedly stopped"
        assert (await node.post("/api/chat", ask(stream=False))).status_code == 500


async def test_an_unexpected_error_after_the_first_chunk() -> None:
    async with serving() as node:
        node.engine.fail_mid = ZeroDivisionError("secret")
        *_, last = lines((await node.post("/api/chat", ask())).text)
        assert last["error"].startswith("internal error")


@pytest.mark.parametrize("script", [[], [[Chunk(text="half")]]])
async def test_no_answer_ends_in_silence(script: list[list[Chunk]]) -> None:
    async with serving() as node:

        async def cut_short(*_: Any) -> Any:
            for chunks in script:
                yield chunks

        node.gateway.chat = cut_short  # type: ignore[method-assign, assignment]
        text = "the answer ended before it was complete"
        assert lines((await node.post("/api/chat", ask())).text)[-1] == {"error": text}
        reply = await node.post("/api/chat", ask(stream=False))
        assert (reply.status_code, reply.json()) == (502, {"error": text})


async def test_a_batch_of_chunks_is_sent_together_in_order() -> None:
    async with serving() as node:
        texts = [f"{number} " for number in range(500)]
        node.engine.script = [
            [Chunk(text=text) for text in texts],
            [Chunk(token_ids=(1,))],
            [Chunk(done_reason="stop")],
        ]
        told = lines((await node.post("/api/generate", {"model": "tiny", "prompt": "x"})).text)
        assert [line["response"] for line in told] == [*texts, ""]


async def test_a_forbidden_model() -> None:
    async with serving() as node:
        node.gateway.forbidden = {"infer"}
        reply = await node.post("/api/chat", ask())
        assert (reply.status_code, reply.json()) == (403, {"error": "'someone' may not infer"})


async def test_many_streams_at_once() -> None:
    async with serving() as node:
        node.engine.next_gate.clear()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(node.post("/api/chat", ask(f"{number}"))) for number in range(32)]
            await node.engine.until(lambda: node.engine.active == 32)
            node.engine.next_gate.set()
        for task in tasks:
            assert "".join(line["message"]["content"] for line in lines(task.result().text)) == HELLO
