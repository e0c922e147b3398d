"""The listener: uvicorn under our own signal handling."""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Final

import uvicorn

from ollamamax.api.app import App
from ollamamax.api.http_protocol import HttpProtocol
from ollamamax.core.errors import ShuttingDown

_KEEP_ALIVE_S: Final = 75
_LAST_WORDS_S: Final = 3.0
_START_S: Final = 10.0


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A uvloop where it is installed, else asyncio's own."""
    if find_spec("uvloop") is None:
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


class Listener:
    """A server that listens. port: the bound one.  addresses: (host, port) of each socket."""

    def __init__(
        self, app: App, server: "_Server", task: "asyncio.Task[None]", sockets: Sequence[socket.socket]
    ) -> None:
        self._app = app
        self._server = server
        self._task = task
        self.addresses: tuple[tuple[str, int], ...] = tuple(one.getsockname()[:2] for one in sockets)
        self.port = self.addresses[0][1]

    async def close(self, grace_ms: int) -> None:
        """Accept no more, let answers finish for `grace_ms`, then end them with an error frame. Idempotent."""
        self._server.should_exit = True
        if not await self._ended(grace_ms / 1000):
            self._app.abort_all(ShuttingDown("the server is shutting down"))
            if not await self._ended(_LAST_WORDS_S):
                self._server.force_exit = True
                self._task.cancel()
        await asyncio.wait([self._task])

    async def _ended(self, limit_s: float) -> bool:
        done, _ = await asyncio.wait([self._task], timeout=limit_s)
        return bool(done)


async def serve(app: App, sockets: Sequence[socket.socket]) -> Listener:
    """Serve `app` on sockets that listen already. They are the listener's from now on."""
    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=list(sockets)), name="listener")
    async with asyncio.timeout(_START_S):
        await server.listening.wait()
    return Listener(app, server, task, sockets)


class _Server(uvicorn.Server):
    """Leaves signals alone and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
