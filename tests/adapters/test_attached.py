"""Attached engines: everything that can go wrong."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from attached_talk import answer, attach, talk
from ollamamax.adapters.engines.connector import Connector
from ollamamax.adapters.engines.http import Deadlines
from ollamamax.adapters.engines.ollama import OllamaEngine
from ollamamax.adapters.engines.openai import OpenAIEngine
from ollamamax.core.errors import (
    BadRequest,
    EngineError,
    EngineProtocol,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    InputTooLong,
    Unsupported,
)
from ollamamax.core.types import (
    Chunk,
    EmbedRequest,
    EngineKind,
)
from ollamamax.testing.clock import FakeClock, SeededDice
from servers import FakeOllama, FakeOpenAI, FakeServer, RawServer, http_answer

KINDS = (EngineKind.OLLAMA, EngineKind.OPENAI)
BRISK = Deadlines(connect_ms=2_000, idle_ms=300, probe_ms=300)
ONE_TEXT = EmbedRequest(model="m", inputs=("x",))


@pytest.fixture
async def connector() -> AsyncIterator[Connector]:
    made = Connector(FakeClock(), SeededDice(), BRISK)
    async with asyncio.timeout(20):
        yield made
        await made.aclose()


def fake(kind: EngineKind) -> FakeServer:
    return FakeOllama() if kind is EngineKind.OLLAMA else FakeOpenAI()


@pytest.mark.parametrize("kind", KINDS)
async def test_down(connector: Connector, kind: EngineKind) -> None:
    async with RawServer(b"") as server:
        url = server.url
    engine = attach(connector, url, kind)
    for call in (engine.models(), answer(engine, talk()), engine.embed(ONE_TEXT, "m")):
        with pytest.raises(EngineUnavailable, match="far can't be reached"):
            await call


@pytest.mark.parametrize("kind", KINDS)
async def test_silent(connector: Connector, kind: EngineKind) -> None:
    async with RawServer(None) as server:
        engine = attach(connector, server.url, kind)
        for call in (engine.models(), answer(engine, talk())):
            with pytest.raises(EngineTimeout, match="far did not answer in time"):
                await call


@pytest.mark.parametrize("kind", KINDS)
async def test_silent_in_the_middle(connector: Connector, kind: EngineKind) -> None:
    async with fake(kind) as server:
        server.next_gate.clear()
        engine = attach(connector, server.url, kind)
        chunks: list[Chunk] = []

        async def read() -> None:
            async for read in engine.generate(talk(), "m"):
                chunks.extend(read)

        with pytest.raises(EngineTimeout):
            await read()
        assert [chunk.text for chunk in chunks] == ["Hello"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "noise",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        http_answer(b"<html>hello</html>"),
        http_answer(b'{"models": 5, "data": 5}'),
        http_answer(b"\xff\xfe\x00"),
        http_answer(b'["nothing"]'),
    ],
    ids=["another protocol", "html", "wrong types", "no text", "another document"],
)
async def test_garbage_in_the_listing(connector: Connector, kind: EngineKind, noise: bytes) -> None:
    async with RawServer(noise) as server:
        with pytest.raises(EngineProtocol):
            await attach(connector, server.url, kind).models()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "noise",
    [
        b"data: <html>no</html>\n\n",
        b'data: {"message": 5, "choices": 7}\n\n',
        b'{"done": "perhaps"}\n',
        b"data: \xff\n\n",
    ],
)
async def test_garbage_in_the_answer(connector: Connector, kind: EngineKind, noise: bytes) -> None:
    async with RawServer(http_answer(noise)) as server:
        with pytest.raises((EngineProtocol, EngineUnavailable)):
            await answer(attach(connector, server.url, kind), talk())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_line_without_an_end(connector: Connector, kind: EngineKind) -> None:
    async with RawServer(http_answer(b"data: " + b"x" * (9 << 20))) as server:
        with pytest.raises(EngineProtocol, match="without an end of line"):
            await answer(attach(connector, server.url, kind), talk())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("failure", ["error", "close", "garbage"])
async def test_what_came_before_the_failure_is_told(connector: Connector, kind: EngineKind, failure: str) -> None:
    async with fake(kind) as server:
        server.fail_after, server.failure = 3, failure
        engine = attach(connector, server.url, kind)
        chunks: list[Chunk] = []

        async def read() -> None:
            async for read in engine.generate(talk(), "m"):
                chunks.extend(read)

        expected = {"error": EngineRefused, "close": EngineUnavailable, "garbage": EngineProtocol}[failure]
        with pytest.raises(expected, match={"error": "it broke", "close": "closed mid-stream"}.get(failure)):
            await read()
        assert "".join(chunk.text for chunk in chunks) == "Hello there,"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_body_cut_off(connector: Connector, kind: EngineKind) -> None:
    part = b'{"message":{"content":"a"}}\n' if kind is EngineKind.OLLAMA else b'data: {"choices":[{"text":"a"}]}\n\n'
    async with RawServer(http_answer(part, chunked=True)) as server:
        with pytest.raises(EngineUnavailable, match="closed mid-stream"):
            await answer(attach(connector, server.url, kind), talk())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
async def test_refusals_keep_text_and_status(connector: Connector, kind: EngineKind, status: int) -> None:
    async with fake(kind) as server:
        server.refusal = (status, "not today")
        engine = attach(connector, server.url, kind)
        for call in (
            engine.models(),
            answer(engine, talk()),
            engine.embed(ONE_TEXT, "m"),
        ):
            with pytest.raises(EngineRefused, match="not today") as caught:
                await call
            assert caught.value.status == status
            assert caught.value.is_clients_fault is (status in (400, 401, 404))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error":{"message":"too much","type":"x"}}', "too much"),
        (b"<h1>Bad gateway</h1>", "<h1>Bad gateway</h1>"),
        (b"", "engine far answered with status 502"),
    ],
)
async def test_refusals_of_other_forms(connector: Connector, body: bytes, text: str) -> None:
    async with RawServer(http_answer(body, "502 Bad Gateway")) as server:
        with pytest.raises(EngineRefused) as caught:
            await answer(attach(connector, server.url, EngineKind.OPENAI), talk())
    assert str(caught.value) == text


async def test_a_redirect_is_not_followed(connector: Connector) -> None:
    away = b"HTTP/1.1 301 Moved\r\nLocation: https://elsewhere.example/v1\r\nContent-Length: 0\r\n\r\n"
    async with RawServer(away) as server:
        with pytest.raises(EngineProtocol, match="redirects to https://elsewhere"):
            await attach(connector, server.url, EngineKind.OPENAI).models()


@pytest.mark.parametrize("kind", KINDS)
async def test_connections_are_used_again_and_leavers_noticed(connector: Connector, kind: EngineKind) -> None:
    async with fake(kind) as server:
        engine = attach(connector, server.url, kind, api_key="secret")
        for _ in range(3):
            assert (await answer(engine, talk()))[-1].done_reason == "stop"
        assert isinstance(engine, OllamaEngine | OpenAIEngine)
        assert len(engine._http._wire._open) == 1
        assert all(headers["Authorization"] == "Bearer secret" for _, _, headers in server.requests)
        server.next_gate.clear()
        stream = engine.generate(talk(), "m")
        await anext(stream)
        await stream.aclose()
        async with asyncio.timeout(1):
            await server.until(lambda: server.left == 1)


@pytest.mark.parametrize(
    "url", ["", "far", "ftp://far", "http://", "http://far:99999", "http://[", "http://u:p@far", "http://far/?a=b"]
)
async def test_urls_that_can_not_be_used(connector: Connector, url: str) -> None:
    with pytest.raises(BadRequest, match="engine far"):
        attach(connector, url, EngineKind.OLLAMA)


async def test_our_own_kind_is_not_attached(connector: Connector) -> None:
    with pytest.raises(BadRequest, match="llamacpp can't be attached"):
        attach(connector, "http://far", EngineKind.LLAMACPP)


@pytest.mark.parametrize("kind", KINDS)
async def test_embeddings_that_are_none(connector: Connector, kind: EngineKind) -> None:
    vector = b"[1.0, null]"
    whole = b'{"embeddings":[%s],"data":[{"embedding":%s}]}' % (vector, vector)
    async with RawServer(http_answer(whole)) as server:
        with pytest.raises(BadRequest, match=r"^embedding contains NaN or Inf values$"):
            await attach(connector, server.url, kind).embed(ONE_TEXT, "m")
    async with RawServer(http_answer(b'{"embeddings":[],"data":[]}')) as server:
        with pytest.raises(EngineProtocol, match="0 vectors for 1 inputs"):
            await attach(connector, server.url, kind).embed(ONE_TEXT, "m")


async def test_refusals_of_embeddings_are_explained(connector: Connector) -> None:
    async with FakeOllama() as far, FakeOpenAI() as open_far:
        far.refusal = (400, "the input length exceeds the context length")
        open_far.refusal = (501, "start it with --embeddings")
        failures: list[tuple[FakeServer, EngineKind, type[EngineError] | type[BadRequest]]] = [
            (far, EngineKind.OLLAMA, InputTooLong),
            (open_far, EngineKind.OPENAI, Unsupported),
        ]
        for server, kind, expected in failures:
            with pytest.raises(expected):
                await attach(connector, server.url, kind).embed(ONE_TEXT, "m")
