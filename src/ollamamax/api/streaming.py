"""Answers that come in pieces: what the client gets, and what ends them early."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Protocol

import structlog

from ollamamax.api.call import JSON, Call
from ollamamax.api.errors import text_of
from ollamamax.core.dialects.gathering import Gatherer
from ollamamax.core.errors import ClientGone, EngineUnavailable, OllamaMaxError
from ollamamax.core.types import Chunk
from ollamamax.ports import ChunkStream

_LOG = structlog.get_logger(__name__)
_LAST_WORD_S: Final = 5.0
_QUICK_S: Final = 0.04
_CUT_SHORT: Final = "the answer ended before it was complete"


class Writer(Protocol):
    """One answer in a dialect: core/dialects/*_answers.py."""

    def frames(self, chunks: Sequence[Chunk], wall_ns: int, elapsed_ns: int) -> bytes:
        """Some chunks, streamed. elapsed_ns: since the request arrived, told with the last chunk; else 0."""
        ...

    def whole(self, chunk: Chunk, wall_ns: int, elapsed_ns: int) -> bytes:
        """All of it, not streamed."""
        ...

    def error(self, text: str) -> bytes:
        """The last frame of an answer that failed on the way."""
        ...

    def end(self) -> bytes:
        """What follows the last chunk."""
        ...


class Watch:
    """Ends the task that answers a call once the client is gone, reads nothing, or the node stops.

    Used as a context: inside it the task is cancelled, and leaving it raises the reason.
    """

    __slots__ = ("_call", "_closed", "_loop", "_reason", "_since_s", "_task", "_watcher", "_writing_since_s")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._reason: OllamaMaxError | None = None
        self._closed = False
        self._watcher: asyncio.Task[None] | None = None
        self._writing_since_s: float | None = None
        """None while nothing is written; 0 until the patrol has seen it, from when on its time counts."""

    async def __aenter__(self) -> "Watch":
        services = self._call.services
        loop = services.patrol.loop
        task = asyncio.current_task(loop)
        assert task is not None, "a call is answered by a task"
        self._task = task
        self._loop = loop
        self._since_s = loop.time()
        services.live.add(self)
        services.patrol.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # From here on abort() does nothing, so no cancellation of ours can hit the await below.
        self._closed = True
        self._call.services.live.discard(self)
        self._call.services.patrol.discard(self)
        expected = self._reason is not None and self._task.uncancel() == 0 and kind is asyncio.CancelledError
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        if expected and self._reason is not None:
            raise self._reason from None

    def abort(self, reason: OllamaMaxError) -> None:
        """End the answer with `reason`. Only the first one counts."""
        if self._reason is None and not self._closed and not self._call.finished:
            self._reason = reason
            self._task.cancel()

    async def write(self, body: bytes) -> None:
        """A piece of the reply. Waits while the client does not read, but not for ever."""
        self._writing_since_s = 0.0
        await self._call.send({"type": "http.response.body", "body": body, "more_body": True})
        self._writing_since_s = None

    def look(self, now_s: float) -> None:
        """For the patrol."""
        if self._watcher is None and now_s - self._since_s >= _QUICK_S:
            # Answers that are done sooner are spared the cost of a task.
            self._watcher = self._loop.create_task(self._until_gone())
        if self._writing_since_s is not None:
            self._writing_since_s = self._writing_since_s or now_s
            if now_s - self._writing_since_s >= self._call.services.config.stall_timeout_ms / 1000:
                self.abort(ClientGone("the client stopped reading"))

    async def _until_gone(self) -> None:
        while (await self._call.receive())["type"] != "http.disconnect":
            pass
        self.abort(ClientGone("the client closed its connection"))


async def watched(
    call: Call,
    source: AsyncGenerator[Any, None],
    error_frame: Callable[[str], bytes],
    work: Callable[[Watch], Awaitable[None]],
) -> None:
    """Let `work` send what `source` gives, and close it whatever happens.

    Until the reply has begun errors are raised; after that they become its last frame. Raises: ClientGone.
    """
    try:
        try:
            async with Watch(call) as watch:
                await work(watch)
        finally:
            await source.aclose()
    except ClientGone:
        raise
    except Exception as error:
        if not call.status:
            raise
        await _last_word(call, error, error_frame)


def answer(call: Call, chunks: ChunkStream, writer: Writer, stream_type: bytes) -> Awaitable[None]:
    """Send an answer. stream_type: its content type if it is to be streamed, b"" if it is to be sent whole.

    Raises: ClientGone, and whatever `chunks` raises before the first chunk.
    """

    # No coroutines of their own, here and below: each would be passed through again at each chunk.
    def work(watch: Watch) -> Awaitable[None]:
        if stream_type:
            return _stream(call, chunks, writer, stream_type, watch)
        return _whole(call, chunks, writer)

    return watched(call, chunks, writer.error, work)


async def _stream(call: Call, chunks: ChunkStream, writer: Writer, stream_type: bytes, watch: Watch) -> None:
    wall_ns, frames = call.services.clock.wall_ns, writer.frames
    complete = False
    async for batch in chunks:
        if batch and batch[-1].done_reason:
            complete = True
        body = frames(batch, wall_ns(), call.elapsed_ns() if complete else 0)
        if not call.status:
            await call.start(200, stream_type)
        if body:
            await watch.write(body)
    if not complete:
        raise EngineUnavailable(_CUT_SHORT)
    await call.write(writer.end(), more=False)


async def _whole(call: Call, chunks: ChunkStream, writer: Writer) -> None:
    gatherer = Gatherer()
    async for batch in chunks:
        gatherer.add(batch)
    whole = gatherer.whole()
    if whole is None:
        raise EngineUnavailable(_CUT_SHORT)
    await call.reply(200, writer.whole(whole, call.services.clock.wall_ns(), call.elapsed_ns()), JSON)


async def _last_word(call: Call, error: BaseException, frame: Callable[[str], bytes]) -> None:
    if not isinstance(error, OllamaMaxError):
        _LOG.error("internal error", request_id=call.request_id, path=call.path, exc_info=error)
    with suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORD_S):
            await call.write(frame(text_of(error, call.request_id)), more=False)
