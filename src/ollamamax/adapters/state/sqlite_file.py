"""The state's SQLite file: making one, opening it, judging it, and SQLite's refusals in our words.

Deliberate limits: SQLite keeps no checksums of pages: a flipped bit within a value goes unnoticed here, one in the
structure of the file does not.
"""

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from ollamamax.adapters import disk
from ollamamax.core.errors import StateCorrupt, StateError, StateTooNew, StoreError

VERSION: Final = 1
_APPLICATION_ID: Final = 0x4F4D5354
SIDE_FILES: Final = ("-wal", "-shm")
_NEARLY_FULL_BYTES: Final = 256 << 10
_WHAT: Final = "the cluster's state"
_SCHEMA: Final = """
CREATE TABLE meta (revision INTEGER NOT NULL, compacted INTEGER NOT NULL, last_lease INTEGER NOT NULL);
CREATE TABLE entries (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, created INTEGER NOT NULL, revision INTEGER NOT NULL,
    lease_id INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX entries_by_lease ON entries (lease_id) WHERE lease_id <> 0;
CREATE TABLE history (
    revision INTEGER NOT NULL, ordinal INTEGER NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
    created INTEGER NOT NULL, lease_id INTEGER NOT NULL, is_delete INTEGER NOT NULL,
    PRIMARY KEY (revision, ordinal)
) WITHOUT ROWID;
CREATE TABLE leases (lease_id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL);
INSERT INTO meta VALUES (0, 0, 0);
"""


@contextmanager
def explained(path: Path) -> Generator[None, None, None]:
    """SQLite's and the system's errors in the block as ours. path: of the state file.

    Raises: DiskFull, StoreReadOnly, StoreError, StateCorrupt (the bare reason), StateError.
    """
    with disk.explained(path, what=_WHAT):
        try:
            yield
        except sqlite3.Error as error:
            raise _explain(error, path) from error


def connect(path: Path, *, is_writer: bool) -> sqlite3.Connection:
    """A connection for one thread at a time, which need not be this one. Raises: sqlite3.Error."""
    connection = _connect(path, "mode=rw")
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: a plain fsync leaves data in the drive's cache
        connection.execute("PRAGMA checkpoint_fullfsync = ON")
        connection.execute("PRAGMA journal_size_limit = 4194304")
        if not is_writer:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def create(path: Path) -> None:
    """A new, empty state. Made beside and renamed, so that what stands at `path` is always whole.

    Raises: sqlite3.Error, OSError.
    """
    disk.make_directory(path.parent)
    beside = path.with_name(path.name + ".new")
    discard(beside)
    beside.touch(mode=0o600)
    with closing(_connect(beside, "mode=rw")) as connection:
        connection.executescript(
            f"BEGIN; {_SCHEMA} PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
        )
    disk.put_in_place(beside, path)


def discard(path: Path) -> None:
    """Remove a database and what SQLite keeps beside it; a left-over journal would spoil the next of that name.

    Raises: OSError.
    """
    for side in ("", "-journal", *SIDE_FILES):
        path.with_name(path.name + side).unlink(missing_ok=True)


def check(path: Path, *, is_snapshot: bool = False) -> None:
    """Read the whole file and say what is wrong with it; never changes it. is_snapshot: nobody writes to it.

    Raises: StateCorrupt (the bare reason), StateTooNew, and as explained() does.
    """
    with explained(path), closing(_connect(path, "mode=ro&immutable=1" if is_snapshot else "mode=ro")) as connection:
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if application_id != _APPLICATION_ID:
            raise StateCorrupt("it is no state of a cluster")
        if version > VERSION:
            raise StateTooNew(
                f"the cluster's state {path} was written by a newer OllamaMax (format {version}; this program knows "
                f"{VERSION}). Update this node; nothing was changed."
            )
        problems = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
        if problems != ["ok"]:
            raise StateCorrupt(str(problems[0]).splitlines()[-1] if problems else "it can't be checked")
        if connection.execute("SELECT count(*) FROM meta").fetchone()[0] != 1:
            raise StateCorrupt("its revision is missing")


def lock(path: Path) -> disk.FileLock:
    """Be the one process that uses the state at `path`. Raises: StoreInUse, and as explained() does."""
    with explained(path):
        return disk.FileLock(path.with_name(path.name + ".lock"), f"{_WHAT} {path}")


def _connect(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}", uri=True, timeout=5.0, isolation_level=None, check_same_thread=False
    )


def _explain(error: sqlite3.Error, path: Path) -> StoreError | StateError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StateCorrupt(str(error))
    if code == sqlite3.SQLITE_FULL:
        return disk.disk_full(path, what=_WHAT)
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and disk.free_bytes(path) < _NEARLY_FULL_BYTES:
        return disk.disk_full(path, what=_WHAT)  # e.g. the index of the write-ahead log could not grow
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return disk.no_access(path, str(error), _WHAT)
    return StateError(f"can't access {_WHAT} {path}: {error}")
