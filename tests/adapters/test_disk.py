"""Threads that are waited for, files that are whole or not there, and the file system's refusals in our words."""

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from ollamamax.adapters import disk
from ollamamax.adapters.disk import IncomingFile, explained, in_thread, read_file, read_secret, write_file, write_new
from ollamamax.core.errors import DiskFull, StoreError, StoreReadOnly

LIMIT_S = 30


async def test_a_threads_result_and_error_come_through() -> None:
    assert await in_thread(divmod, 7, 2) == (3, 1)
    assert await in_thread(int, "11", base=2) == 3
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 7, 0)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_caller_waits_for_its_thread(fails: bool) -> None:
    is_running, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        is_running.set()
        may_end.wait(LIMIT_S)
        ended.set()
        if fails:
            raise OSError("nobody hears this")

    async with asyncio.timeout(LIMIT_S):
        caller = asyncio.create_task(in_thread(work))
        await asyncio.to_thread(is_running.wait, LIMIT_S)
        for _ in range(2):
            caller.cancel()
            await asyncio.wait([caller], timeout=0.01)
            assert not caller.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
    assert ended.is_set()


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "file"
    write_file(target, b"old")
    incoming = IncomingFile(target.parent, ".incoming-")
    incoming.write(b"ne")
    assert target.read_bytes() == b"old"
    incoming.write(bytearray(b"w"))
    incoming.commit(target)
    assert target.read_bytes() == b"new"
    incoming.abort()
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_a_file_whose_sync_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    write_file(target, b"old")

    def refuse(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        write_file(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_free_room_is_that_of_the_nearest_directory_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(DiskFull, match=r"new/file needs at least 5 bytes and [1-9]\d* are free"),
        explained(tmp_path / "new" / "file", 5),
    ):
        raise OSError(28, "No space left on device")

    def refuse(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk.shutil, "disk_usage", refuse)
    with pytest.raises(DiskFull, match="and 0 are free"), explained(tmp_path / "file", 5):
        raise OSError(28, "No space left on device")


def test_a_file_has_its_mode_from_the_first_byte_on(tmp_path: Path) -> None:
    for mode in (disk.PUBLIC_MODE, disk.SECRET_MODE):
        incoming = IncomingFile(tmp_path, ".incoming-", mode)
        assert [path.stat().st_mode & 0o777 for path in tmp_path.glob(".incoming-*")] == [mode]
        incoming.abort()
    write_file(tmp_path / "replaced", b"old", disk.PUBLIC_MODE)
    write_file(tmp_path / "replaced", b"new", disk.SECRET_MODE)
    write_new(tmp_path / "new", b"x", disk.SECRET_MODE)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {"replaced": 0o600, "new": 0o600}
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "new", b"y", disk.SECRET_MODE)
    assert (tmp_path / "new").read_bytes() == b"x"


def test_a_file_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert read_file(path) is None
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    with pytest.raises(StoreError, match="file is damaged: it is larger than 4 bytes"):
        read_file(path, 4)
    with pytest.raises(StoreError, match=f"can't access {tmp_path}: Is a directory"):
        read_file(tmp_path)


@pytest.mark.parametrize("mode", [0o640, 0o644, 0o606])
def test_a_secret_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    assert read_secret(path) is None
    write_new(path, b"x", disk.SECRET_MODE)
    assert read_secret(path) == b"x"
    path.chmod(mode)
    with pytest.raises(StoreError, match=rf"key may be read by other users \(mode {mode:04o}\): run `chmod 600 .*key`"):
        read_secret(path)


def test_what_is_moved_aside_gets_a_free_name(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for count in (1, 2):
        assert disk.aside(path) == tmp_path / f"x.old-{count}"
        disk.aside(path).mkdir()


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (errno.ENOSPC, DiskFull, r"disk full: can't write the box /.*/file; [1-9]\d* bytes are free\. Free some space"),
        (errno.EDQUOT, DiskFull, r"disk full: can't write the box /.*/file; "),
        (errno.EACCES, StoreReadOnly, r"can't access the box /.*/file: Permission denied; give this user the right to"),
        (errno.EROFS, StoreReadOnly, r"can't access the box /.*/file: Read-only file system; "),
        (errno.EIO, StoreError, r"can't access the box /.*/file: Input/output error$"),
    ],
)
def test_refusals_name_what_it_was_and_why(tmp_path: Path, number: int, kind: type[StoreError], text: str) -> None:
    with pytest.raises(StoreError, match=f"^{text}") as caught, explained(tmp_path / "file", what="the box"):
        raise OSError(number, os.strerror(number))
    assert type(caught.value) is kind
