"""OpenAI's other routes and Anthropic's, as bytes over the listener."""

import base64
import json
import struct
from typing import Any

import httpx
import pytest
from api_fakes import TINY, TOKEN, Node, serving
from msgspec.structs import replace

from ollamamax.core.errors import EngineCrashed, OllamaMaxError, QueueFull, StoreError, Unsupported
from ollamamax.core.types import Chunk, GenerationStats, OutcomeKind, ToolCall

HELLO = "Hello there, how are you?"
USER = [{"role": "user", "content": "hi you"}]
STATS = GenerationStats(prompt_tokens=3, eval_tokens=2)
ROUTES = {
    "/v1/completions": {"model": "tiny", "prompt": "hi"},
    "/v1/responses": {"model": "tiny", "input": "hi"},
    "/v1/messages": {"model": "tiny", "max_tokens": 50, "messages": USER},
}
ANSWERING = list(ROUTES)
OPENAI = [*ANSWERING[:2], "/v1/embeddings"]


def named(reply: httpx.Response) -> list[tuple[str, Any]]:
    assert reply.headers["content-type"] == "text/event-stream"
    parts = reply.text.split("\n\n")
    assert parts.pop() == ""
    return [(part.split("\n")[0].removeprefix("event: "), json.loads(part.split("data: ", 1)[1])) for part in parts]


def unnamed(reply: httpx.Response) -> list[Any]:
    assert reply.headers["content-type"] == "text/event-stream"
    parts = reply.text.split("\n\n")
    assert parts.pop() == ""
    return [part[6:] if part == "data: [DONE]" else json.loads(part[6:]) for part in parts]


def ask(route: str, **more: Any) -> dict[str, Any]:
    return {**ROUTES[route], **more}


async def test_completions() -> None:
    async with serving() as node:
        whole = (await node.post("/v1/completions", ask("/v1/completions"))).json()
        assert whole["object"] == "text_completion"
        assert whole["id"].startswith("cmpl-")
        assert whole["choices"] == [{"text": HELLO, "index": 0, "finish_reason": "stop"}]
        assert whole["usage"]["completion_tokens"] == 7
        asked = ask("/v1/completions", stream=True, stream_options={"include_usage": True}, suffix="end")
        *told, done = unnamed(await node.post("/v1/completions", asked))
        assert done == "[DONE]"
        assert "".join(item["choices"][0]["text"] for item in told[:-1]) == HELLO
        assert told[-1]["usage"] == whole["usage"]
        assert node.engine.requests[-1][0].suffix == "end"


async def test_a_completion_of_nothing_loads_the_model() -> None:
    async with serving() as node:
        told = (await node.post("/v1/completions", {"model": "tiny"})).json()
        assert told["choices"] == [{"text": "", "index": 0, "finish_reason": "load"}]


async def test_embeddings() -> None:
    async with serving() as node:
        told = (await node.post("/v1/embeddings", {"model": "tiny", "input": ["a b", "c"], "dimensions": 4})).json()
        assert [len(item["embedding"]) for item in told["data"]] == [4, 4]
        assert told["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
        packed = {"model": "tiny", "input": "a b", "dimensions": 4, "encoding_format": "base64"}
        other = (await node.post("/v1/embeddings", packed)).json()
        vector = struct.unpack("<4f", base64.b64decode(other["data"][0]["embedding"]))
        assert vector == pytest.approx(told["data"][0]["embedding"], abs=1e-6)


async def test_responses() -> None:
    async with serving() as node:
        reply = await node.post("/v1/responses", ask("/v1/responses", metadata={"a": "b"}))
        assert "cache-control" not in reply.headers
        whole = reply.json()
        assert whole["output"][0]["content"][0]["text"] == HELLO
        assert (whole["status"], whole["metadata"], whole["usage"]["output_tokens"]) == ("completed", {"a": "b"}, 7)
        reply = await node.post("/v1/responses", ask("/v1/responses", stream=True))
        assert reply.headers["cache-control"] == "no-cache"
        told = named(reply)
        assert "".join(body["delta"] for name, body in told if name == "response.output_text.delta") == HELLO
        assert told[-1][0] == "response.completed"
        assert told[-1][1]["response"]["id"] != whole["id"]


async def test_messages() -> None:
    async with serving() as node:
        headers = {"x-request-id": "r-1", "anthropic-version": "2023-06-01"}
        reply = await node.post("/v1/messages", ask("/v1/messages"), headers=headers)
        assert reply.headers["request-id"] == "req_r-1"
        assert reply.json()["content"] == [{"type": "text", "text": HELLO}]
        assert reply.json()["usage"] == {"input_tokens": 2, "output_tokens": 7}
        reply = await node.post("/v1/messages", ask("/v1/messages", stream=True))
        assert reply.headers["cache-control"] == "no-cache"
        told = named(reply)
        assert "".join(body["delta"]["text"] for name, body in told if name == "content_block_delta") == HELLO
        assert told[-2][1]["usage"] == {"input_tokens": 2, "output_tokens": 7}
        assert told[-1][0] == "message_stop"


async def test_tokens_are_counted_by_the_engine() -> None:
    async with serving() as node:
        reply = await node.post("/v1/messages/count_tokens", {"model": "tiny", "messages": USER})
        assert (reply.status_code, reply.json()) == (200, {"input_tokens": 2})
        assert node.engine.requests[-1][0].count_only
        node.engine.fail_first = Unsupported("it can't count")
        reply = await node.post("/v1/messages/count_tokens", {"model": "tiny", "messages": USER})
        assert reply.status_code == 400
        assert reply.json()["error"] == {"type": "invalid_request_error", "message": "it can't count"}


THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}


