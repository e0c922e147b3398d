"""Manifests on disk: `<root>/<host>/<namespace>/<model>/<tag>`, names matched without regard to case."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from ollamamax.adapters.disk import explained, sync, write_file
from ollamamax.core.errors import InvalidName
from ollamamax.core.modelspec import names
from ollamamax.core.types import ModelName
from ollamamax.ports import StoredManifest

INCOMING_PREFIX: Final = ".incoming-"

_LEVELS: Final = 4
_log: Final = structlog.get_logger(__name__)


class ManifestFiles:
    """The tree of manifests. All methods block. Files that are no manifests are warned of once, and left alone."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._warned: set[Path] = set()

    def all(self) -> list[StoredManifest]:
        """Every readable one, newest first; equal times by name."""
        found = [stored for path in self._files() if (stored := self._try_read(path)) is not None]
        return sorted(found, key=lambda stored: (-stored.modified_ns, stored.name.key))

    def get(self, name: ModelName) -> StoredManifest | None:
        """The one of that name. Raises: StoreError if it is there and can't be read."""
        path = _find(self._root, names.manifest_parts(name))
        if path is None:
            return None
        with explained(path):
            return _read(path)

    def put(self, name: ModelName, data: bytes) -> StoredManifest:
        """Write it under the casing that is there already. Raises: StoreError."""
        parts = names.manifest_parts(name)
        path = _find(self._root, parts) or _place(self._root, parts)
        with explained(path, len(data)):
            write_file(path, data, prefix=INCOMING_PREFIX)
            return _read(path)

    def delete(self, name: ModelName) -> bool:
        """Remove it, and the directories that it leaves empty. Raises: StoreError."""
        path = _find(self._root, names.manifest_parts(name))
        if path is None:
            return False
        with explained(path):
            path.unlink()
            sync(path.parent)
        self.remove_if_empty(path.parent)
        return True

    def remove_if_empty(self, directory: Path) -> None:
        """Remove an empty directory and what that leaves empty above it, below the root."""
        while directory != self._root:
            try:
                directory.rmdir()
            except OSError:
                return
            directory = directory.parent

    def _files(self) -> Iterator[Path]:
        level = [self._root]
        for depth in range(_LEVELS):
            level = [child for directory in level for child in self._children(directory)]
            if depth < _LEVELS - 1:
                level = [path for path in level if path.is_dir()]
        yield from level

    def _children(self, directory: Path) -> list[Path]:
        try:
            return [directory / name for name in sorted(os.listdir(directory)) if not name.startswith(".")]
        except FileNotFoundError:
            return []
        except OSError as error:
            self._warn(directory, error.strerror or str(error))
            return []

    def _try_read(self, path: Path) -> StoredManifest | None:
        try:
            return _read(path)
        except InvalidName:
            self._warn(path, "its path is no model name")
        except OSError as error:
            self._warn(path, error.strerror or str(error))
        return None

    def _warn(self, path: Path, reason: str) -> None:
        if path not in self._warned:
            self._warned.add(path)
            _log.warning("skipped a file among the manifests", path=str(path), reason=reason)


def _read(path: Path) -> StoredManifest:
    """Raises: InvalidName, OSError."""
    host, namespace, model, tag = path.parts[-_LEVELS:]
    name = names.parse(f"{host}/{namespace}/{model}:{tag}")
    data = path.read_bytes()
    return StoredManifest(name, data, hashlib.sha256(data).hexdigest(), path.stat().st_mtime_ns)


def _matches(directory: Path, part: str) -> list[Path]:
    """Entries that are `part` in any casing; the exact one first."""
    try:
        found = [name for name in os.listdir(directory) if name.lower() == part.lower()]
    except OSError:
        return []
    return [directory / name for name in sorted(found, key=lambda name: (name != part, name))]


def _find(directory: Path, parts: tuple[str, ...]) -> Path | None:
    for path in _matches(directory, parts[0]):
        found = _find(path, parts[1:]) if len(parts) > 1 else path if path.is_file() else None
        if found is not None:
            return found
    return None


def _place(directory: Path, parts: tuple[str, ...]) -> Path:
    """Where a new one goes: along directories that are there in any casing."""
    for part in parts[:-1]:
        directory = next((path for path in _matches(directory, part) if path.is_dir()), directory / part)
    return directory / parts[-1]
