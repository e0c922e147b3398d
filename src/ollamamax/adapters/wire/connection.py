"""One HTTP/1.1 connection: a request goes out, its response comes in, then the next. Parsing is llhttp's.

Source: RFC 9112, sections 4 to 9.
Deliberate limits: one request at a time (no pipelining); no upgrades; no content codings, and of transfer codings only
`chunked`; trailers are dropped; a response to HEAD can't be told from one whose body is missing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, cast

import httptools
from msgspec import Struct

_BUFFER_BYTES: Final = 256 << 10
_NO_BODY: Final = (204, 304)
_SWITCHING: Final = 101
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"content-encoding"})


class WireError(Exception):
    """An exchange failed. Silence is told as TimeoutError instead."""


class WireUnreachable(WireError):
    """No connection could be opened: no such host, refused, or TLS failed."""


class WireClosed(WireError):
    """The connection ended before the response did. The text is the system's, "" where it ended in order."""


class WireMalformed(WireError):
    """What came is not HTTP/1.1, or beyond what is taken for sane."""


class WireLimits(Struct, frozen=True):
    """connect_s: to open a connection, name look-up and TLS included.  idle_s: between two reads of a response, and
    to its first byte.  keep_s: a connection idle for longer is not used again.  barren_bytes: received in a row without
    a byte of body: heads, 1xx responses, chunk extensions, trailers.
    """

    connect_s: float = 5.0
    idle_s: float = 300.0
    keep_s: float = 3.0
    barren_bytes: int = 64 << 10


