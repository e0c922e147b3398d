"""The model store in Ollama's own layout, so that both programs can use one directory.

::

    <root>/manifests/<host>/<namespace>/<model>/<tag>
    <root>/blobs/sha256-<hex>

Every file is written beside its place, synced and renamed: a crash leaves the old state or the new one. Blocking work
runs in threads.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from ollamamax.adapters.disk import in_thread
from ollamamax.adapters.storage import pruning
from ollamamax.adapters.storage.blob_files import BlobFiles, IncomingBlob
from ollamamax.adapters.storage.manifest_files import ManifestFiles
from ollamamax.adapters.storage.parted_blob import PartedBlobFiles, check_free, check_room
from ollamamax.core.types import GgufFacts, ModelName
from ollamamax.ports import StoredManifest

_BUFFER_BYTES: Final = 1 << 20
_PIECE_BYTES: Final = 256 << 10
_CACHED_FACTS: Final = 256


class OllamaStore:
    """Implements BlobStore. root: OLLAMA_MODELS; it is created by the first write."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._manifests = ManifestFiles(self._root / "manifests")
        self._blobs = BlobFiles(self._root / "blobs")
        self._facts: dict[str, GgufFacts] = {}

    async def manifests(self) -> list[StoredManifest]:
        """All readable manifests, newest first; what is no manifest is skipped with a warning."""
        return await in_thread(self._manifests.all)

    async def manifest(self, name: ModelName) -> StoredManifest | None:
        """The one of that name in any casing. Raises: StoreError if it can't be read."""
        return await in_thread(self._manifests.get, name)

    async def put_manifest(self, name: ModelName, data: bytes) -> StoredManifest:
        """Write atomically; existing casing is kept. Raises: DiskFull, StoreReadOnly, StoreError."""
        return await in_thread(self._manifests.put, name, data)

    async def delete_manifest(self, name: ModelName) -> bool:
        """Remove it and the directories it leaves empty; False if there was none. Raises: StoreError."""
        return await in_thread(self._manifests.delete, name)

    async def blob_size(self, digest: str) -> int | None:
        """Bytes, or None. Raises: BadRequest for what is no digest."""
        return await in_thread(self._blobs.size, digest)

    def blob_path(self, digest: str) -> str:
        """Absolute path where the blob is or would be. Raises: BadRequest for what is no digest."""
        return str(self._blobs.path(digest))

    async def read_blob(self, digest: str, limit_bytes: int = 4 << 20) -> bytes:
        """A small blob, whole. Raises: BlobNotFound, StoreError if larger than the limit."""
        return await in_thread(self._blobs.read, digest, limit_bytes)

    async def read_range(self, digest: str, offset: int, length: int = -1) -> AsyncGenerator[bytes, None]:
        """Pieces of a blob. Raises: BlobNotFound, also for one that is shorter than the offset; StoreError."""
        rest = length if length >= 0 else 1 << 62
        file = await in_thread(self._blobs.open_at, digest, offset)
        try:
            while rest and (piece := await in_thread(file.read, min(rest, _PIECE_BYTES))):
                rest -= len(piece)
                yield piece
        finally:
            await in_thread(file.close)

    async def write_blob(self, body: AsyncIterator[bytes], digest: str) -> bool:
        """Stream it in; False if it is here already. Raises: DigestMismatch, DiskFull, StoreError, and body's own."""
        if await in_thread(self._blobs.touch, digest):
            return False
        return await self._take(body, IncomingBlob(self._blobs, digest))

    async def add_blob(self, body: AsyncIterator[bytes], size_bytes: int) -> tuple[str, bool]:
        """Stream in what has no digest yet. Raises: DiskFull before the first byte, StoreError, and body's own."""
        await in_thread(check_free, self._blobs, size_bytes)
        incoming = IncomingBlob(self._blobs, "")
        is_new = await self._take(body, incoming)
        return incoming.digest, is_new

    async def _take(self, body: AsyncIterator[bytes], incoming: IncomingBlob) -> bool:
        """Whether it is new."""
        try:
            await in_thread(incoming.open)
            buffer = bytearray()
            async for piece in body:
                buffer += piece
                if len(buffer) >= _BUFFER_BYTES:
                    await in_thread(incoming.write, buffer)
                    buffer = bytearray()
            await in_thread(incoming.write, buffer)
            return await in_thread(incoming.commit)
        finally:
            await in_thread(incoming.close)

    async def open_parts(self, digest: str, size_bytes: int, part_sizes: Sequence[int]) -> PartedBlobFiles:
        """A blob to be written in parts; close it. Raises: DiskFull, StoreError."""
        return await PartedBlobFiles.open(self._blobs, digest, size_bytes, part_sizes)

    async def check_room(self, sizes_bytes: Mapping[str, int]) -> None:
        """Raises: DiskFull saying what is needed and what is free, StoreError."""
        await in_thread(check_room, self._blobs, sizes_bytes)

    async def put_bytes(self, data: bytes) -> tuple[str, bool]:
        """Store a small blob; (digest, newly created). Raises: DiskFull, StoreReadOnly, StoreError."""
        return await in_thread(self._blobs.put, data)

    async def delete_blob(self, digest: str) -> None:
        """Remove it if it is there. Raises: StoreError."""
        self._facts.pop(digest, None)
        await in_thread(self._blobs.delete, digest)

    async def blobs(self) -> list[tuple[str, int, int]]:
        """(digest, bytes, modified_ns) of each whole blob. Raises: StoreError."""
        return await in_thread(self._blobs.all)

    async def gguf_facts(self, digest: str, whole_arrays: bool = False) -> GgufFacts:
        """Facts of a GGUF blob, cached unless whole_arrays. Raises: BlobNotFound, GgufError, StoreError."""
        cached = self._facts.get(digest)
        if cached is not None and not whole_arrays and await self.blob_size(digest) == cached.file_bytes:
            return cached
        facts = await in_thread(self._blobs.facts, digest, whole_arrays)
        if not whole_arrays:
            self._facts.pop(digest, None)
            self._facts[digest] = facts
            if len(self._facts) > _CACHED_FACTS:
                del self._facts[next(iter(self._facts))]
        return facts

    async def used_blobs(self) -> frozenset[str]:
        """All digests that any manifest mentions. Raises: CorruptManifest if one can't be read, StoreError."""
        return await in_thread(pruning.used_digests, self._root / "manifests")

    async def prune(self, now_ns: int) -> list[str]:
        """Remove what an hour of age and no manifest's mention make waste; the removed paths. For the start only.

        Raises: StoreError.
        """
        return await in_thread(pruning.prune, self._manifests, self._blobs, self._root / "manifests", now_ns)
