"""Threads that are waited for, and files that are whole or not there."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from ollamamax.adapters.storage import files
from ollamamax.adapters.storage.blob_files import BlobFiles, IncomingBlob
from ollamamax.adapters.storage.files import IncomingFile, explained, in_thread, write_file
from ollamamax.core.errors import DiskFull

LIMIT_S = 10


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
    write_file(target, b"old", ".incoming-")
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
    write_file(target, b"old", ".incoming-")

    def refuse(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        write_file(target, b"new", ".incoming-")
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

    monkeypatch.setattr(files.shutil, "disk_usage", refuse)
    with pytest.raises(DiskFull, match="and 0 are free"), explained(tmp_path / "file", 5):
        raise OSError(28, "No space left on device")


def test_the_later_of_two_writers_changes_nothing(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path)
    digest = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    writers = [IncomingBlob(blobs, digest) for _ in range(2)]
    for writer in writers:
        writer.open()
        writer.write(bytearray(b"x"))
    assert [writer.commit() for writer in writers] == [True, False]
    for writer in writers:
        writer.close()
    assert [path.name for path in tmp_path.iterdir()] == [digest.replace(":", "-")]
