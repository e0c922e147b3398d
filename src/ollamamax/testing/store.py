"""A model store in memory."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from itertools import accumulate

from ollamamax.core.errors import BlobNotFound, DigestMismatch, DiskFull, StoreError
from ollamamax.core.modelspec import digests, gguf, manifest
from ollamamax.core.types import GgufFacts, ModelName
from ollamamax.ports import BlobPart, StoredManifest


class MemoryStore:
    """Twin of the store on disk. capacity_bytes: what all blobs and manifests together may take.

    Each write is one second younger than the one before.
    """

    def __init__(self, capacity_bytes: int = 1 << 40) -> None:
        self.capacity_bytes = capacity_bytes
        self._manifests: dict[str, StoredManifest] = {}
        self._blobs: dict[str, tuple[bytes, int]] = {}
        self._parted: dict[str, MemoryParts] = {}
        self._now_ns = 1_700_000_000_000_000_000

    async def manifests(self) -> list[StoredManifest]:
        """All, newest first."""
        return sorted(self._manifests.values(), key=lambda stored: -stored.modified_ns)

    async def used_blobs(self) -> frozenset[str]:
        """All digests that any manifest mentions. Raises: CorruptManifest."""
        found = [manifest.decode(stored.data).digests for stored in self._manifests.values()]
        return frozenset().union(*found)

    async def manifest(self, name: ModelName) -> StoredManifest | None:
        """The one of that name in any casing."""
        return self._manifests.get(name.full.lower())

    async def put_manifest(self, name: ModelName, data: bytes) -> StoredManifest:
        """Keeps the casing that is there. Raises: DiskFull."""
        existing = self._manifests.get(name.full.lower())
        self._reserve(f"the manifest of {name.short}", len(data) - (len(existing.data) if existing else 0))
        stored = StoredManifest(existing.name if existing else name, data, _hex(data), self._tick())
        self._manifests[name.full.lower()] = stored
        return stored

    async def delete_manifest(self, name: ModelName) -> bool:
        """False if there was none."""
        return self._manifests.pop(name.full.lower(), None) is not None

    async def blob_size(self, digest: str) -> int | None:
        """Bytes, or None."""
        blob = self._blobs.get(digests.normalise(digest))
        return None if blob is None else len(blob[0])

    def blob_path(self, digest: str) -> str:
        """A path that no file has."""
        return f"/memory/blobs/{digests.file_name(digest)}"

    def at(self, path: str) -> bytes:
        """What such a path would hold. Raises: BlobNotFound."""
        return self._read(path.rpartition("/")[2])

    async def read_blob(self, digest: str, limit_bytes: int = 4 << 20) -> bytes:
        """Raises: BlobNotFound, StoreError if larger than the limit."""
        data = self._read(digest)
        if len(data) > limit_bytes:
            raise StoreError(f"blob {digest} is larger than {limit_bytes} bytes")
        return data

    async def read_range(self, digest: str, offset: int, length: int = -1) -> AsyncGenerator[bytes, None]:
        """Pieces of 4 KiB. Raises: BlobNotFound, also for one that is shorter than the offset."""
        data = self._read(digest)
        if not 0 <= offset <= len(data):
            raise BlobNotFound(f"blob {digest} has no byte {offset}")
        end = len(data) if length < 0 else min(len(data), offset + length)
        for start in range(offset, end, 4096):
            yield data[start : min(start + 4096, end)]

    async def write_blob(self, body: AsyncIterator[bytes], digest: str) -> bool:
        """False if it is here already. Raises: DigestMismatch, DiskFull, and what body raises."""
        wanted = digests.normalise(digest)
        if self._touch(wanted):
            return False
        data = bytearray()
        async for piece in body:
            data += piece
            self._reserve(digest, len(data))
        got = f"sha256:{_hex(bytes(data))}"
        if got != wanted:
            raise DigestMismatch(f'digest mismatch, expected "{wanted}", got "{got}"')
        return self._add(wanted, bytes(data))

    async def add_blob(self, body: AsyncIterator[bytes], size_bytes: int) -> tuple[str, bool]:
        """(digest, newly created). Raises: DiskFull, and what body raises."""
        self._reserve("the store", size_bytes)
        return await self.put_bytes(b"".join([piece async for piece in body]))

    async def open_parts(self, digest: str, size_bytes: int, part_sizes: Sequence[int]) -> "MemoryParts":
        """A blob to be written in parts."""
        wanted = digests.normalise(digest)
        known = self._parted.get(wanted)
        if known is None or known.size_bytes != size_bytes:
            known = self._parted[wanted] = MemoryParts(self, wanted, part_sizes)
        return known

    async def check_room(self, sizes_bytes: Mapping[str, int]) -> None:
        """Raises: DiskFull."""
        begun = [self._parted[digest] for digest in sizes_bytes if digest in self._parted]
        done = sum(part.done_bytes for blob in begun for part in blob.parts)
        self._reserve("the store", sum(sizes_bytes.values()) - done)

    async def put_bytes(self, data: bytes) -> tuple[str, bool]:
        """(digest, newly created). Raises: DiskFull."""
        digest = f"sha256:{_hex(data)}"
        return digest, not self._touch(digest) and self._add(digest, data)

    async def delete_blob(self, digest: str) -> None:
        """Remove it if it is there."""
        self._blobs.pop(digests.normalise(digest), None)

    async def blobs(self) -> list[tuple[str, int, int]]:
        """(digest, bytes, modified_ns) of each."""
        return sorted((digest, len(data), modified) for digest, (data, modified) in self._blobs.items())

    async def gguf_facts(self, digest: str, whole_arrays: bool = False) -> GgufFacts:
        """Raises: BlobNotFound, GgufError."""
        data = self._read(digest)
        return gguf.parse(data, len(data), whole_arrays)

    def _read(self, digest: str) -> bytes:
        blob = self._blobs.get(digests.normalise(digest))
        if blob is None:
            raise BlobNotFound(f"blob {digest} is not in the store")
        return blob[0]

    def _add(self, digest: str, data: bytes) -> bool:
        if self._touch(digest):
            return False
        self._reserve(digest, len(data))
        self._blobs[digest] = (data, self._tick())
        return True

    def _touch(self, digest: str) -> bool:
        blob = self._blobs.get(digest)
        if blob is not None:
            self._blobs[digest] = (blob[0], self._tick())
        return blob is not None

    def _reserve(self, what: str, needed_bytes: int) -> None:
        used = sum(len(data) for data, _ in self._blobs.values())
        used += sum(len(stored.data) for stored in self._manifests.values())
        free = self.capacity_bytes - used
        if needed_bytes > free:
            raise DiskFull(f"disk full: {what} needs at least {needed_bytes} bytes and {free} are free")

    def _tick(self) -> int:
        self._now_ns += 1_000_000_000
        return self._now_ns


class MemoryParts:
    """Twin of a blob whose parts come side by side."""

    def __init__(self, store: MemoryStore, digest: str, part_sizes: Sequence[int]) -> None:
        self._store = store
        self._digest = digest
        self._data = [bytearray() for _ in part_sizes]
        self._sizes = list(part_sizes)
        self.size_bytes = sum(part_sizes)

    @property
    def parts(self) -> Sequence[BlobPart]:
        """As they are now."""
        offsets = accumulate(self._sizes, initial=0)
        each = zip(offsets, self._sizes, self._data, strict=False)  # one offset too many: that of the end
        return [BlobPart(offset, size_bytes, len(data)) for offset, size_bytes, data in each]

    async def write(self, index: int, data: bytes | bytearray) -> None:
        """Append to a part. Raises: DiskFull."""
        assert len(self._data[index]) + len(data) <= self._sizes[index], "a part was sent more bytes than it has"
        self._store._reserve(self._digest, sum(map(len, self._data)) + len(data))
        self._data[index] += data

    async def commit(self) -> bool:
        """Raises: DigestMismatch."""
        whole = b"".join(self._data)
        assert len(whole) == self.size_bytes, "a part is not done"
        got = f"sha256:{_hex(whole)}"
        self._store._parted.pop(self._digest, None)
        if got != self._digest:
            raise DigestMismatch(f"digest mismatch, file must be downloaded again: want {self._digest}, got {got}")
        return self._store._add(self._digest, whole)

    async def close(self) -> None:
        """What has come stays."""


def _hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
