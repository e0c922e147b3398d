"""Small servers on loopback that play a registry, and what they are asked for."""

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from ollamamax.core.modelspec import names
from ollamamax.ports import Remote

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

DIGEST = "sha256:" + "ab" * 32
DATA = bytes(range(256)) * 10


def remote(host: str, insecure: bool = True) -> Remote:
    """A model there."""
    return Remote(names.parse(f"{host}/me/m:v1"), insecure)


async def data() -> AsyncGenerator[bytes, None]:
    """A body of DATA."""
    yield DATA


@asynccontextmanager
async def serving(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Host and port of a server that answers everything with that handler."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
