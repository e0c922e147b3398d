"""Removing what no model uses: unreferenced blobs and the remains of writes that never ended."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from ollamamax.adapters.disk import explained
from ollamamax.adapters.storage import manifest_files
from ollamamax.adapters.storage.blob_files import BlobFiles, is_whole
from ollamamax.adapters.storage.manifest_files import ManifestFiles
from ollamamax.adapters.storage.parted_blob import PARTIAL
from ollamamax.core.errors import CorruptManifest
from ollamamax.core.modelspec import digests, manifest

_AGE_NS: Final = 3600 * 10**9
_PARTED_AGE_NS: Final = 24 * _AGE_NS
"""A download that was broken off in the evening goes on in the morning."""
_log: Final = structlog.get_logger(__name__)


def prune(manifests: ManifestFiles, blobs: BlobFiles, root: Path, now_ns: int) -> list[str]:
    """Remove files older than an hour that nothing refers to, and empty directories of manifests.

    The parts of a download go together, a day after the last of them has grown.

    root: of the manifests. Whatever lies below it counts as a manifest, even where a name is invalid; if one of them
    can't be read, nothing is removed at all, since what it needs is unknown. Returns the removed paths.
    Raises: StoreError.
    """
    if not root.is_dir():
        return []
    with explained(root):
        files = list(_walk(root))
        try:
            used = _used(files)
        except (OSError, CorruptManifest) as error:
            _log.warning("nothing is pruned: a manifest can't be read", reason=str(error))
            return []
        waste = [path for path in files if _is_remains(path) and _is_old(path, now_ns)]
        waste += _unused_blobs(blobs.entries(), used, now_ns)
        for path in waste:
            path.unlink(missing_ok=True)
        for directory, _, _ in os.walk(root, topdown=False):
            manifests.remove_if_empty(Path(directory))
    return [str(path) for path in waste]


def _unused_blobs(entries: list[os.DirEntry[str]], used: frozenset[str], now_ns: int) -> Iterator[Path]:
    """Raises: OSError."""
    parted: dict[str, list[Path]] = {}
    for entry in entries:
        path = Path(entry.path)
        digest, separator, _ = entry.name.partition(PARTIAL)
        if separator and is_whole(digest):
            parted.setdefault(digest, []).append(path)
        elif is_whole(entry.name):
            if digests.normalise(entry.name) not in used and _is_old(path, now_ns):
                yield path
        elif _is_blob_part(entry.name) and _is_old(path, now_ns):
            yield path
    for paths in parted.values():
        if all(_is_old(path, now_ns, _PARTED_AGE_NS) for path in paths):
            yield from paths


def used_digests(root: Path) -> frozenset[str]:
    """All that any manifest below the root mentions, also those with invalid names.

    Raises: CorruptManifest naming one that can't be read, StoreError.
    """
    if not root.is_dir():
        return frozenset()
    with explained(root):
        return _used(list(_walk(root)))


def _walk(root: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(root, onerror=_raise):
        yield from (Path(directory, name) for name in names)


def _raise(error: OSError) -> None:
    raise error


def _used(files: list[Path]) -> frozenset[str]:
    """Raises: OSError, CorruptManifest naming the file."""
    used: set[str] = set()
    for path in files:
        if path.name.startswith("."):
            continue
        try:
            used |= manifest.decode(path.read_bytes()).digests
        except CorruptManifest as error:
            raise CorruptManifest(f"{path}: {error}") from error
    return frozenset(used)


def _is_remains(path: Path) -> bool:
    return path.name.startswith(manifest_files.INCOMING_PREFIX)


def _is_blob_part(name: str) -> bool:
    return name.startswith("sha256")


def _is_old(path: Path, now_ns: int, age_ns: int = _AGE_NS) -> bool:
    return now_ns - path.stat().st_mtime_ns > age_ns
