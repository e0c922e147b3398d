"""One HTTP request on its way through the API: reading its body, writing its reply."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final

from starlette.types import Message, Receive, Scope, Send

from ollamamax.api.errors import ErrorForm, headers_of, status_of, text_of
from ollamamax.api.exchange import WHOLE_BODY
from ollamamax.api.ports import Services
from ollamamax.core.errors import BadRequest, BodyTimeout, BodyTooLarge, ClientGone
from ollamamax.core.types import Principal, RequestContext
from ollamamax.services.watchdog import Watchdog

JSON: Final = b"application/json; charset=utf-8"
TEXT: Final = b"text/plain; charset=utf-8"

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_TRACEPARENT: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_LINGER_S: Final = 5.0


class Call:
    """A request and its reply.

    headers: by lower-case name; of repeated ones the last.  extra_headers: what every reply to it carries.
    status: of the reply, 0 before it began.  finished: its last piece was sent.
    handed_over: the gateway has it and will write its Outcome.
    """

    __slots__ = (
        "_body_read",
        "arrived_ms",
        "context",
        "extra_headers",
        "finished",
        "handed_over",
        "headers",
        "method",
        "path",
        "receive",
        "request_id",
        "scope",
        "send",
        "services",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, services: Services) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.services = services
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.arrived_ms = services.clock.now_ms()
        asked_id = self.headers.get(b"x-request-id", b"")
        known = asked_id and _REQUEST_ID.fullmatch(asked_id)
        self.request_id = asked_id.decode() if known else services.dice.token_hex(8)
        self.extra_headers: list[tuple[bytes, bytes]] = [(b"x-request-id", self.request_id.encode())]
        self.status = 0
        self.finished = False
        self.handed_over = False
        self._body_read = False
        self.context: RequestContext

    def identify(self, route: str, principal: Principal) -> None:
        """Fill in `context`. A traceparent outside W3C's grammar (Trace Context, section 3.2) is dropped."""
        trace = self.headers.get(b"traceparent", b"")
        self.context = RequestContext(
            request_id=self.request_id,
            route=route,
            principal=principal,
            arrived_ms=self.arrived_ms,
            traceparent=trace.decode() if trace and _TRACEPARENT.fullmatch(trace) else "",
        )

    def header(self, name: bytes) -> str:
        """A header's value, "" where missing."""
        return self.headers.get(name, b"").decode("latin-1")

    def parameter(self, name: str) -> str:
        """A part of the path."""
        return str(self.scope["path_params"][name])

    def elapsed_ns(self) -> int:
        """Since the request arrived."""
        return int((self.services.clock.now_ms() - self.arrived_ms) * 1e6)

    # --- reading ----------------------------------------------------------------------------------------------

    async def body(self) -> bytes:
        """The whole body, unpacked. Raises: BodyTooLarge, BodyTimeout, BadRequest (an encoding), ClientGone."""
        limit_bytes = self.services.config.max_body_bytes
        encoding = self.header(b"content-encoding").lower()
        if encoding not in ("", "identity", "zstd"):
            raise BadRequest(f"unsupported content encoding: {encoding}")
        if int(self.headers.get(b"content-length", b"0")) > limit_bytes:
            raise _too_large(limit_bytes)
        body: bytes | None = self.scope.get(WHOLE_BODY)
        if body is None:
            body = await self._awaited(limit_bytes)
        else:
            self._body_read = True
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
        if encoding == "zstd":
            from ollamamax.api.encodings import unzstd  # few clients compress

            return unzstd(body, limit_bytes)
        return body

    async def _awaited(self, limit_bytes: int) -> bytes:
        """The body as far as it may go, while it comes in time."""
        watchdog = Watchdog(self.services.patrol)
        watchdog.watch(self.services.config.body_timeout_ms / 1000)
        try:
            message = await self._next_piece()
            body: bytes = message.get("body", b"")
            if message.get("more_body"):
                body = await self._rest(body, limit_bytes)
        except asyncio.CancelledError:
            if watchdog.has_barked():
                raise BodyTimeout("the request's body did not arrive in time") from None
            raise
        finally:
            watchdog.close()
        return body

    async def _rest(self, first: bytes, limit_bytes: int) -> bytes:
        pieces, more = bytearray(first), True
        while more and len(pieces) <= limit_bytes:
            message = await self._next_piece()
            pieces += message.get("body", b"")
            more = message.get("more_body", False)
        return bytes(pieces)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes, of any length. Raises: BodyTimeout, ClientGone."""
        more = True
        while more:
            try:
                async with asyncio.timeout(self.services.config.body_timeout_ms / 1000):
                    message = await self._next_piece()
            except TimeoutError:
                raise BodyTimeout("the request's body did not arrive in time") from None
            more = message.get("more_body", False)
            if piece := message.get("body", b""):
                yield piece

    async def _next_piece(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client closed its connection")
        self._body_read = not message.get("more_body")
        return message

    # --- writing ----------------------------------------------------------------------------------------------

    async def start(
        self, status: int, content_type: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Status and headers; without a content-length the body goes out in pieces."""
        self.status = status
        sent = self.extra_headers + headers if headers else self.extra_headers.copy()
        if content_type:
            sent.append((b"content-type", content_type))
        await self.send({"type": "http.response.start", "status": status, "headers": sent})

    async def write(self, body: bytes, more: bool) -> None:
        """A piece of the reply's body. Waits while the client does not read."""
        self.finished = not more
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def reply(
        self,
        status: int,
        body: bytes = b"",
        content_type: bytes = JSON,
        headers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        """A whole reply. An empty body has no content type."""
        # As start() and write() would do it, but without passing through them.
        self.status = status
        sent = [*self.extra_headers, *(headers or ())]
        if body:
            sent.append((b"content-type", content_type))
        if status != 204:
            sent.append((b"content-length", b"%d" % len(body)))
        await self.send({"type": "http.response.start", "status": status, "headers": sent})
        self.finished = True
        await self.send({"type": "http.response.body", "body": body})

    async def fail(self, error: BaseException, form: ErrorForm) -> None:
        """An error as the reply. What is still to come of the request's body is read away for a while.

        To close at once would reset the connection, and many clients would lose the reply (RFC 9112, section 9.6).
        """
        status = status_of(error)
        body = form(status, text_of(error, self.request_id), self.request_id)
        sized = [*headers_of(error), (b"content-length", str(len(body)).encode())]
        await self.start(status, JSON, sized)
        if not isinstance(error, BodyTimeout) and self._more_to_come():
            await self.write(body, more=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LINGER_S):
                    while (await self.receive()).get("more_body"):
                        pass
            body = b""
        await self.write(body, more=False)

    def _more_to_come(self) -> bool:
        return not self._body_read and (
            self.headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in self.headers
        )


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the request's body exceeds the limit of {limit_bytes} bytes")
