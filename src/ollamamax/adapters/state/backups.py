"""Copies of the cluster's state beside it: `backups/<cluster id>-<time>.state`, in the form of a snapshot file."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ollamamax.adapters.disk import explained, in_thread
from ollamamax.adapters.state.snapshot_file import StateSnapshotFile, encode
from ollamamax.core.types import StateRange

_KEEP: Final = 24
_TIME: Final = "%Y%m%dT%H%M%SZ"


class FileBackups:
    """Backups. The newest 24 are kept."""

    def __init__(self, directory: Path, cluster_id: str) -> None:
        self._directory = directory
        self._cluster_id = cluster_id

    async def add(self, state: StateRange, at_ns: int) -> None:
        """Keep one more. Raises: DiskFull, StoreReadOnly, StoreError."""
        name = datetime.fromtimestamp(at_ns / 1e9, tz=UTC).strftime(_TIME)
        await StateSnapshotFile(self._directory / f"{self._cluster_id}-{name}.state").save(state)
        await in_thread(self._prune)

    async def last_ns(self) -> int:
        """When the newest one was made. Raises: StoreError."""
        return await in_thread(self._last_ns)

    def encode(self, state: StateRange) -> bytes:
        """As the file of a copy has it."""
        return encode(state)

    def _all(self) -> list[Path]:
        with explained(self._directory):
            return sorted(self._directory.glob(f"{self._cluster_id}-*.state"))

    def _prune(self) -> None:
        with explained(self._directory):
            for old in self._all()[:-_KEEP]:
                old.unlink(missing_ok=True)

    def _last_ns(self) -> int:
        for path in reversed(self._all()):
            try:
                told = datetime.strptime(path.stem.rpartition("-")[2], _TIME).replace(tzinfo=UTC)
            except ValueError:
                continue
            return int(told.timestamp()) * 10**9
        return 0
