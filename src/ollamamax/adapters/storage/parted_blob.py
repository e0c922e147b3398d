"""A blob whose parts come side by side, in the files that Ollama uses for it, so that each goes on with the other's.

::

    sha256-<hex>-partial        all bytes, sparse
    sha256-<hex>-partial-<n>    {"N":n,"Offset":...,"Size":...,"Completed":...}; one for each part

A part's file is rewritten in place after its bytes: a process that is killed between the two only forgets some bytes.
Whatever a lost power supply does to them, the digest is checked before the blob counts.
Source: Ollama `server/download.go`.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from ollamamax.adapters.disk import explained, free_bytes, in_thread, make_directory, put_in_place
from ollamamax.adapters.storage.blob_files import BlobFiles
from ollamamax.core.errors import DigestMismatch, DiskFull
from ollamamax.core.modelspec import digests
from ollamamax.ports import BlobPart

PARTIAL: Final = "-partial"
_STATE_BYTES: Final = 128
"""The length of a part's file: always overwritten as a whole, by one call."""
_HASHED_AT_ONCE_BYTES: Final = 64 << 20
_READ_BYTES: Final = 1 << 20
_NUMBERED: Final = re.compile(r"-partial-([0-9]{1,6})", re.ASCII)


class _PartState(Struct):
    N: int
    Offset: int
    Size: int
    Completed: int


_decoder: Final = msgspec.json.Decoder(_PartState)