@pytest.mark.parametrize(
    ("capabilities", "think"), [(("completion",), None), (("completion", "thinking"), True), ((), True)]
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_thinking_is_asked_only_of_models_that_may_think(
    capabilities: tuple[str, ...], think: object, path: str
) -> None:
    async with serving() as node:
        node.fleet.rows = [replace(TINY, capabilities=capabilities)]
        assert (await node.post(path, ask("/v1/messages", **THINKING))).status_code == 200
        assert node.engine.requests[-1][0].think is think


async def test_thinking_of_a_model_that_nobody_has() -> None:
    async with serving() as node:
        reply = await node.post("/v1/messages", ask("/v1/messages", **THINKING) | {"model": "nobody"})
        assert reply.json()["error"] == {"type": "not_found_error", "message": "model 'nobody' not found"}


async def test_the_key_may_stand_in_a_header_of_its_own() -> None:
    async with serving() as node:
        node.verifier.token = TOKEN
        key = TOKEN.removeprefix("Bearer ")
        assert (await node.post("/v1/messages", ask("/v1/messages"), headers={"x-api-key": key})).status_code == 200
        reply = await node.post("/v1/messages", ask("/v1/messages"), headers={"x-api-key": "wrong"})
        assert reply.status_code == 401
        assert reply.json()["error"]["type"] == "authentication_error"
        both = {"x-api-key": key, "Authorization": "Bearer wrong"}
        assert (await node.post("/v1/messages", ask("/v1/messages"), headers=both)).status_code == 401


def openai_error(text: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": text, "type": kind, "param": None, "code": None}}


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "text"),
    [
        ("/v1/completions", {"prompt": "a"}, 404, "not_found_error", "model '' not found"),
        ("/v1/completions", {"model": "x", "prompt": "a"}, 404, "not_found_error", "model 'x' not found"),
        ("/v1/completions", {"model": "a b", "prompt": "a"}, 400, "invalid_request_error", "invalid model name"),
        ("/v1/completions", b"", 400, "invalid_request_error", "missing request body"),
        ("/v1/embeddings", {"input": "a"}, 404, "not_found_error", "model '' not found"),
        (
            "/v1/embeddings",
            {"model": "x", "input": "a"},
            404,
            "not_found_error",
            'model "x" not found, try pulling it first',
        ),
        ("/v1/embeddings", {"model": "tiny", "input": [1, 2]}, 400, "invalid_request_error", "invalid input type"),
        ("/v1/responses", {"input": "a"}, 400, "invalid_request_error", "model is required"),
        ("/v1/responses", {"model": "x", "input": "a"}, 404, "not_found_error", "model 'x' not found"),
    ],
)
async def test_bad_requests_to_openais_routes(path: str, body: Any, status: int, kind: str, text: str) -> None:
    async with serving() as node:
        reply = await node.post(path, body)
        assert (reply.status_code, reply.json()) == (status, openai_error(text, kind))


