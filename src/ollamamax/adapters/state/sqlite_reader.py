"""The reading side of the state's SQLite file. Blocking; for one thread at a time. What it sees is on disk."""

from collections.abc import Generator
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final

from ollamamax.adapters.state.sqlite_file import connect, explained
from ollamamax.core.errors import StateCompacted
from ollamamax.core.types import StateBatch, StateEntry, StateEvent, StateRange

_PAGE: Final = 256
_ABOVE_ALL_KEYS: Final = "\U0010ffff"


class Reader:
    """One connection that only reads; each method sees one moment of the state. All raise as explained() does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with explained(path):
            self._connection = connect(path, is_writer=False)

    def get(self, key: str) -> StateEntry | None:
        """The entry of a key, or None."""
        with explained(self._path):
            row = self._connection.execute(
                "SELECT key, value, created, revision, lease_id FROM entries WHERE key = ?", (key,)
            ).fetchone()
        return StateEntry(*row) if row else None

    def range(self, prefix: str) -> StateRange:
        """All entries below a prefix, in key order."""
        with self._moment() as (revision, _):
            rows = self._connection.execute(
                "SELECT key, value, created, revision, lease_id FROM entries WHERE key >= ? AND key < ? ORDER BY key",
                (prefix, prefix + _ABOVE_ALL_KEYS),
            ).fetchall()
        return StateRange(revision, tuple(StateEntry(*row) for row in rows))

    def since(self, after_revision: int) -> list[StateBatch]:
        """The next changes, some hundreds at most. Raises: StateCompacted."""
        with self._moment() as (revision, compacted):
            if not compacted <= after_revision <= revision:
                raise StateCompacted(
                    f"changes after revision {after_revision} are not kept: the cluster's state has those after "
                    f"{compacted} and stands at {revision}"
                )
            rows = self._connection.execute(
                "SELECT revision, is_delete, key, value, created, lease_id FROM history"
                " WHERE revision > ? AND revision <= ? ORDER BY revision, ordinal",
                (after_revision, after_revision + _PAGE),
            ).fetchall()
        return [
            StateBatch(revision, tuple(_event(*row) for row in group))
            for revision, group in groupby(rows, key=itemgetter(0))
        ]

    def close(self) -> None:
        """No more. Idempotent."""
        self._connection.close()

    @contextmanager
    def _moment(self) -> Generator[tuple[int, int], None, None]:
        """One moment's (revision, compacted), and what is read within."""
        with explained(self._path):
            self._connection.execute("BEGIN")
            try:
                revision, compacted = self._connection.execute("SELECT revision, compacted FROM meta").fetchone()
                yield revision, compacted
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")


def _event(revision: int, is_delete: int, key: str, value: bytes, created: int, lease_id: int) -> StateEvent:
    return StateEvent(StateEntry(key, value, created, revision, lease_id), bool(is_delete))
