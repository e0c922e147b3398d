"""The listener. It does nothing at all while nobody is connected."""

import asyncio
import math
import socket
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate
from importlib.util import find_spec
from typing import Final

from ollamamax.api.app import App
from ollamamax.api.http_protocol import HttpProtocol
from ollamamax.api.listener_state import Config, ServerState
from ollamamax.core.errors import ShuttingDown

_KEEP_ALIVE_S: Final = 75
_LAST_WORDS_S: Final = 3.0
_BACKLOG: Final = 2048
_DATE_S: Final = 1.0
_LOOK_S: Final = 0.02
_LINGER_S: Final = 0.3
"""For how long a connection may be idle still while the listener closes: its request may be on the way."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A uvloop where it is installed, else asyncio's own."""
    if find_spec("uvloop") is None:
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


class Listener:
    """A server that listens. port: the bound one.  addresses: (host, port) of each socket."""

    def __init__(self, app: App, sockets: Sequence[socket.socket]) -> None:
        self._app = app
        self._sockets = sockets
        self._config = Config(app, _KEEP_ALIVE_S)
        self._state = ServerState()
        self._servers: list[asyncio.AbstractServer] = []
        self._loop = asyncio.get_running_loop()
        self._date: asyncio.TimerHandle | None = None
        self.addresses: tuple[tuple[str, int], ...] = tuple(one.getsockname()[:2] for one in sockets)
        self.port = self.addresses[0][1]

    async def open(self) -> None:
        """Take connections."""
        for one in self._sockets:
            self._servers.append(await self._loop.create_server(self._connected, sock=one, backlog=_BACKLOG))

    async def close(self, grace_ms: int) -> None:
        """Accept no more, let answers finish for `grace_ms`, then end them with an error frame. Idempotent.

        Who is connected already, or is in the system's queue, is answered one more request that comes at once.
        """
        self._state.is_ending = True
        queued = [accepted for one in self._sockets for accepted in _queued(one)]
        for server in self._servers:
            server.close()
        for one in self._sockets:
            one.close()
        for accepted in queued:
            await self._loop.connect_accepted_socket(self._connected, accepted)
        if not await self._ended(grace_ms / 1000):
            self._app.abort_all(ShuttingDown("the server is shutting down"))
            await self._ended(_LAST_WORDS_S)
        if self._date is not None:
            self._date.cancel()

    async def _ended(self, limit_s: float) -> bool:
        """Whether all connections and requests end within that time."""
        state, began_s = self._state, self._loop.time()
        while state.connections or state.tasks:
            now_s = self._loop.time()
            is_over = now_s - began_s >= limit_s
            idle_before_s = now_s if is_over else now_s - _LINGER_S
            for connection in tuple(state.connections):  # one may have come while the servers closed
                # From the beginning all have that time: what came may lie unread, however long they were idle.
                connection.shutdown(idle_before_s if idle_before_s > began_s else -math.inf)
            if is_over:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    def _connected(self) -> HttpProtocol:
        if self._date is None:
            self._tell_date()
        return HttpProtocol(self._config, self._state, {})

    def _tell_date(self) -> None:
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        self._date = self._loop.call_later(_DATE_S, self._look_at_date)

    def _look_at_date(self) -> None:
        self._date = None
        if self._state.connections:
            self._tell_date()


def _queued(listening: socket.socket) -> list[socket.socket]:
    """Connections that the system has accepted: closing the listening socket would reset them."""
    found = []
    with suppress(OSError):  # none is left, or there is no room for more
        while True:
            accepted, _ = listening.accept()
            found.append(accepted)
            accepted.setblocking(False)
    return found


async def serve(app: App, sockets: Sequence[socket.socket]) -> Listener:
    """Serve `app` on sockets that listen already. They are the listener's from now on."""
    listener = Listener(app, sockets)
    await listener.open()
    return listener
