"""A blob that comes in pieces over several attempts: what has arrived stays for the next one. All methods block."""

import hashlib
import os
from typing import BinaryIO, Final

from ollamamax.adapters.storage.blob_files import INCOMING_PREFIX, BlobFiles
from ollamamax.adapters.storage.files import explained, make_directory, sync_directory
from ollamamax.core.errors import DigestMismatch
from ollamamax.core.modelspec import digests

_READ_BYTES: Final = 1 << 20


class PartialBlob:
    """One writer at a time. The file bears the digest, so a later process finds it; pruning removes it when it is old.

    size_bytes: what the whole blob has.
    """

    def __init__(self, files: BlobFiles, digest: str, size_bytes: int) -> None:
        self._digest = digests.normalise(digest)
        self._target = files.path(digest)
        self._path = files.root / f"{INCOMING_PREFIX}{self._digest.partition(':')[2]}"
        self._size_bytes = size_bytes
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        self.offset = 0
        """Bytes that are here."""

    def open(self) -> None:
        """Find what is there and hash it. Longer than the blob: begin anew. Raises: DiskFull, StoreError."""
        with explained(self._path, self._size_bytes):
            make_directory(self._path.parent)
            self._file = self._path.open("a+b", buffering=0)
            if os.fstat(self._file.fileno()).st_size > self._size_bytes:
                self._file.truncate(0)
            self._file.seek(0)
            while piece := self._file.read(_READ_BYTES):
                self._hash.update(piece)
                self.offset += len(piece)

    def write(self, data: bytes | bytearray) -> None:
        """Append. Raises: DigestMismatch for more than the whole, DiskFull, StoreError."""
        assert self._file is not None, "it is not open"
        if self.offset + len(data) > self._size_bytes:
            self._discard()
            raise DigestMismatch(f'"{self._digest}" has {self._size_bytes} bytes, but more were sent')
        rest = memoryview(data)
        with explained(self._path, self._size_bytes):
            while rest:
                count = self._file.write(rest)
                self._hash.update(rest[:count])
                self.offset += count
                rest = rest[count:]

    def commit(self) -> bool:
        """False if another writer brought the same blob first. Raises: DigestMismatch (what is here is removed)."""
        assert self._file is not None, "it is not open"
        got = f"sha256:{self._hash.hexdigest()}"
        if got != self._digest:
            self._discard()
            raise DigestMismatch(f'digest mismatch, expected "{self._digest}", got "{got}"')
        with explained(self._target, self._size_bytes):
            if self._target.exists():
                self._path.unlink(missing_ok=True)
                return False
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._path, self._target)
            sync_directory(self._target.parent)
        return True

    def close(self) -> None:
        """What has arrived stays. Idempotent."""
        if self._file is not None:
            self._file.close()

    def _discard(self) -> None:
        self.close()
        with explained(self._path):
            self._path.unlink(missing_ok=True)
