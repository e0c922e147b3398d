"""One owner for a directory: a lock that the operating system drops when its holder dies, however it dies.

Deliberate limits: POSIX only (flock); a program that does not ask for the lock is not kept out.
"""

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ollamamax.adapters.storage.files import explained, make_directory
from ollamamax.core.errors import StoreInUse

_FILE_NAME: Final = ".ollamamax.lock"
_TAKEN: Final = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})


class DirectoryLock:
    """An exclusive lock on a directory. what: the directory's meaning, for the message ("the model store")."""

    def __init__(self, path: Path, what: str) -> None:
        self._path = path.absolute()
        self._what = what
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take it at once or not at all; the directory is created if need be.

        Raises: StoreInUse naming the holder, StoreReadOnly if the directory can't be written, StoreError.
        """
        assert self._handle is None, "the lock is held already"
        file = self._path / _FILE_NAME
        with explained(self._path):
            make_directory(self._path)
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock(handle)
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle

    def release(self) -> None:
        """Give it back. Idempotent."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _lock(self, handle: int) -> None:
        with explained(self._path):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
                holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise StoreInUse(
                    f"{self._what} {self._path} is in use by the process {holder}. "
                    "Stop that one, or give this one a directory of its own."
                ) from None
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
