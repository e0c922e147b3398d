"""The writing side of the state's SQLite file: transactions, leases, history. Blocking; for one thread at a time."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from ollamamax.adapters.state.sqlite_file import connect, explained
from ollamamax.core.errors import DiskFull, LeaseNotFound, OllamaMaxError, StateError
from ollamamax.core.types import Delete, Put, StateBatch, StateEntry, StateEvent, StateTxn, TxnResult
from ollamamax.core.types.state import size_bytes

_MAX_LEASES: Final = 20_000
_FIND_LEASE: Final = "SELECT 1 FROM leases WHERE lease_id = ?"


class Done(Struct, frozen=True):
    """What became of one piece of work: its result or its error, and the changes if there were any."""

    result: object
    batch: StateBatch | None = None


class _Figures(Struct, frozen=True):
    revision: int
    compacted: int
    last_lease: int
    total_bytes: int


class Ledger:
    """One connection that writes. Works are applied in order, many in one commit, each whole or not at all."""

    def __init__(self, path: Path, *, keep_revisions: int, limit_bytes: int) -> None:
        """Raises: as explained() does."""
        self._path = path
        self._keep_revisions = keep_revisions
        self._limit_bytes = limit_bytes
        with explained(path):
            self._connection = connect(path, is_writer=True)
        try:
            with explained(path):
                row = self._connection.execute("SELECT revision, compacted, last_lease FROM meta").fetchone()
                total = self._connection.execute(
                    "SELECT coalesce(sum(length(CAST(key AS BLOB)) + length(value) + 64), 0) FROM entries"
                ).fetchone()
                self._figures = _Figures(*row, *total)
        except BaseException:
            self._connection.close()
            raise

    @property
    def connection(self) -> sqlite3.Connection:
        """For snapshots, by the same thread."""
        return self._connection

    @property
    def revision(self) -> int:
        """The last one that is on disk."""
        return self._figures.revision

    def leases(self) -> dict[int, int]:
        """Time to live, ms, of each lease. Raises: as explained() does."""
        with explained(self._path):
            return dict(self._connection.execute("SELECT lease_id, ttl_ms FROM leases").fetchall())

    def run(self, works: Sequence[Callable[["Ledger"], Done]]) -> list[Done | OllamaMaxError]:
        """Apply all in one commit; on return they are on disk. An error is one work's own: the others are applied.

        Never raises OllamaMaxError: what fails the commit is the answer to each.
        """
        try:
            return self._commit(works)
        except DiskFull as error:
            if len(works) == 1:
                return [error]
            return [answer for work in works for answer in self.run([work])]  # the small ones may fit
        except OllamaMaxError as error:
            return [error] * len(works)

    def txn(self, txn: StateTxn) -> Done:
        """Work: a checked transaction. Raises: LeaseNotFound, StateError if it would be too much."""
        revision = self._figures.revision
        for compare in txn.compares:
            row = self._one("SELECT revision FROM entries WHERE key = ?", compare.key)
            if (row[0] if row else 0) != compare.revision:
                return Done(TxnResult(False, revision))
        batch = self._write(txn.writes)
        return Done(TxnResult(True, self._figures.revision), batch)

    def grant(self, ttl_ms: int) -> Done:
        """Work: a new lease; the result is its id. Raises: StateError if there are too many."""
        if self._one("SELECT count(*) FROM leases")[0] >= _MAX_LEASES:
            raise StateError(f"the cluster's state holds {_MAX_LEASES} leases and takes no more")
        lease_id = self._figures.last_lease + 1
        self._figures = replace(self._figures, last_lease=lease_id)
        self._connection.execute("INSERT INTO leases VALUES (?, ?)", (lease_id, ttl_ms))
        return Done(lease_id)

    def end(self, lease_id: int) -> Done:
        """Work: end a lease if there is one, and its keys with it."""
        self._connection.execute("DELETE FROM leases WHERE lease_id = ?", (lease_id,))
        rows = self._connection.execute(
            "SELECT key FROM entries WHERE lease_id = ? AND lease_id <> 0 ORDER BY key", (lease_id,)
        ).fetchall()
        return Done(None, self._write([Delete(key) for (key,) in rows]))

    def close(self) -> None:
        """No more. Idempotent."""
        self._connection.close()

    def _commit(self, works: Sequence[Callable[["Ledger"], Done]]) -> list[Done | OllamaMaxError]:
        before = self._figures
        try:
            with explained(self._path), closing(self._connection.cursor()) as cursor:
                cursor.execute("BEGIN IMMEDIATE")
                answers = [self._one_work(cursor, work) for work in works]
                if self._figures != before:
                    self._compact(cursor)
                    cursor.execute(
                        "UPDATE meta SET revision = ?, compacted = ?, last_lease = ?",
                        (self._figures.revision, self._figures.compacted, self._figures.last_lease),
                    )
                cursor.execute("COMMIT")
                return answers
        except BaseException:
            self._figures = before
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _one_work(self, cursor: sqlite3.Cursor, work: Callable[["Ledger"], Done]) -> Done | OllamaMaxError:
        before = self._figures
        cursor.execute("SAVEPOINT work")
        try:
            return work(self)
        except OllamaMaxError as error:
            self._figures = before
            cursor.execute("ROLLBACK TO work")
            return error
        finally:
            if self._connection.in_transaction:  # SQLite ends it by itself when the disk is full
                cursor.execute("RELEASE work")

    def _write(self, writes: Sequence[Put | Delete]) -> StateBatch | None:
        figures = self._figures
        revision, total_bytes = figures.revision + 1, figures.total_bytes
        events: list[StateEvent] = []
        for write in writes:
            old = self._one("SELECT created, length(value) FROM entries WHERE key = ?", write.key)
            if old:
                total_bytes -= size_bytes(write.key, b"") + int(old[1])
            if isinstance(write, Put):
                total_bytes += size_bytes(write.key, write.value)
                events.append(StateEvent(self._put(write, old[0] if old else revision, revision)))
            elif old:
                self._connection.execute("DELETE FROM entries WHERE key = ?", (write.key,))
                events.append(StateEvent(StateEntry(write.key, b"", 0, revision), is_delete=True))
        if total_bytes > self._limit_bytes and total_bytes > figures.total_bytes:
            raise StateError(f"the cluster's state is full: it may hold {self._limit_bytes} bytes")
        if not events:
            return None
        self._connection.executemany(
            "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (revision, ordinal, event.entry.key, event.entry.value, event.entry.created, event.entry.lease_id,
                 event.is_delete)
                for ordinal, event in enumerate(events)
            ],
        )  # fmt: skip
        self._figures = replace(figures, revision=revision, total_bytes=total_bytes)
        return StateBatch(revision, tuple(events))

    def _put(self, write: Put, created: int, revision: int) -> StateEntry:
        lease_id = write.lease_id
        if lease_id and (lease_id > self._figures.last_lease or not self._one(_FIND_LEASE, lease_id)):
            raise LeaseNotFound(f"the lease {lease_id} has ended")
        self._connection.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
            " value = excluded.value, revision = excluded.revision, lease_id = excluded.lease_id",
            (write.key, write.value, created, revision, lease_id),
        )
        return StateEntry(write.key, write.value, created, revision, lease_id)

    def _compact(self, cursor: sqlite3.Cursor) -> None:
        """Forget old changes, a tenth of what is kept at a time: less often, and not much at once."""
        target = self._figures.revision - self._keep_revisions
        if target < self._figures.compacted + max(1, self._keep_revisions // 10):
            return
        cursor.execute("DELETE FROM history WHERE revision <= ?", (target,))
        self._figures = replace(self._figures, compacted=target)

    def _one(self, sql: str, *parameters: object) -> tuple[int, ...]:
        row: tuple[int, ...] | None = self._connection.execute(sql, parameters).fetchone()
        return row or ()
