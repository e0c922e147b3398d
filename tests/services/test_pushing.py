"""Pushes over the twins: what is told, what is spared, what goes on after a failure."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator

import pytest
from registry_world import CONFIG, GGUF, LIMIT_S, World, digest_of, short

from ollamamax.core.errors import (
    BlobNotFound,
    InvalidName,
    ModelNotFound,
    RegistryDenied,
    RegistryError,
    RegistryUnavailable,
)
from ollamamax.core.modelspec import manifest, names
from ollamamax.core.modelspec.manifest import Layer
from ollamamax.core.types import Progress, TransferRequest

CUT = RegistryUnavailable("cut")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with asyncio.timeout(LIMIT_S):
        yield world
    await world.library.close()


async def make(world: World, model: str, weights: bytes = GGUF, from_model: str = "") -> bytes:
    """A model of the store; its manifest."""
    digest, _ = await world.store.put_bytes(weights)
    config, _ = await world.store.put_bytes(CONFIG)
    layer = Layer(manifest.MODEL, digest, len(weights), from_model=from_model)
    data = manifest.encode(Layer(manifest.CONFIG_TYPE, config, len(CONFIG)), [layer])
    await world.store.put_manifest(names.parse(model), data)
    return data


async def push(world: World, model: str, insecure: bool = False) -> list[Progress]:
    return [step async for step in world.library.push(TransferRequest(model, insecure))]


def there(world: World, model: str) -> dict[str, bytes]:
    """The model's blobs that the registry has."""
    name = names.parse(model)
    repository = f"{name.host}/{name.namespace}/{name.model}"
    return {digest: data for (where, digest), data in world.registry.blobs.items() if where == repository}


async def test_a_push_in_ollamas_words(world: World) -> None:
    data = await make(world, "me/m")
    steps = await push(world, "me/m")
    assert list(dict.fromkeys(step.status for step in steps)) == [
        "retrieving manifest",
        f"pushing {short(GGUF)}",
        f"pushing {short(CONFIG)}",
        "pushing manifest",
        "success",
    ]
    weights = [step for step in steps if step.digest == digest_of(GGUF)]
    assert (weights[0].completed, weights[-1].completed, weights[-1].total) == (0, len(GGUF), len(GGUF))
    assert there(world, "me/m") == {digest_of(GGUF): GGUF, digest_of(CONFIG): CONFIG}
    assert world.registry.manifests[names.parse("me/m").full] == (data, manifest.MANIFEST_TYPE)
    assert world.registry.etags == ["", ""]


async def test_what_is_there_is_not_sent(world: World) -> None:
    await make(world, "me/m")
    await push(world, "me/m")
    world.registry.asked.clear()
    steps = await push(world, "me/m")
    assert Progress(f"pushing {short(GGUF)}", digest_of(GGUF), len(GGUF), len(GGUF)) in steps
    assert [asked[0] for asked in world.registry.asked] == ["has", "has", "put"]


async def test_a_blob_of_another_model_is_taken_over(world: World) -> None:
    await make(world, "tiny")
    await push(world, "tiny")
    await make(world, "me/m", from_model="tiny:latest")
    world.registry.asked.clear()
    assert (await push(world, "me/m"))[-1].status == "success"
    assert [asked for asked in world.registry.asked if asked[0] in ("send", "end")] == [
        ("send", "session-0", 0, len(CONFIG)),
        ("end", digest_of(CONFIG)),
    ]
    assert there(world, "me/m") == {digest_of(GGUF): GGUF, digest_of(CONFIG): CONFIG}


async def test_an_origin_that_is_no_name_is_passed_over(world: World) -> None:
    await make(world, "me/m", from_model="a b c")
    assert (await push(world, "me/m"))[-1].status == "success"


async def test_an_empty_blob_has_nothing_to_send(world: World) -> None:
    await make(world, "me/m", weights=b"")
    assert (await push(world, "me/m"))[-1].status == "success"
    assert there(world, "me/m")[digest_of(b"")] == b""


async def test_no_model(world: World) -> None:
    told: list[str] = []

    async def run(model: str) -> None:
        async for step in world.library.push(TransferRequest(model)):
            told.append(step.status)

    with pytest.raises(ModelNotFound, match="model 'nobody' not found"):
        await run("nobody")
    assert told == ["retrieving manifest", "couldn't retrieve manifest"]
    with pytest.raises(InvalidName):
        await run("a b")
    with pytest.raises(RegistryError, match=r"^insecure protocol http$"):
        await run("http://host/ns/m")


# --- failures -----------------------------------------------------------------------------------------------------


async def test_a_part_that_breaks_off_goes_on_where_the_registry_is(world: World) -> None:
    await make(world, "me/m")
    world.registry.cuts.extend([(0, CUT), (1_500, CUT), (700, CUT), (4_000, CUT)])
    assert (await push(world, "me/m"))[-1].status == "success"
    assert there(world, "me/m")[digest_of(GGUF)] == GGUF
    sent = [asked[2:] for asked in world.registry.asked if asked[0] == "send"]
    assert sent[:5] == [(0, 4_000), (0, 4_000), (1_500, 5_500), (2_200, 6_200), (6_200, 10_200)]


