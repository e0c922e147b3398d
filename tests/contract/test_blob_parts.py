"""What every BlobStore does with blobs that come in parts: the one on disk and its twin in memory."""

import asyncio
import hashlib
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollamamax.adapters.storage.ollama_store import OllamaStore
from ollamamax.core.errors import BadRequest, DigestMismatch, DiskFull
from ollamamax.ports import BlobPart, BlobStore, PartedBlob
from ollamamax.testing.store import MemoryStore
from tmpfs import SMALL_BYTES

DATA = random.Random(1).randbytes(1000)
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
SIZES = [400, 400, 200]


async def write_rest(blob: PartedBlob, data: bytes = DATA) -> None:
    for index, part in reversed(list(enumerate(blob.parts))):
        await blob.write(index, data[part.offset + part.done_bytes : part.offset + part.size_bytes])


async def test_parts_in_any_order_become_a_blob(store: BlobStore) -> None:
    blob = await store.open_parts(DIGEST, 1000, SIZES)
    assert list(blob.parts) == [BlobPart(0, 400), BlobPart(400, 400), BlobPart(800, 200)]
    await blob.write(1, DATA[400:500])
    await blob.write(1, bytearray(DATA[500:550]))
    assert blob.parts[1] == BlobPart(400, 400, 150)
    assert await store.blob_size(DIGEST) is None
    await write_rest(blob)
    assert await blob.commit()
    await blob.close()
    assert await store.read_blob(DIGEST) == DATA
    assert [digest for digest, _, _ in await store.blobs()] == [DIGEST]


async def test_parts_are_written_side_by_side(store: BlobStore) -> None:
    blob = await store.open_parts(DIGEST, 1000, [100] * 10)

    async def fill(index: int) -> None:
        for at in range(index * 100, index * 100 + 100, 10):
            await blob.write(index, DATA[at : at + 10])

    await asyncio.gather(*(fill(index) for index in range(10)))
    assert await blob.commit()
    assert await store.read_blob(DIGEST) == DATA


async def test_what_has_come_is_gone_on_with(store: BlobStore) -> None:
    first = await store.open_parts(DIGEST, 1000, SIZES)
    await first.write(0, DATA[:400])
    await first.write(2, DATA[800:850])
    await first.close()
    await first.close()
    second = await store.open_parts(DIGEST, 1000, [1000])
    assert list(second.parts) == [BlobPart(0, 400, 400), BlobPart(400, 400), BlobPart(800, 200, 50)]
    await write_rest(second)
    assert await second.commit()
    await second.close()
    assert await store.read_blob(DIGEST) == DATA


async def test_wrong_bytes_are_removed_and_told(store: BlobStore) -> None:
    blob = await store.open_parts(DIGEST, 1000, SIZES)
    await write_rest(blob, DATA[::-1])
    got = hashlib.sha256(DATA[::-1]).hexdigest()
    with pytest.raises(DigestMismatch) as caught:
        await blob.commit()
    assert str(caught.value) == (f"digest mismatch, file must be downloaded again: want {DIGEST}, got sha256:{got}")
    await blob.close()
    assert await store.blob_size(DIGEST) is None
    again = await store.open_parts(DIGEST, 1000, SIZES)
    assert sum(part.done_bytes for part in again.parts) == 0
    await write_rest(again)
    assert await again.commit()
    await again.close()


async def test_another_size_begins_anew(store: BlobStore) -> None:
    first = await store.open_parts(DIGEST, 900, [450, 450])
    await first.write(0, DATA[:450])
    await first.close()
    second = await store.open_parts(DIGEST, 1000, SIZES)
    assert list(second.parts) == [BlobPart(0, 400), BlobPart(400, 400), BlobPart(800, 200)]
    await second.close()


async def test_an_empty_blob_has_no_parts(store: BlobStore) -> None:
    digest = f"sha256:{hashlib.sha256(b'').hexdigest()}"
    blob = await store.open_parts(digest, 0, [])
    assert list(blob.parts) == []
    assert await blob.commit()
    await blob.close()
    assert await store.blob_size(digest) == 0


