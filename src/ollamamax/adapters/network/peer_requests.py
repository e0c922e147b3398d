"""Requests as they come on one connection of the peer listener. Parsing is llhttp's.

Source: RFC 9112, sections 2 to 9.
Deliberate limits: one request at a time, with a body of a known length; of its head only what nodes say is kept.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import httptools

from ollamamax.adapters.network.peer_frames import PROTOCOL_HEADER
from ollamamax.core.errors import ClientGone

_HEAD_BYTES: Final = 8 << 10
_SEPARATORS_BYTES: Final = 4
_PROTOCOL: Final = PROTOCOL_HEADER.lower().encode()
_MALFORMED: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class PeerRequest:
    """One request. protocol: its header of that name, None without one.  size_bytes: of its body, None if not told.

    keeps: whether the caller may send another one on the connection.  is_whole: all of the body has come.
    is_answered: set as soon as the caller may know so much of the answer that it sends the next one.
    """

    __slots__ = (
        "_is_gone", "_parts", "_waiter", "is_answered", "is_whole", "keeps", "method", "path", "protocol", "size_bytes",
    )  # fmt: skip

    def __init__(self, method: str, path: str, protocol: str | None, size_bytes: int | None, keeps: bool) -> None:
        self.method = method
        self.path = path
        self.protocol = protocol
        self.size_bytes = size_bytes
        self.keeps = keeps
        self.is_whole = self.is_answered = self._is_gone = False
        self._parts: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None

    async def body(self) -> bytes:
        """All of it. Raises: ClientGone."""
        while not self.is_whole:
            if self._is_gone:
                raise ClientGone("the caller has gone")
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def take(self, data: bytes) -> None:
        """A piece of the body; nobody will read it any more if the answer is out."""
        if not self.is_answered:
            self._parts.append(data)

    def end(self) -> None:
        """The body is whole."""
        self.is_whole = True
        self._tell()

    def leave(self) -> None:
        """Nothing more will come of it."""
        self._is_gone = True
        self._parts.clear()
        self._tell()

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class PeerRequests:
    """Has each request answered, by a task of its own; that of a caller who goes away is cancelled."""

    __slots__ = (
        "_answer", "_head_bytes", "_is_in_head", "_is_refused", "_loop", "_parser", "_protocol", "_request",
        "_size_bytes", "_task", "_transport", "_url",
    )  # fmt: skip

    def __init__(
        self,
        transport: asyncio.Transport,
        answer: Callable[[PeerRequest], Coroutine[Any, Any, None]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._transport = transport
        self._answer = answer
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._request: PeerRequest | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_in_head = self._is_refused = False
        self._forget_head()

    def feed(self, data: bytes) -> None:
        """Bytes of requests."""
        if self._is_refused:
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._is_refused = True
        if self._is_in_head:
            self._head_bytes += len(data)
        if self._is_refused or self._head_bytes > _HEAD_BYTES:
            self._refuse()

    def lose(self) -> None:
        """The connection is closed."""
        self._is_refused = True
        if self._request is not None:
            self._request.leave()
        if self._task is not None:
            self._task.cancel()
        del self._parser  # it knows this object by its methods: a cycle

    def _refuse(self) -> None:
        """Nothing more can be understood. What is being answered breaks off, as if the caller had gone."""
        self._is_refused = True
        if self._is_busy:
            self._transport.abort()
        else:
            self._transport.write(_MALFORMED)
            self._transport.close()

    @property
    def _is_busy(self) -> bool:
        """Whether a request came, in parts at least, whose answer is not out."""
        return self._request is not None and not self._request.is_answered

    # --- the parser's side ------------------------------------------------------------------------------------

    def _forget_head(self) -> None:
        self._url = b""
        self._head_bytes = 0
        self._protocol: str | None = None
        self._size_bytes: int | None = None

    def on_message_begin(self) -> None:
        """A request begins."""
        self._forget_head()
        self._is_in_head = True
        if self._is_busy:
            self._is_refused = True

    def on_url(self, url: bytes) -> None:
        """Its target, or a part of it."""
        self._url += url
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or of a trailer."""
        self._head_bytes += len(name) + len(value) + _SEPARATORS_BYTES
        if not self._is_in_head:
            return
        field = name.lower()
        if field == _PROTOCOL:
            self._protocol = value.decode("latin-1")
        elif field == b"content-length":
            self._size_bytes = int(value)

    def on_headers_complete(self) -> None:
        """The head came: have it answered."""
        self._is_in_head = False
        if self._is_refused or self._head_bytes > _HEAD_BYTES:
            self._is_refused = True
            return
        self._head_bytes = 0
        self._request = PeerRequest(
            self._parser.get_method().decode("latin-1"),
            self._url.decode("latin-1"),
            self._protocol,
            self._size_bytes,
            self._parser.should_keep_alive(),
        )
        self._task = self._loop.create_task(self._answer(self._request))

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        if self._request is not None:
            self._request.take(body)

    def on_message_complete(self) -> None:
        """The end of its body."""
        if self._request is not None:
            self._request.end()
