"""Writing files so that a crash leaves the old one or the new one, and the file system's refusals in our words."""

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from ollamamax.core.errors import DiskFull, StoreError, StoreReadOnly

_P = ParamSpec("_P")
_T = TypeVar("_T")

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FILE_MODE: Final = 0o644


async def in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Like asyncio.to_thread, but when it is cancelled it waits for the thread before it raises.

    So nothing that the thread uses is closed under it. Blocking calls here are short (a write of a mebibyte, a sync).
    """
    future = asyncio.get_running_loop().run_in_executor(None, lambda: function(*args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()  # marks it as seen: the cancellation is what counts
        raise cancelled
    return future.result()


@contextmanager
def explained(path: Path, needed_bytes: int = 0) -> Generator[None, None, None]:
    """OSErrors of the block as StoreErrors that name `path`. needed_bytes: what was to be written there, at least.

    Raises: DiskFull, StoreReadOnly, StoreError.
    """
    try:
        yield
    except OSError as error:
        raise _explain(error, path, needed_bytes) from error


def _explain(error: OSError, path: Path, needed_bytes: int) -> StoreError:
    if error.errno in _FULL:
        return DiskFull(f"disk full: {path} needs at least {needed_bytes} bytes and {free_bytes(path)} are free")
    if error.errno in _REFUSED:
        return StoreReadOnly(
            f"can't write {path}: {error.strerror}; give this user write access or use another directory"
        )
    return StoreError(f"can't access {path}: {error.strerror or error}")


def free_bytes(path: Path) -> int:
    """What can still be written at the path by this user; 0 if nobody knows."""
    for directory in path.parents:
        try:
            return shutil.disk_usage(directory).free
        except OSError:
            continue
    return 0


def make_directory(path: Path) -> None:
    """Create it and its parents durably. Raises: OSError."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and removals in it durable. Raises: OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class IncomingFile:
    """A file that is written beside its target and renamed to it when it is whole."""

    def __init__(self, directory: Path, prefix: str) -> None:
        """Creates the temporary file. Raises: OSError."""
        make_directory(directory)
        handle, name = tempfile.mkstemp(dir=directory, prefix=prefix)
        self._path = Path(name)
        self._file = os.fdopen(handle, "wb", buffering=0)
        os.fchmod(handle, _FILE_MODE)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append. Raises: OSError."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def commit(self, target: Path) -> None:
        """Sync, rename to `target`, sync the directory. Raises: OSError, and then abort() is due."""
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._path, target)
        sync_directory(target.parent)

    def abort(self) -> None:
        """Remove what is there. Nothing happens after a commit."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def write_file(target: Path, data: bytes, prefix: str) -> None:
    """Replace `target` by `data`, atomically. Raises: OSError."""
    incoming = IncomingFile(target.parent, prefix)
    try:
        incoming.write(data)
        incoming.commit(target)
    finally:
        incoming.abort()