async def test_an_upload_that_the_registry_forgot_begins_anew(world: World) -> None:
    await make(world, "me/m")
    registry = world.registry
    send_part = registry.send_part

    async def forgetful(*args: object) -> object:
        if args[3] == 8_000:
            registry.send_part = send_part  # type: ignore[method-assign]
            registry.lose_uploads()
            raise CUT
        return await send_part(*args)  # type: ignore[arg-type]

    registry.send_part = forgetful  # type: ignore[method-assign,assignment]
    assert (await push(world, "me/m"))[-1].status == "success"
    assert there(world, "me/m")[digest_of(GGUF)] == GGUF


async def test_where_the_registry_is_may_be_asked_more_than_once(world: World) -> None:
    await make(world, "me/m")
    world.registry.cuts.append((1_500, CUT))
    send_part = world.registry.send_part

    async def then_busy(*args: object) -> object:
        try:
            return await send_part(*args)  # type: ignore[arg-type]
        except RegistryUnavailable:
            world.registry.faults.extend([RegistryUnavailable("503: busy")] * 2)
            raise

    world.registry.send_part = then_busy  # type: ignore[method-assign,assignment]
    assert (await push(world, "me/m"))[-1].status == "success"
    assert there(world, "me/m")[digest_of(GGUF)] == GGUF


async def test_patience_ends(world: World) -> None:
    await make(world, "me/m")
    world.registry.cuts.extend([(0, CUT)] * 50)
    with pytest.raises(RegistryUnavailable, match=r"^max retries exceeded: cut$"):
        await push(world, "me/m")
    assert len(world.registry.cuts) == 50 - world.config.tries
    assert world.registry.manifests == {}


async def test_what_no_repeat_heals_is_told_at_once(world: World) -> None:
    await make(world, "me/m")
    world.registry.faults.append(RegistryDenied("unauthorized: access denied"))
    with pytest.raises(RegistryDenied, match=r"^unauthorized: access denied$"):
        await push(world, "me/m")


async def test_the_answer_to_the_end_is_lost(world: World) -> None:
    await make(world, "me/m")
    end_upload = world.registry.end_upload

    async def lossy(*args: object) -> None:
        await end_upload(*args)  # type: ignore[arg-type]
        raise CUT

    world.registry.end_upload = lossy  # type: ignore[method-assign,assignment]
    assert (await push(world, "me/m"))[-1].status == "success"


async def test_the_end_is_refused(world: World) -> None:
    await make(world, "me/m")

    async def refused(*_: object) -> None:
        raise RegistryError("400: DIGEST_INVALID")

    world.registry.end_upload = refused  # type: ignore[method-assign,assignment]
    with pytest.raises(RegistryError, match="DIGEST_INVALID"):
        await push(world, "me/m")


async def test_a_blob_that_is_not_here(world: World) -> None:
    await make(world, "me/m")
    await world.store.delete_blob(digest_of(GGUF))
    with pytest.raises(BlobNotFound):
        await push(world, "me/m")


async def test_a_push_that_is_given_up(world: World) -> None:
    await make(world, "me/m")
    waiting = asyncio.Event()
    ended = asyncio.Event()

    async def stuck(*_: object) -> None:
        try:
            waiting.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    world.registry.send_part = stuck  # type: ignore[method-assign,assignment]
    pushing = asyncio.create_task(push(world, "me/m"))
    await waiting.wait()
    pushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pushing
    assert ended.is_set()


# --- parts that are wanted elsewhere ------------------------------------------------------------------------------


async def test_parts_go_elsewhere_side_by_side(world: World) -> None:
    await make(world, "me/m")
    world.registry.elsewhere = True
    assert (await push(world, "me/m"))[-1].status == "success"
    assert there(world, "me/m")[digest_of(GGUF)] == GGUF
    parts = [GGUF[start : start + 4_000] for start in range(0, len(GGUF), 4_000)]
    md5s = b"".join(hashlib.md5(part).digest() for part in parts)
    assert world.registry.etags[0] == f"{hashlib.md5(md5s).hexdigest()}-{len(parts)}"


async def test_a_part_that_fails_elsewhere_is_sent_there_again(world: World) -> None:
    await make(world, "me/m")
    world.registry.elsewhere = True
    send_part = world.registry.send_part

    async def then_fails(*args: object) -> object:
        reply = await send_part(*args)  # type: ignore[arg-type]
        world.registry.faults.append(CUT)
        return reply

    world.registry.send_part = then_fails  # type: ignore[method-assign,assignment]
    steps = await push(world, "me/m")
    assert steps[-1].status == "success"
    assert all(step.completed <= step.total for step in steps)
    assert there(world, "me/m")[digest_of(GGUF)] == GGUF


async def test_elsewhere_refuses(world: World) -> None:
    await make(world, "me/m")
    world.registry.elsewhere = True

    async def refused(*_: object) -> None:
        raise RegistryError("400: no")

    world.registry.send_direct = refused  # type: ignore[method-assign,assignment]
    with pytest.raises(RegistryError, match=r"^400: no$"):
        await push(world, "me/m")


@pytest.mark.parametrize("seed", range(8))
async def test_any_trouble_ends_with_the_right_bytes(world: World, seed: int) -> None:
    dice = random.Random(seed)
    data = dice.randbytes(dice.randrange(1, 60_000))
    await make(world, "me/m", weights=data)
    for _ in range(dice.randrange(30)):
        world.registry.cuts.append((dice.randrange(5_000), CUT))
    tries = 0
    while names.parse("me/m").full not in world.registry.manifests:
        tries += 1
        assert tries < 40, f"seed {seed}"
        try:
            await push(world, "me/m")
        except RegistryUnavailable:
            continue
    assert there(world, "me/m")[digest_of(data)] == data
