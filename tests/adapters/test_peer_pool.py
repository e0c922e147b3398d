"""How the link finds a node, keeps connections to it, and what it makes of answers that are none."""

import asyncio
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from ollamamax.adapters.network import peer_link, tls
from ollamamax.adapters.network.peer_frames import END, pack
from ollamamax.adapters.network.peer_pool import LinkLimits
from ollamamax.core.errors import (
    CertificateRefused,
    OllamaMaxError,
    PeerError,
    PeerProtocol,
    PeerTimeout,
    PeerUnavailable,
)
from ollamamax.core.types import NodeRecord
from peer_raw import CLUSTER, Answers, leakless
from peer_world import A, B, C, Listening, bounded, linked, listening, record
from relay import relay

KEYS = CLUSTER.keys(A)
SOON_MS = 10_000.0
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(autouse=True)
async def no_leaks() -> AsyncGenerator[None, None]:
    async with leakless():
        yield


@dataclass
class Scripted:
    """A listener with a node's papers that does as it is told. requests: bodies and heads that came, in order."""

    answer: Callable[["Scripted", asyncio.StreamWriter], Awaitable[None]]
    record: NodeRecord = field(default_factory=lambda: record(B))
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while request := await reader.read(1 << 16):
                self.requests.append(request)
                await self.answer(self, writer)
        except OSError:
            pass
        finally:
            writer.transport.abort()


