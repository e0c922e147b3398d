"""What the store puts on disk comes whole or not at all, and goes with the directories that it leaves empty."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ollamamax.adapters import disk
from ollamamax.adapters.storage import blob_files
from ollamamax.adapters.storage.blob_files import BlobFiles, IncomingBlob
from ollamamax.adapters.storage.ollama_store import OllamaStore
from ollamamax.core.errors import DigestMismatch, StoreError
from ollamamax.core.modelspec import names

LIMIT_S = 10.0
HELLO = b"hello"
DIGEST = f"sha256:{hashlib.sha256(HELLO).hexdigest()}"
SEVERAL_BUFFERS = b"x" * (3 << 20)
TINY = names.parse("tiny")


async def body_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def files_in(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


async def test_no_file_remains_of_a_failed_write(tmp_path: Path) -> None:
    store = OllamaStore(tmp_path)

    async def broken() -> AsyncIterator[bytes]:
        yield SEVERAL_BUFFERS
        assert len(files_in(tmp_path)) == 1, "what comes in goes to the disk at once"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await store.write_blob(broken(), DIGEST)
    assert files_in(tmp_path) == set()
    with pytest.raises(DigestMismatch):
        await store.write_blob(body_of(SEVERAL_BUFFERS), DIGEST)
    assert files_in(tmp_path) == set()


async def test_no_file_remains_of_a_write_that_is_cancelled_while_it_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, opened, go = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    class Slow(disk.IncomingFile):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            loop.call_soon_threadsafe(opened.set)
            assert go.wait(LIMIT_S)

    monkeypatch.setattr(blob_files, "IncomingFile", Slow)
    task = asyncio.create_task(OllamaStore(tmp_path).write_blob(body_of(HELLO), DIGEST))
    async with asyncio.timeout(LIMIT_S):
        await opened.wait()
        assert len(files_in(tmp_path)) == 1
        task.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert files_in(tmp_path) == set()


async def test_a_rename_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = OllamaStore(tmp_path)
    before = await store.put_manifest(TINY, b"old")

    def refuse(source: Path, target: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(disk.os, "replace", refuse)
        with pytest.raises(StoreError, match="Input/output error"):
            await store.put_manifest(TINY, b"new")
        with pytest.raises(StoreError, match="Input/output error"):
            await store.write_blob(body_of(HELLO), DIGEST)
    assert await store.manifests() == [before]
    assert files_in(tmp_path) == {"manifests/registry.ollama.ai/library/tiny/latest"}


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


async def test_reading_makes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "models"
    store = OllamaStore(root)
    assert (await store.manifests(), await store.blobs()) == ([], [])
    assert await store.manifest(TINY) is None
    assert await store.blob_size(DIGEST) is None
    assert await store.delete_manifest(TINY) is False
    await store.delete_blob(DIGEST)
    assert not root.exists()


async def test_parts_of_blobs_are_not_listed(tmp_path: Path) -> None:
    store = OllamaStore(tmp_path)
    blob = Path(store.blob_path((await store.put_bytes(HELLO))[0]))
    for name in (f"{blob.name}-partial", f"{blob.name}-partial-0", "sha256-incoming-abc", "notes", "sha256-12"):
        (blob.parent / name).write_bytes(b"x")
    (blob.parent / f"sha256-{'0' * 64}").mkdir()
    assert [digest for digest, _, _ in await store.blobs()] == [DIGEST]


async def test_a_new_tag_goes_beside_the_others_in_any_casing(tmp_path: Path) -> None:
    store = OllamaStore(tmp_path)
    await store.put_manifest(names.parse("Me/Tiny:a"), b"1")
    stored = await store.put_manifest(names.parse("mE/tiny:b"), b"2")
    assert stored.name == names.parse("Me/Tiny:b")
    assert files_in(tmp_path) == {f"manifests/registry.ollama.ai/Me/Tiny/{tag}" for tag in "ab"}


async def test_only_empty_directories_go_with_a_manifest(tmp_path: Path) -> None:
    store = OllamaStore(tmp_path)
    for text in ("me/tiny:a", "me/tiny:b", "other"):
        await store.put_manifest(names.parse(text), b"1")
    host = tmp_path / "manifests" / "registry.ollama.ai"
    await store.delete_manifest(names.parse("me/tiny:a"))
    assert (host / "me" / "tiny" / "b").is_file()
    await store.delete_manifest(names.parse("ME/TINY:B"))
    assert sorted(path.name for path in host.iterdir()) == ["library"]
    await store.delete_manifest(names.parse("other"))
    assert list((tmp_path / "manifests").iterdir()) == []
