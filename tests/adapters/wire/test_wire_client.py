"""The client over real sockets: its pool, its deadlines, leaving early, slow readers."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from ollamamax.adapters.wire.client import WireClient, WireReply
from ollamamax.adapters.wire.connection import WireClosed, WireLimits, WireUnreachable
from scripted_server import Line, ScriptedServer
from wire_talk import BRISK, HI, ask, say_hi, talking

# --- requests -------------------------------------------------------------------------------------------------------


async def test_what_is_sent() -> None:
    seen: list[bytes] = []

    async def play(line: Line) -> None:
        while request := await line.request():
            seen.append(request)
            await line.say(HI)

    async with talking(play, headers={"X-Key": "a b"}) as (client, server):
        await ask(client, b"12345", keeps=False)
        with await client.send("GET", "/models?a=b") as reply:
            assert await reply.head() == 200
            assert (reply.header(b"content-length"), reply.header(b"x-none")) == ("2", "")
        host = b"Host: localhost:%d\r\n" % server.port
    assert seen[0] == (
        b"POST /base/x HTTP/1.1\r\n" + host + b"X-Key: a b\r\nContent-Length: 5\r\nConnection: close\r\n\r\n12345"
    )
    assert seen[1] == b"GET /base/models?a=b HTTP/1.1\r\n" + host + b"X-Key: a b\r\n\r\n"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://example.com", "example.com"),
        ("https://example.com:443/a", "example.com"),
        ("http://example.com:443", "example.com:443"),
        ("http://[::1]:8080", "[::1]:8080"),
        ("http://bücher.example", "xn--bcher-kva.example"),
    ],
)
def test_the_host_as_servers_know_it(url: str, host: str) -> None:
    assert WireClient(url, {})._fields == f"Host: {host}\r\n".encode()


@pytest.mark.parametrize("url", ["", "example.com", "ftp://example.com", "http://", "http://x:99999"])
def test_urls_that_can_not_be_used(url: str) -> None:
    with pytest.raises(ValueError):
        WireClient(url, {})


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\0", "\u20ac"])
def test_nothing_is_smuggled_in_by_a_header(value: str) -> None:
    with pytest.raises(ValueError):
        WireClient("http://x", {"Authorization": value})


@pytest.mark.parametrize("path", ["/a b", "/a\r\nX: y", "/a\n", "/\u20ac"])
async def test_nothing_is_smuggled_in_by_a_path(path: str) -> None:
    with pytest.raises(ValueError):
        await WireClient("http://localhost", {}).send("GET", path)


# --- the pool -------------------------------------------------------------------------------------------------------


async def test_connections_are_used_again() -> None:
    async with talking(say_hi) as (client, server):
        for _ in range(3):
            assert await ask(client) == b"hi"
        assert len(server.lines) == 1
        assert await asyncio.gather(ask(client), ask(client), ask(client)) == [b"hi"] * 3
        assert len(server.lines) == 3
        await ask(client, keeps=False)
        assert len(client._idle) == 2
        while len(client._open) > 2:
            await asyncio.sleep(0)


async def test_connections_grow_old() -> None:
    async with talking(say_hi, WireLimits(keep_s=0.05)) as (client, server):
        await asyncio.gather(ask(client), ask(client))
        assert len(client._idle) == 2
        for line in server.lines:
            await line.is_gone.wait()
        assert await ask(client) == b"hi"
        assert len(server.lines) == 3


async def test_a_server_may_close_what_is_idle() -> None:
    async def play(line: Line) -> None:
        await line.request()
        await line.say(HI)

    async with talking(play) as (client, server):
        for count in range(1, 4):
            assert await ask(client) == b"hi"
            await server.lines[-1].is_gone.wait()
            assert len(server.lines) == count


@pytest.mark.parametrize("way", ["closed", "reset"])
@pytest.mark.parametrize("wait", [WireReply.read, WireReply.head])
async def test_a_connection_that_dies_as_it_is_used_again(way: str, wait: Callable[[WireReply], object]) -> None:
    async def play(line: Line) -> None:
        await line.request()
        if line.number == 1:
            await line.say(HI)
            await line.request()
            if way == "reset":
                line.reset()
        else:
            await line.say(HI)
            await line.closed()

    async with talking(play) as (client, server):
        assert await ask(client) == b"hi"
        with await client.send("POST", "/x", b"again") as reply:
            if wait is WireReply.head:
                assert await reply.head() == 200
            assert await reply.read() == b"hi"
        assert len(server.lines) == 2


async def test_it_is_sent_twice_but_not_three_times() -> None:
    async def play(line: Line) -> None:
        await line.request()
        if line.number == 1:
            await line.say(HI)
            await line.request()

    async with talking(play) as (client, server):
        assert await ask(client) == b"hi"
        with pytest.raises(WireClosed):
            await ask(client)
        assert len(server.lines) == 2
        with pytest.raises(WireClosed):  # and on a new connection not twice
            await ask(client)
        assert len(server.lines) == 3


async def test_what_has_begun_is_not_sent_again() -> None:
    async def play(line: Line) -> None:
        await line.request()
        await line.say(HI)
        await line.request()
        await line.say(b"H")

    async with talking(play) as (client, server):
        assert await ask(client) == b"hi"
        with pytest.raises(WireClosed):
            await ask(client)
        assert len(server.lines) == 1


# --- endings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"],
    ids=["before the head", "in the head", "in the body"],
)
@pytest.mark.parametrize("way", ["closed", "reset"])
async def test_cut_off(said: bytes, way: str) -> None:
    async def play(line: Line) -> None:
        await line.request()
        await line.say(said)
        if way == "reset":
            line.reset()

    async with talking(play) as (client, _):
        with pytest.raises(WireClosed) as caught:
            await ask(client)
        assert bool(str(caught.value)) is (way == "reset")
        assert not client._idle


async def test_a_body_that_ends_with_the_connection() -> None:
    async def play(line: Line) -> None:
        await line.request()
        await line.say(b"HTTP/1.1 200 OK\r\n\r\nuntil ")
        await line.say(b"here")

    async with talking(play) as (client, _):
        assert await ask(client) == b"until here"
        assert not client._idle


async def test_a_refusal_before_the_body_was_sent() -> None:
    async def play(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        await line.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await line.is_gone.wait()

    async with talking(play) as (client, _):
        with await client.send("POST", "/x", b"x" * (32 << 20)) as reply:
            assert await reply.head() == 413
            assert await reply.whole(99) == b"no"
        assert not client._idle, "the rest of the body was not sent"


@pytest.mark.parametrize("way", ["closed", "cancelled"])
async def test_leaving_closes_the_connection(way: str) -> None:
    async def play(line: Line) -> None:
        await line.request()
        await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")
        await line.closed()

    async with talking(play) as (client, server):
        if way == "closed":
            with await client.send("POST", "/x") as reply:
                assert await reply.read() == b"ab"
        else:
            asking = asyncio.create_task(ask(client))
            while not server.lines or not client._open:
                await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        await server.lines[0].is_gone.wait()


async def test_the_end_may_come_without_a_reader() -> None:
    may_end = asyncio.Event()

    async def play(line: Line) -> None:
        while await line.request():
            await line.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndone\r\n")
            await may_end.wait()
            await line.say(b"0\r\n\r\n")

    async with talking(play) as (client, server):
        with await client.send("POST", "/x") as reply:
            assert await reply.read() == b"done"
            reply.settle()
            assert not client._idle
        may_end.set()
        while not client._idle:
            await asyncio.sleep(0)
        assert await ask(client) == b"done"
        assert len(server.lines) == 1
        with await client.send("POST", "/x") as reply:
            assert await reply.whole(99) == b"done"
            reply.settle()
        assert len(client._idle) == 1, "an end that has come already is as good"


@pytest.mark.parametrize("more", [b"", b"100000\r\n" + b"x" * 100_000], ids=["nothing", "much"])
async def test_an_end_that_does_not_come_is_not_waited_for(more: bytes) -> None:
    async def play(line: Line) -> None:
        await line.request()
        await line.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndone\r\n")
        await line.say(more)
        await line.closed()

    async with talking(play) as (client, server):
        with await client.send("POST", "/x") as reply:
            assert (await reply.read()).startswith(b"done")
            reply.settle()
        await server.lines[0].is_gone.wait()
        assert not client._idle


async def test_a_slow_reader_slows_the_server() -> None:
    total, piece = 48 << 20, b"x" * (1 << 20)
    sent = 0

    async def play(line: Line) -> None:
        nonlocal sent
        await line.request()
        await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent < total:
            await line.say(piece)
            sent += len(piece)
        await line.closed()

    async with talking(play) as (client, server):
        with await client.send("GET", "/x") as reply:
            got = len(await reply.read())
            writer = server.lines[0].writer.transport
            settled, before = 0, -1
            while settled < 50:  # rounds in which nothing moves
                await asyncio.sleep(0.001)
                settled, before = (settled + 1 if sent == before else 0), sent
            assert writer.get_write_buffer_size() > 0
            assert sent < total / 2
            while part := await reply.read():
                got += len(part)
        assert got == total
        assert len(client._idle) == 1


async def test_closing_the_client_ends_everything() -> None:
    async def play(line: Line) -> None:
        await line.request()
        await line.say(HI)
        await line.request()
        await line.closed()

    async with talking(play) as (client, server):
        await ask(client)
        under_way = await client.send("POST", "/x")
        await client.aclose()
        await client.aclose()
        with pytest.raises((WireClosed, WireUnreachable)):
            await under_way.read()
        under_way.close()
        with pytest.raises(WireUnreachable, match="closed"):
            await ask(client)
        await server.lines[0].is_gone.wait()
        assert not client._open


# --- deadlines and ways ---------------------------------------------------------------------------------------------


async def test_refused() -> None:
    async with ScriptedServer(say_hi) as server:
        url = server.url
    with pytest.raises(WireUnreachable, match=r"refused|failed"):
        await ask(WireClient(url, {}))


@pytest.mark.parametrize("found", [[], socket.gaierror(-2, "Name or service not known")])
async def test_no_such_name(found: list[str] | OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    async def addresses(_: object) -> list[str]:
        if isinstance(found, OSError):
            raise found
        return found

    client = WireClient("http://no-such-host.invalid", {})
    monkeypatch.setattr(client, "_addresses", addresses)
    with pytest.raises(WireUnreachable, match=r"not known|no address"):
        await ask(client)


async def test_a_name_with_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking(say_hi) as (client, _):

        async def addresses(_: object) -> list[str]:
            return ["127.0.0.2", "127.0.0.1"]  # nobody listens at the first

        monkeypatch.setattr(client, "_addresses", addresses)
        assert await ask(client) == b"hi"


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"], ids=["first byte", "body"])
async def test_silence(said: bytes) -> None:
    async def play(line: Line) -> None:
        await line.request()
        await line.say(said)
        await line.closed()

    async with talking(play, BRISK) as (client, server):
        with pytest.raises(TimeoutError):
            await ask(client)
        await server.lines[0].is_gone.wait()