@asynccontextmanager
async def scripted(
    answer: Callable[[Scripted, asyncio.StreamWriter], Awaitable[None]], is_tls: bool = True
) -> AsyncGenerator[Scripted, None]:
    made = Scripted(answer)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await made.serve(reader, writer)

    context = tls.listener_context(CLUSTER.keys(B)) if is_tls else None
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    made.record = record(B, server.sockets[0].getsockname()[1])
    try:
        yield made
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def saying(data: bytes, closes: bool = True) -> Callable[[Scripted, asyncio.StreamWriter], Awaitable[None]]:
    async def answer(_: Scripted, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if closes:
            writer.close()

    return answer


async def silence(_: Scripted, writer: asyncio.StreamWriter) -> None:
    """No answer."""


@asynccontextmanager
async def node() -> AsyncGenerator[Listening, None]:
    async with listening(CLUSTER, [Answers().methods]) as there:
        yield there


async def echo(link: peer_link.TlsPeerLink, at: NodeRecord, timeout_ms: float = SOON_MS) -> None:
    assert await link.call(at, "t.echo", b"hi", timeout_ms=timeout_ms) == b"hi"


@bounded
async def test_the_address_that_answered_is_tried_first_from_then_on() -> None:
    async with node() as there, relay(there.port) as first, relay(there.port) as second:
        first.hold()
        both = record(B, first.port, second.port)
        async with linked(KEYS, LinkLimits(stagger_s=0.05, connect_s=5.0)) as link:
            await echo(link, both)
            assert (first.connections, second.connections) == (1, 1)
            second.cut()
            await echo(link, both)
            assert (first.connections, second.connections) == (1, 2)
            second.target_port = 1  # nobody there any more
            second.cut()
            first.release()
            await echo(link, both)
            assert first.connections == 2


@bounded
async def test_an_address_where_somebody_else_is_loses_against_the_right_one() -> None:
    async with node() as there, listening(CLUSTER, [], C) as other, linked(KEYS) as link:
        await echo(link, record(B, other.port, there.port))
        with pytest.raises(CertificateRefused, match=f"node-b: .*127.0.0.1:{other.port} answers somebody else"):
            await echo(link, record(B, other.port, 1))


@bounded
async def test_why_nobody_was_reached() -> None:
    async with scripted(silence, is_tls=False) as mute, linked(KEYS, LinkLimits(connect_s=0.2)) as link:
        with pytest.raises(PeerUnavailable, match="node node-b has no address"):
            await echo(link, record(B))
        with pytest.raises(PeerUnavailable, match=r"node node-b can't be reached: 127\.0\.0\.1:1: "):
            await echo(link, record(B, 1))
        with pytest.raises(PeerUnavailable, match=r"no answer within 0\.2 s"):
            await echo(link, mute.record)
        with pytest.raises(PeerUnavailable, match="'what' is no address"):
            await echo(link, record(B, "what"))
        with pytest.raises(PeerUnavailable, match=r"no\.such\.host\.invalid:1: "):
            await echo(link, record(B, "no.such.host.invalid:1"))
    async with scripted(saying(b"HTTP/1.1 200 OK\r\n\r\n"), is_tls=False) as plain, linked(KEYS) as link:
        with pytest.raises(PeerUnavailable, match="can't be reached"):
            await echo(link, plain.record)


@bounded
async def test_connections_are_kept_and_used_again() -> None:
    async with node() as there, relay(there.port) as wire, linked(KEYS) as link:
        at = record(B, wire.port)
        for _ in range(3):
            await echo(link, at)
        assert wire.connections == 1
        await asyncio.gather(*(echo(link, at) for _ in range(5)))
        assert wire.connections == 5
        with pytest.raises(PeerProtocol):
            await link.call(at, "t.none", b"", timeout_ms=SOON_MS)
        await echo(link, at)
        assert wire.connections == 5


@bounded
async def test_a_stream_that_ended_leaves_its_connection_to_others() -> None:
    answers = Answers()
    answers.gate.set()
    async with listening(CLUSTER, [answers.methods]) as there, relay(there.port) as wire, linked(KEYS) as link:
        at = record(B, wire.port)
        for _ in range(3):
            assert [batch async for batch in link.stream(at, "t.drip", b"", idle_ms=SOON_MS)] == [[b"one"]]
            await echo(link, at)
        assert wire.connections == 1
        async with aclosing(link.stream(at, "t.flood", b"", idle_ms=SOON_MS)) as stream:
            await anext(stream)
        await echo(link, at)
        assert wire.connections == 2


@bounded
async def test_idle_connections_are_closed() -> None:
    async with node() as there, relay(there.port) as wire, linked(KEYS, LinkLimits(keep_s=0.05)) as link:
        at = record(B, wire.port)
        await asyncio.gather(*(echo(link, at) for _ in range(3)))
        pool = link._pools[B]
        while not pool.is_empty:
            await asyncio.sleep(0.01)
        before = wire.connections
        await echo(link, at)
        assert wire.connections == before + 1


@bounded
async def test_connections_to_an_address_that_a_node_left_are_not_used() -> None:
    async with node() as there, relay(there.port) as old, relay(there.port) as new, linked(KEYS) as link:
        await echo(link, record(B, old.port))
        await echo(link, record(B, new.port))
        assert (old.connections, new.connections) == (1, 1)


@bounded
async def test_a_connection_that_broke_while_idle_costs_nothing() -> None:
    async with node() as there, relay(there.port) as wire, linked(KEYS) as link:
        at = record(B, wire.port)
        await echo(link, at)
        wire.cut()
        await echo(link, at)
        assert wire.connections == 2


@bounded
async def test_a_request_on_a_stale_connection_is_sent_once_more() -> None:
    async def answer(server: Scripted, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 2:
            writer.close()
        else:
            writer.write(OK + b"Content-Length: 2\r\n\r\nhi")

    async with scripted(answer) as there, linked(KEYS) as link:
        await echo(link, there.record)
        await echo(link, there.record)
        assert len(there.requests) == 3
        assert there.requests[1] == there.requests[2]
        assert there.connections == 2


@bounded
async def test_a_request_on_a_new_connection_is_sent_but_once() -> None:
    async with scripted(saying(b"")) as there, linked(KEYS) as link:
        with pytest.raises(PeerUnavailable, match="closed the connection without an answer"):
            await echo(link, there.record)
        assert len(there.requests) == 1
        with pytest.raises(PeerUnavailable, match="closed the connection without an answer"):
            await anext(link.stream(there.record, "t.drip", b"", idle_ms=SOON_MS))
        assert len(there.requests) == 2


def chunked(data: bytes, has_end: bool = True) -> bytes:
    return OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(data), data) + b"0\r\n\r\n" * has_end


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"\0" * 50, PeerProtocol),
        (b"SSH-2.0-OpenSSH_9.2\r\n", PeerProtocol),
        (OK + b"X: " + b"y" * 200_000, PeerProtocol),
        (b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\noops", PeerProtocol),
        (b"HTTP/1.1 302 No\r\nContent-Length: 0\r\n\r\n", PeerProtocol),
        (OK + b"Content-Length: 999999\r\n\r\nhi", PeerUnavailable),
        (OK + b"Content-Length: 2000\r\n\r\n" + b"y" * 2_000, PeerProtocol),
    ],
    ids=range(7),
)
@bounded
async def test_answers_to_a_call_that_are_none(
    answer: bytes, kind: type[PeerError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_link, "MAX_BODY_BYTES", 1_000)
    async with scripted(saying(answer)) as there, linked(KEYS) as link:
        with pytest.raises(kind, match="node-b"):
            await echo(link, there.record)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"\0" * 50, PeerProtocol),
        (b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\noops", PeerProtocol),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", PeerProtocol),
        (OK + b"Content-Length: 0\r\n\r\n", PeerProtocol),
        (chunked(b"whatever it is"), PeerProtocol),
        (chunked(struct.pack(">IB", 1 << 30, 0)), PeerProtocol),
        (chunked(pack([b"one"])), PeerProtocol),
        (chunked(pack([b"one"]), has_end=False), PeerUnavailable),
        (chunked(pack([b"one"]) + END + pack([b"two"])), PeerProtocol),
        (chunked(pack([b"one"]) + b"\0\0\0\3\2hi"), PeerProtocol),
    ],
    ids=range(10),
)
@bounded
async def test_answers_to_a_stream_that_are_none(answer: bytes, kind: type[PeerError]) -> None:
    async with scripted(saying(answer)) as there, linked(KEYS) as link:

        async def read() -> None:
            async for batch in link.stream(there.record, "t.drip", b"", idle_ms=SOON_MS):
                assert batch == [b"one"]

        with pytest.raises(kind, match="node-b"):
            await read()


