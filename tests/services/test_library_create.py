"""Making models: from files, from other models; what is refused, and that nothing is lost then."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from library_world import GO_TEMPLATE, World, digest_of, gguf
from structlog.testing import capture_logs

import gguf_bytes
from ollamamax.core.errors import (
    BadRequest,
    DiskFull,
    GgufForeign,
    GgufTruncated,
    GgufUnsupported,
    InvalidName,
    InvalidOption,
    RegistryNotFound,
    StoreError,
    TemplateError,
    Unsupported,
)
from ollamamax.core.modelspec import manifest, names
from ollamamax.core.types import CreateRequest, Message, ModelName
from ollamamax.ports import StoredManifest
from ollamamax.testing.store import MemoryStore

WEIGHTS = gguf()
DIGEST = digest_of(WEIGHTS)
PROJECTOR = gguf(general_architecture="clip")
ADAPTER = gguf(general_type="adapter")
_JSON = digest_of(b"{}")
_NOT_WHOLE = "quantization is only supported for F16, BF16 and F32 models"
TALK = (Message("user", "hi"), Message("assistant", "hello"))


@pytest.fixture
def world() -> World:
    return World()


# --- what is made ---------------------------------------------------------------------------------------------


async def test_the_steps_of_making_a_model_from_a_file(world: World) -> None:
    statuses = await world.make("tiny", system="Be kind.", template=GO_TEMPLATE)
    found = await world.manifest("tiny")
    template, system, config = found.layers[1].digest, found.layers[2].digest, found.config.digest
    assert statuses == [
        "parsing GGUF",
        f"using existing layer {DIGEST}",
        f"creating new layer {template}",
        f"creating new layer {system}",
        f"creating new layer {config}",
        "writing manifest",
        "success",
    ]
    assert (await world.make("again", system="Be kind."))[2] == f"using existing layer {system}"
    await world.check()


async def test_what_is_said_is_written_as_ollama_writes_it(world: World) -> None:
    await world.make(
        "tiny",
        template=GO_TEMPLATE,
        system="Be kind.",
        parameters={"temperature": 1, "stop": ["<a>"], "mirostat": 2, "seed": None},
        messages=TALK,
        licenses=("MIT", ""),
    )
    found = await world.manifest("tiny")
    assert [layer.mediaType.removeprefix("application/vnd.ollama.image.") for layer in found.layers] == [
        *("model", "template", "system", "params", "messages", "license"),
    ]
    assert await world.layer("tiny", manifest.PARAMS) == [b'{"stop":["\\u003ca\\u003e"],"temperature":1}\n']
    assert await world.layer("tiny", manifest.SYSTEM) == [b"Be kind."]
    config = manifest.decode_config(await world.store.read_blob(found.config.digest))
    assert (config.model_format, config.model_family, config.file_type) == ("gguf", "llama", "F16")
    assert config.rootfs is not None
    assert config.rootfs.diff_ids == tuple(layer.digest for layer in found.layers)


async def test_a_model_on_another_takes_what_it_does_not_change(world: World) -> None:
    await world.make("Base", template=GO_TEMPLATE, system="a", parameters={"seed": 1, "top_k": 2}, messages=TALK)
    await world.make("base2", from_model="base", licenses=("MIT",))
    await world.make("new", from_model="base2", system="b", parameters={"seed": 9}, licenses=("Apache",))
    model = await world.library.resolve("new")
    assert (model.template, model.system, model.messages) == (GO_TEMPLATE, "b", TALK)
    assert (model.parameters, model.licenses) == ({"seed": 9, "top_k": 2}, ("MIT", "Apache"))
    assert {layer.from_model for layer in (await world.manifest("base2")).layers[:4]} == {"Base:latest"}
    await world.check()


async def test_a_plain_child_has_its_parents_layers(world: World) -> None:
    await world.make("base", system="a")
    statuses = await world.make("child", from_model="base")
    layers = [layer.digest for layer in (await world.manifest("base")).layers]
    assert statuses[:2] == [f"using existing layer {digest}" for digest in layers]
    assert [layer.digest for layer in (await world.manifest("child")).layers] == layers


@pytest.mark.parametrize(
    ("said", "media_type"),
    [({"template": ""}, manifest.TEMPLATE), ({"system": ""}, manifest.SYSTEM), ({"messages": ()}, manifest.MESSAGES)],
)
async def test_an_empty_text_clears_the_parents(world: World, said: dict[str, Any], media_type: str) -> None:
    await world.make("base", template=GO_TEMPLATE, system="a", messages=TALK)
    assert await world.layer("base", media_type)
    await world.make("child", from_model="base", **said)
    assert not await world.layer("child", media_type)
    assert len((await world.manifest("child")).layers) == 3


async def test_a_model_can_be_made_anew_on_itself(world: World) -> None:
    await world.make("tiny", system="a")
    await world.make("TINY", from_model="tiny", system="b")
    assert await world.models() == ["tiny:latest"]
    assert (await world.library.resolve("tiny")).system == "b"
    await world.check()


async def test_files_with_a_projector_and_an_adapter(world: World) -> None:
    files = {"p.gguf": await world.send(PROJECTOR), "m.gguf": await world.send(WEIGHTS)}
    await world.create(model="eyes", files=files, adapters={"a.gguf": await world.send(ADAPTER)})
    found = await world.manifest("eyes")
    kinds = (manifest.MODEL, manifest.PROJECTOR, manifest.ADAPTER)
    assert [layer.mediaType for layer in found.layers] == list(kinds)
    assert [layer.digest for layer in found.layers] == [digest_of(data) for data in (WEIGHTS, PROJECTOR, ADAPTER)]
    await world.check()


async def test_a_projector_and_an_adapter_join_a_model(world: World) -> None:
    await world.make("base", system="a")
    new_projector, new_adapter = gguf(general_architecture="clip", x=1), gguf(general_type="adapter", x=1)
    for projector, adapter in ((PROJECTOR, ADAPTER), (new_projector, new_adapter)):
        files, adapters = {"p": await world.send(projector)}, {"a": await world.send(adapter)}
        await world.create(model="base", from_model="base", files=files, adapters=adapters)
        found = await world.manifest("base")
        assert [layer.digest for layer in found.of_type(manifest.PROJECTOR)] == [digest_of(projector)]
        assert [layer.digest for layer in found.of_type(manifest.ADAPTER)] == [digest_of(adapter)]
        assert (await world.library.resolve("base")).system == "a"
        await world.check()


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kind", "text"),
    [
        ({"model": "a b"}, InvalidName, "invalid model name"),
        ({"model": ""}, InvalidName, "invalid model name"),
        ({"files": {}}, BadRequest, "neither 'from' or 'files' was specified"),
        ({"files": {"/m": DIGEST}}, BadRequest, "file path must be relative"),
        ({"files": {"../m": DIGEST}}, BadRequest, "file path must be relative"),
        ({"files": {"": DIGEST}}, BadRequest, "file path must be relative"),
        ({"files": {"m": ""}}, BadRequest, "invalid digest format"),
        ({"adapters": {"m": "x"}}, BadRequest, "invalid digest format"),
        ({"adapters": {"a": DIGEST, "b": DIGEST}}, BadRequest, "only one adapter is currently supported"),
        ({"quantize": "Q8_0", "files": {}, "from_model": "small"}, BadRequest, _NOT_WHOLE),
        (
            {"files": {"model.safetensors": DIGEST}, "from_model": "base"},
            BadRequest,
            "give weights or a model to build on",
        ),
        ({"files": {"model.safetensors": digest_of(b"?")}}, BadRequest, "model.safetensors: blob sha256:"),
        ({"files": {"model.safetensors": _JSON}}, Unsupported, "only GGUFs are known here"),
        ({"template": "{{ if }}"}, TemplateError, "line 1"),
        ({"parameters": {"warmth": 1}}, InvalidOption, "unknown parameter 'warmth'"),
        ({"parameters": {"num_ctx": "x"}}, InvalidOption, 'option "num_ctx" must be of type integer'),
        ({"files": {}, "from_model": "nobody"}, RegistryNotFound, "pull model manifest: file does not exist"),
        (
            {"quantize": "IQ1_S"},
            BadRequest,
            "unsupported quantization type IQ1_S - supported types are F32",
        ),
        ({"files": {}, "from_model": "a b"}, InvalidName, "invalid model name"),
        ({"files": {"m": digest_of(b"?")}}, BadRequest, f"m: blob {digest_of(b'?')} is not in the store; send it to"),
        ({"from_model": "base"}, BadRequest, "give weights or a model to build on, not both"),
    ],
)
async def test_bad_requests_write_nothing(world: World, said: dict[str, Any], kind: type, text: str) -> None:
    await world.make("base")
    await world.make("small", gguf_bytes.llama({"general.file_type": (gguf_bytes.U32, 15)}))
    await world.send(b"{}")
    before = [digest for digest, _, _ in await world.store.blobs()]
    with pytest.raises(kind) as caught:
        await world.create(**{"model": "new", "system": "x", "files": {"m.gguf": DIGEST}, **said})
    assert type(caught.value) is kind
    assert text in str(caught.value)
    assert await world.models() == ["base:latest", "small:latest"]
    assert [digest for digest, _, _ in await world.store.blobs()] == before


VOCABULARY = gguf_bytes.llama(tensors=())


@pytest.mark.parametrize(
    ("files", "kind", "text"),
    [
        (
            [b"PK\x03\x04"],
            GgufForeign,
            "m0: supplied file was not in GGUF format: not a GGUF file: it is a zip",
        ),
        ([b'\x20\0\0\0\0\0\0\0{"a":'], GgufForeign, "it is a safetensors file; convert it to GGUF first"),
        ([WEIGHTS[:-50]], GgufTruncated, "m0: the GGUF is cut off: 50 of"),
        ([gguf(general_architecture="hal9000")], GgufUnsupported, "m0: unknown model architecture 'hal9000'"),
        ([VOCABULARY], GgufUnsupported, "m0 holds no tensors"),
        ([gguf(split_count=3)], BadRequest, "m0 is one of 3 parts, and these are missing: number 2 of 3, number 3"),
        ([WEIGHTS, gguf(x=1)], BadRequest, "more than one GGUF of a kind was given"),
        ([WEIGHTS, PROJECTOR, gguf(general_architecture="clip", x=1)], BadRequest, "more than one GGUF of a kind"),
        ([PROJECTOR], BadRequest, "no files provided to convert"),
        ([ADAPTER], BadRequest, "m0 is an adapter: give it as one"),
    ],
)
async def test_bad_files_are_named(world: World, files: list[bytes], kind: type, text: str) -> None:
    said = {f"m{index}": await world.send(data) for index, data in enumerate(files)}
    with pytest.raises(kind) as caught:
        await world.create(model="new", files=said, system="x")
    assert text in str(caught.value)
    assert await world.models() == []
    assert len(await world.store.blobs()) == len(files)


async def test_an_adapter_must_be_one(world: World) -> None:
    files = {"m": await world.send(WEIGHTS)}
    with pytest.raises(BadRequest, match=r"m is no adapter: its general\.type is not 'adapter'"):
        await world.create(model="new", files=files, adapters=files)


# --- what goes wrong midway -----------------------------------------------------------------------------------


async def contents(world: World) -> tuple[list[StoredManifest], list[str]]:
    return await world.store.manifests(), [digest for digest, _, _ in await world.store.blobs()]


@pytest.mark.parametrize("room_bytes", [0, 10, 400, 600])
async def test_a_full_disk_leaves_the_former_model(world: World, room_bytes: int) -> None:
    await world.make("tiny", system="former")
    before = await contents(world)
    used = sum([size for _, size, _ in await world.store.blobs()]) + len((await world.stored("tiny")).data)
    world.store.capacity_bytes = used + room_bytes
    with pytest.raises(DiskFull):
        await world.create(model="tiny", from_model="tiny", system="x" * 5, parameters={"seed": 1}, template="y" * 300)
    assert await contents(world) == before
    await world.check()


async def test_a_reader_that_leaves_midway_leaves_nothing(world: World) -> None:
    await world.make("tiny", system="former")
    before = await contents(world)
    for status in ("using existing", "creating new", "writing manifest"):
        request = CreateRequest(model="tiny", from_model="tiny", system="new", parameters={"seed": 1})
        async with aclosing(world.library.create(request)) as steps:
            async for step in steps:
                if step.status.startswith(status):
                    break
        assert await contents(world) == before
    await world.create(model="tiny", from_model="tiny", system="new")
    assert (await world.library.resolve("tiny")).system == "new"


class SlowStore(MemoryStore):
    """Can be cancelled just after a manifest was written, as a store on disk can."""

    def __init__(self) -> None:
        super().__init__()
        self.is_written = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def put_manifest(self, name: ModelName, data: bytes) -> StoredManifest:
        stored = await super().put_manifest(name, data)
        self.is_written.set()
        await self.may_end.wait()
        return stored


async def test_a_creation_cancelled_when_its_manifest_is_written_stays_whole() -> None:
    store = SlowStore()
    world = World(store)
    await world.make("tiny", system="former")
    store.is_written.clear()
    store.may_end.clear()
    creation = asyncio.create_task(world.create(model="tiny", from_model="tiny", system="new"))
    async with asyncio.timeout(10):
        await store.is_written.wait()
        creation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creation
    store.may_end.set()
    assert (await world.library.resolve("tiny")).system == "new"
    await world.create(model="other", from_model="tiny")


class StubbornStore(MemoryStore):
    """Once it is sealed it takes no manifests and gives up no blobs."""

    is_sealed = False

    async def put_manifest(self, name: ModelName, data: bytes) -> StoredManifest:
        if self.is_sealed:
            raise StoreError("the first error")
        return await super().put_manifest(name, data)

    async def delete_blob(self, digest: str) -> None:
        if self.is_sealed:
            raise StoreError("a later error")
        await super().delete_blob(digest)


async def test_the_first_error_is_told() -> None:
    store = StubbornStore()
    world = World(store)
    await world.make("tiny")
    store.is_sealed = True
    with capture_logs() as logs, pytest.raises(StoreError, match="the first error"):
        await world.create(model="tiny", from_model="tiny", system="x")
    assert [log["reason"] for log in logs] == ["a later error"]
    store.is_sealed = False
    await world.library.resolve("tiny")


async def test_two_creations_wait_for_each_other(world: World) -> None:
    await world.make("base")
    first = world.library.create(CreateRequest(model="tiny", from_model="base", system="first"))
    await anext(first)
    second = asyncio.create_task(world.create(model="tiny", from_model="base", system="second"))
    async with aclosing(first), asyncio.timeout(10):
        assert [step.status async for step in first][-1] == "success"
        await second
    assert (await world.library.resolve("tiny")).system == "second"
    assert await world.store.manifest(names.parse("tiny")) is not None
    await world.check()


# --- code of Ollama's that a model names ----------------------------------------------------------------------


async def test_renderer_and_parser_are_kept_and_inherited(world: World) -> None:
    await world.make("base", None, renderer="gemma4", parser="gemma4", requires="1.2")
    await world.make("child", from_model="base", parser="qwen3-coder")
    resolved = await world.library.resolve("child")
    assert (resolved.renderer, resolved.parser, resolved.template) == ("gemma4", "qwen3-coder", None)
    assert {"tools"} <= set(resolved.capabilities)
    shown = await world.library.show("child")
    assert shown["requires"] == "1.2"
    assert "RENDERER gemma4\nPARSER qwen3-coder\n" in shown["modelfile"]
    await world.check()


@pytest.mark.parametrize(
    ("said", "text"),
    [({"renderer": "qwen9"}, 'unknown renderer "qwen9"'), ({"parser": "qwen9"}, 'unknown parser "qwen9"')],
)
async def test_names_that_nobody_knows_are_refused(world: World, said: dict[str, str], text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        await world.make("m", **said)
    assert await world.models() == []


async def test_a_model_to_build_on_that_is_not_here_is_pulled(world: World) -> None:
    elsewhere = World()
    await elsewhere.make("base", system="be kind")
    there = await elsewhere.manifest("base")
    repository = "registry.ollama.ai/library/base"
    world.registry.manifests[f"{repository}:latest"] = (await elsewhere.stored("base")).data, manifest.MANIFEST_TYPE
    for digest in there.digests:
        world.registry.blobs[repository, digest] = await elsewhere.store.read_blob(digest)
    statuses = await world.make("child", from_model="base", parameters={"top_k": 3})
    assert statuses[0] == "pulling manifest"
    assert statuses.count("success") == 1
    assert statuses[-1] == "success"
    assert (await world.library.resolve("child")).system == "be kind"
    assert await world.models() == ["base:latest", "child:latest"]
    assert (await world.make("second", from_model="BASE"))[0].startswith("using existing layer")
    await world.library.close()


async def test_what_is_wrong_is_told_before_anything_is_pulled(world: World) -> None:
    with pytest.raises(TemplateError):
        await world.make("child", from_model="nobody", template="{{ if }}")
    assert world.registry.asked == []


@pytest.mark.parametrize(("file_type", "asked"), [(1, "f16"), (7, "Q8_0"), (15, "q4_k")])
async def test_weights_that_are_of_that_type_already(world: World, file_type: int, asked: str) -> None:
    weights = gguf_bytes.llama({"general.file_type": (gguf_bytes.U32, file_type)})
    assert (await world.make("m", weights, quantize=asked))[-1] == "success"


async def test_what_is_quantized_already_stays_so(world: World) -> None:
    weights = gguf_bytes.llama({"general.file_type": (gguf_bytes.U32, 7)})
    with pytest.raises(BadRequest, match="quantization is only supported for F16, BF16 and F32 models"):
        await world.make("m", weights, quantize="Q4_K_M")
