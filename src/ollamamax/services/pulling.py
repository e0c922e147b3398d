"""The work of /api/pull: a model of a registry into the store, told in Ollama's words."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Final

from ollamamax.core.errors import BlobNotFound, RegistryError, RegistryNotFound, Unsupported
from ollamamax.core.modelspec import manifest
from ollamamax.core.modelspec.manifest import Manifest
from ollamamax.core.types import ModelName, Progress, TransferRequest
from ollamamax.ports import BlobStore, Dice, Registry, Remote
from ollamamax.services.downloads import Download, Downloads
from ollamamax.services.patience import TransferConfig, remote_of, title

_TENSOR: Final = "application/vnd.ollama.image.tensor"

Adopt = Callable[[ModelName, bytes], Awaitable[bool]]
"""Makes a model of a manifest whose blobs are here; whether that left blobs unused, which are gone now.

Raises: BlobNotFound if a blob is not here any more, StoreError.
"""


class Puller:
    """Over a store and the registries. Close it."""

    def __init__(self, store: BlobStore, registry: Registry, dice: Dice, adopt: Adopt, config: TransferConfig) -> None:
        self._store = store
        self._registry = registry
        self._adopt = adopt
        self._downloads = Downloads(store, registry, dice, config)

    def begin_drain(self) -> None:
        """End all downloads, and begin none from now on; what has come stays."""
        self._downloads.begin_drain()

    async def close(self) -> None:
        """The same, and wait for it. Idempotent."""
        await self._downloads.close()

    async def pull(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        """The steps, the last one "success". Closing it early keeps what has come, unless another pull goes on.

        Raises: InvalidName, RegistryError, DigestMismatch, DiskFull, StoreError, CorruptManifest, Unsupported.
        """
        yield Progress("pulling manifest")
        remote = remote_of(request)
        data = await self._manifest(remote)
        found = manifest.decode(data)
        if found.of_type(_TENSOR):
            raise Unsupported("this model requires MLX support, but the MLX runtime is not available")
        for is_last in (False, True):
            async with aclosing(self._blobs(remote, found)) as steps:
                async for step in steps:
                    yield step
            yield Progress("writing manifest")
            try:
                has_removed = await self._adopt(remote.name, data)
            except BlobNotFound:  # another model was deleted that shared it
                if is_last:
                    raise
                continue
            if has_removed:
                yield Progress("removing unused layers")
            break
        yield Progress("success")

    async def _manifest(self, remote: Remote) -> bytes:
        try:
            return await self._registry.manifest(remote)
        except RegistryNotFound:
            raise RegistryNotFound("pull model manifest: file does not exist") from None
        except RegistryError as error:
            raise type(error)(f"pull model manifest: {error}") from error

    async def _blobs(self, remote: Remote, found: Manifest) -> AsyncGenerator[Progress, None]:
        layers = {layer.digest: layer for layer in (*found.layers, found.config)}
        missing = {
            digest: layer.size for digest, layer in layers.items() if await self._store.blob_size(digest) is None
        }
        await self._store.check_room(missing)
        async with AsyncExitStack() as leases:
            downloads: list[Download] = []
            for layer in layers.values():
                if layer.digest not in missing:
                    yield Progress(title("pulling", layer.digest), layer.digest, layer.size, layer.size)
                    continue
                while True:
                    download = await leases.enter_async_context(self._downloads.lease(remote, layer))
                    try:
                        async with aclosing(download.progress()) as steps:
                            async for step in steps:
                                yield step
                        break
                    except RegistryError:
                        if download.remote == remote:
                            raise
                downloads.append(download)
            yield Progress("verifying sha256 digest")
            for download in downloads:
                await asyncio.shield(download.ended)
