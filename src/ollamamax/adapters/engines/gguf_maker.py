"""Makes GGUFs in child processes: native code, and work that takes a whole core, stay out of the node."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from ollamamax.adapters.engines.children import start_child
from ollamamax.core import errors
from ollamamax.core.errors import EngineCrashed, OllamaMaxError
from ollamamax.core.types import GgufJob

_LOG: Final = structlog.get_logger("gguf")
_MODULE: Final = "ollamamax.adapters.engines.gguf_child"
_PIECE_BYTES: Final = 1 << 20
_LAST_WORDS_CHARS: Final = 2_000
_REFUSALS: Final[dict[str, type[OllamaMaxError]]] = {
    kind.code: kind
    for kind in (
        errors.BadRequest,
        errors.Unsupported,
        errors.GgufError,
        errors.GgufForeign,
        errors.GgufTruncated,
        errors.GgufUnsupported,
        errors.StoreError,
        errors.StoreReadOnly,
    )
}


class _Told(Struct):
    size_bytes: int = 0
    code: str = ""
    text: str = ""


class ChildGguf:
    """Implements NewGguf: what a child writes."""

    def __init__(self, process: asyncio.subprocess.Process, size_bytes: int, log: "asyncio.Task[str]") -> None:
        self._process = process
        self._log = log
        self.size_bytes = size_bytes

    async def body(self) -> AsyncGenerator[bytes, None]:
        """The file. Raises: EngineCrashed if the child ends too early, or not well."""
        assert self._process.stdout is not None
        left = self.size_bytes
        while left and (piece := await self._process.stdout.read(min(left, _PIECE_BYTES))):
            left -= len(piece)
            yield piece
        if left or await self._process.wait():
            raise await _crashed(self._process, self._log)


class ChildGgufMaker:
    """Implements GgufMaker."""

    @asynccontextmanager
    async def make(self, job: GgufJob) -> AsyncIterator[ChildGguf]:
        """One child for each. Raises: what GgufMaker.make raises."""
        try:
            process, lifeline = await start_child(sys.executable, _MODULE, msgspec.json.encode(job) + b"\n")
        except OSError as error:
            raise EngineCrashed(f"the process that makes the GGUF could not be started: {error}") from error
        log = asyncio.create_task(_followed(process), name=f"gguf {process.pid}")
        try:
            yield ChildGguf(process, await _size(process, log), log)
        finally:
            os.close(lifeline)
            with suppress(ProcessLookupError):
                process.kill()
            await _reaped(process, log)


async def _size(process: asyncio.subprocess.Process, log: "asyncio.Task[str]") -> int:
    """Raises: what the child found wrong, EngineCrashed."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise await _crashed(process, log)
    told = msgspec.json.decode(line, type=_Told)
    if told.code:
        raise _REFUSALS.get(told.code, errors.GgufError)(told.text)
    return told.size_bytes


async def _followed(process: asyncio.subprocess.Process) -> str:
    """Its last words."""
    assert process.stderr is not None
    words = ""
    while data := await process.stderr.read(1 << 16):
        words = (words + data.decode("utf-8", "replace"))[-_LAST_WORDS_CHARS:]
    return words.strip()


async def _reaped(process: asyncio.subprocess.Process, log: "asyncio.Task[str]") -> None:
    """Wait for its end; nothing of its output keeps it."""
    ending = asyncio.ensure_future(_drained(process, log))
    cancelled = False
    while not ending.done():
        try:
            await asyncio.wait([ending])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError


async def _drained(process: asyncio.subprocess.Process, log: "asyncio.Task[str]") -> None:
    assert process.stdout is not None
    while await process.stdout.read(_PIECE_BYTES):
        continue
    await asyncio.wait([log])
    await process.wait()


async def _crashed(process: asyncio.subprocess.Process, log: "asyncio.Task[str]") -> EngineCrashed:
    code = await process.wait()
    words = await log
    how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exited with code {code}"
    _LOG.warning("the process that makes a GGUF ended", how=how, said=words)
    last = words.splitlines()[-1] if words else "it said nothing"
    return EngineCrashed(f"the process that makes the GGUF {how}: {last}")
