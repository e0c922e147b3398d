"""Clients that leave, stall, send too much, too little or too slowly; and the end of the node."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime

import pytest
from api_fakes import DIGEST, LIMIT_S, Node, ask, http, serving

from ollamamax.adapters.network.sockets import listening
from ollamamax.api.ports import ApiConfig
from ollamamax.api.server import new_event_loop, serve
from ollamamax.core.types import Chunk, OutcomeKind


async def read_reply(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and a body of known length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers.get("content-length", "0")))


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_mid_stream_frees_the_engine(path: str, stream: bool) -> None:
    async with serving() as node:
        node.engine.next_gate.clear()
        reader, writer = await node.dial()
        writer.write(http("POST", path, json.dumps(ask(stream=stream)).encode()))
        await node.engine.until(lambda: node.engine.active == 1)
        if stream:
            await reader.readuntil(b"Hello")
        writer.close()
        await node.engine.until(lambda: node.engine.active == 0)
        assert node.engine.cancelled == 1


@pytest.mark.parametrize(("path", "body"), [("/api/chat", ask()), ("/api/embed", {"model": "tiny", "input": "x"})])
async def test_a_client_that_leaves_before_the_first_token_frees_the_engine(path: str, body: object) -> None:
    async with serving() as node:
        node.engine.first_gate.clear()
        node.engine.embed_gate.clear()
        _, writer = await node.dial()
        writer.write(http("POST", path, json.dumps(body).encode()))
        await node.engine.until(lambda: node.engine.active == 1)
        writer.close()
        await node.engine.until(lambda: node.engine.active == 0)


async def test_a_client_that_leaves_amid_its_body() -> None:
    async with serving() as node:
        _, writer = await node.dial()
        writer.write(http("POST", "/api/chat", b'{"mod', "Content-Length: 100"))
        await writer.drain()
        writer.close()
        while not node.meter.outcomes:
            await asyncio.sleep(0)
        assert node.meter.outcomes[0].kind is OutcomeKind.CLIENT_GONE


async def test_a_client_that_stops_reading_is_given_up() -> None:
    async with serving(stall_timeout_ms=100) as node:
        node.engine.script = [*([Chunk(text="x" * 60_000)] for _ in range(2000)), [Chunk(done_reason="stop")]]
        _, writer = await node.dial()
        writer.write(http("POST", "/api/chat", json.dumps(ask()).encode()))
        await node.engine.until(lambda: node.engine.active == 1)
        await node.engine.until(lambda: node.engine.active == 0)
        assert node.engine.finished == 0
        writer.close()


async def test_a_slow_client_gets_all_of_it() -> None:
    async with serving() as node:
        pieces = [f"{number:06d}" + "x" * 20_000 for number in range(300)]
        node.engine.script = [*([Chunk(text=piece)] for piece in pieces), [Chunk(done_reason="stop")]]
        reader, writer = await node.dial()
        writer.write(http("POST", "/api/generate", b'{"model":"tiny","prompt":"x"}', "Connection: close"))
        await node.engine.until(lambda: node.engine.active == 1)
        # It waits for the reader: the engine is not drained into memory.
        for _ in range(200):
            await asyncio.sleep(0)
        assert node.engine.active == 1
        heard = await reader.read()
        assert heard.count(b'"done":false') == 300
        assert all(f'"{piece[:6]}'.encode() in heard for piece in pieces)
        assert heard.endswith(b"0\r\n\r\n")
        writer.close()


async def test_a_huge_declared_body_is_refused_before_it_is_read() -> None:
    async with serving() as node:
        reader, writer = await node.dial()
        writer.write(http("POST", "/api/chat", b'{"model":', f"Content-Length: {100 << 20}"))
        status, headers, body = await read_reply(reader)
        assert status == 413
        assert json.loads(body) == {"error": f"the request's body exceeds the limit of {64 << 20} bytes"}
        assert headers["connection"] == "close"
        writer.close()


async def test_a_client_that_insists_on_sending_it_all_still_gets_the_reply() -> None:
    async with serving() as node:
        reply = await node.post("/v1/chat/completions", b"x" * (100 << 20))
        assert reply.status_code == 413
        assert reply.json()["error"]["type"] == "api_error"
        assert (await node.post("/api/chat", ask())).status_code == 200


async def test_a_huge_chunked_body_is_refused() -> None:
    async with serving(max_body_bytes=1000) as node:

        async def pieces() -> object:
            for _ in range(50):
                yield b"x" * 100

        reply = await node.client.post("/api/chat", content=pieces())  # type: ignore[arg-type]
        assert reply.status_code == 413
        fits = json.dumps(ask()).encode()

        async def fitting() -> object:
            yield fits[:10]
            yield fits[10:]

        assert (await node.client.post("/api/chat", content=fitting())).status_code == 200  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/api/chat", f"/api/blobs/{DIGEST}"])
async def test_a_half_sent_body_times_out(path: str) -> None:
    async with serving(body_timeout_ms=50) as node:
        reader, writer = await node.dial()
        writer.write(http("POST", path, b'{"mod', "Content-Length: 100"))
        status, headers, body = await read_reply(reader)
        assert (status, json.loads(body)) == (408, {"error": "the request's body did not arrive in time"})
        assert headers["connection"] == "close"
        assert await reader.read() == b""
        writer.close()


async def test_encodings_are_refused() -> None:
    async with serving() as node:
        reply = await node.post("/v1/chat/completions", b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
        assert reply.status_code == 400
        assert reply.json()["error"]["message"] == "unsupported content encoding: gzip"


async def test_close_lets_answers_finish() -> None:
    async with serving() as node:
        node.engine.next_gate.clear()
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(node.post("/api/chat", ask()))
            await node.engine.until(lambda: node.engine.active == 1)
            closing = group.create_task(node.listener.close(int(LIMIT_S * 1000)))
            await asyncio.sleep(0)
            node.engine.next_gate.set()
        assert closing.done()
        assert json.loads(answer.result().text.splitlines()[-1])["done"] is True
        with pytest.raises(OSError):
            await node.dial()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, new_event_loop], ids=["asyncio's", "the product's"])
def test_close_answers_who_is_connected_already(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A load balancer must not see a reset: neither a new connection in the system's queue, nor one that was used."""

    async def scenario() -> None:
        async with serving() as node:
            kept_reader, kept = await node.dial()
            kept.write(http("GET", "/api/version"))
            assert (await read_reply(kept_reader))[1].get("connection") != "close"
            with closing(socket.create_connection(("127.0.0.1", node.listener.port))) as queued:
                # Nothing runs between this and the closing: the listener has not seen either of them.
                queued.sendall(http("GET", "/api/version"))
                kept.write(http("GET", "/api/version"))
                await node.listener.close(int(LIMIT_S * 1000))
                answer = b"".join(iter(lambda: queued.recv(4096), b""))
            assert answer.startswith(b"HTTP/1.1 200 OK")
            status, headers, _ = await read_reply(kept_reader)
            assert (status, headers["connection"]) == (200, "close")
            kept.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


