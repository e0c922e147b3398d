"""One owner for a directory: a lock that the operating system drops when its holder dies, however it dies.

Deliberate limits: POSIX only (flock); a program that does not ask for the lock is not kept out.
"""

from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ollamamax.adapters.disk import FileLock, explained

_FILE_NAME: Final = ".ollamamax.lock"


class DirectoryLock:
    """An exclusive lock on a directory. what: the directory's meaning, for the message ("the model store")."""

    def __init__(self, path: Path, what: str) -> None:
        self._path = path.absolute()
        self._what = what
        self._lock: FileLock | None = None

    def acquire(self) -> None:
        """Take it at once or not at all; the directory is created if need be.

        Raises: StoreInUse naming the holder, StoreReadOnly if the directory can't be written, StoreError.
        """
        assert self._lock is None, "the lock is held already"
        with explained(self._path):
            self._lock = FileLock(self._path / _FILE_NAME, f"{self._what} {self._path}")

    def release(self) -> None:
        """Give it back. Idempotent."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
