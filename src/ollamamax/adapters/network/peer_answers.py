"""From a request on the peer listener to the method that answers it, and back."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Final, TypeVar

import structlog
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
from ollamamax.adapters.network.peer_requests import PeerRequest
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
_OPEN_BODY_BYTES: Final = 64 << 10
_FIELDS: Final = (
    f"Server: OllamaMax\r\nContent-Type: application/octet-stream\r\n{PROTOCOL_HEADER}: {PROTOCOL_RANGE}\r\n"
).encode()
_OK: Final = b"HTTP/1.1 200 OK\r\n" + _FIELDS
_FAILED: Final = b"HTTP/1.1 422 Unprocessable Content\r\n" + _FIELDS
_CLOSE: Final = b"Connection: close\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"


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

    async def answer(self, guard: PeerGuard, request: PeerRequest) -> None:
        """Answer one request."""
        guard.begin()
        try:
            await self._answer(guard, request)
            if guard.is_paused:
                await guard.writable()
            if self._closes(guard, request):
                guard.transport.close()
        except ClientGone:
            pass
        except asyncio.CancelledError:
            guard.transport.close()
            raise
        finally:
            guard.finished()

    async def _answer(self, guard: PeerGuard, request: PeerRequest) -> None:
        method = request.path.removeprefix(PATH_PREFIX)
        try:
            self._check(guard.caller, request)
            unary, stream = self._find(guard.caller, method)
            body = await self._body(guard.caller, request)
            guard.body_is_read()
            if stream is not None:
                await self._stream(guard, request, stream, body)
                return
            assert unary is not None, "a method that was found is one or the other"
            answer = await unary(guard.caller, body)
            if len(answer) > MAX_BODY_BYTES:
                raise PeerProtocol(f"{self._name}: the answer to {method} has more than {MAX_BODY_BYTES} bytes")
        except ClientGone:
            raise
        except OllamaMaxError as error:
            self._tell(guard, request, _FAILED, error_body(error))
        except Exception as error:  # noqa: BLE001 - the boundary: the caller is told no more than that
            _LOG.exception("a peer method failed", method=method, caller=guard.caller.node_id)
            self._tell(guard, request, _FAILED, error_body(error))
        else:
            self._tell(guard, request, _OK, answer)

    def _tell(self, guard: PeerGuard, request: PeerRequest, head: bytes, body: bytes) -> None:
        """A whole answer."""
        closing = _CLOSE if self._closes(guard, request) else b""
        self._end(guard, request, b"%bContent-Length: %d\r\n%b\r\n%b" % (head, len(body), closing, body))

    def _end(self, guard: PeerGuard, request: PeerRequest, last: bytes) -> None:
        guard.end()
        request.is_answered = True
        guard.write(last)

    def _closes(self, guard: PeerGuard, request: PeerRequest) -> bool:
        """Whether the connection ends with the answer; also if nobody will read what is left of the body."""
        return self.is_closing or not (guard.caller.node_id and request.keeps and request.is_whole)

    def _check(self, caller: Caller, request: PeerRequest) -> None:
        if request.method != "POST" or not request.path.startswith(PATH_PREFIX):
            raise BadRequest(f"{self._name} answers POST {PATH_PREFIX}<method> here, and nothing else")
        check_versions(request.protocol, f"node {caller.node_id}" if caller.node_id else "the joining node", self._name)
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

    async def _body(self, caller: Caller, request: PeerRequest) -> bytes:
        """The whole body. Raises: BodyTooLarge, BodyTimeout, QueueFull, BadRequest, ClientGone."""
        size_bytes = request.size_bytes
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
                return await request.body()
        except TimeoutError:
            raise BodyTimeout(f"the request did not arrive within {self._limits.body_s:g} s") from None
        finally:
            self._reading_bytes -= size_bytes

    async def _stream(self, guard: PeerGuard, request: PeerRequest, handler: Stream, body: bytes) -> None:
        closing = _CLOSE if self._closes(guard, request) else b""
        guard.write(b"%bTransfer-Encoding: chunked\r\n%b\r\n" % (_OK, closing))
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
        self._end(guard, request, _chunk(last) + _LAST_CHUNK)


def _chunk(data: bytes) -> bytes:
    """As HTTP's chunked coding has it (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _add(known: dict[str, _T], more: Mapping[str, _T]) -> None:
    for name, method in more.items():
        assert name not in known, f"two services answer {name}"
        known[name] = method
