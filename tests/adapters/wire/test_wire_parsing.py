"""Responses as bytes: whatever their form and wherever they are cut, the same comes out; what is malformed is told."""

import asyncio
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.adapters.wire.connection import Connection, WireClosed, WireLimits, WireMalformed

OK = b"HTTP/1.1 200 OK\r\n"
LIMITS = WireLimits(idle_s=5.0, barren_bytes=4096)


class FakeTransport(asyncio.Transport):
    """Notes what is done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.is_reading_on = True
        self.was_aborted = False

    def write(self, data: Any) -> None:
        self.sent += data

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.is_reading_on = False

    def resume_reading(self) -> None:
        self.is_reading_on = True

    def abort(self) -> None:
        self.was_aborted = True


def opened(limits: WireLimits = LIMITS) -> tuple[Connection, FakeTransport]:
    connection, transport = Connection(asyncio.get_running_loop(), limits), FakeTransport()
    connection.connection_made(transport)
    connection.begin(b"GET / HTTP/1.1\r\n\r\n", keeps=True)
    return connection, transport


async def body_of(connection: Connection) -> bytes:
    out = b""
    while part := await connection.read():
        out += part
    return out


def chunked(body: bytes, cuts: Iterable[int], extension: bytes, trailer: bytes) -> bytes:
    places = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    pieces = [body[start:end] for start, end in pairwise(places)]
    framed = b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces)
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n" + trailer + b"\r\n"


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, bytes, bool]:
    """(bytes, body, whether the end of the connection is the end of the body)"""
    body = draw(st.binary(max_size=300))
    early = b"".join(
        draw(
            st.lists(
                st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"]),
                max_size=2,
            )
        )
    )
    form = draw(st.sampled_from(["sized", "chunked", "until close"]))
    if form == "sized":
        return early + OK + b"content-LENGTH: %d\r\n\r\n%s" % (len(body), body), body, False
    if form == "until close":
        return early + OK + b"X: y\r\n\r\n" + body, body, True
    extension = draw(st.sampled_from([b"", b";a=b"]))
    trailer = draw(st.sampled_from([b"", b"X-Sum: 1\r\n"]))
    cuts = draw(st.lists(st.integers(0, 300), max_size=4))
    return early + chunked(body, cuts, extension, trailer), body, False


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(ends)]


@given(responses(), st.lists(st.integers(0, 2000), max_size=8))
def test_any_response_cut_anywhere(response: tuple[bytes, bytes, bool], places: list[int]) -> None:
    data, body, until_close = response

    async def scenario() -> None:
        connection, transport = opened()
        reader = asyncio.create_task(body_of(connection))
        for piece in cut(data, places):
            await asyncio.sleep(0)
            connection.data_received(piece)
        assert connection.status == 200
        if until_close:
            assert not connection.is_usable()
            connection.connection_lost(None)
        assert await reader == body
        assert connection.is_over
        assert connection.is_usable() is not until_close
        assert not transport.was_aborted
        connection.abort()

    asyncio.run(scenario())


@given(responses(), st.integers(0, 2000))
def test_any_response_cut_off(response: tuple[bytes, bytes, bool], place: int) -> None:
    data, body, until_close = response
    kept = data[: place % len(data)]

    async def scenario() -> None:
        connection, _ = opened()
        connection.data_received(kept) if kept else None
        connection.connection_lost(None)
        if until_close and connection.status:
            assert body.startswith(await body_of(connection))
            return
        try:
            assert body.startswith(await connection.read())
        except WireClosed:
            pass
        assert not connection.is_over
        with pytest.raises(WireClosed):
            await connection.read()

    asyncio.run(scenario())


@given(st.binary(max_size=400), st.lists(st.integers(0, 2000), max_size=4))
def test_noise_is_no_accident(noise: bytes, places: list[int]) -> None:
    async def scenario() -> None:
        connection, _ = opened()
        for piece in cut(noise, places):
            connection.data_received(piece)
        connection.connection_lost(ConnectionResetError("reset"))
        try:
            while await connection.read():
                pass
        except (WireMalformed, WireClosed):
            return
        assert connection.is_over

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "HTTP/"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "status"),
        (OK + b"Content-Length: x\r\n\r\n", "Content-Length"),
        (OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "Content-Length"),
        (OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding"),
        (OK + b"Content-Length: 99999999999999999999999\r\n\r\n", "overflow"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", "chunk"),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "transfer coding 'gzip, chunked'"),
        (OK + b"Transfer-Encoding: gzip\r\n\r\nabc", "transfer coding 'gzip'"),
        (OK + b"Content-Encoding: br\r\nContent-Length: 3\r\n\r\nabc", "content coding 'br'"),
        (OK + b"No colon\r\n\r\n", "header"),
        (OK + b"A: b\r\n folded\r\n\r\n", "whitespace"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "switches"),
        (OK + b"A: " + b"x" * 5000, "4096 bytes"),
        (OK + b"A: b\r\n" * 1000, "4096 bytes"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 300, "4096 bytes"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 5000, "4096 bytes"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"x" * 5000, "4096 bytes"),
    ],
)
async def test_malformed(data: bytes, what: str) -> None:
    connection, transport = opened()
    reader = asyncio.create_task(body_of(connection))
    for start in range(0, len(data), 100):
        await asyncio.sleep(0)
        connection.data_received(data[start : start + 100])
    with pytest.raises(WireMalformed, match=what):
        await reader
    assert transport.was_aborted
    assert not connection.is_usable()


async def test_what_came_before_the_failure_is_given_first() -> None:
    connection, _ = opened()
    connection.data_received(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nnonsense\r\n")
    assert await connection.read() == b"abc"
    with pytest.raises(WireMalformed):
        await connection.read()


async def test_the_head_can_be_waited_for_alone() -> None:
    connection, _ = opened()
    waiting = asyncio.create_task(connection.head())
    await asyncio.sleep(0)
    connection.data_received(b"HTTP/1.1 503 Busy\r\nRETRY-After: 3\r\nContent-Length: 4\r\n\r\n")
    await waiting
    assert (connection.status, connection.headers[0]) == (503, (b"retry-after", b"3"))
    connection.data_received(b"full")
    assert await body_of(connection) == b"full"


@pytest.mark.parametrize("status", [204, 304])
async def test_responses_without_a_body(status: int) -> None:
    connection, _ = opened()
    connection.data_received(b"HTTP/1.1 %d Nothing\r\nX: y\r\n\r\n" % status)
    assert await connection.read() == b""
    assert connection.is_usable()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnot asked"),
        lambda c: c.data_received(b"noise"),
        lambda c: c.eof_received(),
        lambda c: c.connection_lost(None),
    ],
    ids=["another response", "noise", "end", "loss"],
)
async def test_what_follows_a_response_spoils_the_connection_only(spoil: Callable[[Connection], None]) -> None:
    connection, _ = opened()
    connection.data_received(OK + b"Content-Length: 2\r\n\r\nhi")
    assert connection.is_usable()
    spoil(connection)
    assert await body_of(connection) == b"hi"
    assert not connection.is_usable()


async def test_nobody_asked_for_what_comes_between_requests() -> None:
    connection, transport = opened()
    connection.data_received(OK + b"Content-Length: 2\r\n\r\nhi")
    connection.rest()
    connection.data_received(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert transport.was_aborted
    assert not connection.is_usable()


@pytest.mark.parametrize("head", [b"HTTP/1.0 200 OK\r\n", OK + b"Connection: close\r\n"])
async def test_a_server_that_does_not_keep_connections(head: bytes) -> None:
    connection, _ = opened()
    connection.data_received(head + b"Content-Length: 2\r\n\r\nhi")
    assert await body_of(connection) == b"hi"
    assert not connection.is_usable()


async def test_hand_written_servers_are_understood() -> None:
    connection, _ = opened()
    connection.data_received(b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2 \r\nhi\r\n0\r\n\r\n")
    assert await body_of(connection) == b"hi"


async def test_much_that_nobody_reads_pauses_the_connection() -> None:
    connection, transport = opened()
    connection.data_received(OK + b"Content-Length: 10000000\r\n\r\n")
    sent = 0
    while transport.is_reading_on:
        connection.data_received(b"x" * 10_000)
        sent += 10_000
    assert 250_000 < sent < 300_000
    assert len(await connection.read()) == sent
    assert transport.is_reading_on


class FakeLoop:
    """A clock that is turned by hand, and one timer."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.due_s: float | None = None
        self.set_count = 0

    def time(self) -> float:
        return self.now_s

    def create_future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> "FakeLoop":
        assert self.due_s is None
        self.due_s, self._callback = self.now_s + delay_s, callback
        self.set_count += 1
        return self

    def cancel(self) -> None:
        self.due_s = None

    async def turn(self, to_s: float) -> None:
        """Let whoever waits take note, go on to that time, and again."""
        for _ in range(3):
            await asyncio.sleep(0)
        while self.due_s is not None and self.due_s <= to_s:
            self.now_s, self.due_s = self.due_s, None
            self._callback()
        self.now_s = to_s
        for _ in range(3):
            await asyncio.sleep(0)


