"""The lock on a directory: between processes, and when its holder dies."""

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ollamamax.adapters.storage.locks import DirectoryLock
from ollamamax.core.errors import StoreError, StoreInUse, StoreReadOnly
from tmpfs import make_read_only, tmpfs

LIMIT_S = 30.0
HOLDER = """
import sys
from pathlib import Path
from ollamamax.adapters.storage.locks import DirectoryLock
with DirectoryLock(Path(sys.argv[1]), "the model store"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(directory: Path) -> Generator[subprocess.Popen[str], None, None]:
    """Another process that holds the lock until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def assert_refused(directory: Path, pid: int) -> None:
    with pytest.raises(StoreInUse) as caught:
        DirectoryLock(directory, "the model store").acquire()
    assert str(caught.value) == (
        f"the model store {directory} is in use by the process {pid}. "
        "Stop that one, or give this one a directory of its own."
    )


def test_another_process_is_kept_out_until_the_holder_ends(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert_refused(tmp_path, process.pid)
        assert_refused(tmp_path, process.pid)
        process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0
        with DirectoryLock(tmp_path, "the model store"):
            pass


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert_refused(tmp_path, process.pid)
        process.kill()
        process.wait(LIMIT_S)
        lock = DirectoryLock(tmp_path, "the model store")
        lock.acquire()
        lock.release()


def test_the_holder_keeps_others_out(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path / "a" / "b", "the model store"):
        other = subprocess.run(
            [sys.executable, "-c", HOLDER, str(tmp_path / "a" / "b")],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    assert other.returncode == 1
    assert "StoreInUse" in other.stderr
    assert other.stdout == ""


def test_it_is_released_once_and_taken_again(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path, "the model store")
    lock.release()
    for _ in range(2):
        with lock, pytest.raises(StoreInUse):
            DirectoryLock(tmp_path, "the model store").acquire()
        lock.release()


def test_two_directories_are_two_locks(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path / "a", "the home directory"), DirectoryLock(tmp_path / "b", "the model store"):
        assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_a_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"can't access .*file"):
        DirectoryLock(tmp_path / "file", "the model store").acquire()


def test_a_directory_that_cant_be_written(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "sealed") as path:
        make_read_only(path)
        with pytest.raises(StoreReadOnly, match=r"can't access .*sealed"):
            DirectoryLock(path, "the model store").acquire()
