"""Finding, listing, copying and deleting models."""

import asyncio
from pathlib import Path

import pytest
from library_world import GO_TEMPLATE, World, digest_of, gguf, pieces
from structlog.testing import capture_logs

from ollamamax.adapters.engines.gguf_maker import ChildGgufMaker
from ollamamax.adapters.storage.ollama_store import OllamaStore
from ollamamax.core.errors import (
    BadRequest,
    CorruptManifest,
    DigestMismatch,
    InvalidName,
    ModelNotFound,
    StoreError,
)
from ollamamax.core.modelspec import manifest, names
from ollamamax.core.modelspec.manifest import Config, Layer
from ollamamax.core.types import Message, ModelDetails, Options
from ollamamax.services.library import Library
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.registry import MemoryRegistry

TALK = (Message("user", "hi"), Message("assistant", "hello"))


@pytest.fixture
def world() -> World:
    return World()


# --- resolve --------------------------------------------------------------------------------------------------


async def test_a_model_is_resolved(world: World) -> None:
    await world.make("Me/Tiny:V1", system="Be kind.", parameters={"num_ctx": 128, "stop": ["x"]}, messages=TALK)
    model = await world.library.resolve("me/tiny:v1")
    stored = await world.stored("me/tiny:v1")
    assert (model.name, model.digest, model.modified_ns) == (stored.name, stored.digest, stored.modified_ns)
    assert model.name.short == "Me/Tiny:V1"
    assert model.model_digest == digest_of(gguf())
    assert model.model_path == world.store.blob_path(model.model_digest)
    assert model.facts == await world.store.gguf_facts(model.model_digest)
    assert model.details == ModelDetails("", "gguf", "llama", ("llama",), "640", "F16", 512, 64)
    assert (model.capabilities, model.template, model.system) == (("completion",), None, "Be kind.")
    assert model.options == Options(num_ctx=128, stop=("x",))
    assert (model.parameters, model.messages) == ({"num_ctx": 128, "stop": ["x"]}, TALK)
    assert model.size_bytes == sum([size for _, size, _ in await world.store.blobs()])


async def test_a_go_template_is_told_and_jinja_is_not(world: World) -> None:
    await world.make("go", template=GO_TEMPLATE)
    await world.make("plain", template="{{ .Prompt }}")
    assert (await world.library.resolve("go")).template == GO_TEMPLATE
    assert (await world.library.resolve("plain")).template is None, "the GGUF has a better one"


async def test_what_is_not_there_is_told_as_it_was_asked_for(world: World) -> None:
    with pytest.raises(ModelNotFound, match=r"^model 'Tiny' not found$"):
        await world.library.resolve("Tiny")
    with pytest.raises(InvalidName, match=r"^invalid model name$"):
        await world.library.resolve("../tiny")


