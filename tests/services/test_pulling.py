"""Pulls over the twins: what is told, what is shared, what goes on, what is refused."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from registry_world import CONFIG, GGUF, LIMIT_S, World, digest_of, short

from ollamamax.core.errors import (
    BlobNotFound,
    CorruptManifest,
    DigestMismatch,
    DiskFull,
    InvalidName,
    RegistryDenied,
    RegistryError,
    RegistryNotFound,
    RegistryUnavailable,
    Unsupported,
)
from ollamamax.core.modelspec import manifest, names
from ollamamax.core.modelspec.manifest import Layer
from ollamamax.core.types import CreateRequest, Progress, TransferRequest


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with asyncio.timeout(LIMIT_S):
        yield world
    await world.library.close()
    await world.library.close()


async def test_a_pull_in_ollamas_words(world: World) -> None:
    data = world.publish("ME/m", GGUF, b"the license")
    steps = await world.pull("ME/m")
    assert list(dict.fromkeys(step.status for step in steps)) == [
        "pulling manifest",
        f"pulling {short(GGUF)}",
        f"pulling {short(b'the license')}",
        f"pulling {short(CONFIG)}",
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    weights = [step for step in steps if step.digest == digest_of(GGUF)]
    assert {step.total for step in weights} == {len(GGUF)}
    assert weights[-1].completed == len(GGUF)
    stored = await world.store.manifest(names.parse("me/m"))
    assert stored is not None
    assert stored.data == data
    assert [record.name for record in await world.library.records()] == ["ME/m:latest"]


async def test_the_parts_are_fetched_once_each(world: World) -> None:
    world.publish("m", GGUF)
    await world.pull("m")
    ranges = sorted(asked[2:] for asked in world.registry.asked if asked[:2] == ("read", digest_of(GGUF)))
    ends = [*range(4_000, len(GGUF), 4_000), len(GGUF)]
    assert ranges == list(zip([0, *ends[:-1]], ends, strict=True))
    assert world.registry.read_bytes == len(GGUF) + len(CONFIG)


async def test_what_is_here_is_not_fetched(world: World) -> None:
    world.publish("m", GGUF)
    await world.store.put_bytes(GGUF)
    steps = await world.pull("m")
    assert Progress(f"pulling {short(GGUF)}", digest_of(GGUF), len(GGUF), len(GGUF)) in steps
    assert world.registry.read_bytes == len(CONFIG)
    await world.pull("m")
    assert world.registry.read_bytes == len(CONFIG)


async def test_a_blob_that_stands_twice_is_fetched_once(world: World) -> None:
    world.publish("m", GGUF, b"the license", b"the license", b"")
    await world.pull("m")
    assert world.registry.read_bytes == len(GGUF) + len(b"the license") + len(CONFIG)
    assert await world.store.blob_size(digest_of(b"")) == 0


# --- what goes wrong on the way -----------------------------------------------------------------------------------


async def test_a_part_that_breaks_off_goes_on_where_it_was(world: World) -> None:
    world.publish("m", GGUF)
    world.registry.cuts.extend([(2_000, RegistryUnavailable("cut"))] * 3)
    assert (await world.pull("m"))[-1].status == "success"
    assert world.registry.read_bytes == len(GGUF) + len(CONFIG)
    assert ("read", digest_of(GGUF), 2_000, 4_000) in world.registry.asked


async def test_bytes_that_come_give_new_patience() -> None:
    world = World(part_bytes=len(GGUF))
    world.publish("m", GGUF)
    world.registry.cuts.extend([(1_000, RegistryUnavailable("cut"))] * 15)
    assert world.config.tries < 15
    assert (await world.pull("m"))[-1].status == "success"


async def test_patience_ends(world: World) -> None:
    world.publish("m", GGUF)
    world.registry.cuts.extend([(0, RegistryUnavailable("503: closed", 0.001))] * 100)
    with pytest.raises(RegistryUnavailable, match=r"^max retries exceeded: 503: closed$"):
        await world.pull("m")
    tried = [asked for asked in world.registry.asked if asked[0] == "read"]
    assert world.config.tries <= len(tried) <= world.config.tries * world.config.connections
    assert await world.store.manifests() == []


async def test_what_no_repeat_heals_is_told_at_once(world: World) -> None:
    world.publish("m", GGUF)
    world.registry.cuts.append((0, RegistryDenied("unauthorized: access denied")))
    with pytest.raises(RegistryDenied):
        await world.pull("m")


async def test_wrong_bytes_are_removed_and_told(world: World) -> None:
    world.publish("m", GGUF)
    world.registry.spoiled.add(digest_of(GGUF))
    with pytest.raises(DigestMismatch, match=f"file must be downloaded again: want {digest_of(GGUF)}, got sha256:"):
        await world.pull("m")
    assert digest_of(GGUF) not in await world.blobs()
    assert await world.store.manifests() == []
    world.registry.spoiled.clear()
    assert (await world.pull("m"))[-1].status == "success"


async def test_wrong_bytes_that_came_earlier_are_fetched_again(world: World) -> None:
    world.publish("m", GGUF)
    blob = await world.store.open_parts(digest_of(GGUF), len(GGUF), [len(GGUF)])
    await blob.write(0, bytes(5_000))
    assert (await world.pull("m"))[-1].status == "success"
    assert await world.store.read_blob(digest_of(GGUF)) == GGUF
    assert ("read", digest_of(GGUF), 5_000, len(GGUF)) in world.registry.asked


async def test_but_only_once(world: World) -> None:
    world.publish("m", GGUF)
    world.registry.spoiled.add(digest_of(GGUF))
    blob = await world.store.open_parts(digest_of(GGUF), len(GGUF), [len(GGUF)])
    await blob.write(0, b"\1" * 5_000)
    with pytest.raises(DigestMismatch):
        await world.pull("m")
    assert world.registry.read_bytes <= 2 * len(GGUF) - 5_000 + len(CONFIG)


async def test_a_registry_that_knows_no_ranges(world: World) -> None:
    world.publish("m", GGUF)
    world.registry.ranged = False
    assert (await world.pull("m"))[-1].status == "success"
    assert await world.store.read_blob(digest_of(GGUF)) == GGUF


async def test_such_a_registry_breaks_off(world: World) -> None:
    world.publish("m", GGUF)
    world.registry.ranged = False
    world.registry.cuts.extend([(9_000, RegistryUnavailable("cut"))] * 5)
    assert (await world.pull("m"))[-1].status == "success"
    assert await world.store.read_blob(digest_of(GGUF)) == GGUF


async def test_no_room(world: World) -> None:
    world.store.capacity_bytes = 15_000
    world.publish("m", GGUF)
    with pytest.raises(DiskFull, match=f"needs at least {len(GGUF) + len(CONFIG)} bytes and 15000 are free"):
        await world.pull("m")
    assert world.registry.read_bytes == 0


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        (RegistryNotFound("404: x"), RegistryNotFound, "pull model manifest: file does not exist"),
        (
            RegistryDenied("unauthorized: access denied"),
            RegistryDenied,
            "pull model manifest: unauthorized: access denied",
        ),
        (RegistryUnavailable("502: bad"), RegistryUnavailable, "pull model manifest: 502: bad"),
        (RegistryError("418: tea"), RegistryError, "pull model manifest: 418: tea"),
    ],
)
async def test_no_manifest(world: World, fault: RegistryError, kind: type[Exception], text: str) -> None:
    world.registry.faults.append(fault)
    with pytest.raises(kind) as caught:
        await world.pull("m")
    assert str(caught.value) == text


@pytest.mark.parametrize("data", [b"", b"<html>", b"[]", b'{"schemaVersion": 2}'])
async def test_a_manifest_that_is_none(world: World, data: bytes) -> None:
    world.registry.manifests[names.parse("m").full] = data, ""
    with pytest.raises(CorruptManifest):
        await world.pull("m")


async def test_names_and_protocols(world: World) -> None:
    with pytest.raises(InvalidName):
        await world.pull("a b")
    with pytest.raises(RegistryError, match=r"^insecure protocol http$"):
        await world.pull("HTTP://host/ns/m")
    world.publish("host/ns/m", GGUF)
    assert (await world.pull("HTTP://host/ns/m", insecure=True))[-1].status == "success"
    assert (await world.pull("https://host/ns/m"))[-1].status == "success"


async def test_models_of_tensors(world: World) -> None:
    config = Layer(manifest.CONFIG_TYPE, digest_of(b"{}"), 2)
    tensor = Layer("application/vnd.ollama.image.tensor", digest_of(b"t"), 1)
    world.registry.manifests[names.parse("m").full] = manifest.encode(config, [tensor]), ""
    with pytest.raises(Unsupported, match=r"^this model requires MLX support, but the MLX runtime is not available$"):
        await world.pull("m")


# --- the store beside it ------------------------------------------------------------------------------------------


async def test_what_a_newer_version_leaves_unused_is_removed(world: World) -> None:
    world.publish("m", GGUF, b"old license")
    await world.pull("m")
    world.publish("m", GGUF, b"new license")
    steps = [step.status for step in await world.pull("m")]
    assert steps[-3:] == ["writing manifest", "removing unused layers", "success"]
    assert await world.blobs() == {digest_of(data) for data in (GGUF, b"new license", CONFIG)}


async def test_unless_that_is_not_wanted() -> None:
    world = World(prune=False)
    world.publish("m", GGUF, b"old license")
    await world.pull("m")
    world.publish("m", GGUF, b"new license")
    assert "removing unused layers" not in [step.status for step in await world.pull("m")]
    assert digest_of(b"old license") in await world.blobs()


async def test_a_blob_that_is_deleted_meanwhile_is_fetched_again(world: World) -> None:
    """The pull relies on a blob that another model brought; that model is deleted before the manifest is written."""
    world.publish("m", GGUF, b"the license")
    digest, _ = await world.store.put_bytes(GGUF)
    async for _ in world.library.create(CreateRequest(model="other", files={"m.gguf": digest})):
        pass
    async with aclosing(world.library.pull(TransferRequest("m"))) as steps:
        async for step in steps:
            if step.status == "verifying sha256 digest" and await world.store.manifest(names.parse("other")):
                await world.library.delete("other")
    assert step.status == "success"
    assert await world.store.read_blob(digest) == GGUF


async def test_a_blob_that_is_deleted_again_and_again(world: World) -> None:
    world.publish("m", GGUF)

    async def pull_and_delete() -> None:
        async for step in world.library.pull(TransferRequest("m")):
            if step.status == "writing manifest":
                await world.store.delete_blob(digest_of(GGUF))

    with pytest.raises(BlobNotFound, match="was deleted while it was pulled"):
        await pull_and_delete()


@pytest.mark.parametrize("seed", range(8))
async def test_any_trouble_ends_with_the_right_bytes(world: World, seed: int) -> None:
    dice = random.Random(seed)
    data = dice.randbytes(dice.randrange(1, 60_000))
    world.publish("m", data)
    for _ in range(dice.randrange(30)):
        world.registry.cuts.append((dice.randrange(0, 5) * 1_000, RegistryUnavailable("cut")))
    tries = 0
    while (await world.store.manifest(names.parse("m"))) is None:
        tries += 1
        assert tries < 40, f"seed {seed}"
        try:
            await world.pull("m")
        except RegistryUnavailable:
            continue
    assert await world.store.read_blob(digest_of(data)) == data
