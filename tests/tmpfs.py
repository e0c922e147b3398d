"""A small file system of its own, for tests of full and read-only disks."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

SMALL_BYTES = 1 << 20


@contextmanager
def tmpfs(path: Path, size_bytes: int = SMALL_BYTES) -> Generator[Path, None, None]:
    """A tmpfs mounted at `path`. Where it can't be mounted the test is skipped, or fails where CI is set."""
    path.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def grow(path: Path, size_bytes: int) -> None:
    """Make room in the tmpfs."""
    _mount("-o", f"remount,size={size_bytes}", str(path))


def make_read_only(path: Path) -> None:
    """From now on nothing in the tmpfs can be written, not even by root."""
    _mount("-o", "remount,ro", str(path))


def _mount(*arguments: str) -> None:
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        _without("a tmpfs can be mounted by root on Linux alone")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        _without(f"mount {' '.join(arguments)} failed: {done.stderr.strip()}")


def _without(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
