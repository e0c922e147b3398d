"""The listener: uvicorn under our own signal handling, with clear errors for an address that can't be had."""

import asyncio
import errno
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Final

import uvicorn

from ollamamax.api.app import App
from ollamamax.api.http_protocol import HttpProtocol
from ollamamax.core.errors import Conflict, SettingsError, ShuttingDown

_BACKLOG: Final = 2048
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


async def serve(app: App, host: str, port: int) -> Listener:
    """Listen on all addresses of `host` ("" = every interface; port 0 = any free one) and serve `app`.

    Raises: Conflict if the port is in use, SettingsError if the address is not this machine's or not allowed.
    """
    sockets = await _bind(host, port)
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
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=sockets), name="listener")
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


async def _bind(host: str, port: int) -> list[socket.socket]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise SettingsError(f"can't listen on {host}: {error.strerror}; give an address of this machine") from None
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in sorted(set(found), key=lambda item: item[0]):
            bound_port = sockets[0].getsockname()[1] if sockets else port
            sockets.append(_bind_one(family, kind, protocol, (address[0], bound_port, *address[2:])))
    except OSError as error:
        for one in sockets:
            one.close()
        raise _explained(error, host, port) from None
    return sockets


def _bind_one(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    one = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # there it would let two programs share the port
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(_BACKLOG)
        one.setblocking(False)
    except OSError:
        one.close()
        raise
    return one


def _explained(error: OSError, host: str, port: int) -> Conflict | SettingsError:
    where = f"{host or '*'}:{port}"
    causes: dict[int | None, Callable[[], Conflict | SettingsError]] = {
        errno.EADDRINUSE: lambda: Conflict(
            f"{where} is already in use; stop the program that listens there, or choose another address "
            "with OLLAMA_HOST or --host"
        ),
        errno.EADDRNOTAVAIL: lambda: SettingsError(f"{where} is no address of this machine; choose another host"),
        errno.EACCES: lambda: SettingsError(f"no permission to listen on {where}; choose a port above 1023"),
    }
    return causes.get(error.errno, lambda: SettingsError(f"can't listen on {where}: {error.strerror}"))()