@bounded
async def test_whoever_keeps_silent_is_not_trusted_with_the_next_call() -> None:
    async with node() as there, relay(there.port) as wire, linked(KEYS) as link:
        at = record(B, wire.port)
        await asyncio.gather(*(echo(link, at) for _ in range(2)))
        assert wire.connections == 2
        wire.hold()
        with pytest.raises(PeerTimeout, match="did not answer within 50 ms"):
            await echo(link, at, timeout_ms=50)
        wire.release()
        await echo(link, at)
        assert wire.connections == 3
        wire.hold()
        with pytest.raises(PeerTimeout, match="said nothing for 50 ms"):
            await anext(link.stream(at, "t.drip", b"", idle_ms=50))
        wire.release()
        await echo(link, at)
        assert wire.connections == 4


@bounded
async def test_a_node_that_goes_silent_while_a_request_is_sent_once_more() -> None:
    """The second connection has its limit too."""

    async def answer(server: Scripted, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            writer.write(OK + b"Content-Length: 2\r\n\r\nhi")
        elif len(server.requests) == 2:
            writer.close()

    async with scripted(answer) as there, linked(KEYS) as link:
        await echo(link, there.record)
        with pytest.raises(PeerTimeout, match="said nothing for 100 ms"):
            await anext(link.stream(there.record, "t.drip", b"", idle_ms=100))
        assert len(there.requests) == 3


@bounded
async def test_a_node_that_is_forgotten_while_it_is_dialled() -> None:
    async with node() as there, relay(there.port) as wire, linked(KEYS, LinkLimits(connect_s=5.0)) as link:
        wire.hold()
        calling = asyncio.create_task(echo(link, record(B, wire.port)))
        while not wire.connections:
            await asyncio.sleep(0.01)
        await link.forget(B)
        wire.release()
        with pytest.raises(OllamaMaxError) as caught:
            await calling
        assert isinstance(caught.value, PeerUnavailable)


@bounded
async def test_a_link_that_is_closed_while_it_dials() -> None:
    async with node() as there, relay(there.port) as wire, linked(KEYS, LinkLimits(connect_s=5.0)) as link:
        wire.hold()
        calling = asyncio.create_task(echo(link, record(B, wire.port)))
        while not wire.connections:
            await asyncio.sleep(0.01)
        await link.close()
        wire.release()
        with pytest.raises(PeerUnavailable):
            await calling