async def test_close_does_not_wait_for_clients_that_are_idle_or_never_are() -> None:
    async with serving() as node:
        _, idle = await node.dial()
        reader, busy = await node.dial()
        ended = asyncio.create_task(node.listener.close(int(LIMIT_S * 1000)))
        for _ in range(2):
            busy.write(http("GET", "/api/version"))
        assert (await reader.read()).count(b"200 OK") == 1
        await ended
        idle.close()
        busy.close()


async def test_close_ends_what_does_not_finish_with_a_word() -> None:
    async with serving() as node:
        node.engine.next_gate.clear()
        node.engine.embed_gate.clear()
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(node.post("/api/chat", ask()))
            whole = group.create_task(node.post("/api/chat", ask(stream=False)))
            vectors = group.create_task(node.post("/api/embed", {"model": "tiny", "input": "x"}))
            await node.engine.until(lambda: node.engine.active == 3)
            await node.listener.close(50)
        told = {"error": "the server is shutting down"}
        assert json.loads(answer.result().text.splitlines()[-1]) == told
        for reply in (whole.result(), vectors.result()):
            assert (reply.status_code, reply.json()) == (503, told)
        await node.listener.close(0)


async def test_close_does_not_wait_for_what_can_not_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollamamax.api.server._LAST_WORDS_S", 0.5)
    async with serving() as node:
        stuck, freed = asyncio.Event(), asyncio.Event()

        async def deaf(*_: object) -> AsyncIterator[list[Chunk]]:
            stuck.set()
            while not freed.is_set():
                with suppress(asyncio.CancelledError):
                    await freed.wait()
            yield [Chunk(done_reason="stop")]

        node.gateway.chat = deaf  # type: ignore[method-assign, assignment]
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(node.post("/api/chat", ask()))
            await stuck.wait()
            await node.listener.close(10)
            assert not answer.done()
            freed.set()
        while node.listener._state.connections:
            await asyncio.sleep(0)


async def test_every_address_of_a_host_has_the_same_port() -> None:
    listener = await serve(Node(ApiConfig()).app, await listening("", 0, "--host"))
    assert {port for _, port in listener.addresses} == {listener.port}
    await listener.close(0)


def test_it_runs_on_the_products_loop() -> None:
    async def scenario() -> int:
        async with serving() as node:
            node.engine.next_gate.clear()
            _, writer = await node.dial()
            writer.write(http("POST", "/api/chat", json.dumps(ask()).encode()))
            await node.engine.until(lambda: node.engine.active == 1)
            writer.close()
            await node.engine.until(lambda: node.engine.active == 0)
            return (await node.client.get("/")).status_code

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert runner.run(scenario()) == 200


async def test_responses_are_dated_and_a_listener_without_clients_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollamamax.api.server._DATE_S", 0.01)
    async with serving() as node:
        state = node.listener._state
        assert node.listener._date is None
        reader, writer = await node.dial()
        writer.write(http("GET", "/api/version"))
        _, headers, _ = await read_reply(reader)
        assert abs(parsedate_to_datetime(headers["date"]).timestamp() - time.time()) < LIMIT_S
        state.default_headers = []
        while not state.default_headers:
            await asyncio.sleep(0)
        writer.close()
        while state.connections or node.listener._date is not None:
            await asyncio.sleep(0.001)
        _, writer = await node.dial()
        while node.listener._date is None:
            await asyncio.sleep(0)
        writer.close()


async def test_other_limits_hold_from_the_next_request_on() -> None:
    async with serving() as node:
        body = {"model": "tiny", "prompt": "x" * 5_000}
        assert (await node.post("/api/generate", body)).status_code == 200
        evil = {"Origin": "https://other.example"}
        assert (await node.client.get("/api/version", headers=evil)).status_code == 403
        node.app.reconfigure(
            ApiConfig(max_body_bytes=4_096, origins=("https://other.example",), body_timeout_ms=50, stall_timeout_ms=50)
        )
        assert (await node.post("/api/generate", body)).status_code == 413
        assert (await node.client.get("/api/version", headers=evil)).status_code == 200
        reader, writer = await node.dial()
        writer.write(http("POST", "/api/generate", b"", "Content-Length: 100") + b"{")
        assert b"408" in await reader.readline()
        writer.close()
        await writer.wait_closed()
