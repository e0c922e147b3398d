"""GGUFs that are made in child processes: merged, quantised, converted; and that nothing of a child stays."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import psutil
import pytest

import hf_directory as hf
import ollamamax
from llamacpp_support import answer, ask, spec_of, text_of, until_gone
from models import chain_text, write_llama
from ollamamax.adapters.engines.gguf_maker import ChildGgufMaker
from ollamamax.adapters.engines.llamacpp import LlamaCppEngine, LlamaCppLauncher
from ollamamax.adapters.system.clock import SystemClock
from ollamamax.core.errors import BadRequest, EngineCrashed, GgufError, GgufTruncated, GgufUnsupported, StoreError
from ollamamax.core.modelspec.gguf import parse
from ollamamax.core.types import GgufJob
from ollamamax.testing.clock import SeededDice
from sentencepiece_bytes import model as sentencepiece_model
from split_files import split

TINY = Path(ollamamax.__file__).parent / "data/tiny/tiny.gguf"
LIMIT_S = 120


@pytest.fixture(autouse=True)
async def patience() -> AsyncIterator[None]:
    async with asyncio.timeout(LIMIT_S):
        yield


async def made(target: Path, files: dict[str, Path], quantize: str = "") -> Path:
    job = GgufJob({name: str(path) for name, path in files.items()}, quantize)
    async with ChildGgufMaker().make(job) as making:
        data = b"".join([piece async for piece in making.body()])
        assert len(data) == making.size_bytes
    target.write_bytes(data)
    return target


async def launched(path: Path) -> LlamaCppEngine:
    return await LlamaCppLauncher(SystemClock(), SeededDice(7)).launch(spec_of(path))


async def said(path: Path, prompt: str, count: int) -> str:
    engine = await launched(path)
    try:
        return text_of(await answer(engine, ask(prompt, num_predict=count)))
    finally:
        await engine.close()


def numbers(path: Path) -> dict[str, np.ndarray]:
    """All tensors, as floats."""
    reader = gguf.GGUFReader(path)
    return {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float64) for tensor in reader.tensors
    }


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a.ravel() @ b.ravel() / np.linalg.norm(a) / np.linalg.norm(b))


# --- quantising -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantize", "bits", "closeness"), [("Q8_0", 9, 0.9999), ("Q4_K_M", 6, 0.99), ("Q4_K_S", 6, 0.99), ("F32", 33, 1)]
)
async def test_a_quantised_model_is_the_same_but_smaller(
    tmp_path: Path, quantize: str, bits: float, closeness: float
) -> None:
    path = await made(tmp_path / "new.gguf", {"tiny.gguf": TINY}, quantize)
    data = path.read_bytes()
    facts = parse(data, len(data))
    assert facts.file_type == quantize
    assert facts.metadata["general.quantization_version"] == 2
    before = parse(TINY.read_bytes(), TINY.stat().st_size)
    assert {key: value for key, value in before.metadata.items() if key != "general.file_type"}.items() <= (
        facts.metadata.items()
    )
    assert facts.tensor_bytes * 8 / facts.parameter_count < bits
    own, original = numbers(path), numbers(TINY)
    assert own.keys() == original.keys()
    assert min(cosine(own[name], original[name]) for name in own) >= closeness - 1e-9
    assert all(np.array_equal(own[name], original[name]) for name in own if name.endswith("norm.weight"))


@pytest.mark.parametrize("quantize", ["Q8_0", "Q4_K_M"])
async def test_a_quantised_model_answers(tmp_path: Path, quantize: str) -> None:
    """One whose answer is known: by wide margins, which no rounding changes. Its rows are no multiple of 256."""
    source = write_llama(tmp_path / "chain.gguf", chain=True)
    path = await made(tmp_path / "new.gguf", {"m": source}, quantize)
    assert path.stat().st_size < source.stat().st_size
    assert await said(path, "a", 20) == chain_text("a", 20)


async def test_the_packaged_model_still_knows(tmp_path: Path) -> None:
    path = await made(tmp_path / "new.gguf", {"m": TINY}, "Q4_K_M")
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    assert "Paris" in await said(path, prompt, 20)


# --- merging --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3])
async def test_parts_become_what_they_were_split_from(tmp_path: Path, count: int) -> None:
    whole = write_llama(tmp_path / "whole.gguf", chain=True)
    parts = split(whole, count)
    path = await made(tmp_path / "new.gguf", dict(reversed(parts.items())))
    assert {key for key in gguf.GGUFReader(path).fields if key.startswith("split.")} == set()
    own, original = numbers(path), numbers(whole)
    assert own.keys() == original.keys()
    assert all(np.array_equal(own[name], original[name]) for name in own)
    assert await said(path, "a", 12) == chain_text("a", 12)


async def test_parts_are_merged_and_quantised_in_one_go(tmp_path: Path) -> None:
    parts = split(TINY, 2, tmp_path / "tiny")
    path = await made(tmp_path / "new.gguf", parts, "Q8_0")
    whole = await made(tmp_path / "whole.gguf", {"m": TINY}, "Q8_0")
    assert numbers(path).keys() == numbers(whole).keys()
    assert path.stat().st_size == whole.stat().st_size


# --- converting -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({}, "F32"),
        ({}, "F16"),
        ({"rope_scaling": hf.LLAMA3}, "F32"),
        ({"kind": "MistralForCausalLM", "head_dim": 32}, "BF16"),
        ({"kind": "Qwen2ForCausalLM", "tie_word_embeddings": True}, "BF16"),
        ({"kind": "Qwen3ForCausalLM", "head_dim": 32}, "F32"),
    ],
)
async def test_a_converted_model_answers_as_transformers_computes_it(
    tmp_path: Path, changes: dict[str, Any], dtype: str
) -> None:
    config = hf.config(**changes)
    tensors = hf.weights(config)
    path = await made(tmp_path / "new.gguf", hf.write(tmp_path / "hf", config, tensors, dtype, files=2))
    facts = parse(path.read_bytes(), path.stat().st_size)
    assert (facts.file_type, facts.chat_template) == (dtype, "{% for m in messages %}{{ m.content }}{% endfor %}")
    left = {
        name: hf.rounded(tensor, dtype) if tensor.ndim > 1 or dtype == "BF16" else tensor
        for name, tensor in tensors.items()
    }
    prompt = "hello, 12 world: a longer text, so that the places of its tokens matter a lot" * 2
    marks = {character: number for number, character in enumerate(hf.alphabet())}
    letters = [marks[chr(byte) if byte in hf.BYTES else hf.alphabet()[byte]] for byte in prompt.encode()]
    ids = [256, *merged(letters, (ord("h"), ord("e")), 259)]
    expected = hf.log_probabilities(config, left, ids)
    found = await best(path, prompt, len(ids))
    assert found == pytest.approx(sorted(expected)[-5:], abs=0.02 if dtype == "F32" else 0.08)


async def test_a_converted_sentencepiece_model_answers_as_it_ought_to(tmp_path: Path) -> None:
    config = hf.config(bos_token_id=1, eos_token_id=2)
    tensors = hf.weights(config)
    tensors["lm_head.weight"][:3] = 0  # an answer, not its end
    files = hf.write(tmp_path / "hf", config, tensors)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        files.pop(name)
    files["tokenizer.model"] = tmp_path / "hf" / "tokenizer.model"
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)] + [("ab", -1.0, 1), ("a", -2.0, 1), ("b", -2.0, 1)]
    files["tokenizer.model"].write_bytes(sentencepiece_model(list(pieces), prefix=0))
    path = await made(tmp_path / "new.gguf", files)
    ids = [1, *(3 + byte for byte in b"(("), 259, *(3 + byte for byte in b"))")]
    found = await best(path, "((ab))", len(ids))
    assert found == pytest.approx(sorted(hf.log_probabilities(config, tensors, ids))[-5:], abs=0.02)


async def best(path: Path, prompt: str, prompt_tokens: int) -> list[float]:
    """The five largest log probabilities of what follows, in rising order."""
    engine = await launched(path)
    try:
        chunks = await answer(engine, ask(prompt, num_predict=1, raw=True, logprobs=True, top_logprobs=5))
    finally:
        await engine.close()
    stats = next(chunk.stats for chunk in chunks if chunk.stats is not None)
    assert stats.prompt_tokens == prompt_tokens
    first = next(each for chunk in chunks for each in chunk.logprobs)
    return sorted(each.logprob for each in first.top)


def merged(ids: list[int], pair: tuple[int, int], number: int) -> list[int]:
    found: list[int] = []
    for each in ids:
        if found and (found[-1], each) == pair:
            found[-1] = number
        else:
            found.append(each)
    return found


async def test_a_directory_is_converted_and_quantised_in_one_go(tmp_path: Path) -> None:
    config = hf.config(hidden_size=256, intermediate_size=256, num_key_value_heads=4)
    files = hf.write(tmp_path / "hf", config, hf.weights(config), "BF16")
    path = await made(tmp_path / "new.gguf", files, "Q4_K_M")
    whole = numbers(await made(tmp_path / "whole.gguf", files))
    assert parse(path.read_bytes(), path.stat().st_size).file_type == "Q4_K_M"
    assert min(cosine(tensor, whole[name]) for name, tensor in numbers(path).items()) > 0.99
    assert len(await said(path, "hello", 3)) > 0


async def test_other_architectures_are_refused_by_name(tmp_path: Path) -> None:
    config = hf.config("PhiMoEForCausalLM")
    files = hf.write(tmp_path / "hf", config, {"x": np.zeros((2, 2), np.float32)})
    with pytest.raises(GgufUnsupported, match=r"PhiMoEForCausalLM can't be converted here; .*convert_hf_to_gguf\.py"):
        await made(tmp_path / "new.gguf", files)


# --- what goes wrong ------------------------------------------------------------------------------------------


async def test_bad_sources_are_named(tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(TINY.read_bytes()[:-9])
    empty = tmp_path / "empty.gguf"
    empty.touch()
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\xff" * 20)
    large = tmp_path / "config.json"
    with large.open("wb") as file:
        file.truncate(257 << 20)
    parts = split(write_llama(tmp_path / "whole.gguf"), 3)
    last = list(parts)[-1]
    for files, kind, text in (
        ({"cut.gguf": cut}, GgufTruncated, r"cut\.gguf: the GGUF is cut off: 9 of"),
        ({"empty.gguf": empty}, GgufError, r"empty\.gguf: "),
        ({"gone.gguf": tmp_path / "gone"}, StoreError, "No such file"),
        ({"bad.safetensors": bad}, GgufError, r"bad\.safetensors: not a safetensors file: it claims a header of"),
        (
            {"model.safetensors": bad, "config.json": large},
            BadRequest,
            r"config\.json has \d+ bytes, which is too much",
        ),
        ({last: parts[last]}, BadRequest, "these are missing: whole-00001-of-00003.gguf, whole-00002-of-00003.gguf"),
    ):
        with pytest.raises(kind, match=text):
            await made(tmp_path / "new.gguf", files)
    assert makers() == []


def makers() -> list[psutil.Process]:
    """Our children that make GGUFs: other tests have children, too."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if "gguf_child" in " ".join(child.cmdline()):
                found.append(child)
    return found


