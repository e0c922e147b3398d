"""What every BlobStore does: the one on disk and its twin in memory."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import gguf_bytes
from ollamamax.adapters.storage.ollama_store import OllamaStore
from ollamamax.core.errors import (
    BadRequest,
    BlobNotFound,
    CorruptManifest,
    DigestMismatch,
    DiskFull,
    GgufForeign,
    GgufTruncated,
    StoreError,
)
from ollamamax.core.modelspec import manifest, names
from ollamamax.core.modelspec.manifest import Layer
from ollamamax.ports import BlobStore
from tmpfs import SMALL_BYTES

DATA = b"some bytes of a model" * 1000
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
OTHER = "sha256:" + "0" * 64


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def unread() -> AsyncIterator[bytes]:
    raise AssertionError("the body is not to be read")
    yield b""


async def contents(store: BlobStore) -> tuple[list[str], list[str]]:
    """Names of the manifests and digests of the blobs."""
    return [one.name.short for one in await store.manifests()], [digest for digest, _, _ in await store.blobs()]


# --- manifests ------------------------------------------------------------------------------------------------


async def test_an_empty_store(store: BlobStore) -> None:
    assert await contents(store) == ([], [])
    assert await store.manifest(names.parse("tiny")) is None
    assert not await store.delete_manifest(names.parse("tiny"))


async def test_what_manifests_mention_is_told_or_that_one_is_unreadable(store: BlobStore) -> None:
    config = Layer("application/vnd.docker.container.image.v1+json", DIGEST, 1)
    assert await store.used_blobs() == frozenset()
    await store.put_manifest(names.parse("a"), manifest.encode(config, [Layer(manifest.MODEL, OTHER, 1)]))
    assert await store.used_blobs() == {DIGEST, OTHER}
    await store.put_manifest(names.parse("b"), b"{")
    with pytest.raises(CorruptManifest):
        await store.used_blobs()


async def test_a_manifest_is_kept_byte_for_byte(store: BlobStore) -> None:
    data = b'{"schemaVersion": 2 }\n\n'
    put = await store.put_manifest(names.parse("me/Tiny:v1"), data)
    assert (put.name, put.data) == (names.parse("me/Tiny:v1"), data)
    assert put.digest == hashlib.sha256(data).hexdigest()
    assert await store.manifest(names.parse("me/Tiny:v1")) == put
    assert await store.manifests() == [put]


async def test_names_match_in_any_casing_and_the_first_one_stays(store: BlobStore) -> None:
    await store.put_manifest(names.parse("Me/Tiny:V1"), b"1")
    await store.put_manifest(names.parse("mE/tINY:v1"), b"2")
    await store.put_manifest(names.parse("me/other"), b"3")
    found = await store.manifest(names.parse("ME/TINY:v1"))
    assert found is not None
    assert (found.name, found.data) == (names.parse("Me/Tiny:V1"), b"2")
    assert len(await store.manifests()) == 2
    assert await store.delete_manifest(names.parse("me/tiny:v1"))
    assert await store.manifest(names.parse("Me/Tiny:V1")) is None
    assert await store.manifest(names.parse("me/other")) is not None


async def test_the_newest_manifest_comes_first(store: BlobStore) -> None:
    for name in ("a", "b", "c", "a"):
        stored = await store.put_manifest(names.parse(name), name.encode())
        _set_age(store, stored.name.short)
    assert [one.name.model for one in await store.manifests()] == ["a", "c", "b"]


_ages = iter(range(1, 1 << 30))


def _set_age(store: BlobStore, name: str) -> None:
    """Files written in one tick of the file system's clock have one time: set them apart."""
    if isinstance(store, OllamaStore):
        path = (
            Path(store.blob_path(DIGEST)).parents[1] / "manifests/registry.ollama.ai/library" / name.replace(":", "/")
        )
        seconds = 1_700_000_000 + next(_ages)
        os.utime(path, (seconds, seconds))


async def test_manifests_of_other_hosts(store: BlobStore) -> None:
    name = names.parse("localhost:5000/ns/model:tag")
    await store.put_manifest(name, b"x")
    assert [one.name for one in await store.manifests()] == [name]


# --- blobs ----------------------------------------------------------------------------------------------------


