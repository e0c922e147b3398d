"""What the store on disk does beyond the contract: the layout, foreign files, refusals."""

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

import gguf_bytes
from ollamamax.adapters import disk
from ollamamax.adapters.storage import ollama_store
from ollamamax.adapters.storage.ollama_store import OllamaStore
from ollamamax.core.errors import BlobNotFound, DiskFull, StoreError, StoreReadOnly
from ollamamax.core.modelspec import names
from tmpfs import make_read_only, tmpfs

LONG_AGO_NS = 1_000_000_000 * 10**9


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def everything_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def put(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    return path


async def test_the_layout_is_ollamas(tmp_path: Path) -> None:
    store = OllamaStore(tmp_path / "models")
    digest, _ = await store.put_bytes(b"x")
    await store.put_manifest(names.parse("hf.co/Me/tiny:Q4"), b"{}")
    assert everything_below(tmp_path) == [
        f"models/blobs/{digest.replace(':', '-')}",
        "models/manifests/hf.co/Me/tiny/Q4",
    ]
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644)
    await store.delete_manifest(names.parse("hf.co/me/tiny:q4"))
    assert list((tmp_path / "models/manifests").iterdir()) == []


async def test_blobs_under_the_old_name_are_found(tmp_path: Path) -> None:
    digest = digest_of(b"old")
    put(tmp_path / "blobs" / digest, b"old")
    store = OllamaStore(tmp_path)
    assert store.blob_path(digest) == str(tmp_path / "blobs" / digest)
    assert await store.read_blob(digest) == b"old"
    assert [blob[0] for blob in await store.blobs()] == [digest]
    assert await store.put_bytes(b"old") == (digest, False)
    await store.delete_blob(digest)
    assert await store.blobs() == []


async def test_a_reused_blob_is_as_young_as_a_new_one(tmp_path: Path) -> None:
    path = put(tmp_path / "blobs" / digest_of(b"x").replace(":", "-"))
    await OllamaStore(tmp_path).put_bytes(b"x")
    assert path.stat().st_mtime_ns != LONG_AGO_NS


async def test_files_that_are_no_manifests_are_skipped_with_one_warning(tmp_path: Path) -> None:
    library = tmp_path / "manifests/registry.ollama.ai/library"
    for name in ("tiny/latest", "tiny/.DS_Store", "tiny/.incoming-x", ".hidden/latest", "sp ace/latest", "stray"):
        put(library / name)
    (library / "tiny/locked").symlink_to("nowhere")
    store = OllamaStore(tmp_path)
    with capture_logs() as logs:
        for _ in range(2):
            assert [one.name.short for one in await store.manifests()] == ["tiny:latest"]
    assert sorted((Path(log["path"]).name, log["reason"]) for log in logs) == [
        ("latest", "its path is no model name"),
        ("locked", "No such file or directory"),
    ]


async def test_of_two_casings_the_exact_one_is_taken(tmp_path: Path) -> None:
    library = tmp_path / "manifests/registry.ollama.ai/library"
    put(library / "Tiny/latest", b"upper")
    if (library / "tiny").exists():
        pytest.skip("this file system does not tell casings apart")
    put(library / "tiny/latest", b"lower")
    put(library / "tiny/only", b"only")
    store = OllamaStore(tmp_path)
    for asked, found in (("Tiny", b"upper"), ("tiny", b"lower"), ("TINY:Only", b"only")):
        stored = await store.manifest(names.parse(asked))
        assert stored is not None
        assert stored.data == found


async def test_a_directory_in_the_place_of_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifests/registry.ollama.ai/library/tiny/latest").mkdir(parents=True)
    store = OllamaStore(tmp_path)
    assert await store.manifest(names.parse("tiny")) is None
    with pytest.raises(StoreError, match="Is a directory"):
        await store.put_manifest(names.parse("tiny"), b"x")
    assert everything_below(tmp_path) == []


async def test_facts_of_many_blobs_are_not_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_store, "_CACHED_FACTS", 2)
    store = OllamaStore(tmp_path)
    found = []
    for index in range(4):
        data = gguf_bytes.llama({"general.name": (gguf_bytes.STRING, f"m{index}")})
        digest, _ = await store.put_bytes(data)
        found.append(await store.gguf_facts(digest))
        assert await store.gguf_facts(digest) is found[-1]
    assert len(store._facts) == 2


async def test_facts_of_a_blob_that_was_taken_away(tmp_path: Path) -> None:
    store = OllamaStore(tmp_path)
    digest, _ = await store.put_bytes(gguf_bytes.llama())
    await store.gguf_facts(digest)
    Path(store.blob_path(digest)).unlink()
    with pytest.raises(BlobNotFound):
        await store.gguf_facts(digest)


# --- refusals -------------------------------------------------------------------------------------------------


async def test_refusals_name_the_path_and_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = OllamaStore(tmp_path)

    def refuse(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk.IncomingFile, "write", refuse)
    with pytest.raises(DiskFull, match=f"^disk full: {store.blob_path(digest_of(b'abc'))} needs at least 3 bytes and "):
        await store.put_bytes(b"abc")
    assert everything_below(tmp_path) == []


async def test_a_store_whose_place_is_taken_by_a_file(tmp_path: Path) -> None:
    put(tmp_path / "models")
    store = OllamaStore(tmp_path / "models")
    with pytest.raises(StoreError, match=r"can't access"):
        await store.put_manifest(names.parse("tiny"), b"{}")
    with pytest.raises(StoreError, match=r"can't access"):
        await store.put_bytes(b"x")
    with capture_logs():
        assert await store.manifests() == []


async def test_a_store_that_can_only_be_read_still_serves(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "sealed") as path:
        store = OllamaStore(path)
        digest, _ = await store.put_bytes(b"x")
        kept = await store.put_manifest(names.parse("tiny"), b"{}")
        make_read_only(path)
        assert await store.read_blob(digest) == b"x"
        assert await store.put_bytes(b"x") == (digest, False)
        with pytest.raises(StoreReadOnly):
            await store.put_bytes(b"y")
        with pytest.raises(StoreReadOnly):
            await store.delete_blob(digest)
        with pytest.raises(StoreReadOnly):
            await store.put_manifest(names.parse("tiny"), b"{ }")
        assert await store.manifests() == [kept]
