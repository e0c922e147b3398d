"""From a request on the peer listener to the method that answers it, and back."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeVar

import structlog
from aiohttp import web
from msgspec import Struct

from ollamamax.adapters.network.peer_frames import (
    BEAT,
    END,
    MAX_BODY_BYTES,
    PATH_PREFIX,
    PROTOCOL_HEADER,
    PROTOCOL_RANGE,
    check_versions,
    error_body,
    pack,
    pack_error,
)
from ollamamax.adapters.network.peer_guard import PeerGuard
from ollamamax.core.errors import (
    BadRequest,
    BodyTimeout,
    BodyTooLarge,
    ClientGone,
    Denied,
    OllamaMaxError,
    PeerProtocol,
    QueueFull,
    ShuttingDown,
)
from ollamamax.ports import Caller, PeerMethods
from ollamamax.ports.cluster import Stream, Unary

_T = TypeVar("_T")
_LOG: Final = structlog.get_logger(__name__)
_HEADERS: Final = {PROTOCOL_HEADER: PROTOCOL_RANGE, "Server": "OllamaMax", "Content-Type": "application/octet-stream"}
_OPEN_BODY_BYTES: Final = 64 << 10
_FAILED: Final = 422

# What aiohttp has to say is garbage of a caller, with a traceback each time; our own lines tell what matters.
_SILENT: Final = logging.Logger("ollamamax.peer.http", logging.CRITICAL + 1)
HTTP_OPTIONS: Final[dict[str, Any]] = {
    "logger": _SILENT,
    "access_log": None,
    "auto_decompress": False,
    "tcp_keepalive": False,
    "lingering_time": 0,
    "handler_cancellation": True,
}
"""For web.Server."""


class AnswerLimits(Struct, frozen=True, kw_only=True):
    """body_s: for a request's body to arrive.  reading_bytes: of all bodies that are arriving at one moment."""

    body_s: float = 30.0
    reading_bytes: int = 256 << 20


