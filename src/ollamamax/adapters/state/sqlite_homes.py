"""The SQLite files of a node that held the cluster's state at one time or another.

`<cluster id>.db` is the founder's; one that came by a move is `<cluster id>.g<generation>.db`. Which of them is the
home each says itself: the last change of one that was left is where the state went.
"""

import re
from contextlib import closing
from pathlib import Path
from typing import Final

from ollamamax.adapters.disk import in_thread
from ollamamax.adapters.state.sqlite_file import connect, create, discard, explained
from ollamamax.adapters.state.sqlite_state import SqliteState
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.types import StateHome
from ollamamax.ports import Clock

_NAME: Final = re.compile(r"\.g([1-9][0-9]*)\.db")


class SqliteHomes:
    """OwnStates. node_id: this node's."""

    def __init__(self, directory: Path, cluster_id: str, node_id: str, clock: Clock) -> None:
        self._directory = directory
        self._cluster_id = cluster_id
        self._node_id = node_id
        self._clock = clock

    async def find(self, make: bool) -> tuple[SqliteState | None, StateHome]:
        """The newest one, if it is the home, and what it says of it. Raises: as SqliteState.open() does."""
        paths = newest_first(self._directory, self._cluster_id)
        if not paths:
            first = state_file(self._directory, self._cluster_id)
            return await SqliteState.open(first, self._clock) if make else None, StateHome()
        newest = StateHome()
        for path in paths:
            store = await SqliteState.open(path, self._clock)
            try:
                home = Catalog.from_range(await store.range("")).home
            except BaseException:
                await store.close()
                raise
            if home.kind == "sqlite" and (not home.hosts or self._node_id in home.hosts):
                return store, home
            await store.close()
            newest = max(newest, home, key=lambda one: one.generation)
        return None, newest

    async def begin(self, generation: int, after_revision: int) -> SqliteState:
        """A new one. Raises: as SqliteState.open() does."""
        path = state_file(self._directory, self._cluster_id, generation)
        await in_thread(begin, path, after_revision)
        return await SqliteState.open(path, self._clock)

    async def reopen(self, generation: int) -> SqliteState | None:
        """What begin() made. Raises: as SqliteState.open() does."""
        path = state_file(self._directory, self._cluster_id, generation)
        return await SqliteState.open(path, self._clock) if path.exists() else None

    async def discard(self, generation: int) -> None:
        """Remove what begin() made. Raises: StoreError."""
        await in_thread(_discard, state_file(self._directory, self._cluster_id, generation))


def state_file(directory: Path, cluster_id: str, generation: int = 0) -> Path:
    """Where it lies."""
    return directory / (f"{cluster_id}.g{generation}.db" if generation else f"{cluster_id}.db")


def newest_first(directory: Path, cluster_id: str) -> list[Path]:
    """Those that there are. Raises: StoreError."""
    found: list[tuple[int, Path]] = []
    with explained(directory):
        for path in directory.glob(f"{cluster_id}*.db"):
            match = _NAME.fullmatch(path.name.removeprefix(cluster_id))
            if match is not None or path.name == f"{cluster_id}.db":
                found.append((int(match[1]) if match is not None else 0, path))
    return [path for _, path in sorted(found, reverse=True)]


def begin(path: Path, after_revision: int) -> None:
    """A new, empty state whose revisions are all greater. Blocking. Raises: as explained() does."""
    _discard(path)
    with explained(path):
        create(path)
        with closing(connect(path, is_writer=True)) as connection:
            connection.execute("UPDATE meta SET revision = ?, compacted = ?", (after_revision, after_revision))


def _discard(path: Path) -> None:
    with explained(path):
        discard(path)
        snapshots = path.with_name(path.name + ".snapshots")
        for snapshot in snapshots.glob("*") if snapshots.is_dir() else ():
            snapshot.unlink(missing_ok=True)
