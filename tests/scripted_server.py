"""A TCP server on loopback whose connections a test plays by hand.

async def play(line: Line) -> None:
    await line.request()
    await line.say(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nhi")

async with ScriptedServer(play) as server:
    client = WireClient(server.url, {})
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable

from loopback import LoopbackServer


class Line:
    """One connection, from the server's side. number: counted from 1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number
        self.is_gone = asyncio.Event()

    async def request(self) -> bytes:
        """The next request, head and body; b"" where the client has closed."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""
        fields = head.lower().split(b"\r\ncontent-length: ")
        size = int(fields[1].split(b"\r\n")[0]) if len(fields) > 1 else 0
        return head + await self.reader.readexactly(size)

    async def say(self, data: bytes) -> None:
        """Send."""
        self.writer.write(data)
        await self.writer.drain()

    async def closed(self) -> None:
        """Returns once the client has closed."""
        while await self.reader.read(1 << 16):
            pass

    def reset(self) -> None:
        """Break it off with a TCP reset."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Play = Callable[[Line], Awaitable[None]]


class ScriptedServer(LoopbackServer):
    """`play` is run for each connection. lines: all connections so far."""

    def __init__(self, play: Play, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self._play = play
        self.lines: list[Line] = []

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer, len(self.lines) + 1)
        self.lines.append(line)
        try:
            await self._play(line)
        finally:
            line.is_gone.set()