async def test_a_second_look_reads_no_blob(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.make("tiny")
    first = await world.library.resolve("tiny")

    async def refuse(*_: object) -> bytes:
        raise AssertionError("a blob was read again")

    monkeypatch.setattr(world.store, "read_blob", refuse)
    assert await world.library.resolve("tiny") == first
    await world.store.delete_blob(first.model_digest)
    with pytest.raises(StoreError, match="a blob of model 'tiny:latest' is missing"):
        await world.library.resolve("tiny")


async def put(world: World, model: str, config: Config | bytes, *layers: tuple[str, bytes]) -> None:
    """A model as some other program may have written it."""
    found = []
    for media_type, data in layers:
        digest, _ = await world.store.put_bytes(data)
        found.append(Layer(media_type, digest, len(data)))
    data = config if isinstance(config, bytes) else manifest.encode_config(config, found)
    digest, _ = await world.store.put_bytes(data)
    await world.store.put_manifest(names.parse(model), manifest.encode(Layer("c", digest, len(data)), found))


async def test_a_pulled_model_is_understood(world: World) -> None:
    config = Config(model_format="gguf", model_family="qwen3", model_families=None, model_type="8B", file_type="Q4_K_M")
    layers = (
        (manifest.MODEL, gguf()),
        (manifest.OLD_TEMPLATE, b"{{ .Prompt }}{{ .Suffix }}"),
        (manifest.LICENSE, b"MIT"),
        (manifest.LICENSE, b"\xff"),
        ("application/vnd.ollama.image.embed", b"[]"),
    )
    await put(world, "pulled", config, *layers)
    model = await world.library.resolve("pulled")
    assert model.details == ModelDetails("", "gguf", "qwen3", (), "8B", "Q4_K_M", 512, 64)
    assert (model.template, model.licenses) == ("{{ .Prompt }}{{ .Suffix }}", ("MIT", "\ufffd"))
    assert model.capabilities == ("completion", "insert")


async def unusable(world: World) -> list[str]:
    """Some models that can't be used."""
    await put(world, "remote", Config(remote_host="https://example.com", remote_model="x"))
    await put(world, "tensors", Config(model_format="safetensors"), ("application/vnd.ollama.image.tensor", b"x"))
    await put(world, "foreign", Config(model_format="gguf"), (manifest.MODEL, b"no GGUF"))
    await put(world, "config", b"{", (manifest.MODEL, gguf()))
    await put(world, "messages", Config(), (manifest.MODEL, gguf()), (manifest.MESSAGES, b"{"))
    await put(world, "options", Config(), (manifest.MODEL, gguf()), (manifest.PARAMS, b'{"num_ctx":"many"}'))
    await world.store.put_manifest(names.parse("corrupt"), b"{")
    return ["remote", "tensors", "foreign", "config", "messages", "options", "corrupt"]


async def test_an_unusable_model_is_told_when_it_is_asked_for(world: World) -> None:
    texts = ["no GGUF weights", "no GGUF weights", "not a GGUF file", "config can't be read", "messages layer can't be"]
    texts += ['option "num_ctx" must be of type integer', "the manifest can't be read"]
    for name, text in zip(await unusable(world), texts, strict=True):
        with pytest.raises(Exception, match=text):
            await world.library.resolve(name)


# --- records --------------------------------------------------------------------------------------------------


async def test_records_are_newest_first(world: World) -> None:
    await world.make("old")
    await world.make("young", template=GO_TEMPLATE)
    first, second = await world.library.records()
    stored = await world.stored("young")
    assert (first.name, first.digest, first.modified_ns) == ("young:latest", stored.digest, stored.modified_ns)
    assert (second.name, second.capabilities) == ("old:latest", ("completion",))
    assert first.details == ModelDetails("", "gguf", "llama", ("llama",), "640", "F16", 512, 64)
    assert first.size_bytes == (await world.manifest("young")).size_bytes > second.size_bytes


async def test_unusable_models_are_left_out_with_one_warning_each(world: World) -> None:
    await world.make("tiny")
    names_ = await unusable(world)
    with capture_logs() as logs:
        for _ in range(3):
            assert [record.name for record in await world.library.records()] == ["tiny:latest"]
    assert sorted(log["model"] for log in logs) == sorted(f"{name}:latest" for name in names_)
    await world.library.delete("corrupt")
    assert [record.name for record in await world.library.records()] == ["tiny:latest"]


async def test_a_model_whose_blob_is_gone_is_left_out(world: World) -> None:
    await world.make("tiny")
    assert len(await world.library.records()) == 1
    await world.store.delete_blob(digest_of(gguf()))
    with capture_logs() as logs:
        assert await world.library.records() == []
    assert "a blob of model 'tiny:latest' is missing" in logs[0]["reason"]


# --- copy, delete ---------------------------------------------------------------------------------------------


async def test_a_copy_is_the_same_model(world: World) -> None:
    await world.make("tiny")
    await world.library.copy("Tiny", "other:v2")
    assert (await world.stored("other:v2")).data == (await world.stored("tiny")).data
    await world.library.delete("tiny")
    assert await world.models() == ["other:v2"]
    await world.library.resolve("other:v2")
    await world.check()


async def test_a_copy_over_another_removes_what_only_that_one_used(world: World) -> None:
    await world.make("tiny")
    await world.make("other", gguf(general_name="another"), system="x")
    await world.library.copy("tiny", "OTHER")
    assert await world.models() == ["other:latest", "tiny:latest"]
    await world.check()
    await world.library.copy("tiny", "TINY")
    assert await world.models() == ["other:latest", "tiny:latest"]


async def test_a_copy_of_nothing(world: World) -> None:
    with pytest.raises(ModelNotFound, match="model 'tiny' not found"):
        await world.library.copy("tiny", "other")
    for source, destination in (("a b", "c"), ("c", "a b")):
        with pytest.raises(InvalidName):
            await world.library.copy(source, destination)


async def test_deleting_keeps_what_others_use(world: World) -> None:
    await world.make("one", system="a")
    await world.make("two", system="b")
    await world.library.delete("ONE")
    await world.check()
    await world.library.resolve("two")
    await world.library.delete("two")
    assert await world.store.blobs() == []
    with pytest.raises(ModelNotFound, match=r"^model 'two' not found$"):
        await world.library.delete("two")


async def test_deleting_beside_a_corrupt_manifest_removes_the_name_alone(world: World) -> None:
    await world.make("tiny")
    await world.store.put_manifest(names.parse("corrupt"), b"{")
    with capture_logs() as logs:
        await world.library.delete("tiny")
    assert await world.models() == ["corrupt:latest"]
    assert await world.store.blob_size(digest_of(gguf())) is not None
    assert len(logs) == 1
    with capture_logs():
        await world.library.delete("corrupt")
    assert await world.models() == []


async def test_blobs_stay_where_nothing_is_to_be_pruned() -> None:
    world = World(prune=False)
    await world.make("tiny")
    await world.library.delete("tiny")
    assert await world.store.blob_size(digest_of(gguf())) is not None


async def test_whether_blobs_are_removed_can_change() -> None:
    world = World(prune=True)
    await world.make("tiny")
    world.library.reconfigure(prune=False)
    await world.library.delete("tiny")
    assert await world.store.blob_size(digest_of(gguf())) is not None
    await world.make("tiny")
    world.library.reconfigure(prune=True)
    await world.library.delete("tiny")
    assert await world.store.blob_size(digest_of(gguf())) is None


# --- blobs, the packaged model --------------------------------------------------------------------------------


async def test_blobs(world: World) -> None:
    digest = digest_of(b"x")
    assert not await world.library.has_blob(digest)
    assert await world.library.put_blob(digest, pieces(b"x"))
    assert not await world.library.put_blob(digest, pieces(b"x"))
    assert await world.library.has_blob(digest)
    with pytest.raises(DigestMismatch):
        await world.library.put_blob(digest_of(b"y"), pieces(b"x"))
    with pytest.raises(BadRequest, match="invalid digest format"):
        await world.library.has_blob("x")


async def test_the_packaged_model_is_installed_unless_the_name_is_taken(world: World) -> None:
    await world.library.install_builtin("tiny", digest_of(gguf()), pieces(gguf()))
    assert (await world.library.resolve("tiny")).model_digest == digest_of(gguf())
    before = await world.stored("tiny")
    other = gguf(general_name="another")
    await world.library.install_builtin("tiny", digest_of(other), pieces(other))
    assert await world.stored("tiny") == before
    await world.check()


async def test_the_library_over_files(tmp_path: Path) -> None:
    library = Library(OllamaStore(tmp_path), MemoryRegistry(), ChildGgufMaker(), FakeClock(), SeededDice())
    await library.install_builtin("tiny", digest_of(gguf()), pieces(gguf()))
    await library.copy("tiny", "other")
    model = await library.resolve("other")
    assert Path(model.model_path).read_bytes() == gguf()
    assert {record.name for record in await library.records()} == {"tiny:latest", "other:latest"}
    for name in ("tiny", "other"):
        await library.delete(name)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_changes_at_once_leave_whole_models(world: World) -> None:
    await world.make("base")
    async with asyncio.timeout(10):
        await asyncio.gather(
            *(world.make(f"m{index}", from_model="base", system=f"s{index % 3}") for index in range(9)),
            *(world.library.copy("base", f"c{index}") for index in range(9)),
        )
        await asyncio.gather(*(world.library.delete(f"m{index}") for index in range(0, 9, 2)))
    await world.check()
    for name in await world.models():
        await world.library.resolve(name)


async def test_a_corrupt_manifest_is_told(world: World) -> None:
    await world.store.put_manifest(names.parse("corrupt"), b"{")
    with pytest.raises(CorruptManifest):
        await world.library.show("corrupt")