@pytest.mark.parametrize(
    ("body", "status", "kind", "text"),
    [
        ({}, 400, "invalid_request_error", "model is required"),
        ({"model": "x"}, 400, "invalid_request_error", "max_tokens is required and must be positive"),
        ({"model": "x", "max_tokens": 1}, 400, "invalid_request_error", "messages is required"),
        (b"[", 400, "invalid_request_error", "unexpected EOF"),
        (ask("/v1/messages") | {"model": "x"}, 404, "not_found_error", "model 'x' not found"),
    ],
)
async def test_bad_messages(body: Any, status: int, kind: str, text: str) -> None:
    async with serving() as node:
        reply = await node.post("/v1/messages", body)
        request_id = f"req_{reply.headers['x-request-id']}"
        error = {"type": "error", "error": {"type": kind, "message": text}, "request_id": request_id}
        assert (reply.status_code, reply.json()) == (status, error)
        assert reply.headers["request-id"] == request_id


@pytest.mark.parametrize("path", ANSWERING)
@pytest.mark.parametrize(("error", "status"), [(QueueFull(), 503), (EngineCrashed("crashed"), 500)])
async def test_an_error_before_the_first_chunk_decides_the_status(
    path: str, error: OllamaMaxError, status: int
) -> None:
    async with serving() as node:
        node.engine.fail_first = error
        reply = await node.post(path, ask(path, stream=True))
        assert reply.status_code == status
        told = reply.json()["error"]
        assert told["message"] == str(error)
        expected = "overloaded_error" if status == 503 and path == "/v1/messages" else "api_error"
        assert told["type"] == expected
        assert reply.headers.get("retry-after") == ("1" if status == 503 else None)


async def failing(node: Node, path: str) -> httpx.Response:
    node.engine.fail_mid = EngineCrashed("it broke")
    reply = await node.post(path, ask(path, stream=True))
    assert reply.status_code == 200
    return reply


async def test_an_error_after_the_first_chunk_is_the_last_event() -> None:
    async with serving() as node:
        first, last = unnamed(await failing(node, "/v1/completions"))
        assert first["choices"][0]["text"] == "Hello"
        assert last == openai_error("it broke", "api_error")
        name, body = named(await failing(node, "/v1/responses"))[-1]
        assert name == "response.failed"
        assert body["response"]["error"] == {"code": "server_error", "message": "it broke"}
        reply = await failing(node, "/v1/messages")
        name, body = named(reply)[-1]
        assert name == "error"
        assert body["error"] == {"type": "api_error", "message": "it broke"}
        assert body["request_id"] == reply.headers["request-id"]


@pytest.mark.parametrize("path", [*OPENAI, "/v1/messages", "/v1/messages/count_tokens"])
async def test_what_never_reached_the_gateway_has_an_outcome(path: str) -> None:
    async with serving() as node:
        await node.post(path, b"{")
        [outcome] = node.meter.outcomes
        assert (outcome.route, outcome.kind) == (path, OutcomeKind.CLIENT_ERROR)
        node.fleet.fault = StoreError("the disk is gone")
        if "messages" in path:
            reply = await node.post(path, ask("/v1/messages", **THINKING))
            assert reply.status_code == 500
            assert node.meter.outcomes[-1].error_code == "store"


@pytest.mark.parametrize("path", [*OPENAI, "/v1/messages", "/v1/messages/count_tokens"])
async def test_other_methods_and_origins(path: str) -> None:
    async with serving() as node:
        reply = await node.client.get(path)
        assert (reply.status_code, reply.text, reply.headers["allow"]) == (405, "405 method not allowed", "POST")
        origin = "http://localhost:3000"
        reply = await node.post(path, b"{", headers={"Origin": origin})
        assert reply.headers["access-control-allow-origin"] == origin
        assert (await node.post(path, b"{", headers={"Origin": "http://evil.example"})).status_code == 403


async def test_a_call_in_every_dialect() -> None:
    async with serving() as node:
        call = ToolCall("call_1", 0, "now", '{"zone":"UTC"}')
        node.engine.script = [[Chunk(thinking="hm", tool_calls=(call,))], [Chunk(done_reason="stop", stats=STATS)]]
        told = (await node.post("/v1/responses", ask("/v1/responses"))).json()
        assert [item["type"] for item in told["output"]] == ["reasoning", "function_call"]
        assert told["output"][1]["arguments"] == call.arguments
        told = (await node.post("/v1/messages", ask("/v1/messages"))).json()
        assert [block["type"] for block in told["content"]] == ["thinking", "tool_use"]
        assert told["content"][1]["input"] == {"zone": "UTC"}
        assert told["stop_reason"] == "tool_use"
