"""Blobs on disk: `<root>/sha256-<hex>`; old stores may hold `sha256:<hex>` too. All functions here block."""

import hashlib
import mmap
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from ollamamax.adapters.disk import IncomingFile, explained, sync, write_file
from ollamamax.core.errors import BlobNotFound, DigestMismatch, StoreError
from ollamamax.core.modelspec import digests, gguf
from ollamamax.core.types import GgufFacts

INCOMING_PREFIX: Final = "sha256-incoming-"

_WHOLE: Final = re.compile(r"sha256[:-][0-9a-f]{64}", re.ASCII)


class BlobFiles:
    """The directory of blobs."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        """Where the blob is or would be. Raises: BadRequest for what is no digest."""
        dashed = self.root / digests.file_name(digest)
        if not dashed.exists():
            old = self.root / digests.normalise(digest)
            if old.exists():
                return old
        return dashed

    def size(self, digest: str) -> int | None:
        """Bytes, or None if it is not here. Raises: StoreError."""
        path = self.path(digest)
        with explained(path):
            try:
                return path.stat().st_size
            except FileNotFoundError:
                return None

    def touch(self, digest: str) -> bool:
        """Mark it as used now; False if it is not here."""
        path = self.path(digest)
        if not path.is_file():
            return False
        with suppress(OSError):  # a store that can only be read still serves
            os.utime(path)
        return True

    def read(self, digest: str, limit_bytes: int) -> bytes:
        """Raises: BlobNotFound, StoreError."""
        path = self.path(digest)
        with explained(path):
            try:
                with path.open("rb") as file:
                    data = file.read(limit_bytes + 1)
            except FileNotFoundError:
                raise BlobNotFound(f"blob {digest} is not in the store") from None
        if len(data) > limit_bytes:
            raise StoreError(f"blob {digest} is larger than {limit_bytes} bytes, which is too much for its purpose")
        return data

    def open_at(self, digest: str, offset: int) -> BinaryIO:
        """The file, to be read from the offset on. Raises: BlobNotFound, StoreError."""
        path = self.path(digest)
        with explained(path):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                raise BlobNotFound(f"blob {digest} is not in the store") from None
            if not 0 <= offset <= os.fstat(file.fileno()).st_size:
                file.close()
                raise BlobNotFound(f"blob {digest} has no byte {offset}")
            file.seek(offset)
            return file

    def put(self, data: bytes) -> tuple[str, bool]:
        """(digest, newly created). Raises: StoreError."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if self.touch(digest):
            return digest, False
        path = self.path(digest)
        with explained(path, len(data)):
            write_file(path, data, prefix=INCOMING_PREFIX)
        return digest, True

    def delete(self, digest: str) -> None:
        """Raises: StoreError."""
        path = self.path(digest)
        with explained(path):
            try:
                path.unlink()
                sync(self.root)
            except FileNotFoundError:
                return

    def all(self) -> list[tuple[str, int, int]]:
        """(digest, bytes, modified_ns) of each whole blob. Raises: StoreError."""
        found: dict[str, tuple[str, int, int]] = {}
        with explained(self.root):
            for entry in self.entries():
                if is_whole(entry.name):
                    digest = digests.normalise(entry.name)
                    status = entry.stat()
                    found[digest] = (digest, status.st_size, status.st_mtime_ns)
        return sorted(found.values())

    def entries(self) -> list[os.DirEntry[str]]:
        """Every file of the directory. Raises: OSError."""
        try:
            with os.scandir(self.root) as entries:
                return [entry for entry in entries if entry.is_file()]
        except FileNotFoundError:
            return []

    def facts(self, digest: str, whole_arrays: bool) -> GgufFacts:
        """Raises: BlobNotFound, GgufError, StoreError."""
        path = self.path(digest)
        with explained(path):
            try:
                with path.open("rb") as file:
                    return _facts(file.fileno(), whole_arrays)
            except FileNotFoundError:
                raise BlobNotFound(f"blob {digest} is not in the store") from None


class IncomingBlob:
    """A blob on its way in: hashed while it is written, refused if it is not what its digest says.

    digest: "" = whatever comes.
    """

    def __init__(self, files: BlobFiles, digest: str) -> None:
        self._files = files
        self._digest = digests.normalise(digest) if digest else ""
        self._target = files.path(digest) if digest else files.root / INCOMING_PREFIX
        self._hash = hashlib.sha256()
        self._size = 0
        self._file: IncomingFile | None = None

    def open(self) -> None:
        """Once, before all else; close() is due whether or not it succeeds. Raises: DiskFull, StoreError."""
        with explained(self._target):
            self._file = IncomingFile(self._files.root, INCOMING_PREFIX)

    def write(self, data: bytearray) -> None:
        """Raises: DiskFull, StoreError."""
        assert self._file is not None, "it is not open"
        self._size += len(data)
        self._hash.update(data)
        with explained(self._target, self._size):
            self._file.write(data)

    @property
    def digest(self) -> str:
        """Of what has been written."""
        return f"sha256:{self._hash.hexdigest()}"

    def commit(self) -> bool:
        """False if another writer brought the same blob first. Raises: DigestMismatch, StoreError."""
        assert self._file is not None, "it is not open"
        got = self.digest
        if not self._digest:
            self._target = self._files.path(got)
        elif got != self._digest:
            raise DigestMismatch(f'digest mismatch, expected "{self._digest}", got "{got}"')
        if self._target.exists():
            return False
        with explained(self._target, self._size):
            self._file.commit(self._target)
        return True

    def close(self) -> None:
        """Nothing remains of what was not committed."""
        if self._file is not None:
            self._file.abort()


def is_whole(name: str) -> bool:
    """Whether a file of this name is a blob, and not a part of one."""
    return _WHOLE.fullmatch(name) is not None


def _facts(handle: int, whole_arrays: bool) -> GgufFacts:
    size = os.fstat(handle).st_size
    if size == 0:  # mmap has no empty maps
        return gguf.parse(b"", 0, whole_arrays)
    # Not closed here: an error's traceback still holds views of it. It is unmapped once the last one is gone.
    return gguf.parse(memoryview(mmap.mmap(handle, 0, access=mmap.ACCESS_READ)), size, whole_arrays)
