"""Whole copies of the state beside its file, and the way back to one of them. Blocking."""

import shutil
import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Final

from ollamamax.adapters.disk import put_in_place
from ollamamax.adapters.state.sqlite_file import SIDE_FILES, check, connect, discard, explained, lock
from ollamamax.core.errors import OllamaMaxError, StateCorrupt

_KEEP: Final = 3
_RESTORE_STEP: Final = 1_000_000
"""More changes than can have been made since any snapshot that is kept."""


class Snapshots:
    """`<path>.snapshots/<revision>.db`; the last three are kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.directory = path.with_name(path.name + ".snapshots")

    def all(self) -> list[Path]:
        """Newest first."""
        return sorted(self.directory.glob("*.db"), reverse=True)

    def last_good(self) -> Path | None:
        """The newest one that can be read whole."""
        for snapshot in self.all():
            try:
                check(snapshot, is_snapshot=True)
            except OllamaMaxError:
                continue
            return snapshot
        return None

    def has(self, revision: int) -> bool:
        """Whether there is one of that revision."""
        return self._file(revision).exists()

    def write(self, connection: sqlite3.Connection, revision: int) -> None:
        """Copy what `connection` sees. Raises: as explained() does; then nothing is left behind."""
        target = self._file(revision)
        beside = self.directory / "new.part"
        with explained(self._path):
            self.directory.mkdir(mode=0o700, exist_ok=True)
            beside.unlink(missing_ok=True)
            try:
                connection.execute("VACUUM INTO ?", (str(beside),))
                beside.chmod(0o600)
                put_in_place(beside, target)
            finally:
                beside.unlink(missing_ok=True)
            for old in self.all()[_KEEP:]:
                old.unlink(missing_ok=True)

    def advice(self, reason: str) -> StateCorrupt:
        """The error for a file that can't be read: what, and how to go on."""
        good = self.last_good()
        remedy = (
            f"The last good snapshot is {good}: stop this node and go back to it by `ollamamax cluster restore-state`."
            if good
            else f"There is no good snapshot in {self.directory}; bring it back from a backup of your own."
        )
        return StateCorrupt(
            f"the cluster's state {self._path} can't be read: {reason}. Nothing was overwritten. {remedy}"
        )

    def _file(self, revision: int) -> Path:
        return self.directory / f"{revision:020d}.db"


def restore(path: Path, snapshot: Path | None = None) -> tuple[Path, Path | None]:
    """Put a snapshot in the place of the state file, while no node uses it. snapshot: None = the last good one.

    The former file is moved aside, never removed. The revision jumps ahead, so that nodes that have seen more than the
    snapshot holds read the whole anew.

    Returns: the snapshot that was used, and where the former file lies now, if there was one.
    Raises: StoreInUse, StateCorrupt if there is no good snapshot, StateTooNew, DiskFull, StoreError, StateError.
    """
    snapshots = Snapshots(path)
    taken = lock(path)
    try:
        chosen = snapshot or snapshots.last_good()
        if chosen is None:
            raise StateCorrupt(f"there is no good snapshot of the cluster's state in {snapshots.directory}")
        try:
            check(chosen, is_snapshot=True)
        except StateCorrupt as error:
            raise StateCorrupt(f"the snapshot {chosen} can't be read: {error}. Nothing was changed.") from error
        beside = path.with_name(path.name + ".restoring")
        with explained(path):
            discard(beside)
            shutil.copyfile(chosen, beside)
            beside.chmod(0o600)
            _step_ahead(beside)
            aside = _move_aside(path)
            put_in_place(beside, path)
        return chosen, aside
    finally:
        taken.release()


def _step_ahead(path: Path) -> None:
    with closing(connect(path, is_writer=True)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "UPDATE meta SET revision = revision + ?, compacted = revision + ?, last_lease = last_lease + ?",
            (_RESTORE_STEP, _RESTORE_STEP, _RESTORE_STEP),
        )
        connection.execute("DELETE FROM history")
        connection.execute("COMMIT")


def _move_aside(path: Path) -> Path | None:
    """Its write-ahead log goes with it: it may hold what the file lacks, and must not be applied to another one."""
    names = {file.name for file in path.parent.iterdir()}
    number = next(n for n in count(1) if not any(name.startswith(f"{path.name}.damaged-{n}") for name in names))
    aside = path.with_name(f"{path.name}.damaged-{number}")
    for side in ("", *SIDE_FILES):
        if path.name + side in names:
            path.with_name(path.name + side).rename(path.with_name(aside.name + side))
    return aside if path.name in names else None