async def test_whoever_leaves_ends_the_child(tmp_path: Path) -> None:
    async with ChildGgufMaker().make(GgufJob({"m": str(TINY)}, "Q4_K_M")) as making:
        (child,) = makers()
        await anext(making.body())
    assert not psutil.pid_exists(child.pid)


async def test_a_cancelled_caller_ends_the_child(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with ChildGgufMaker().make(GgufJob({"m": str(TINY)}, "Q4_K_M")):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    (child,) = makers()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not psutil.pid_exists(child.pid)


async def test_a_child_that_dies_is_told(tmp_path: Path) -> None:
    source = tmp_path / "large.gguf"
    write_llama(source, width=512, layers=4)
    async with ChildGgufMaker().make(GgufJob({"m": str(source)}, "F32")) as making:
        for child in makers():
            child.kill()
        with pytest.raises(EngineCrashed, match=r"was killed by signal 9 \(SIGKILL\)"):
            assert [piece async for piece in making.body()]


async def test_a_child_that_fails_before_it_can_tell_is_told(tmp_path: Path) -> None:
    with pytest.raises(EngineCrashed, match="exited with code 1: ValueError: embedded null byte"):
        await made(tmp_path / "new.gguf", {"m": tmp_path / "a\0b"})


async def test_no_child_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(EngineCrashed, match="could not be started: "):
        await made(tmp_path / "new.gguf", {"m": TINY})


async def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "large.gguf", width=512, layers=4)
    script = tmp_path / "parent.py"
    job = json.dumps(str(source))
    script.write_text(
        "import asyncio, psutil\n"
        "from ollamamax.adapters.engines.gguf_maker import ChildGgufMaker\n"
        "from ollamamax.core.types import GgufJob\n"
        "async def main():\n"
        f"    async with ChildGgufMaker().make(GgufJob({{'m': {job}}}, 'F32')):\n"
        "        print(psutil.Process().children()[0].pid, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, str(script), stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()
    await until_gone(pid, LIMIT_S)