class Connection(asyncio.Protocol):
    """One at a time: `begin`, then `head` and `read` until `is_over`, then `rest`.

    status: of the response, 0 before its head came.  headers: in order, names in lower case.  has_begun: some byte of
    the response came.  lost: done once the connection is closed.  idle_since_s: when it came to rest.
    """

    __slots__ = (
        "_barren_bytes", "_buffered_bytes", "_failure", "_in_exchange", "_is_complete", "_is_open", "_is_paused",
        "_keeps", "_limits", "_loop", "_parser", "_parts", "_settled", "_timer", "_transport", "_until_close",
        "_waiter", "_waiting_since_s", "_wants_head", "has_begun", "headers", "idle_since_s", "lost", "status",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: WireLimits) -> None:
        self._loop = loop
        self._limits = limits
        self.lost: asyncio.Future[None] = loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        # Servers that were written by hand get these wrong; in a response no harm comes of it.
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._waiting_since_s = 0.0
        self._settled: Callable[[Connection], None] | None = None
        self._parts: list[bytes] = []
        self._buffered_bytes = self._barren_bytes = 0
        self._failure: Exception | None = None
        self._is_open = self._keeps = True
        self._in_exchange = self._is_complete = self._is_paused = self._until_close = self._wants_head = False
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.has_begun = False
        self.idle_since_s = 0.0

    # --- use --------------------------------------------------------------------------------------------------

    def begin(self, request: bytes, keeps: bool) -> None:
        """Send a request, head and body. keeps: False = the connection serves no other after it."""
        self._parts, self._buffered_bytes, self._barren_bytes = [], 0, 0
        self._in_exchange, self._keeps = True, keeps
        self._is_complete = self._until_close = self._wants_head = self.has_begun = False
        self.status, self.headers = 0, []
        if self._is_open:
            self._transport.write(request)
        else:
            self._failure = WireClosed()

    async def head(self) -> None:
        """Returns once status and headers are known. Raises: WireClosed, WireMalformed, TimeoutError."""
        self._wants_head = True
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self._next()

    async def read(self) -> bytes:
        """What has come of the body since the last time, or the next that comes; b"" at the end.

        Raises: WireClosed, WireMalformed, TimeoutError; what came before the failure is given first.
        """
        while not self._parts:
            if self._is_complete:
                return b""
            if self._failure is not None:
                raise self._failure
            await self._next()
        parts, self._parts, self._buffered_bytes = self._parts, [], 0
        if self._is_paused:
            self._read_on()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def is_over(self) -> bool:
        """Whether all has been read, the end too."""
        return self._is_complete and not self._parts

    def is_usable(self) -> bool:
        """Whether another request may be sent here."""
        return self._is_complete and self._keeps and self._is_open and not self._transport.get_write_buffer_size()

    def settle(self, limit_s: float, settled: "Callable[[Connection], None]") -> None:
        """The rest of the response needs no reader. settled: called once all has come.

        If that takes longer than the limit, or much comes, the connection is closed.
        """
        self._parts = []
        if self._is_complete:
            settled(self)
            return
        self._settled = settled
        if self._is_paused:
            self._read_on()
        self._stop_timer()
        self._timer = self._loop.call_later(limit_s, self.abort)

    def rest(self) -> None:
        """The exchange is over. Bytes that come now nobody asked for: they close the connection."""
        self._in_exchange = False
        self.idle_since_s = self._loop.time()

    def idle_s(self) -> float:
        """For how long no exchange has needed it."""
        return self._loop.time() - self.idle_since_s

    def abort(self) -> None:
        """Close at once; `lost` is done a moment later. Idempotent."""
        self._stop_timer()
        if self._is_open:
            self._is_open = False
            self._transport.abort()

    # --- waiting ----------------------------------------------------------------------------------------------

    def _next(self) -> "asyncio.Future[None]":
        """Done when there is something to see. One reader at a time."""
        self._waiting_since_s = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._limits.idle_s, self._look)
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def _look(self) -> None:
        """One timer serves all waits of a connection, one after the other: setting one for each would cost more."""
        self._timer = None
        if self._waiter is not None and not self._waiter.done():
            left_s = self._waiting_since_s + self._limits.idle_s - self._loop.time()
            if left_s > 0:
                self._timer = self._loop.call_later(left_s, self._look)
            else:
                self._fail(TimeoutError("nothing came in time"))

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read_on(self) -> None:
        self._is_paused = False
        if self._is_open:
            self._transport.resume_reading()

    def _fail(self, failure: Exception) -> None:
        if self._failure is None:
            self._failure = failure
        self.abort()
        self._wake()

    # --- the transport's side ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Opened."""
        self._transport = cast(asyncio.Transport, transport)

    def eof_received(self) -> None:
        """The server will send no more. The transport closes."""
        self._keeps = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed, by whomever. For a response of unknown length that is its end."""
        self._is_open = False
        self._stop_timer()
        if not self._is_complete and self._failure is None:
            if self._until_close and exc is None:
                self._is_complete = True
            else:
                self._failure = WireClosed(str(exc or ""))
        self._wake()
        del self._parser  # it knows this object by its methods: a cycle
        self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Some bytes of the response."""
        if not self._in_exchange:
            self.abort()
            return
        self.has_begun = True
        self._barren_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._spoil(f"{error}")
        if self._barren_bytes > self._limits.barren_bytes and not self._is_complete:
            self._spoil(f"more than {self._limits.barren_bytes} bytes came without a body")
        if self._failure is not None:
            self._fail(self._failure)
        elif self._settled is not None:
            if self._is_complete:
                self._stop_timer()
                settled, self._settled = self._settled, None
                settled(self)
        elif self._parts or self._is_complete or (self._wants_head and self.status):
            self._wake()

    def _spoil(self, why: str) -> None:
        """This connection serves no other request. A response that was whole before is none the worse for it."""
        self._keeps = False
        if not self._is_complete and self._failure is None:
            self._failure = WireMalformed(why)

    # --- the parser's side ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A response begins. A second one nobody asked for."""
        if self._is_complete:
            self._keeps = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field. Those that follow the body are dropped."""
        if not self.status:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head came. 1xx responses are passed over."""
        status = self._parser.get_status_code()
        if self._is_complete:
            return
        if status < 200:
            self.headers = []
            if status == _SWITCHING:
                self._spoil("it switches protocols unasked")
            return
        self._until_close = status not in _NO_BODY
        for name, value in self.headers:
            if name not in _FRAMING:
                continue
            if name == b"content-length":
                self._until_close = False
            elif name == b"transfer-encoding":
                self._until_close = False
                self._check_coding("transfer", value, b"chunked")
            else:
                self._check_coding("content", value, b"identity")
        self._waiting_since_s = self._loop.time()
        self.status = status

    def _check_coding(self, kind: str, value: bytes, known: bytes) -> None:
        if value.strip().lower() not in (b"", known):
            self._spoil(f"the {kind} coding {value.decode('latin-1')!r} is not known")

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._is_complete or self._failure is not None or self._settled is not None:
            return
        self._barren_bytes = 0
        self._parts.append(body)
        self._buffered_bytes += len(body)
        if self._buffered_bytes > _BUFFER_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The end of a response, or of one that is passed over."""
        if self.status and not self._is_complete and self._failure is None:
            self._is_complete = True
            self._keeps = self._keeps and self._parser.should_keep_alive()


async def whole(read: Callable[[], Awaitable[bytes]], limit_bytes: int) -> bytes:
    """A body to its end, b"" from `read`; or what came until there was more than the limit. Raises: as `read` does."""
    parts: list[bytes] = []
    size_bytes = 0
    while size_bytes <= limit_bytes and (part := await read()):
        parts.append(part)
        size_bytes += len(part)
    return b"".join(parts)
