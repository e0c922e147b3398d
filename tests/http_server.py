"""The server's HTTP over a real socket, for tests: an application behind it and a client in front."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import Receive, Scope, Send

from ollamamax.api.http_protocol import HttpProtocol
from ollamamax.api.listener_state import Config, ServerState

App = Callable[[Scope, Receive, Send], Awaitable[None]]
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
OK = [(b"content-length", b"2")]


class Client:
    """The client's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> bytes:
        """Status line and headers."""
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
    config = Config(app, keep_alive_s)
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
