"""Files that are whole or not there, also after a crash; locks that end with their process; refusals in our words.

Shared by the adapters that keep things on disk. All functions but in_thread() block.
Deliberate limits: POSIX only (flock); a program that does not ask for a lock is not kept out.
"""

import asyncio
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from ollamamax.core.errors import DiskFull, StoreError, StoreInUse, StoreReadOnly

_P = ParamSpec("_P")
_T = TypeVar("_T")

SECRET_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_SMALL_BYTES: Final = 64 << 10


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


# --- refusals ---------------------------------------------------------------------------------------------------------


@contextmanager
def explained(path: Path, needed_bytes: int = 0, what: str = "") -> Generator[None, None, None]:
    """OSErrors of the block as StoreErrors that name `path`.

    needed_bytes: what was to be written there, at least; 0 = unknown.  what: the path's meaning ("the model store").
    Raises: DiskFull, StoreReadOnly, StoreError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise disk_full(path, needed_bytes, what) from error
        if error.errno in _REFUSED:
            raise no_access(path, reason, what) from error
        raise StoreError(f"can't access {_named(path, what)}: {reason}") from error


def disk_full(path: Path, needed_bytes: int = 0, what: str = "") -> DiskFull:
    """The error for it; arguments as explained() has them."""
    name, free = _named(path, what), free_bytes(path)
    if needed_bytes:
        return DiskFull(f"disk full: {name} needs at least {needed_bytes} bytes and {free} are free")
    return DiskFull(f"disk full: can't write {name}; {free} bytes are free. Free some space and try again.")


def no_access(path: Path, reason: str, what: str = "") -> StoreReadOnly:
    """The error for a path that this user may not read or write."""
    return StoreReadOnly(
        f"can't access {_named(path, what)}: {reason}; "
        "give this user the right to read and write it, or use another directory"
    )


def _named(path: Path, what: str) -> str:
    return f"{what} {path}".lstrip()


def free_bytes(path: Path) -> int:
    """What can still be written at the path by this user; 0 if nobody knows."""
    for directory in path.parents:
        try:
            return shutil.disk_usage(directory).free
        except OSError:
            continue
    return 0


# --- writing and reading ----------------------------------------------------------------------------------------------


def make_directory(path: Path) -> None:
    """Create it and its parents durably. Raises: OSError."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's bytes durable, or a directory's renames and removals. Raises: OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_in_place(beside: Path, target: Path) -> None:
    """Sync a file that is written, and rename it, durably. Raises: OSError."""
    sync(beside)
    os.replace(beside, target)
    sync(target.parent)


class IncomingFile:
    """A file that is written beside its target and renamed to it when it is whole."""

    def __init__(self, directory: Path, prefix: str, mode: int = PUBLIC_MODE) -> None:
        """Creates the temporary file, and the directory if need be. Raises: OSError."""
        make_directory(directory)
        handle, name = tempfile.mkstemp(dir=directory, prefix=prefix)  # with SECRET_MODE
        self._path = Path(name)
        self._file = os.fdopen(handle, "wb", buffering=0)
        os.fchmod(handle, mode)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append. Raises: OSError."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def commit(self, target: Path) -> None:
        """Put it in the place of `target`. Raises: OSError, and then abort() is due."""
        self._file.close()
        put_in_place(self._path, target)

    def abort(self) -> None:
        """Remove what is there. Nothing happens after a commit."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def write_file(target: Path, data: bytes, mode: int = PUBLIC_MODE, prefix: str = "") -> None:
    """Replace `target` by `data`, or create it: a crash leaves the old one or the new one.

    prefix: of the temporary file's name, for whoever clears away what a crash left; "" = made of the target's.
    Raises: OSError; then the old one stands.
    """
    incoming = IncomingFile(target.parent, prefix or f".{target.name}-", mode)
    try:
        incoming.write(data)
        incoming.commit(target)
    finally:
        incoming.abort()


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Create a file and sync it, but not its directory. Raises: OSError, also if it is there."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_file(path: Path, limit_bytes: int = _SMALL_BYTES) -> bytes | None:
    """A whole file; None if there is none. Raises: StoreError if it can't be read, or is larger than the limit."""
    with explained(path):
        try:
            with path.open("rb") as file:
                data = file.read(limit_bytes + 1)
        except FileNotFoundError:
            return None
    if len(data) > limit_bytes:
        raise StoreError(f"{path} is damaged: it is larger than {limit_bytes} bytes")
    return data


def read_secret(path: Path) -> bytes | None:
    """A small file that nobody else may read; None if there is none. Raises: StoreError, also if others may read it."""
    data = read_file(path)
    if data is not None and (mode := path.stat().st_mode & 0o777) & 0o077:
        raise StoreError(f"{path} may be read by other users (mode {mode:04o}): run `chmod 600 {path}`")
    return data


def aside(path: Path) -> Path:
    """A free name for what is moved out of the way: `<name>.old-<n>`."""
    count = 1
    while (target := path.with_name(f"{path.name}.old-{count}")).exists():
        count += 1
    return target


# --- locks ------------------------------------------------------------------------------------------------------------


class FileLock:
    """One owner, by a lock on a file that the operating system drops when its process ends, however it ends."""

    def __init__(self, file: Path, what: str) -> None:
        """Take it at once or not at all. what: the thing that is locked, for the message.

        Raises: StoreInUse naming the holder, OSError.
        """
        make_directory(file.parent)
        self._handle: int | None = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PUBLIC_MODE)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(self._handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self.release()
            raise StoreInUse(
                f"{what} is in use by the process {holder}. Stop that one, or give this one a directory of its own."
            ) from None
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Give it back. Idempotent."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
