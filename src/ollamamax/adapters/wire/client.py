"""An HTTP/1.1 client of one server: a pool of connections, and replies that are read as they come.

Why not a library's: docs/adr/0011.
Deliberate limits: those of connection.py; redirects are replies like others; no cookies, no proxies; a request's body
is whole; a name's addresses are tried one after the other, each for its share of the time that is left.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Mapping
from ipaddress import ip_address
from socket import SOCK_STREAM
from typing import Final, Self
from urllib.parse import quote, urlsplit

from ollamamax.adapters.wire.connection import Connection, WireClosed, WireLimits, WireUnreachable, whole
from ollamamax.adapters.wire.idle import IdleConnections

_PORTS: Final = {"http": 80, "https": 443}
_BODYLESS: Final = ("GET", "DELETE")
_SETTLE_S: Final = 0.2
_CLOSE_S: Final = 1.0


class WireClient:
    """Talks to one base URL, over as many connections as there are requests at once; `aclose` ends them all.

    headers: sent with every request.  tls: for https, where the system's certificates will not do.
    Raises: ValueError for a url or a header that can't be used.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        limits: WireLimits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"{base_url!r} is no http or https url")
        is_secure = parts.scheme == "https"
        default_port = _PORTS[parts.scheme]
        self._host = parts.hostname
        self._port = parts.port or default_port
        self._tls = (tls or ssl.create_default_context()) if is_secure else None
        self._prefix = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        shown = f"[{self._host}]" if ":" in self._host else self._host.encode("idna").decode()
        host = shown if self._port == default_port else f"{shown}:{self._port}"
        self._fields = b"".join(_field(name, value) for name, value in {"Host": host, **headers}.items())
        self._limits = limits or WireLimits()
        self._open: set[Connection] = set()
        self._idle = IdleConnections(self._limits.keep_s)
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def send(self, method: str, path: str, body: bytes = b"", keeps: bool = True) -> "WireReply":
        """Send a request; returns as soon as it is on its way. The reply must be closed.

        path: after the base URL's own, quoted.  keeps: False = have the server close the connection afterwards.
        Raises: WireUnreachable, TimeoutError.
        """
        if " " in path or not path.isprintable():
            raise ValueError(f"{path!r} is no quoted path")
        size = b"" if not body and method in _BODYLESS else b"Content-Length: %d\r\n" % len(body)
        line = f"{method} {self._prefix}{path} HTTP/1.1\r\n".encode("ascii")
        request = b"".join((line, self._fields, size, b"\r\n" if keeps else b"Connection: close\r\n\r\n", body))
        connection = self._idle.take()
        if connection is not None:
            connection.begin(request, keeps)
            return WireReply(self, connection, request, keeps)
        connection = await self.connect()
        connection.begin(request, keeps)
        return WireReply(self, connection, b"", keeps)

    async def aclose(self) -> None:
        """Close all connections; replies under way fail with WireClosed. Idempotent."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        lost = [connection.lost for connection in self._open]
        for connection in self._open:
            connection.abort()
        if lost:
            await asyncio.wait(lost, timeout=_CLOSE_S)

    # --- connections ------------------------------------------------------------------------------------------

    async def connect(self) -> Connection:
        """A new connection. Raises: WireUnreachable, TimeoutError."""
        if self._is_closed:
            raise WireUnreachable("the client was closed")
        try:
            connection = await self._first_that_answers()
        except TimeoutError:
            raise
        except OSError as error:
            raise WireUnreachable(error.strerror or str(error)) from None
        self._open.add(connection)
        connection.lost.add_done_callback(lambda _: self._open.discard(connection))
        return connection

    async def _first_that_answers(self) -> Connection:
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._limits.connect_s
        async with asyncio.timeout_at(due_s):
            addresses = await self._addresses(loop)
        for left in range(len(addresses), 0, -1):
            try:
                async with asyncio.timeout((due_s - loop.time()) / left):
                    _, connection = await loop.create_connection(
                        lambda: Connection(loop, self._limits),
                        addresses[-left],
                        self._port,
                        ssl=self._tls,
                        server_hostname=self._host if self._tls is not None else None,
                    )
                    return connection
            except OSError:
                if left == 1:
                    raise
        raise OSError("the name has no address")

    async def _addresses(self, loop: asyncio.AbstractEventLoop) -> list[str]:
        try:
            ip_address(self._host)
        except ValueError:
            found = await loop.getaddrinfo(self._host, self._port, type=SOCK_STREAM)
            return list(dict.fromkeys(str(address[0]) for *_, address in found))
        return [self._host]

    def give_back(self, connection: Connection) -> None:
        """Its response has come whole: keep it for the next request, if it is good for one."""
        if self._is_closed:
            connection.abort()
        elif self._idle.give_back(connection) and self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._limits.keep_s, self._drop_old)

    def _drop_old(self) -> None:
        """Close what was idle for too long; look again when the next one will have been."""
        self._idle.drop(self._limits.keep_s)
        self._sweep = None
        longest_s = self._idle.longest_s
        if longest_s is not None:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(max(0.0, self._limits.keep_s - longest_s), self._drop_old)


class WireReply:
    """One response, read as it comes. `close` it (or use it as a context) in any case: before the end that closes the
    connection, so that the server notices.

    A server may close an idle connection just as a request is sent on it. So a request on a used connection that ends
    without a byte of response is sent once more, on a new one: only for requests that may be served twice.
    request: what to send then, b"" on a new connection.
    """

    __slots__ = ("_client", "_connection", "_is_closed", "_keeps", "_request")

    def __init__(self, client: WireClient, connection: Connection, request: bytes, keeps: bool) -> None:
        self._client = client
        self._connection = connection
        self._request = request
        self._keeps = keeps
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def status(self) -> int:
        """Known after `head` or the first `read`."""
        return self._connection.status

    def header(self, name: bytes) -> str:
        """The first of that name (in lower case), "" where missing. Known with the status."""
        found = (value for key, value in self._connection.headers if key == name)
        return next(found, b"").decode("latin-1")

    @property
    def is_over(self) -> bool:
        """Whether all has been read, the end too."""
        return self._connection.is_over

    async def head(self) -> int:
        """Wait for status and headers; the status. Raises: WireClosed, WireMalformed, WireUnreachable, TimeoutError."""
        try:
            await self._connection.head()
        except WireClosed:
            if not self._may_repeat():
                raise
            await self._repeat()
            await self._connection.head()
        return self.status

    def read(self) -> Awaitable[bytes]:
        """What has come of the body since the last time, or the next that comes; b"" at the end. Raises: as head()."""
        # Each coroutine on the way is passed through at each read.
        return self._first_read() if self._request else self._connection.read()

    async def _first_read(self) -> bytes:
        try:
            data = await self._connection.read()
        except WireClosed:
            if not self._may_repeat():
                raise
            await self._repeat()
            data = await self._connection.read()
        self._request = b""
        return data

    async def whole(self, limit_bytes: int) -> bytes:
        """The body to its end, or what came until there was more than the limit. Raises: as head()."""
        return await whole(self.read, limit_bytes)

    def settle(self) -> None:
        """All that matters was read: close it, but if the end comes within a moment, keep the connection."""
        if not self._is_closed:
            self._is_closed = True
            self._connection.settle(_SETTLE_S, self._client.give_back)

    def close(self) -> None:
        """Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._connection.is_over:
            self._client.give_back(self._connection)
        else:
            self._connection.abort()

    def _may_repeat(self) -> bool:
        return bool(self._request) and not self._connection.has_begun

    async def _repeat(self) -> None:
        request, self._request = self._request, b""
        self._connection = await self._client.connect()
        self._connection.begin(request, self._keeps)


def _field(name: str, value: str) -> bytes:
    field = f"{name}: {value}"
    if not field.isprintable():
        raise ValueError(f"a header may hold no control characters: {name}")
    return field.encode("latin-1") + b"\r\n"
