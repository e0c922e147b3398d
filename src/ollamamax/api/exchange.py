"""One HTTP request and its response, as an ASGI application sees them: what `receive` and `send` do.

Source: ASGI 3, HTTP spec version 2.3.
"""

import asyncio
import logging
from collections.abc import Iterable
from http import HTTPStatus
from string import ascii_letters, digits
from typing import Final, Protocol

from starlette.types import ASGIApp, Message, Scope

from ollamamax.api.listener_state import ServerState

_LOG: Final = logging.getLogger(__name__)
_NAME_BYTES: Final = b"!#$%&'*+.^_`|~-" + (ascii_letters + digits).encode()
_VALUE_BYTES: Final = bytes([9, *range(32, 127), *range(128, 256)])
_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}
_NO_BODY: Final = (204, 304)
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"connection"})
WHOLE_BODY: Final = "ollamamax.body"
"""In a scope: the request's body, where it has come whole before the application was called. `receive` gives it too."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_FAILED: Final = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", b"21"),
    (b"connection", b"close"),
]


class Connection(Protocol):
    """What an exchange needs of its connection. blocked: not None while the client reads too slowly."""

    transport: asyncio.Transport
    blocked: asyncio.Future[None] | None

    async def drain(self) -> None:
        """Wait while the client reads too slowly."""
        ...

    def resume_reading(self) -> None:
        """Take more from the client."""
        ...

    def answered(self, keeps: bool) -> None:
        """The response is complete."""
        ...


class Exchange:
    """A request and its response, for the application.

    keeps: whether the connection serves on after it.  has_begun: some of the response was sent.
    """

    __slots__ = (
        "_body", "_has_more", "_head", "_is_asked", "_is_chunked", "_is_complete", "_is_disconnected", "_is_news",
        "_is_started", "_left_bytes", "_protocol", "_scope", "_state", "_waiter", "has_begun", "keeps",
    )  # fmt: skip

    def __init__(self, protocol: Connection, state: ServerState, scope: Scope, keeps: bool) -> None:
        self._protocol = protocol
        self._state = state
        self._scope = scope
        self.keeps = keeps
        self._is_asked = False  # for the body
        self._body = b""
        self._waiter: asyncio.Future[None] | None = None
        self._has_more = True
        self._is_news = self._is_disconnected = False
        self._is_started = self._is_chunked = self._is_complete = self.has_begun = False
        self._head = b""
        self._left_bytes = 0  # of a response of known length

    async def run(self, app: ASGIApp) -> None:
        """The application's answer, or 500."""
        if not self._has_more and not self._is_disconnected:
            self._scope[WHOLE_BODY] = self._body
        try:
            await app(self._scope, self.receive, self.send)
        except Exception as error:  # noqa: BLE001 - a request's last resort: logged, and told as status 500
            _LOG.error("Exception in ASGI application", exc_info=error)
        except BaseException:  # cancelled: the server ends
            self._protocol.transport.close()
            raise
        if not self._is_complete and not self._is_disconnected:
            await self._give_up()

    async def _give_up(self) -> None:
        if self.has_begun:
            self._protocol.transport.close()  # what was said can't be taken back
            return
        _LOG.error("the application gave no response to %s %s", self._scope["method"], self._scope["path"])
        self._is_started = self._is_chunked = False
        await self.send({"type": "http.response.start", "status": 500, "headers": _FAILED})
        await self.send({"type": "http.response.body", "body": b"Internal Server Error"})

    # --- the request's body -----------------------------------------------------------------------------------

    def take(self, body: bytes) -> int:
        """A piece came; how much waits."""
        if self._is_complete:
            return 0
        self._body = self._body + body if self._body else body
        self._tell()
        return len(self._body)

    def end_body(self) -> None:
        """It has come whole."""
        self._has_more = False
        self._tell()

    def disconnect(self) -> None:
        """The client is gone."""
        self._is_disconnected = True
        self._scope.pop(WHOLE_BODY, None)
        self._tell()

    def _tell(self) -> None:
        self._is_news = True
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
            self._waiter = None

    async def receive(self) -> Message:
        """ASGI's."""
        protocol = self._protocol
        if not self._is_asked:
            self._is_asked = True
            if self._has_more and not self.has_begun and _wants_continue(self._scope):
                protocol.transport.write(_CONTINUE)
        if not self._is_disconnected and not self._is_complete:
            protocol.resume_reading()
            while not self._is_news:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
            self._is_news = False
        if self._is_disconnected or self._is_complete:
            return {"type": "http.disconnect"}
        body, self._body = self._body, b""
        return {"type": "http.request", "body": body, "more_body": self._has_more}

    # --- the response -----------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """ASGI's. The head waits for the first piece of the body."""
        if self._is_disconnected:
            return
        if message["type"] == "http.response.start":
            assert not self._is_started, "a response begins once"
            self._is_started = True
            self._head = self._started(message["status"], message.get("headers", ()))
            return
        assert self._is_started, "a response begins before its body"
        assert not self._is_complete, "a response ends once"
        protocol = self._protocol
        if protocol.blocked is not None:
            await protocol.drain()
            if self._is_disconnected:
                return
        body, has_more = message.get("body", b""), message.get("more_body", False)
        data = b"" if self._scope["method"] == "HEAD" else self._framed(body, has_more)
        if not self.has_begun:
            self.has_begun = True
            data, self._head = self._head + data, b""
        if data:
            protocol.transport.write(data)
        if not has_more:
            self._is_complete = True
            self._tell()
            protocol.answered(self.keeps)

    def _framed(self, body: bytes, has_more: bool) -> bytes:
        if self._is_chunked:
            end = b"" if has_more else b"0\r\n\r\n"
            return b"%x\r\n%b\r\n%b" % (len(body), body, end) if body else end
        self._left_bytes -= len(body)
        assert self._left_bytes >= 0, "no more than the announced length is sent"
        assert has_more or not self._left_bytes, "all of the announced length is sent"
        return body

    def _started(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The head as bytes. Raises: ValueError for a header that would break it."""
        self._left_bytes = 0
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status]
        is_sized = has_close = False
        names = b""
        for name, value in (*self._state.default_headers, *headers):
            if (field := name.lower()) in _FRAMING:
                if field == b"content-length":
                    is_sized, self._left_bytes = True, int(value)
                elif field == b"transfer-encoding":
                    continue  # framing is done here
                elif value.lower() == b"close":
                    has_close, self.keeps = True, False
            names += name
            lines.append(b"%b: %b" % (name, value))
        if not self.keeps and not has_close:
            lines.append(b"connection: close")
        if not is_sized and status not in _NO_BODY and self._scope["method"] != "HEAD":
            self._is_chunked = True
            lines.append(b"transfer-encoding: chunked")
        lines += (b"", b"")
        head = b"\r\n".join(lines)
        if names.translate(None, _NAME_BYTES) or head.translate(None, _VALUE_BYTES) != b"\r\n" * (len(lines) - 1):
            raise ValueError("a response's header may hold no control characters")
        return head


def _wants_continue(scope: Scope) -> bool:
    """Whether the client waits to be asked for the body (RFC 9110, section 10.1.1)."""
    return any(name == b"expect" and value.lower() == b"100-continue" for name, value in scope["headers"])