class PeerAnswers:
    """Calls the methods. name: how errors call this node.

    is_closing: streams that are cancelled from now on end with ShuttingDown, and connections after their answer.
    """

    def __init__(self, methods: Sequence[PeerMethods], name: str, limits: AnswerLimits) -> None:
        self._unary: dict[str, Unary] = {}
        self._streams: dict[str, Stream] = {}
        self._open: dict[str, Unary] = {}
        for one in methods:
            _add(self._unary, one.unary)
            _add(self._streams, one.streams)
            _add(self._open, one.open)
        self._name = name
        self._limits = limits
        self._reading_bytes = 0
        self.is_closing = False

    async def answer(self, guard: PeerGuard, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request. Raises: ConnectionError if the caller has gone."""
        guard.begin()
        try:
            response = await self._answer(guard, request)
            if self.is_closing or not guard.caller.node_id:
                response.force_close()
            return response
        finally:
            guard.finished()

    async def _answer(self, guard: PeerGuard, request: web.BaseRequest) -> web.StreamResponse:
        method = request.path.removeprefix(PATH_PREFIX)
        try:
            self._check(guard.caller, request)
            unary, stream = self._find(guard.caller, method)
            body = await self._body(guard.caller, request)
            guard.body_is_read()
            if stream is not None:
                return await self._stream(guard, request, stream, body)
            assert unary is not None, "a method that was found is one or the other"
            answer = await unary(guard.caller, body)
            if len(answer) > MAX_BODY_BYTES:
                raise PeerProtocol(f"{self._name}: the answer to {method} has more than {MAX_BODY_BYTES} bytes")
        except ClientGone as error:
            raise ConnectionResetError(str(error)) from None  # so aiohttp makes no noise
        except OllamaMaxError as error:
            return self._failed(guard, request, error)
        except Exception as error:  # noqa: BLE001 - the boundary: the caller is told no more than that
            _LOG.exception("a peer method failed", method=method, caller=guard.caller.node_id)
            return self._failed(guard, request, error)
        guard.end()
        return web.Response(body=answer, headers=_HEADERS)

    def _check(self, caller: Caller, request: web.BaseRequest) -> None:
        if request.method != "POST" or not request.path.startswith(PATH_PREFIX):
            raise BadRequest(f"{self._name} answers POST {PATH_PREFIX}<method> here, and nothing else")
        told = request.headers.get(PROTOCOL_HEADER)
        check_versions(told, f"node {caller.node_id}" if caller.node_id else "the joining node", self._name)
        if self.is_closing:
            raise ShuttingDown(f"{self._name} is shutting down")

    def _find(self, caller: Caller, method: str) -> tuple[Unary | None, Stream | None]:
        if method in self._open:
            return self._open[method], None
        if not caller.node_id:
            raise Denied("without a certificate of this cluster there is nothing but joining")
        unary, stream = self._unary.get(method), self._streams.get(method)
        if unary is None and stream is None:
            raise PeerProtocol(f"{self._name} knows no method {method[:80]!r}: a newer program calls an older one?")
        return unary, stream

    async def _body(self, caller: Caller, request: web.BaseRequest) -> bytes:
        """The whole body. Raises: BodyTooLarge, BodyTimeout, QueueFull, BadRequest."""
        size_bytes = request.content_length
        if size_bytes is None:
            raise BadRequest("a request between nodes says how long it is (Content-Length)")
        limit_bytes = MAX_BODY_BYTES if caller.node_id else _OPEN_BODY_BYTES
        if size_bytes > limit_bytes:
            raise BodyTooLarge(f"the request has {size_bytes} bytes; {self._name} takes {limit_bytes}")
        if self._reading_bytes + size_bytes > self._limits.reading_bytes:
            raise QueueFull(f"{self._name} is reading too many large requests at once")
        self._reading_bytes += size_bytes
        try:
            async with asyncio.timeout(self._limits.body_s):
                parts = []
                while part := await request.content.readany():
                    parts.append(part)
        except TimeoutError:
            raise BodyTimeout(f"the request did not arrive within {self._limits.body_s:g} s") from None
        except (web.RequestPayloadError, ConnectionError):
            raise ClientGone("the caller has gone") from None
        finally:
            self._reading_bytes -= size_bytes
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _failed(self, guard: PeerGuard, request: web.BaseRequest, error: Exception) -> web.StreamResponse:
        response = web.Response(status=_FAILED, body=error_body(error), headers=_HEADERS)
        if not request.content.is_eof():  # what is left of the body nobody will read
            response.force_close()
        guard.end()
        return response

    async def _stream(
        self, guard: PeerGuard, request: web.BaseRequest, handler: Stream, body: bytes
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=_HEADERS)
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"")  # the head; what follows need not pass through aiohttp's writer, which costs
        guard.keep_alive(_chunk(BEAT))
        last = END
        try:
            async with aclosing(handler(guard.caller, body)) as batches:
                async for payloads in batches:
                    if payloads:
                        guard.write(_chunk(pack(payloads)))
                        if guard.is_paused:
                            await guard.writable()
        except asyncio.CancelledError:
            if self.is_closing and not guard.transport.is_closing():
                guard.write(_chunk(pack_error(ShuttingDown(f"{self._name} is shutting down"))))
            raise
        except ClientGone:
            raise
        except OllamaMaxError as error:
            last = pack_error(error)
        except Exception as error:  # noqa: BLE001 - the boundary: the caller is told no more than that
            _LOG.exception("a peer method failed", method=request.path, caller=guard.caller.node_id)
            last = pack_error(error)
        guard.end()
        await response.write_eof(last)
        return response


def _chunk(data: bytes) -> bytes:
    """As HTTP's chunked coding has it (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _add(known: dict[str, _T], more: Mapping[str, _T]) -> None:
    for name, method in more.items():
        assert name not in known, f"two services answer {name}"
        known[name] = method
