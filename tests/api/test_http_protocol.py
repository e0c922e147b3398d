"""Requests as the server's HTTP understands them: whole, in pieces, one behind the other, and nonsense."""

import asyncio
import logging
from itertools import pairwise

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from http_server import GET, OK, answering, body_of, connected, echo
from ollamamax.api.exchange import WHOLE_BODY

POST = b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n"


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        (b"/a/b", b"/a/b|/a/b|"),
        (b"/a%20b?c=%20d", b"/a b|/a%20b|c=%20d"),
        (b"http://x:1/a?b", b"/a|/a|b"),
        (b"/a#b", b"/a|/a|"),
    ],
)
async def test_targets(target: bytes, seen: bytes) -> None:
    async with connected(echo) as (client, _):
        assert (await client.ask(b"GET " + target + b" HTTP/1.1\r\n\r\n"))[1] == seen + b"|"


async def test_what_the_application_is_told() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await answering(headers=OK)(scope, receive, send)

    async with connected(app) as (client, _):
        head, _ = await client.ask(b"POST /a HTTP/1.1\r\nHost: x\r\nX-KEY: a\r\nContent-Length: 1\r\n\r\n?")
        address = client.writer.get_extra_info("sockname")
    assert head == b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\n\r\n"
    (scope,) = seen
    assert scope["headers"] == [(b"host", b"x"), (b"x-key", b"a"), (b"content-length", b"1")]
    told = {name: scope[name] for name in ("type", "method", "http_version", "scheme", "root_path", "client")}
    assert told == {"type": "http", "method": "POST", "http_version": "1.1", "scheme": "http", "root_path": "",
                    "client": address}  # fmt: skip


@given(
    st.lists(st.tuples(st.binary(max_size=60), st.booleans()), min_size=1, max_size=3),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_any_requests_cut_anywhere(bodies: list[tuple[bytes, bool]], places: list[int]) -> None:
    data = b""
    for body, chunked in bodies:
        data += b"POST /a HTTP/1.1\r\nHost: x\r\n"
        if chunked:
            framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            data += b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\nX-Trailer: a\r\n\r\n"
        else:
            data += b"Content-Length: %d\r\n\r\n" % len(body) + body
    cuts = sorted({place % len(data) for place in places} | {0, len(data)})

    async def scenario() -> None:
        async with connected(echo) as (client, _):
            for start, end in pairwise(cuts):
                client.writer.write(data[start:end])
                await client.writer.drain()
                await asyncio.sleep(0)
            for body, _ in bodies:
                assert (await client.ask(b""))[1] == b"/a|/a||" + body

    asyncio.run(scenario())


async def test_a_trailer_is_no_header() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering(headers=OK)(scope, receive, send)
        seen.append(scope)

    data = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: forged\r\n\r\n"
    async with connected(app) as (client, _):
        await client.ask(data)
    assert seen[0]["headers"] == [(b"transfer-encoding", b"chunked")]


async def test_a_client_that_asks_before_it_sends() -> None:
    async with connected(echo) as (client, _):
        client.writer.write(b"POST / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 4\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await client.ask(b"body"))[1] == b"/|/||body"
        assert (await client.ask(GET))[1] == b"/a|/a||"


async def test_a_client_that_does_not_wait_for_the_answer_is_not_told_to_go_on() -> None:
    async with connected(echo) as (client, _):
        head, said = await client.ask(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody")
        assert (head.partition(b"\r\n")[0], said) == (b"HTTP/1.1 200 OK", b"/|/||body")


async def test_a_body_that_has_come_whole_stands_in_the_scope_until_the_client_is_gone() -> None:
    scopes: list[Scope] = []
    seen: list[tuple[bytes | None, bytes]] = []
    may_end = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        seen.append((scope.get(WHOLE_BODY), await body_of(receive)))
        if len(seen) == 3:
            await may_end.wait()
        await send({"type": "http.response.start", "status": 200, "headers": OK})
        await send({"type": "http.response.body", "body": b"hi"})

    async with connected(app) as (client, _):
        await client.ask(POST + b"body")
        client.writer.write(POST)
        while len(scopes) < 2:
            await asyncio.sleep(0)
        await client.ask(b"late")
        client.writer.write(POST + b"gone")
        while len(seen) < 3:
            await asyncio.sleep(0)
        client.writer.transport.abort()
        while WHOLE_BODY in scopes[2]:
            await asyncio.sleep(0)
        may_end.set()
    assert seen == [(b"body", b"body"), (None, b"late"), (b"gone", b"gone")]


async def test_a_body_that_nobody_reads_is_not_taken() -> None:
    may_read = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await may_read.wait()
        await echo(scope, receive, send)

    size = 32 << 20
    async with connected(app) as (client, _):
        client.writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size)
        client.writer.write(b"x" * size)
        left, rounds = -1, 0
        while rounds < 50:  # rounds in which nothing moves
            await asyncio.sleep(0.001)
            now = client.writer.transport.get_write_buffer_size()
            rounds, left = (rounds + 1 if now == left else 0), now
        assert left > size // 2
        may_read.set()
        assert len((await client.ask(b""))[1]) == size + len(b"/|/||")


@pytest.mark.parametrize(
    "noise",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nA\x00: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000,
        b"GET /" + b"x" * 100_000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
    ids=["ssh", "version", "target", "two lengths", "length and chunks", "header", "many", "endless", "chunk"],
)
async def test_nonsense(noise: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    with caplog.at_level(logging.CRITICAL):
        async with connected(app) as (client, _):
            client.writer.write(noise)
            assert (await client.rest()).startswith(b"HTTP/1.1 400 Bad Request\r\n")


async def test_nonsense_behind_a_request() -> None:
    may_answer = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await may_answer.wait()
        await answering(headers=OK)(scope, receive, send)

    async with connected(app) as (client, _):
        client.writer.write(GET + b"nonsense\r\n\r\n")
        may_answer.set()
        said = await client.rest()
        assert said.startswith(b"HTTP/1.1 200 OK\r\n")
        assert said.endswith(b"hi")


async def test_an_upgrade_is_a_plain_request_and_the_last() -> None:
    async with connected(answering(headers=OK)) as (client, _):
        client.writer.write(b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00")
        assert (await client.rest()).endswith(b"connection: close\r\n\r\nhi")


def test_the_parser_is_as_strict_as_is_assumed() -> None:
    """Bare line feeds between lines would let two servers disagree on where a request ends."""
    with pytest.raises(httptools.HttpParserError):
        httptools.HttpRequestParser(object()).feed_data(b"GET / HTTP/1.1\nA: b\n\n")
