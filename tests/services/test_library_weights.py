"""Weights that are made for a model: of parts, in another quantisation; and that nothing stays of what fails."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from library_world import GO_TEMPLATE, World, digest_of, gguf
from structlog.testing import capture_logs

import gguf_bytes as g
from ollamamax.core.errors import Conflict, DiskFull, GgufUnsupported, StoreError
from ollamamax.core.modelspec import manifest
from ollamamax.core.types import CreateRequest, Progress
from ollamamax.testing.store import MemoryStore

TENSORS = (("token_embd.weight", (64, 9), 1), ("output.weight", (64, 9), 1), ("output_norm.weight", (64,), 0))
WHOLE = g.llama(tensors=TENSORS)


@pytest.fixture
def world() -> World:
    return World()


def part(number: int, count: int = 3) -> bytes:
    said: dict[str, g.Value | None] = {"split.no": (g.U16, number), "split.count": (g.U16, count)}
    return g.llama({**said, **(dict.fromkeys(g.LLAMA) if number else {})}, (TENSORS[number],))


async def parts(world: World) -> dict[str, str]:
    return {f"m-0000{number + 1}-of-00003.gguf": await world.send(part(number)) for number in (2, 0, 1)}


async def weights(world: World, model: str) -> bytes:
    (data,) = await world.layer(model, manifest.MODEL)
    return data


async def quantization(world: World, model: str) -> tuple[str, str]:
    """As lists tell it, and as the weights do."""
    resolved = await world.library.resolve(model)
    return resolved.details.quantization_level, resolved.facts.file_type


@pytest.mark.parametrize("quantize", ["q8_0", "Q4_K_M", "q4_k_s", "Q4_K", "f32"])
async def test_quantising_what_was_sent(world: World, quantize: str) -> None:
    files = {"m.gguf": await world.send(WHOLE)}
    steps = [step async for step in world.library.create(CreateRequest(model="new", files=files, quantize=quantize))]
    level = "Q4_K_M" if quantize == "Q4_K" else quantize.upper()
    made = (await world.manifest("new")).layers[0]
    told = [step for step in steps if step.status == f"quantizing F16 model to {level}"]
    assert told[-1] == Progress(f"quantizing F16 model to {level}", "0000000000000000000", made.size, made.size)
    assert [step.status for step in steps if step not in told] == [
        "parsing GGUF",
        "verifying conversion",
        f"creating new layer {made.digest}",
        f"creating new layer {(await world.manifest('new')).config.digest}",
        "writing manifest",
        "success",
    ]
    assert await quantization(world, "new") == (level, level)
    assert world.maker.open_count == 0


async def test_quantising_a_model_that_is_here(world: World) -> None:
    await world.make("base", WHOLE, system="a", template=GO_TEMPLATE, parameters={"seed": 1})
    await world.create(model="new", from_model="base", quantize="Q8_0")
    model = await world.library.resolve("new")
    assert await quantization(world, "new") == ("Q8_0", "Q8_0")
    assert (model.system, model.template, model.parameters) == ("a", GO_TEMPLATE, {"seed": 1})
    assert await quantization(world, "base") == ("F16", "F16")
    await world.check()


async def test_weights_that_have_that_type_already_are_taken(world: World) -> None:
    await world.make("base", WHOLE)
    await world.create(model="new", from_model="base", quantize="f16")
    await world.create(model="sent", files={"m": await world.send(WHOLE)}, quantize="F16")
    assert await weights(world, "new") == await weights(world, "sent") == WHOLE


async def test_parts_become_one(world: World) -> None:
    statuses = await world.create(model="new", files=await parts(world))
    assert "merging 3 parts" in statuses
    resolved = await world.library.resolve("new")
    assert [name for name, _, _ in resolved.facts.tensors] == [name for name, _, _ in TENSORS]
    assert resolved.facts.file_bytes == len(WHOLE)
    assert await quantization(world, "new") == ("F16", "F16")


async def test_parts_are_quantised_too(world: World) -> None:
    statuses = await world.create(model="new", files=await parts(world), quantize="q8_0")
    assert "quantizing F16 model to Q8_0" in statuses
    assert await quantization(world, "new") == ("Q8_0", "Q8_0")


@pytest.mark.parametrize(("quantize", "level"), [("", "F16"), ("q8_0", "Q8_0")])
async def test_a_directory_of_safetensors_is_converted(world: World, quantize: str, level: str) -> None:
    """That it is asked for; what comes of it: tests/adapters/test_gguf_maker.py."""
    files = {"model-00001-of-00001.safetensors": await world.send(WHOLE)}
    statuses = await world.create(model="new", files=files, quantize=quantize, system="x")
    told = [status for status in statuses if not status.endswith(("layer", "manifest")) and " layer " not in status]
    assert (told[0], told[-2:]) == ("converting model", ["verifying conversion", "success"])
    assert set(told) == {"converting model", "verifying conversion", "success"}
    assert await quantization(world, "new") == (level, level)
    assert (await world.library.resolve("new")).system == "x"


async def test_parts_with_a_projector(world: World) -> None:
    files = await parts(world) | {"p": await world.send(gguf(general_architecture="clip"))}
    await world.create(model="eyes", files=files)
    kinds = [layer.mediaType for layer in (await world.manifest("eyes")).layers]
    assert kinds == [manifest.MODEL, manifest.PROJECTOR]


async def test_parts_of_what_can_not_be_run(world: World) -> None:
    strange = g.llama({"general.architecture": (g.STRING, "hal"), "split.no": (g.U16, 0), "split.count": (g.U16, 2)})
    files = {"a": await world.send(strange), "b": await world.send(part(1, 2))}
    with pytest.raises(GgufUnsupported, match="a: unknown model architecture 'hal'"):
        await world.create(model="new", files=files)


async def test_making_the_same_again_adds_nothing(world: World) -> None:
    await world.make("base", WHOLE)
    await world.create(model="one", from_model="base", quantize="Q8_0")
    before = {digest for digest, _, _ in await world.store.blobs()}
    statuses = await world.create(model="two", from_model="base", quantize="Q8_0")
    assert statuses[-4].startswith("using existing layer")
    assert {digest for digest, _, _ in await world.store.blobs()} == before


# --- what goes wrong ------------------------------------------------------------------------------------------


async def test_a_full_disk_is_noticed_before_the_work(world: World) -> None:
    await world.make("base", WHOLE)
    used = sum([size for _, size, _ in await world.store.blobs()]) + len((await world.stored("base")).data)
    world.store.capacity_bytes = used + 900
    with pytest.raises(DiskFull):
        await world.create(model="new", from_model="base", quantize="F32")
    assert await world.models() == ["base:latest"]
    await world.check()


async def test_what_fails_after_the_making_leaves_nothing(world: World) -> None:
    await world.make("base", WHOLE)
    request = CreateRequest(model="new", from_model="base", quantize="Q8_0", system="x")
    for status in ("quantizing", "verifying", "using existing", "creating new", "writing manifest"):
        async with aclosing(world.library.create(request)) as steps:
            async for step in steps:
                if step.status.startswith(status):
                    break
        await world.check()
        assert world.maker.open_count == 0


class SlowStore(MemoryStore):
    """Takes blobs that have no digest yet when it may, and at most one piece of them."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked = asyncio.Event()
        self.may_end = asyncio.Event()

    async def add_blob(self, body: AsyncIterator[bytes], size_bytes: int) -> tuple[str, bool]:
        self.is_asked.set()
        await self.may_end.wait()
        return await super().add_blob(body, size_bytes)


