"""Responses and connections of the server's HTTP: framing, failures, keeping connections, clients that stop reading."""

import asyncio
import logging
import math
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from http_server import GET, OK, App, answering, body_of, connected, echo
from ollamamax.api.http_protocol import HttpProtocol
from ollamamax.api.listener_state import Config, ServerState


async def test_a_response_of_unknown_length() -> None:
    async with connected(answering(pieces=(b"one", b"", b"three", b""))) as (client, _):
        client.writer.write(GET)
        assert b"transfer-encoding: chunked\r\n" in await client.head()
        assert await client.reader.readexactly(23) == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"


async def test_the_head_leaves_with_the_body() -> None:
    packets: list[bytes] = []

    class Transport(asyncio.Transport):
        def write(self, data: Any) -> None:
            packets.append(data)

        def is_closing(self) -> bool:
            return False

    state = ServerState()
    protocol = HttpProtocol(Config(answering(headers=OK), 75), state, {})
    protocol.connection_made(Transport())
    protocol.data_received(GET)
    await asyncio.gather(*state.tasks)
    assert packets == [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"]
    protocol.connection_lost(None)


@pytest.mark.parametrize(
    ("method", "status", "headers", "last"),
    [
        (b"HEAD", 200, [(b"content-length", b"99")], b"content-length: 99\r\n\r\n"),
        (b"HEAD", 200, [], b"date: today\r\n\r\n"),
        (b"GET", 204, [], b"date: today\r\n\r\n"),
        (b"GET", 304, [], b"date: today\r\n\r\n"),
    ],
)
async def test_responses_without_a_body(method: bytes, status: int, headers: Any, last: bytes) -> None:
    async with connected(answering(status, headers, pieces=(b"",))) as (client, _):
        for _ in range(2):  # nothing of the first response is left behind
            client.writer.write(method + b" / HTTP/1.1\r\n\r\n")
            head = await client.head()
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert head.endswith(last)


@pytest.mark.parametrize(
    "headers", [[(b"x", b"a\r\nset-cookie: b")], [(b"x", b"a\nb")], [(b"x y", b"a")], [(b"x\r\ny", b"a")]]
)
async def test_nothing_is_smuggled_in_by_a_header(headers: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL):
        async with connected(answering(headers=headers)) as (client, _):
            client.writer.write(GET)
            said = await client.rest()
    assert said.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b"cookie" not in said


async def _silent(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def _broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise ZeroDivisionError


async def _started(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": OK})
    raise ZeroDivisionError


@pytest.mark.parametrize("app", [_silent, _broken, _started, answering(headers=OK, pieces=(b"too long",))])
async def test_an_application_that_fails_before_it_answers(app: App, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL):
        async with connected(app) as (client, _):
            client.writer.write(GET)
            said = await client.rest()
    assert said.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert said.endswith(b"\r\n\r\nInternal Server Error")


@pytest.mark.parametrize("pieces", [(b"a", b"too long"), (b"a", b"")])
async def test_an_application_that_fails_while_it_answers(
    pieces: tuple[bytes, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL):
        async with connected(answering(headers=OK, pieces=pieces)) as (client, _):
            client.writer.write(GET)
            assert (await client.rest()).endswith(b"content-length: 2\r\n\r\na")


async def test_a_client_that_does_not_read_holds_the_application() -> None:
    sent = 0
    piece = b"x" * 100_000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while sent < 400:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            sent += 1
        await send({"type": "http.response.body"})

    async with connected(app) as (client, _):
        client.writer.write(GET + GET.replace(b"/a", b"/b"))
        before, rounds = -1, 0
        while rounds < 50:
            await asyncio.sleep(0.001)
            rounds, before = (rounds + 1 if sent == before else 0), sent
        assert 0 < sent < 200
        client.writer.transport.abort()


# --- connections ----------------------------------------------------------------------------------------------------


async def test_requests_one_behind_the_other() -> None:
    async with connected(echo) as (client, state):
        targets = [b"/%d" % number for number in range(40)]
        client.writer.write(b"".join(b"GET " + target + b" HTTP/1.1\r\n\r\n" for target in targets))
        for target in targets:
            assert (await client.ask(b""))[1].startswith(target + b"|")
        assert state.total_requests == 40


@pytest.mark.parametrize("request_", [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"])
async def test_a_client_that_does_not_keep_the_connection(request_: bytes) -> None:
    async with connected(answering(headers=OK)) as (client, _):
        client.writer.write(request_ + GET)
        assert (await client.rest()).endswith(b"connection: close\r\n\r\nhi")


async def test_an_application_that_does_not_keep_the_connection() -> None:
    async with connected(answering(headers=[*OK, (b"connection", b"close")])) as (client, _):
        client.writer.write(GET + GET)
        assert (await client.rest()).count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("said", [b"", GET, b"GET / HT"], ids=["nothing", "a request", "half a head"])
async def test_idle_connections_are_closed(said: bytes) -> None:
    async with connected(answering(headers=OK), keep_alive_s=0.1) as (client, _):
        client.writer.write(said)
        assert (await client.rest()).count(b"200 OK") == (said == GET)


async def test_who_leaves_is_noticed() -> None:
    gone, waiting = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        waiting.set()
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"to nobody"})
        gone.set()

    async with connected(app) as (client, _):
        client.writer.write(GET)
        await waiting.wait()
        client.writer.close()
        await gone.wait()


async def test_the_server_ends() -> None:
    may_answer = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await may_answer.wait()
        await answering(headers=OK)(scope, receive, send)

    async with connected(app) as (client, state):
        client.writer.write(GET)
        while not state.tasks:
            await asyncio.sleep(0)
        for connection in list(state.connections):
            connection.shutdown()
        may_answer.set()
        assert (await client.rest()).endswith(b"hi"), "what is under way is answered, then the connection closes"
    async with connected(app) as (client, state):
        await client.ask(GET)
        for connection in list(state.connections):
            connection.shutdown()
        assert await client.rest() == b"", "an idle one closes at once"
    async with connected(answering(headers=OK)) as (client, state):
        await client.ask(GET)
        state.is_ending = True
        for connection in list(state.connections):
            connection.shutdown(idle_before_s=-math.inf)
        client.writer.write(GET)
        assert (await client.rest()).endswith(b"hi"), "one more, where idle ones have time"


async def test_the_server_ends_at_once() -> None:
    has_begun = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        has_begun.set()
        await asyncio.Event().wait()

    async with connected(app) as (client, state):
        client.writer.write(GET)
        await has_begun.wait()
        for task in list(state.tasks):
            task.cancel()
        assert await client.rest() == b""
