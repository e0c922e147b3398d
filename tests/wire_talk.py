"""What the tests of the wire share: a client and a scripted server that talk."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ollamamax.adapters.wire.client import WireClient
from ollamamax.adapters.wire.connection import WireLimits
from scripted_server import Line, Play, ScriptedServer

HI = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
BRISK = WireLimits(connect_s=0.3, idle_s=0.3)


@asynccontextmanager
async def talking(
    play: Play, limits: WireLimits | None = None, headers: dict[str, str] | None = None
) -> AsyncIterator[tuple[WireClient, ScriptedServer]]:
    async with ScriptedServer(play) as server:
        client = WireClient(f"{server.url}/base/", headers or {}, limits)
        try:
            async with asyncio.timeout(20):
                yield client, server
        finally:
            await client.aclose()


async def say_hi(line: Line) -> None:
    while await line.request():
        await line.say(HI)


async def ask(client: WireClient, body: bytes = b"?", keeps: bool = True) -> bytes:
    async with asyncio.timeout(20):
        with await client.send("POST", "/x", body, keeps) as reply:
            return await reply.whole(1 << 20)
