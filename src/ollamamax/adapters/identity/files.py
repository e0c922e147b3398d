"""Small files that hold secrets: written whole, synced, readable by their owner alone."""

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ollamamax.core.errors import DiskFull, StoreError, StoreReadOnly

SECRET_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextmanager
def explained(path: Path) -> Generator[None, None, None]:
    """OSErrors of the block as StoreErrors that name `path`. Raises: DiskFull, StoreReadOnly, StoreError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"disk full: can't write {path}") from error
        if error.errno in _REFUSED:
            raise StoreReadOnly(f"can't access {path}: {error.strerror}; give this user access to it") from error
        raise StoreError(f"can't access {path}: {error.strerror or error}") from error


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Create a file and sync it; its mode holds from its first byte on. Raises: OSError, also if it is there."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes, mode: int) -> None:
    """Replace a file, or create it, durably: a crash leaves the old one or the new one. Raises: OSError."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    write_new(beside, data, mode)
    os.replace(beside, path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and removals in it durable. Raises: OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path, limit_bytes: int = 64 * 1024) -> bytes | None:
    """A whole file; None if there is none. Raises: StoreError if it can't be read, or is far too large."""
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
    """A whole file that nobody else may read; None if there is none. Raises: StoreError, also if others may read it."""
    data = read(path)
    # Windows has no such bits: there the directory's own rights decide.
    if data is not None and os.name == "posix" and (mode := path.stat().st_mode & 0o777) & 0o077:
        raise StoreError(f"{path} may be read by other users (mode {mode:04o}): run `chmod 600 {path}`")
    return data


def aside(path: Path) -> Path:
    """A free name for what is moved out of the way: `<name>.old-<n>`."""
    count = 1
    while (target := path.with_name(f"{path.name}.old-{count}")).exists():
        count += 1
    return target