async def test_nothing_waits_for_weights_in_the_making() -> None:
    store = SlowStore()
    world = World(store)
    await world.make("base", WHOLE)
    await world.make("other", gguf(x=1))
    making = asyncio.create_task(world.create(model="new", from_model="base", quantize="Q8_0"))
    async with asyncio.timeout(60):
        await store.is_asked.wait()
        await world.library.copy("other", "another")
        await world.library.delete("other")
        store.may_end.set()
        await making
    assert await world.models() == ["another:latest", "base:latest", "new:latest"]
    await world.check()


async def test_a_base_that_is_deleted_meanwhile() -> None:
    """Its own weights are not needed any more, but the rest of it is."""
    store = SlowStore()
    world = World(store)
    await world.make("base", WHOLE, system="of the base")
    making = asyncio.create_task(world.create(model="new", from_model="base", quantize="Q8_0"))
    async with asyncio.timeout(60):
        await store.is_asked.wait()
        await world.library.delete("base")
        store.may_end.set()
        with pytest.raises(Conflict, match="was removed while the model was made; try again"):
            await making
    assert await world.store.blobs() == []


async def test_a_creation_cancelled_while_it_makes_weights() -> None:
    store = SlowStore()
    world = World(store)
    await world.make("base", WHOLE)
    making = asyncio.create_task(world.create(model="new", from_model="base", quantize="Q8_0"))
    async with asyncio.timeout(60):
        await store.is_asked.wait()
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
    await world.check()
    assert world.maker.open_count == 0


class StubbornStore(MemoryStore):
    """Takes weights, but no manifests, and gives up no blobs."""

    is_sealed = False

    async def put_bytes(self, data: bytes) -> tuple[str, bool]:
        if self.is_sealed and data.startswith(b"{"):
            raise StoreError("the first error")
        return await super().put_bytes(data)

    async def delete_blob(self, digest: str) -> None:
        raise StoreError("a later error")


async def test_the_first_error_is_told() -> None:
    store = StubbornStore()
    world = World(store)
    await world.make("base", WHOLE)
    store.is_sealed = True
    with capture_logs() as logs, pytest.raises(StoreError, match="the first error"):
        await world.create(model="new", from_model="base", quantize="Q8_0")
    assert [log["reason"] for log in logs] == ["a later error"]
    assert digest_of(WHOLE) in {digest for digest, _, _ in await store.blobs()}