async def test_silence_is_counted_from_the_last_byte() -> None:
    loop: Any = FakeLoop()
    connection, transport = Connection(loop, WireLimits(idle_s=10.0)), FakeTransport()
    connection.connection_made(transport)
    connection.begin(b"GET / HTTP/1.1\r\n\r\n", keeps=True)
    reader = asyncio.create_task(body_of(connection))
    await loop.turn(109)
    connection.data_received(OK + b"Content-Length: 99\r\n\r\n")
    await loop.turn(118)
    connection.data_received(b"x")
    await loop.turn(127)
    connection.data_received(b"x")
    await loop.turn(136.9)
    assert not reader.done()
    assert loop.set_count <= 4
    await loop.turn(137.1)
    with pytest.raises(TimeoutError):
        await reader
    assert transport.was_aborted


async def test_a_reader_that_takes_its_time_is_not_silence() -> None:
    loop: Any = FakeLoop()
    connection = Connection(loop, WireLimits(idle_s=10.0))
    connection.connection_made(FakeTransport())
    connection.begin(b"GET / HTTP/1.1\r\n\r\n", keeps=True)
    reader = asyncio.create_task(connection.read())
    await loop.turn(105)
    connection.data_received(OK + b"Content-Length: 2\r\n\r\nx")
    assert await reader == b"x"
    await loop.turn(500)
    connection.data_received(b"x")
    assert await body_of(connection) == b"x"
