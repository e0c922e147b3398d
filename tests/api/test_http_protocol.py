"""The server's HTTP, over real sockets: framing, keeping connections, clients that send nonsense or stop reading."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from ollamamax.api.http_protocol import HttpProtocol

App = Callable[[Scope, Receive, Send], Awaitable[None]]
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
OK = [(b"content-length", b"2")]


class Client:
    """The client's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def rest(self) -> bytes:
        """Until the server closes."""
        return await self.reader.read()

    async def ask(self, data: bytes) -> tuple[bytes, bytes]:
        """Head and body of a response with a length."""
        self.writer.write(data)
        head = await self.head()
        size = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        return head, await self.reader.readexactly(size)


@asynccontextmanager
async def connected(app: App, keep_alive_s: float = 75) -> AsyncIterator[tuple[Client, ServerState]]:
    config = Config(app, interface="asgi3", log_config=None, timeout_keep_alive=keep_alive_s)  # type: ignore[arg-type]
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"today")]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: HttpProtocol(config, state, {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        async with asyncio.timeout(20):
            yield Client(reader, writer), state
    finally:
        writer.close()
        server.close()
        while state.connections or state.tasks:
            await asyncio.sleep(0)


async def body_of(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body += message["body"]
        more = message["more_body"]
    return body


def answering(status: int = 200, headers: Any = (), pieces: tuple[bytes, ...] = (b"hi",)) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for piece in pieces[:-1]:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": pieces[-1]})

    return app


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Path, query and body."""
    body = await body_of(receive)
    data = scope["path"].encode() + b"|" + scope["raw_path"] + b"|" + scope["query_string"] + b"|" + body
    size = [(b"content-length", b"%d" % len(data))]
    await send({"type": "http.response.start", "status": 200, "headers": size})
    await send({"type": "http.response.body", "body": data})


# --- requests -------------------------------------------------------------------------------------------------------


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


# --- responses ------------------------------------------------------------------------------------------------------


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

    config = Config(answering(headers=OK), interface="asgi3", log_config=None)
    config.load()
    state = ServerState()
    protocol = HttpProtocol(config, state, {})
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


def test_the_parser_is_as_strict_as_is_assumed() -> None:
    """Bare line feeds between lines would let two servers disagree on where a request ends."""
    with pytest.raises(httptools.HttpParserError):
        httptools.HttpRequestParser(object()).feed_data(b"GET / HTTP/1.1\nA: b\n\n")
