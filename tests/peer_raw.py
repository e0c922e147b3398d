"""A node that listens, and connections of a test's own to it."""

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ollamamax.adapters.network import tls
from ollamamax.adapters.network.peer_answers import AnswerLimits
from ollamamax.adapters.network.peer_frames import error_of
from ollamamax.adapters.network.peer_guard import GuardLimits
from ollamamax.adapters.network.peer_server import ListenerLimits
from ollamamax.core.errors import (
    OllamaMaxError,
)
from ollamamax.ports import Caller, NodeKeys, PeerMethods
from peer_world import LIMIT_S, B, C, Cluster, Listening, linked, open_files


@asynccontextmanager
async def leakless() -> AsyncGenerator[None, None]:
    """In the end descriptors and tasks are as many as before."""
    before, tasks = open_files(), len(asyncio.all_tasks())
    yield
    async with asyncio.timeout(LIMIT_S):
        while len(asyncio.all_tasks()) > tasks or open_files() > before:
            await asyncio.sleep(0.01)


BRISK = ListenerLimits(
    handshake_s=0.3,
    per_peer=3,
    joining=2,
    guard=GuardLimits(head_s=0.3, idle_s=0.6, write_s=0.3),
    answers=AnswerLimits(body_s=0.3, reading_bytes=100_000),
)
HEAD = b"POST /v1/t.echo HTTP/1.1\r\nHost: x\r\nX-OllamaMax-Protocol: 1-1\r\n"
CLUSTER = Cluster()


class Answers:
    """The methods. gate: held by t.wait."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Caller]] = []
        self.gate = asyncio.Event()
        self.waiting = asyncio.Event()
        self.over = asyncio.Event()
        self.methods = PeerMethods(
            unary={"t.echo": self.echo, "t.wait": self.wait, "t.huge": self.huge},
            streams={"t.drip": self.drip, "t.flood": self.flood, "t.bug": self.bug},
            open={"t.join": self.join},
        )

    async def echo(self, caller: Caller, body: bytes) -> bytes:
        self.asked.append(("echo", caller))
        return body

    async def join(self, caller: Caller, body: bytes) -> bytes:
        self.asked.append(("join", caller))
        return b"welcome"

    async def wait(self, caller: Caller, body: bytes) -> bytes:
        self.waiting.set()
        try:
            await self.gate.wait()
        finally:
            self.over.set()
        return b"waited"

    async def huge(self, caller: Caller, body: bytes) -> bytes:
        return bytes((64 << 20) + 1)

    async def bug(self, caller: Caller, body: bytes) -> AsyncGenerator[list[bytes], None]:
        yield [b"one"]
        raise ValueError("a secret of this node")

    async def drip(self, caller: Caller, body: bytes) -> AsyncGenerator[list[bytes], None]:
        self.waiting.set()
        try:
            yield [b"one"]
            await self.gate.wait()
        finally:
            self.over.set()

    async def flood(self, caller: Caller, body: bytes) -> AsyncGenerator[list[bytes], None]:
        try:
            while True:
                yield [bytes(100_000)]
        finally:
            self.over.set()


def client_context(keys: NodeKeys | None) -> ssl.SSLContext:
    if keys is not None:
        context = tls.link_context(keys)
        context.check_hostname = False
        return context
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=CLUSTER.ca.decode())
    context.check_hostname = False
    return context


class Raw:
    """A TLS connection of a test's own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, keys: NodeKeys | None, name: str = f"{B}.ollamamax") -> "Raw":
        context = client_context(keys)
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """All that comes until the other side closes."""
        data = b""
        try:
            while part := await self.reader.read(1 << 16):
                data += part
        except OSError:
            pass
        return data

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of one response of a known length."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        assert length is not None, head
        return int(head.split()[1]), await self.reader.readexactly(int(length[1]))

    def close(self) -> None:
        self.writer.transport.abort()


async def refused(raw: Raw, request: bytes = HEAD + b"Content-Length: 2\r\n\r\nhi") -> bytes:
    """What comes back until the end, for a request."""
    try:
        await raw.send(request)
        return await raw.rest()
    except OSError:
        return b""
    finally:
        raw.close()


async def works(node: Listening) -> None:
    """It still answers a member."""
    async with linked(CLUSTER.keys(C)) as link:
        assert await link.call(node.record, "t.echo", b"still", timeout_ms=5_000) == b"still"


def told(body: bytes, kind: type[OllamaMaxError]) -> str:
    error = error_of(body)
    assert type(error) is kind
    return str(error)