class PartedBlobFiles:
    """Implements PartedBlob. Use `open` to make one. size_bytes: what the whole blob has."""

    def __init__(self, files: BlobFiles, digest: str, size_bytes: int) -> None:
        self._digest = digests.normalise(digest)
        self._target = files.path(digest)
        self._path = partial_path(files, digest)
        self._size_bytes = size_bytes
        self._parts: list[BlobPart] = []
        self._file = -1

    @classmethod
    async def open(cls, files: BlobFiles, digest: str, size_bytes: int, part_sizes: Sequence[int]) -> "PartedBlobFiles":
        """Go on with what is there, or begin. Raises: DiskFull, StoreError."""
        blob = cls(files, digest, size_bytes)
        try:
            await in_thread(blob._open, part_sizes)
        except BaseException:
            await blob.close()
            raise
        return blob

    @property
    def parts(self) -> Sequence[BlobPart]:
        """As they are now."""
        return self._parts

    async def write(self, index: int, data: bytes | bytearray) -> None:
        """Append to a part. Raises: DiskFull, StoreError."""
        part = self._parts[index]
        assert part.done_bytes + len(data) <= part.size_bytes, "a part was sent more bytes than it has"
        if data:
            await in_thread(self._write, index, data)

    async def commit(self) -> bool:
        """Verify and rename. Raises: DigestMismatch, DiskFull, StoreError."""
        assert all(part.done_bytes == part.size_bytes for part in self._parts), "a part is not done"
        digest = hashlib.sha256()
        for start in range(0, self._size_bytes, _HASHED_AT_ONCE_BYTES):
            await in_thread(self._hash, digest, start)
        got = f"sha256:{digest.hexdigest()}"
        if got != self._digest:
            await in_thread(self._discard)
            raise DigestMismatch(f"digest mismatch, file must be downloaded again: want {self._digest}, got {got}")
        return await in_thread(self._commit)

    async def close(self) -> None:
        """What has come stays. Idempotent."""
        await in_thread(self._close)

    # --- in threads -----------------------------------------------------------------------------------------------

    def _open(self, part_sizes: Sequence[int]) -> None:
        with explained(self._path, self._size_bytes):
            make_directory(self._path.parent)
            self._parts = parts_of(self._path, self._size_bytes)
            if not self._parts:
                for path in part_files(self._path):
                    path.unlink()
                offset = 0
                for size_bytes in part_sizes:
                    self._parts.append(BlobPart(offset, size_bytes))
                    offset += size_bytes
                assert offset == self._size_bytes, "the parts are not the whole"
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            os.fchmod(self._file, 0o644)
            os.truncate(self._file, self._size_bytes)
            for index in range(len(self._parts)):
                self._tell(index)

    def _write(self, index: int, data: bytes | bytearray) -> None:
        part = self._parts[index]
        rest = memoryview(data)
        offset = part.offset + part.done_bytes
        with explained(self._path, self._size_bytes):
            while rest:
                count = os.pwrite(self._file, rest, offset)
                offset += count
                rest = rest[count:]
            self._parts[index] = BlobPart(part.offset, part.size_bytes, part.done_bytes + len(data))
            self._tell(index)

    def _tell(self, index: int) -> None:
        part = self._parts[index]
        state = msgspec.json.encode(_PartState(index, part.offset, part.size_bytes, part.done_bytes))
        handle = os.open(f"{self._path}-{index}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(handle, state.ljust(_STATE_BYTES), 0)
        finally:
            os.close(handle)

    def _hash(self, digest: "hashlib._Hash", start: int) -> None:
        end = min(start + _HASHED_AT_ONCE_BYTES, self._size_bytes)
        with explained(self._path):
            for offset in range(start, end, _READ_BYTES):
                digest.update(os.pread(self._file, min(_READ_BYTES, end - offset), offset))

    def _commit(self) -> bool:
        with explained(self._target, self._size_bytes):
            is_new = not self._target.exists()
            if is_new:
                put_in_place(self._path, self._target)
            self._discard()
        return is_new

    def _discard(self) -> None:
        self._close()
        with explained(self._path):
            self._path.unlink(missing_ok=True)
            for path in part_files(self._path):
                path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def part_files(partial: Path) -> list[Path]:
    """The files of the parts of a partial blob, in no order. Raises: OSError."""
    if not partial.parent.is_dir():
        return []
    name = partial.name.removesuffix(PARTIAL)
    return [
        path for path in partial.parent.glob(f"{name}{PARTIAL}-*") if _NUMBERED.fullmatch(path.name.removeprefix(name))
    ]


def parts_of(partial: Path, size_bytes: int) -> list[BlobPart]:
    """What has come of a blob of that size; empty if nothing, or nothing that can be gone on with. Raises: OSError."""
    try:
        if partial.stat().st_size != size_bytes:
            return []
    except FileNotFoundError:
        return []
    states: dict[int, _PartState] = {}
    for path in part_files(partial):
        try:
            state = _decoder.decode(path.read_bytes())
        except msgspec.MsgspecError:
            return []
        states[state.N] = state
    parts: list[BlobPart] = []
    offset = 0
    for number in range(len(states)):
        found = states.get(number)
        if found is None or found.Offset != offset or not 0 <= found.Completed <= found.Size:
            return []
        parts.append(BlobPart(found.Offset, found.Size, found.Completed))
        offset += found.Size
    return parts if offset == size_bytes else []


def check_room(files: BlobFiles, sizes_bytes: Mapping[str, int]) -> None:
    """Whether these blobs, by digest, fit beside what has come of them. Raises: DiskFull, StoreError."""
    needed = 0
    with explained(files.root):
        for digest, size_bytes in sizes_bytes.items():
            parts = parts_of(partial_path(files, digest), size_bytes)
            needed += size_bytes - sum(part.done_bytes for part in parts)
    check_free(files, needed)


def check_free(files: BlobFiles, needed: int) -> None:
    """Whether that many bytes more fit. Raises: DiskFull."""
    free = free_bytes(files.root / PARTIAL)
    if needed > free:
        raise DiskFull(f"disk full: {files.root} needs {needed} bytes more and {free} are free")


def partial_path(files: BlobFiles, digest: str) -> Path:
    """Where a blob's bytes are until it is whole. Raises: BadRequest for what is no digest."""
    return files.root / f"{digests.file_name(digest)}{PARTIAL}"
