"""One accepted connection: whoever may not speak is cut off before a byte is looked at; whoever may is kept an eye on.

PeerRequests speaks HTTP behind it. Between the end of a request and the end of its answer nothing may come, so that a
caller can't make us store what it sends ahead, and a closed connection is noticed at once.
"""

import asyncio
from typing import Final, Protocol, cast

from msgspec import Struct

from ollamamax.adapters.network.peer_requests import PeerRequests
from ollamamax.core.errors import ClientGone
from ollamamax.ports import Caller

_NEVER: Final = float("inf")
_PARTING_S: Final = 1.0


class GuardLimits(Struct, frozen=True, kw_only=True):
    """How long a caller may take. head_s: for the head of a request, and for the first one to begin.

    idle_s: from the end of one answer to the beginning of the next request.  write_s: without taking a byte of an
    answer.  beat_s: after so much silence of a handler a stream gives a sign of life; up to as much later.
    """

    head_s: float = 10.0
    idle_s: float = 75.0
    write_s: float = 60.0
    beat_s: float = 1.0


class Entry(Struct, frozen=True):
    """May speak, as `caller`. refusal: "" or a whole HTTP answer to the first bytes, after which it is cut off."""

    caller: Caller
    refusal: bytes = b""


class Door(Protocol):
    """Who decides on connections."""

    def enter(self, guard: "PeerGuard") -> Entry | None:
        """Look at the papers; None = cut it off."""
        ...

    def speaker(self, guard: "PeerGuard") -> PeerRequests:
        """Who speaks HTTP on it."""
        ...

    def left(self, guard: "PeerGuard") -> None:
        """It is closed; told of each, also of those that were cut off."""
        ...


class PeerGuard(asyncio.Protocol):
    """caller: who it is, once it was let in.  lost: done once it is closed.  task: what answers now, if anything."""

    __slots__ = (
        "_beat", "_door", "_due_s", "_expects_bytes", "_is_resting", "_limits", "_loop", "_paused_since_s", "_refusal",
        "_speaker", "_spoke_s", "_writable", "caller", "lost", "task", "transport",
    )  # fmt: skip

    def __init__(self, door: Door, limits: GuardLimits, loop: asyncio.AbstractEventLoop) -> None:
        self._door = door
        self._limits = limits
        self._loop = loop
        self._speaker: PeerRequests | None = None
        self._refusal = b""
        self._due_s = _NEVER
        self._expects_bytes = True
        self._is_resting = False
        self._beat = b""
        self._spoke_s = 0.0
        self._paused_since_s: float | None = None
        self._writable: asyncio.Future[None] | None = None
        self.caller = Caller("")
        self.lost: asyncio.Future[None] = loop.create_future()
        self.task: asyncio.Task[object] | None = None
        self.transport: asyncio.Transport

    # --- the transport's side ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done: look who it is."""
        self.transport = cast(asyncio.Transport, transport)
        entry = self._door.enter(self)
        if entry is None:
            self.transport.abort()
            return
        self.caller = entry.caller
        if entry.refusal:
            self._refusal = entry.refusal
            self._due_s = self._loop.time() + _PARTING_S
            return
        self._due_s = self._loop.time() + self._limits.head_s
        self._speaker = self._door.speaker(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        if self._speaker is None:
            if self._refusal:
                self.transport.write(self._refusal)
                self._refusal = b""
                self.transport.close()
            return
        if not self._expects_bytes:
            self.transport.abort()
            return
        if self._is_resting:
            self._is_resting = False
            self._due_s = self._loop.time() + self._limits.head_s
        self._speaker.feed(data)

    def eof_received(self) -> None:
        """The caller will send no more; the transport closes."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed, by whomever: the handler is cancelled."""
        self._due_s = _NEVER
        if self._speaker is not None:
            self._speaker.lose()
            self._speaker = None
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._door.left(self)
        self.lost.set_result(None)

    def pause_writing(self) -> None:
        """The caller does not take what is sent as fast as it is made."""
        self._paused_since_s = self._loop.time()

    def resume_writing(self) -> None:
        """It has taken most of it."""
        self._paused_since_s = None
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # --- the handler's side -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """The head of a request has come, and the current task makes the answer."""
        self._due_s = _NEVER
        self.task = asyncio.current_task()

    def body_is_read(self) -> None:
        """Nothing may come before the answer is out."""
        self._expects_bytes = False

    def end(self) -> None:
        """The answer is about to be out, and the next request may come. Idempotent."""
        self._beat = b""
        self._expects_bytes = self._is_resting = True
        self._due_s = self._loop.time() + self._limits.idle_s

    def finished(self) -> None:
        """The current task is over. The next request's may have begun."""
        if self.task is asyncio.current_task():
            self.task = None

    def keep_alive(self, beat: bytes) -> None:
        """A streamed answer has begun. beat: what to send when nothing else was sent for a while, b"" = no more."""
        self._beat = beat
        self._spoke_s = self._loop.time()

    def write(self, data: bytes) -> None:
        """Send a piece of an answer. Raises: ClientGone."""
        if self.transport.is_closing():
            raise ClientGone("the caller has gone")
        self._spoke_s = self._loop.time()
        self.transport.write(data)

    @property
    def is_paused(self) -> bool:
        """Whether to wait for `writable` before more is written."""
        return self._paused_since_s is not None

    async def writable(self) -> None:
        """Returns once the caller has taken most of what was sent, or is gone."""
        while self.is_paused and not self.transport.is_closing():
            if self._writable is None or self._writable.done():
                self._writable = self._loop.create_future()
            await asyncio.shield(self._writable)

    # --- the rounds -------------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.task is None

    def look(self, now_s: float) -> None:
        """Cut off who takes too long; give a sign of life."""
        if now_s >= self._due_s:
            self.transport.abort()
        elif self._paused_since_s is not None:
            if now_s >= self._paused_since_s + self._limits.write_s:
                self.transport.abort()
        elif self._beat and now_s >= self._spoke_s + self._limits.beat_s:
            self._spoke_s = now_s
            self.transport.write(self._beat)