async def test_somebody_else_may_be_first(store: BlobStore) -> None:
    blob = await store.open_parts(DIGEST, 1000, SIZES)
    await write_rest(blob)
    await store.put_bytes(DATA)
    assert not await blob.commit()
    await blob.close()
    assert await store.read_blob(DIGEST) == DATA


async def test_too_much_for_a_part_is_our_own_bug(store: BlobStore) -> None:
    blob = await store.open_parts(DIGEST, 1000, SIZES)
    with pytest.raises(AssertionError):
        await blob.write(0, DATA[:401])
    with pytest.raises(AssertionError):
        await blob.commit()
    await blob.close()


async def test_what_is_no_digest_is_refused(store: BlobStore) -> None:
    with pytest.raises(BadRequest, match="invalid digest format"):
        await store.open_parts("sha256:../x", 1, [1])


# --- no room --------------------------------------------------------------------------------------------------


async def test_room_is_looked_for_beforehand(small_store: BlobStore) -> None:
    await small_store.check_room({})
    await small_store.check_room({DIGEST: 1000})
    large = SMALL_BYTES * 2
    with pytest.raises(DiskFull, match=r"needs .*\d+ bytes.* and \d+ are free"):
        await small_store.check_room({DIGEST: 1000, "sha256:" + "0" * 64: large})


async def test_what_has_come_needs_no_room(small_store: BlobStore) -> None:
    data = os.urandom(SMALL_BYTES * 3 // 4)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    half = len(data) // 2
    blob = await small_store.open_parts(digest, len(data), [half, len(data) - half])
    await blob.write(0, data[:half])
    await small_store.put_bytes(b"b" * (SMALL_BYTES // 8))
    await small_store.check_room({digest: len(data) // 2})
    await blob.close()


async def test_a_full_disk_keeps_what_has_come(small_store: BlobStore) -> None:
    data = os.urandom(SMALL_BYTES * 3 // 4)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    ballast, _ = await small_store.put_bytes(b"b" * (SMALL_BYTES // 2))
    blob = await small_store.open_parts(digest, len(data), [len(data)])
    await blob.write(0, data[:100_000])
    with pytest.raises(DiskFull):
        await blob.write(0, data[100_000:])
    await blob.close()
    await small_store.delete_blob(ballast)
    again = await small_store.open_parts(digest, len(data), [len(data)])
    assert again.parts[0].done_bytes == 100_000
    await write_rest(again, data)
    assert await again.commit()
    await again.close()


# --- any order, any crash -----------------------------------------------------------------------------------------

steps = st.lists(st.one_of(st.tuples(st.integers(0, 2), st.integers(0, 300)), st.just("reopen")), max_size=30)


@settings(max_examples=60, deadline=None)
@given(steps)
async def test_any_course_of_writes_and_crashes(tmp_path_factory: pytest.TempPathFactory, course: list[object]) -> None:
    """Both stores know the same of a blob at each moment; a crash is a blob that is opened again without a close."""
    stores: list[BlobStore] = [OllamaStore(tmp_path_factory.mktemp("store")), MemoryStore()]
    blobs = [await store.open_parts(DIGEST, 1000, SIZES) for store in stores]
    left: list[PartedBlob] = []
    for step in course:
        if isinstance(step, tuple):
            index, count = step
            for blob in blobs:
                part = blob.parts[index]
                at = part.offset + part.done_bytes
                await blob.write(index, DATA[at : min(at + count, part.offset + part.size_bytes)])
        else:
            left += blobs
            blobs = [await store.open_parts(DIGEST, 1000, [1000]) for store in stores]
        assert list(blobs[0].parts) == list(blobs[1].parts)
    for store, blob in zip(stores, blobs, strict=True):
        await write_rest(blob)
        assert await blob.commit()
        assert await store.read_blob(DIGEST) == DATA
    for blob in left + blobs:
        await blob.close()
