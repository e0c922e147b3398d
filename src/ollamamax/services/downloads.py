"""Blobs on their way from registries to the store, each in parts side by side. Equal wishes share one download.

What has come stays when a download ends early, also by a crash: the next one fetches the rest.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

import structlog

from ollamamax.core.errors import DigestMismatch, RangeIgnored, RegistryError, ShuttingDown
from ollamamax.core.modelspec.manifest import Layer
from ollamamax.core.types import Progress
from ollamamax.ports import BlobStore, Dice, PartedBlob, Registry, Remote
from ollamamax.services.patience import Patience, TransferConfig, first_of, follow

_LOG: Final = structlog.get_logger(__name__)
_BUFFER_BYTES: Final = 1 << 20
_STOPPING: Final = "the node is stopping; what has come of the model is kept"


class Download:
    """One blob. remote: where it comes from.  task: all of it, the check included.

    begun: done when it is known what has come earlier.  fetched: done when all bytes are here, unchecked.  ended: done
    with the task; what fails it fails all of them.  users: those who want it.
    """

    def __init__(self, remote: Remote, layer: Layer) -> None:
        self.remote = remote
        self.layer = layer
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[None] = loop.create_future()
        self.fetched: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.users = 0
        self.task: asyncio.Task[None]
        self._blob: PartedBlob

    def begin(self, blob: PartedBlob) -> int:
        """Work on it; the bytes that came earlier."""
        self._blob = blob
        if not self.begun.done():
            self.begun.set_result(None)
        return self._done_bytes()

    async def progress(self) -> AsyncGenerator[Progress, None]:
        """Until it is fetched. Raises: RegistryError, DiskFull, StoreError."""
        await asyncio.shield(self.begun)
        steps = follow(self.fetched, "pulling", self.layer.digest, self.layer.size, self._done_bytes)
        async with aclosing(steps):
            async for step in steps:
                yield step

    def end(self, task: "asyncio.Task[None]") -> None:
        """Tell those who wait how the task ended."""
        error = ShuttingDown(_STOPPING) if task.cancelled() else task.exception()
        if error is None:
            self.ended.set_result(None)
            return
        for future in (self.begun, self.fetched, self.ended):
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody may be left to hear of it

    def _done_bytes(self) -> int:
        return sum(part.done_bytes for part in self._blob.parts)


class Downloads:
    """All of this node. Close it."""

    def __init__(self, store: BlobStore, registry: Registry, dice: Dice, config: TransferConfig) -> None:
        self._store = store
        self._registry = registry
        self._dice = dice
        self._config = config
        self._running: dict[str, Download] = {}
        self._is_draining = False

    def begin_drain(self) -> None:
        """End all, and begin none from now on; what has come stays."""
        self._is_draining = True
        for download in self._running.values():
            download.task.cancel()

    async def close(self) -> None:
        """The same, and wait for it. Idempotent."""
        self.begin_drain()
        await asyncio.gather(*(download.task for download in self._running.values()), return_exceptions=True)

    @asynccontextmanager
    async def lease(self, remote: Remote, layer: Layer) -> AsyncIterator[Download]:
        """The download of a blob, one that runs or a new one. It ends when the last one who wanted it has left.

        Raises: ShuttingDown.
        """
        while (download := self._running.get(layer.digest)) is not None and not download.users:
            await asyncio.wait([download.task])  # it is being given up
        if download is None:
            if self._is_draining:
                raise ShuttingDown(_STOPPING)
            download = self._start(remote, layer)
        download.users += 1
        try:
            yield download
        finally:
            download.users -= 1
            if not download.users:
                download.task.cancel()
                await asyncio.wait([download.task])

    def _start(self, remote: Remote, layer: Layer) -> Download:
        download = self._running[layer.digest] = Download(remote, layer)
        work = self._run(download)
        download.task = asyncio.get_running_loop().create_task(work, name=f"download {layer.digest}")
        download.task.add_done_callback(lambda task: self._ended(download, task))
        return download

    def _ended(self, download: Download, task: "asyncio.Task[None]") -> None:
        del self._running[download.layer.digest]
        download.end(task)

    async def _run(self, download: Download) -> None:
        if not await self._try(download):
            _LOG.warning("what came earlier of a download was wrong: it begins anew", digest=download.layer.digest)
            await self._try(download)

    async def _try(self, download: Download) -> bool:
        """False if the bytes are wrong and some of them came earlier: those may be the wrong ones, and are gone now."""
        layer = download.layer
        blob = await self._store.open_parts(layer.digest, layer.size, self._config.part_sizes(layer.size))
        try:
            had_bytes = download.begin(blob)
            if had_bytes:
                _LOG.info("a download goes on", digest=layer.digest, had_bytes=had_bytes, size_bytes=layer.size)
            try:
                await self._fetch_parts(download.remote, layer, blob)
            except RangeIgnored:
                await self._fetch_whole(download.remote, layer, blob)
            if not had_bytes:
                download.fetched.set_result(None)
                await blob.commit()
                return True
            try:
                await blob.commit()
            except DigestMismatch:
                return False
            download.fetched.set_result(None)
            return True
        finally:
            await blob.close()

    async def _fetch_parts(self, remote: Remote, layer: Layer, blob: PartedBlob) -> None:
        due = deque(index for index, part in enumerate(blob.parts) if part.done_bytes < part.size_bytes)

        async def work() -> None:
            while due:
                await self._fetch_part(remote, layer, blob, due.popleft())

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._config.connections, len(due))):
                    group.create_task(work())
        except ExceptionGroup as failed:
            raise first_of(failed) from None

    async def _fetch_part(self, remote: Remote, layer: Layer, blob: PartedBlob, index: int) -> None:
        patience = Patience(self._config, self._dice)
        while (part := blob.parts[index]).done_bytes < part.size_bytes:
            start, end = part.offset + part.done_bytes, part.offset + part.size_bytes
            try:
                async with aclosing(self._registry.read_blob(remote, layer.digest, start, end)) as pieces:
                    await fill(blob, index, pieces)
            except RegistryError as error:
                _LOG.info("a part of a download failed", digest=layer.digest, start=start, reason=str(error))
                await patience.bear(error, blob.parts[index].done_bytes > part.done_bytes)

    async def _fetch_whole(self, remote: Remote, layer: Layer, blob: PartedBlob) -> None:
        """From a registry that knows no ranges."""
        patience = Patience(self._config, self._dice)
        while True:
            at = 0
            try:
                async with aclosing(self._registry.read_blob(remote, layer.digest, 0, layer.size)) as pieces:
                    async for piece in pieces:
                        await _place(blob, at, piece)
                        at += len(piece)
                return
            except RegistryError as error:
                await patience.bear(error)


async def fill(blob: PartedBlob, index: int, pieces: AsyncGenerator[bytes, None]) -> None:
    """Whatever ends the pieces, those that came are written."""
    buffer = bytearray()
    try:
        async for piece in pieces:
            buffer += piece
            if len(buffer) >= _BUFFER_BYTES:
                full, buffer = buffer, bytearray()
                await blob.write(index, full)
    finally:
        await blob.write(index, buffer)


async def _place(blob: PartedBlob, at: int, piece: bytes) -> None:
    """Write what is missing of bytes that stand at a place of the whole."""
    for index, part in enumerate(blob.parts):
        start, end = part.offset + part.done_bytes, part.offset + part.size_bytes
        if at <= start < min(at + len(piece), end):
            await blob.write(index, piece[start - at : end - at])