async def test_a_blob_is_streamed_in(store: BlobStore) -> None:
    assert await store.blob_size(DIGEST) is None
    assert await store.write_blob(pieces(DATA[:5], b"", DATA[5:]), DIGEST)
    assert await store.blob_size(DIGEST) == len(DATA)
    assert await store.read_blob(DIGEST) == DATA
    assert [(digest, size) for digest, size, _ in await store.blobs()] == [(DIGEST, len(DATA))]


async def test_a_large_blob_is_streamed_in(store: BlobStore) -> None:
    piece = bytes(range(256)) * 2048
    digest = f"sha256:{hashlib.sha256(piece * 9).hexdigest()}"
    assert await store.write_blob(pieces(*[piece] * 9), digest)
    assert await store.read_blob(digest, 9 * len(piece)) == piece * 9


async def test_a_blob_that_is_there_is_not_read_again(store: BlobStore) -> None:
    await store.write_blob(pieces(DATA), DIGEST)
    assert not await store.write_blob(unread(), DIGEST)
    assert await store.put_bytes(DATA) == (DIGEST, False)


async def test_small_blobs(store: BlobStore) -> None:
    assert await store.put_bytes(DATA) == (DIGEST, True)
    assert await store.put_bytes(b"") == (f"sha256:{hashlib.sha256(b'').hexdigest()}", True)
    assert await store.read_blob(DIGEST, len(DATA)) == DATA
    with pytest.raises(StoreError, match="larger than"):
        await store.read_blob(DIGEST, len(DATA) - 1)


async def test_a_blob_whose_digest_nobody_knows(store: BlobStore) -> None:
    assert await store.add_blob(pieces(DATA[:5], DATA[5:]), len(DATA)) == (DIGEST, True)
    assert await store.add_blob(pieces(DATA), len(DATA)) == (DIGEST, False)
    assert await store.read_blob(DIGEST) == DATA
    assert await contents(store) == ([], [DIGEST])


