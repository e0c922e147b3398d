"""HTTP/1.1 as the listener speaks it: requests parsed by llhttp, each answered by an ASGI application.

Where it differs from uvicorn's protocol: the head of a response leaves together with the first piece of its body
(one system call and one packet instead of two; the ASGI specification asks for it), one timer per connection watches
over idleness, a head is bounded in bytes and in time, trailers are dropped. Why: docs/adr/0012.
Source: RFC 9112; ASGI 3, HTTP spec version 2.3.
Deliberate limits: no WebSockets or other upgrades; no trailers. A body is the application's to bound.
"""

import asyncio
import logging
import math
import re
from collections import deque
from typing import Any, Final, cast
from urllib.parse import unquote

import httptools
from starlette.types import Scope

from ollamamax.api.exchange import Exchange
from ollamamax.api.listener_state import Config, ServerState

_LOG: Final = logging.getLogger(__name__)
_BODY_BYTES: Final = 64 << 10
_HEAD_BYTES: Final = 64 << 10
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}
_PLAIN_URL: Final = re.compile(rb"/[^?#%\x80-\xff]*")
_BAD_REQUEST: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 30\r\n"
    b"connection: close\r\n\r\nInvalid HTTP request received."
)


class HttpProtocol(asyncio.Protocol):
    """One connection of a listener."""

    __slots__ = (
        "_address", "_answering", "_app", "_app_state", "_head_bytes", "_headers", "_idle_since_s",
        "_is_in_head", "_is_paused", "_keep_alive_s", "_loop", "_parser", "_queue", "_receiving", "_scheme",
        "_server_address", "_state", "_timer", "_url", "blocked", "transport",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app = config.loaded_app
        self._keep_alive_s = config.timeout_keep_alive
        self._loop = _loop or asyncio.get_running_loop()
        self._state = server_state
        self._app_state = app_state
        self._parser = httptools.HttpRequestParser(self)
        # A client may send `Connection: close` and then more; that is dropped.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.transport: asyncio.Transport
        self._receiving: Exchange | None = None  # whose body is read
        self._answering: Exchange | None = None
        self._queue: deque[Exchange] = deque()  # pipelined behind it
        self._is_paused = self._is_in_head = False
        self._head_bytes = 0
        self.blocked: asyncio.Future[None] | None = None  # while the client reads too slowly
        self._timer: asyncio.TimerHandle | None = None
        self._idle_since_s = 0.0
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []

    # --- the transport's side ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self.transport = cast(asyncio.Transport, transport)
        self._state.connections.add(cast(Any, self))
        self._rest()
        self._server_address = _place(transport.get_extra_info("sockname"))
        self._address = _place(transport.get_extra_info("peername"))
        self._scheme = "https" if transport.get_extra_info("sslcontext") else "http"

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed, by whomever."""
        self._state.connections.discard(cast(Any, self))
        if self._timer is not None:
            self._timer.cancel()
        self.resume_writing()
        for exchange in (self._answering, *self._queue):
            if exchange is not None:
                exchange.disconnect()
        del self._parser  # it knows this object by its methods: a cycle

    def eof_received(self) -> None:
        """The client will send no more; the transport closes."""

    def data_received(self, data: bytes) -> None:
        """Some bytes of requests."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._refuse(str(error))
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self._refuse(f"a head of more than {_HEAD_BYTES} bytes")

    def _refuse(self, why: str) -> None:
        """Nothing more can be understood. A request that came whole before is answered still."""
        _LOG.warning("Invalid HTTP request received: %s", why)
        self._is_in_head = False
        current = self._answering
        if current is not None and current is not self._receiving:
            current.keeps = False
            self.pause_reading()
            return
        if current is None or not current.has_begun:
            self.transport.write(_BAD_REQUEST)
        self.transport.close()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self.blocked = self._loop.create_future()

    def resume_writing(self) -> None:
        """It has caught up."""
        if self.blocked is not None:
            self.blocked.set_result(None)
            self.blocked = None

    async def drain(self) -> None:
        """Wait while the client reads too slowly."""
        while self.blocked is not None:
            await asyncio.shield(self.blocked)

    def pause_reading(self) -> None:
        """Take no more from the client."""
        if not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on, unless whole requests wait already."""
        if self._is_paused and not self._queue:
            self._is_paused = False
            self.transport.resume_reading()

    def shutdown(self, idle_before_s: float = math.inf) -> None:
        """The listener closes: close after what is being answered, at once if it was idle before that time."""
        if self._answering is not None:
            self._answering.keeps = False
        elif self._idle_since_s < idle_before_s:
            self.transport.close()

    # --- the parser's side ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._idle_since_s = self._loop.time()
        self._is_in_head, self._head_bytes = True, 0
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        """Its target, or a part of it."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or of a trailer."""
        if self._is_in_head:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head came: answer it, or let it wait behind the one before."""
        self._is_in_head = False
        url = self._url
        if _PLAIN_URL.fullmatch(url):
            raw_path, query, path = url, b"", url.decode("ascii")
        else:
            parsed = httptools.parse_url(url)
            raw_path, query = parsed.path, parsed.query or b""
            path = unquote(raw_path.decode("ascii"))
        version = self._parser.get_http_version()
        method = self._parser.get_method().decode("ascii")
        scope: Scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "server": self._server_address,
            "client": self._address,
            "scheme": self._scheme,
            "method": method,
            "root_path": "",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self._headers,
            "state": self._app_state.copy(),
        }
        keeps = version != "1.0" and not self._state.is_ending and self._parser.should_keep_alive()
        exchange = self._receiving = Exchange(self, self._state, scope, keeps)
        if self._answering is None:
            self._answer(exchange)
        else:
            self._queue.append(exchange)
            self.pause_reading()

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        if self._receiving is not None and self._receiving.take(body) > _BODY_BYTES:
            self.pause_reading()

    def on_message_complete(self) -> None:
        """The end of its body."""
        if self._receiving is not None:
            self._receiving.end_body()
            self._receiving = None

    # --- answering --------------------------------------------------------------------------------------------

    def _answer(self, exchange: "Exchange") -> None:
        self._answering = exchange
        task = self._loop.create_task(exchange.run(self._app))
        tasks = self._state.tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def answered(self, keeps: bool) -> None:
        """The response is complete."""
        self._state.total_requests += 1
        self._answering = None
        if not keeps:
            self.transport.close()
        elif self._queue:
            self._answer(self._queue.popleft())
        else:
            self._rest()
        if not self.transport.is_closing():
            self.resume_reading()

    def _rest(self) -> None:
        self._idle_since_s = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._keep_alive_s, self._look)

    def _look(self) -> None:
        """Close what was idle, or did not send the rest of a head, for too long."""
        self._timer = None
        if self._answering is None:
            left_s = self._idle_since_s + self._keep_alive_s - self._loop.time()
            if left_s > 0:
                self._timer = self._loop.call_later(left_s, self._look)
            else:
                self.transport.close()


def _place(address: Any) -> tuple[str, int] | None:
    """Host and port of a socket's address, None where it has none."""
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) else None
