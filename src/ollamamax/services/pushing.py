"""The work of /api/push: a model of the store into a registry, told in Ollama's words."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ollamamax.core.errors import InvalidName, ModelNotFound, RegistryError, RegistryNotFound, RegistryProtocol
from ollamamax.core.modelspec import manifest, names
from ollamamax.core.modelspec.manifest import Layer
from ollamamax.core.types import ModelName, Progress, TransferRequest
from ollamamax.ports import BlobStore, Body, Dice, Registry, Remote
from ollamamax.services.patience import Patience, TransferConfig, first_of, follow, remote_of, title


class Pusher:
    """Over a store and the registries."""

    def __init__(self, store: BlobStore, registry: Registry, dice: Dice, config: TransferConfig) -> None:
        self._store = store
        self._registry = registry
        self._dice = dice
        self._config = config

    async def push(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        """The steps, the last one "success". Closing it early ends the transfer.

        Raises: InvalidName, ModelNotFound, RegistryError, BlobNotFound, StoreError, CorruptManifest.
        """
        yield Progress("retrieving manifest")
        remote = remote_of(request)
        stored = await self._store.manifest(remote.name)
        if stored is None:
            yield Progress("couldn't retrieve manifest")
            raise ModelNotFound(f"model '{request.model}' not found")
        found = manifest.decode(stored.data)
        layers = {layer.digest: layer for layer in (*found.layers, found.config)}
        for layer in layers.values():
            if await self._registry.has_blob(remote, layer.digest):
                yield Progress(title("pushing", layer.digest), layer.digest, layer.size, layer.size)
                continue
            upload = _Upload(self._store, self._registry, remote, layer, self._dice, self._config)
            async with aclosing(upload.progress()) as steps:
                async for step in steps:
                    yield step
        yield Progress("pushing manifest")
        await self._registry.put_manifest(remote, stored.data, found.mediaType or manifest.MANIFEST_TYPE)
        yield Progress("success")


class _Upload:
    """One blob on its way. Parts go one after the other, unless the registry wants each of them somewhere else."""

    def __init__(
        self,
        store: BlobStore,
        registry: Registry,
        remote: Remote,
        layer: Layer,
        dice: Dice,
        config: TransferConfig,
    ) -> None:
        self._store = store
        self._registry = registry
        self._remote = remote
        self._layer = layer
        self._dice = dice
        self._config = config
        self._sent: dict[int, int] = {}
        """Bytes that were sent, by the start of the stretch that they belong to."""
        self._md5s: dict[int, bytes] = {}
        """Of parts, by their start."""
        self._goes_elsewhere = False

    async def progress(self) -> AsyncGenerator[Progress, None]:
        """Send it, and tell. Raises: RegistryError, BlobNotFound, StoreError."""
        work = asyncio.get_running_loop().create_task(self._run(), name=f"upload {self._layer.digest}")
        try:
            steps = follow(work, "pushing", self._layer.digest, self._layer.size, lambda: sum(self._sent.values()))
            async with aclosing(steps):
                async for step in steps:
                    yield step
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _run(self) -> None:
        session = await self._begin()
        if not session:
            return
        try:
            async with asyncio.TaskGroup() as group:
                session = await self._send_parts(session, group)
        except ExceptionGroup as failed:
            raise first_of(failed) from None
        await self._end(session)

    async def _begin(self) -> str:
        patience = Patience(self._config, self._dice)
        while True:
            try:
                return await self._registry.begin_upload(self._remote, self._layer.digest, _origin(self._layer))
            except RegistryError as error:
                await patience.bear(error)

    async def _send_parts(self, session: str, group: asyncio.TaskGroup) -> str:
        """All parts; those that go elsewhere are still on their way then. The session to end."""
        slots = asyncio.Semaphore(self._config.connections)
        patience = Patience(self._config, self._dice)
        part_bytes = max([1, *self._config.part_sizes(self._layer.size)[:1]])
        start = failed_at = 0
        while start < self._layer.size:
            end = min(start + part_bytes, self._layer.size)
            await slots.acquire()
            try:
                reply = await self._registry.send_part(self._remote, session, self._body(start, end), start, end)
            except RegistryError as error:
                slots.release()
                await patience.bear(error, start > failed_at)
                failed_at = start
                start, session = await self._again(start, session, patience)
                continue
            session = reply.session
            if reply.direct:
                self._goes_elsewhere = True
                task = group.create_task(self._send_direct(reply.direct, start, end))
                task.add_done_callback(lambda _: slots.release())
            else:
                slots.release()
            start = end
        return session

    async def _again(self, start: int, session: str, patience: Patience) -> tuple[int, str]:
        """Where to go on after a failure. Raises: RegistryError."""
        if self._goes_elsewhere:
            return start, session  # nothing is in the session itself
        while True:
            try:
                start, session = await self._registry.arrived(self._remote, session)
                break
            except (RegistryNotFound, RegistryProtocol):
                start = 0
                break
            except RegistryError as error:
                await patience.bear(error)
        self._sent = {0: start}
        return start, session if start else await self._begin()

    async def _send_direct(self, url: str, start: int, end: int) -> None:
        patience = Patience(self._config, self._dice)
        while True:
            try:
                await self._registry.send_direct(self._remote, url, self._body(start, end), end - start)
                return
            except RegistryError as error:
                await patience.bear(error)

    async def _end(self, session: str) -> None:
        try:
            await self._registry.end_upload(self._remote, session, self._layer.digest, self._etag())
        except RegistryError:
            # The answer may have been lost, and not the blob.
            if not await self._registry.has_blob(self._remote, self._layer.digest):
                raise

    def _etag(self) -> str:
        """As object stores make it of parts; "" if all went into the session."""
        if not self._goes_elsewhere:
            return ""
        md5s = [digest for _, digest in sorted(self._md5s.items())]
        return f"{hashlib.md5(b''.join(md5s), usedforsecurity=False).hexdigest()}-{len(md5s)}"

    def _body(self, start: int, end: int) -> Body:
        async def read() -> AsyncGenerator[bytes, None]:
            md5 = hashlib.md5(usedforsecurity=False)
            self._sent[start] = 0
            async with aclosing(self._store.read_range(self._layer.digest, start, end - start)) as pieces:
                async for piece in pieces:
                    if self._goes_elsewhere:
                        md5.update(piece)
                    yield piece
                    self._sent[start] += len(piece)
            self._md5s[start] = md5.digest()

        return read


def _origin(layer: Layer) -> ModelName | None:
    """The model that the registry may know the blob from."""
    try:
        return names.parse(layer.from_model) if layer.from_model else None
    except InvalidName:
        return None