async def test_a_blob_without_a_digest_that_breaks_off_is_forgotten(store: BlobStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield DATA
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.add_blob(broken(), len(DATA))
    assert await contents(store) == ([], [])


async def test_other_bytes_are_refused_and_forgotten(store: BlobStore) -> None:
    with pytest.raises(DigestMismatch) as caught:
        await store.write_blob(pieces(DATA), OTHER)
    assert str(caught.value) == f'digest mismatch, expected "{OTHER}", got "{DIGEST}"'
    assert await contents(store) == ([], [])


async def test_a_broken_body_is_forgotten(store: BlobStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield DATA
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.write_blob(broken(), DIGEST)
    assert await contents(store) == ([], [])
    assert await store.write_blob(pieces(DATA), DIGEST)


async def test_a_cancelled_write_is_forgotten(store: BlobStore) -> None:
    is_waiting = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield DATA
        is_waiting.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(store.write_blob(stuck(), DIGEST))
    async with asyncio.timeout(10):
        await is_waiting.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
    assert await contents(store) == ([], [])


async def test_two_writers_of_one_blob(store: BlobStore) -> None:
    both = asyncio.Barrier(2)

    async def together() -> AsyncIterator[bytes]:
        yield DATA[:9]
        await both.wait()
        yield DATA[9:]

    async with asyncio.timeout(10):
        created = await asyncio.gather(store.write_blob(together(), DIGEST), store.write_blob(together(), DIGEST))
    assert any(created)
    assert await store.read_blob(DIGEST) == DATA
    assert await contents(store) == ([], [DIGEST])


async def test_the_slower_of_two_writers_is_told_so(store: BlobStore) -> None:
    is_waiting, may_go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield DATA[:9]
        is_waiting.set()
        await may_go_on.wait()
        yield DATA[9:]

    async with asyncio.timeout(10):
        slower = asyncio.create_task(store.write_blob(slow(), DIGEST))
        await is_waiting.wait()
        assert await store.write_blob(pieces(DATA), DIGEST) is True
        may_go_on.set()
        assert await slower is False
    assert await store.read_blob(DIGEST) == DATA


async def test_blobs_are_deleted(store: BlobStore) -> None:
    await store.put_bytes(DATA)
    await store.delete_blob(DIGEST)
    await store.delete_blob(DIGEST)
    assert await store.blob_size(DIGEST) is None
    with pytest.raises(BlobNotFound):
        await store.read_blob(DIGEST)


@pytest.mark.parametrize("digest", ["", "sha256:../../../etc/passwd", "sha256-" + "g" * 64])
async def test_what_is_no_digest_is_refused(store: BlobStore, digest: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.blob_size(digest),
        lambda: store.read_blob(digest),
        lambda: store.write_blob(unread(), digest),
        lambda: store.delete_blob(digest),
        lambda: store.gguf_facts(digest),
    ]
    for call in calls:
        with pytest.raises(BadRequest, match="invalid digest format"):
            await call()  # type: ignore[misc]
    with pytest.raises(BadRequest, match="invalid digest format"):
        store.blob_path(digest)


async def test_paths_are_absolute(store: BlobStore) -> None:
    assert Path(store.blob_path(DIGEST)).is_absolute()
    assert Path(store.blob_path(DIGEST)).name == DIGEST.replace(":", "-")


# --- facts ----------------------------------------------------------------------------------------------------


async def test_facts_of_a_gguf(store: BlobStore) -> None:
    digest, _ = await store.put_bytes(gguf_bytes.llama())
    facts = await store.gguf_facts(digest)
    assert (facts.architecture, facts.file_bytes) == ("llama", len(gguf_bytes.llama()))
    assert facts.metadata["tokenizer.ggml.tokens"] == []
    assert await store.gguf_facts(digest) == facts
    whole = await store.gguf_facts(digest, whole_arrays=True)
    assert len(whole.metadata["tokenizer.ggml.tokens"]) == 9
    await store.delete_blob(digest)
    with pytest.raises(BlobNotFound):
        await store.gguf_facts(digest)


@pytest.mark.parametrize(("data", "text"), [(b"", "it is empty"), (b"PK\x03\x04", "zip archive")])
async def test_a_blob_that_is_no_gguf(store: BlobStore, data: bytes, text: str) -> None:
    digest, _ = await store.put_bytes(data)
    with pytest.raises(GgufForeign, match=text):
        await store.gguf_facts(digest)


@pytest.mark.parametrize("kept_bytes", [5, 100, -1])
async def test_a_gguf_that_is_cut_off(store: BlobStore, kept_bytes: int) -> None:
    digest, _ = await store.put_bytes(gguf_bytes.llama()[:kept_bytes])
    with pytest.raises(GgufTruncated, match="cut off"):
        await store.gguf_facts(digest)


# --- no room --------------------------------------------------------------------------------------------------


async def test_a_full_disk_loses_nothing(small_store: BlobStore) -> None:
    kept = await small_store.put_manifest(names.parse("tiny"), b"{}")
    await small_store.put_bytes(DATA)
    large = bytes(SMALL_BYTES * 2)
    digest = f"sha256:{hashlib.sha256(large).hexdigest()}"
    with pytest.raises(DiskFull, match=r"needs at least \d+ bytes and \d+ are free"):
        await small_store.write_blob(pieces(large[:700_000], large[700_000:]), digest)
    with pytest.raises(DiskFull, match=f"needs at least {len(large)} bytes"):
        await small_store.put_bytes(large)
    with pytest.raises(DiskFull):
        await small_store.add_blob(unread(), len(large))
    with pytest.raises(DiskFull):
        await small_store.put_manifest(names.parse("tiny"), large)
    assert await small_store.manifests() == [kept]
    assert await contents(small_store) == (["tiny:latest"], [DIGEST])
    assert await small_store.put_bytes(large[:500_000]) == (
        f"sha256:{hashlib.sha256(large[:500_000]).hexdigest()}",
        True,
    )


@pytest.mark.parametrize(("offset", "length"), [(0, -1), (5000, -1), (7, 100), (len(DATA), -1), (0, 0), (10, 1 << 40)])
async def test_a_part_of_a_blob(store: BlobStore, offset: int, length: int) -> None:
    await store.put_bytes(DATA)
    got = b"".join([piece async for piece in store.read_range(DIGEST, offset, length)])
    assert got == DATA[offset:][: length if length >= 0 else None]


@pytest.mark.parametrize(("digest", "offset"), [(OTHER, 0), (DIGEST, len(DATA) + 1), (DIGEST, -1)])
async def test_a_part_that_is_not_there(store: BlobStore, digest: str, offset: int) -> None:
    await store.put_bytes(DATA)
    with pytest.raises(BlobNotFound):
        await anext(store.read_range(digest, offset))
