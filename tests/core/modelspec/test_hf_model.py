"""Directories as transformers keeps them, as GGUFs: what is written, what is refused. What models of it answer:
tests/adapters/test_gguf_maker.py.
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hf_directory as hf
from ollamamax.core.errors import BadRequest, GgufError, GgufUnsupported, OllamaMaxError
from ollamamax.core.modelspec import gguf, hf_model
from ollamamax.core.modelspec.assembly import Assembly
from ollamamax.core.modelspec.safetensors import StoredTensor
from ollamamax.core.types import GgufFacts
from sentencepiece_bytes import model as sentencepiece_model

PIECES = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("<0x00>", 0.0, 6), ("\u2581a", -1.5, 1)]


def stored(tensors: dict[str, np.ndarray], kind: int = 30) -> dict[str, list[StoredTensor]]:
    return {"model.safetensors": [StoredTensor(name, kind, tensor.shape, 0) for name, tensor in tensors.items()]}


def made(
    config: dict[str, Any] | None = None,
    tokenizer: dict[str, Any] | None = None,
    told: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    **files: bytes,
) -> Assembly:
    said = config or hf.config()
    texts = {"config.json": json.dumps(said).encode()}
    texts["tokenizer.json"] = json.dumps(tokenizer or hf.tokenizer()).encode()
    texts["tokenizer_config.json"] = json.dumps(told or {}).encode()
    texts |= {name.replace("__", "."): data for name, data in files.items()}
    return hf_model.of_directory(
        {name: data for name, data in texts.items() if data}, stored(hf.weights(said) if tensors is None else tensors)
    )


def facts(assembly: Assembly) -> GgufFacts:
    head = assembly.header()
    return gguf.parse(head, assembly.size_bytes(), whole_arrays=True)


def test_what_is_said_of_a_llama() -> None:
    assembly = made(told={"chat_template": [{"name": "tools"}, {"name": "default", "template": "{{ x }}"}]})
    found = facts(assembly)
    data = found.metadata
    assert (found.architecture, found.file_type, found.chat_template) == ("llama", "BF16", "{{ x }}")
    assert (found.block_count, found.context_length, found.embedding_length, found.vocab_size) == (2, 512, 64, 264)
    assert (found.head_count, found.head_count_kv, found.key_length, found.value_length) == (4, (2, 2), 16, 16)
    assert (data["llama.rope.freq_base"], data["llama.attention.layer_norm_rms_epsilon"]) == (10000.0, 1e-05)
    assert (data["tokenizer.ggml.model"], data["tokenizer.ggml.pre"]) == ("gpt2", "llama-bpe")
    assert data["tokenizer.ggml.tokens"][256:] == [
        "<s>",
        "</s>",
        "[PAD258]",
        "he",
        *(f"[PAD{n}]" for n in range(260, 264)),
    ]
    assert data["tokenizer.ggml.token_type"][255:] == [1, 3, 3, 5, 1, 5, 5, 5, 5]
    assert data["tokenizer.ggml.merges"] == ["h e"]
    assert (data["tokenizer.ggml.bos_token_id"], data["tokenizer.ggml.eos_token_id"]) == (256, 257)
    assert (data["tokenizer.ggml.add_bos_token"], data["tokenizer.ggml.add_eos_token"]) == (True, False)
    assert "tokenizer.ggml.scores" not in data
    kinds = {name: kind for name, kind, _ in found.tensors}
    assert (kinds["blk.1.attn_q.weight"], kinds["blk.1.attn_norm.weight"]) == ("BF16", "F32")
    heads = {tensor.name: tensor.heads for tensor in assembly.tensors if tensor.heads}
    assert heads == {f"blk.{n}.attn_{x}.weight": 4 if x == "q" else 2 for n in (0, 1) for x in "qk"}


@pytest.mark.parametrize("kind", ["Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_qwen(kind: str) -> None:
    config = hf.config(kind, head_dim=32, tie_word_embeddings=True, num_key_value_heads=None)
    config_of_weights = {**config, "num_key_value_heads": 4}
    tensors = hf.weights(config_of_weights) | {"lm_head.weight": np.zeros((264, 64))}
    assembly = made(config, hf.tokenizer(r"\p{N}"), tensors=tensors)
    found = facts(assembly)
    assert (found.architecture, found.head_count_kv, found.key_length) == (kind[:5].lower(), (4, 4), 32)
    assert found.metadata["tokenizer.ggml.pre"] == "qwen2"
    assert {tensor.heads for tensor in assembly.tensors} == {0}
    assert "output.weight" not in {tensor.name for tensor in assembly.tensors}


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        (None, {}),
        ({"rope_type": "default"}, {}),
        ({"type": "linear", "factor": 4}, {"type": "linear", "factor": 4.0}),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 99},
            {"type": "yarn", "factor": 4.0, "original_context_length": 99},
        ),
    ],
)
def test_scaled_rotations(rope: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    metadata = facts(made(hf.config(rope_scaling=rope))).metadata
    prefix = "llama.rope.scaling."
    assert {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)} == expected


def test_the_rotation_of_llama_3() -> None:
    """All three kinds of frequencies: kept, divided, and between. Elsewhere the reference computes with them."""
    config = hf.config(rope_scaling=hf.LLAMA3)
    assembly = made({**config, "rope_theta": None, "rope_parameters": {**hf.LLAMA3, "rope_theta": 10000.0}})
    (tensor,) = [each for each in assembly.tensors if each.name == "rope_freqs.weight"]
    factors = struct.unpack("<8f", tensor.data)
    assert (tensor.shape, tensor.file, factors[0], factors[-1]) == ((8,), "", 1.0, 8.0)
    assert any(1 < factor < 8 for factor in factors)
    assert list(factors) == sorted(factors)


# --- tokenizers ---------------------------------------------------------------------------------------------------


def test_sentencepiece() -> None:
    told = {
        "added_tokens_decoder": {"6": {"content": "\u2581b"}, "2": {"content": "</s>", "special": True}},
        "add_bos_token": True,
        "add_eos_token": False,
        "unk_token": "<unk>",
    }
    files = {"tokenizer__model": sentencepiece_model(PIECES, prefix=0), "tokenizer__json": b""}
    data = facts(made(told=told, config=hf.config(pad_token_id=[], mask_token_id=9999), **files)).metadata
    assert (data["tokenizer.ggml.model"], data["tokenizer.ggml.add_space_prefix"]) == ("llama", False)
    assert data["tokenizer.ggml.tokens"][:8] == [*(text for text, _, _ in PIECES), "[PAD5]", " b", "[PAD7]"]
    assert data["tokenizer.ggml.token_type"][:8] == [2, 3, 3, 6, 1, 5, 4, 5]
    assert data["tokenizer.ggml.scores"][3:8] == [0.0, -1.5, -10000.0, -1000.0, -10000.0]
    assert data["tokenizer.ggml.unknown_token_id"] == 0
    assert (data["tokenizer.ggml.add_bos_token"], data["tokenizer.ggml.add_eos_token"]) == (True, False)
    assert "tokenizer.ggml.mask_token_id" not in data
    assert "tokenizer.ggml.padding_token_id" not in data


def test_an_unknown_token_stays_one() -> None:
    added = [{"id": 0, "content": "<unk>", "special": True}]
    files = {"tokenizer__model": sentencepiece_model(PIECES)}
    data = facts(made(tokenizer={"added_tokens": added}, **files)).metadata
    assert data["tokenizer.ggml.token_type"][0] == 2
    assert data["tokenizer.ggml.add_space_prefix"] is True


def split(pattern: str, **more: Any) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", **more}


BYTE_LEVEL = {"type": "ByteLevel", "use_regex": False}
TEKKEN = (
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
LLAMA = hf.WORDS + r"\p{N}{1,3}" + hf.REST


@pytest.mark.parametrize(
    ("steps", "looks_up", "expected"),
    [
        ([split(LLAMA), BYTE_LEVEL], True, "llama-bpe"),
        ([split(LLAMA), BYTE_LEVEL], False, "smaug-bpe"),
        ([split(TEKKEN), BYTE_LEVEL], True, "tekken"),
        ([{"type": "ByteLevel"}], False, "gpt-2"),
        ([{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel"}], False, "smollm"),
        ([split("x"), BYTE_LEVEL], False, ""),
        ([split(LLAMA, invert=True), BYTE_LEVEL], True, ""),
        ([split(LLAMA) | {"behavior": "Removed"}, BYTE_LEVEL], True, ""),
        ([{"type": "Digits"}, {"type": "ByteLevel"}], False, ""),
        ([{"type": "ByteLevel", "add_prefix_space": True}], False, ""),
        ([{"type": "Whitespace"}], False, ""),
        ([], False, ""),
    ],
)
def test_how_text_is_split(steps: list[dict[str, Any]], looks_up: bool, expected: str) -> None:
    tokenizer = hf.tokenizer(pre_tokenizer={"type": "Sequence", "pretokenizers": steps} if steps else None)
    tokenizer["model"] |= {"ignore_merges": looks_up, "merges": ["h e"]}
    if expected:
        assert facts(made(tokenizer=tokenizer)).metadata["tokenizer.ggml.pre"] == expected
    else:
        with pytest.raises(GgufUnsupported, match="splits text in a way that is not known here; convert it with"):
            made(tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("post", "expected"),
    [
        (None, {}),
        ({"type": "ByteLevel"}, {}),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}]}, {}),
        ({"type": "TemplateProcessing"}, {}),
        ({"type": "TemplateProcessing", "single": [{"Sequence": {}}]}, {"bos": False, "eos": False}),
        (
            {"type": "TemplateProcessing", "single": [{"Sequence": {}}, {"SpecialToken": {}}]},
            {"bos": False, "eos": True},
        ),
    ],
)
def test_what_is_put_around_a_text(post: dict[str, Any] | None, expected: dict[str, bool]) -> None:
    metadata = facts(made(tokenizer=hf.tokenizer(post_processor=post))).metadata
    found = {name: metadata.get(f"tokenizer.ggml.add_{name}_token") for name in ("bos", "eos")}
    assert {name: value for name, value in found.items() if value is not None} == expected


def test_chat_templates() -> None:
    assert facts(made(told={"chat_template": "a"})).chat_template == "a"
    assert facts(made(told={"chat_template": "a"}, chat_template__jinja=b"b")).chat_template == "b"
    assert facts(made()).chat_template == ""


# --- what is refused ----------------------------------------------------------------------------------------------


def without(*names: str) -> dict[str, np.ndarray]:
    return {name: tensor for name, tensor in hf.weights(hf.config()).items() if name not in names}


SMALL = {"vocab_size": 200}


@pytest.mark.parametrize(
    ("said", "kind", "text"),
    [
        ({"config": hf.config("GPT2LMHeadModel")}, GgufUnsupported, "architecture GPT2LMHeadModel can't be converted"),
        ({"config": hf.config() | {"architectures": []}}, GgufUnsupported, "architecture none can't be converted"),
        ({"config": hf.config(quantization_config={})}, GgufUnsupported, "the weights are quantised already"),
        ({"config": hf.config(hidden_size=None)}, GgufUnsupported, "config.json does not say hidden_size"),
        ({"config": hf.config(vocab_size=True)}, GgufUnsupported, "config.json does not say vocab_size"),
        ({"config": hf.config(rope_scaling={"type": "dynamic"})}, GgufUnsupported, "scaled as 'dynamic'"),
        ({"config": hf.config(rope_scaling={"type": "yarn"})}, GgufUnsupported, "scaled as 'yarn'"),
        (
            {"config": hf.config(rope_scaling={"type": "linear"})},
            GgufError,
            "description is damaged: KeyError('factor')",
        ),
        ({"config": hf.config(rope_scaling={"type": "linear", "factor": 1e99})}, GgufError, "description is damaged"),
        ({"config": hf.config(head_dim=-1)}, GgufError, "description is damaged"),
        (
            {"config": hf.config(vocab_size=1 << 23)},
            GgufError,
            "is damaged: ValueError('a vocabulary of 8388608 tokens')",
        ),
        ({"config__json": b"{"}, GgufError, "config.json can't be read"),
        ({"config__json": b""}, BadRequest, "config.json is missing: give all files of the model's directory"),
        ({"tokenizer__json": b""}, BadRequest, "tokenizer.json and tokenizer.model are missing"),
        ({"tokenizer": {"model": {"type": "Unigram"}}}, GgufUnsupported, "the tokenizer can't be converted here"),
        ({"tokenizer": {"version": 1}}, GgufUnsupported, "the tokenizer can't be converted here"),
        ({"tokenizer__model": b"\0"}, GgufError, "tokenizer.model is damaged"),
        ({"config": hf.config(**SMALL)}, GgufUnsupported, "the tokenizer has 260 tokens and the model 200"),
        ({"tensors": without("model.norm.weight")}, BadRequest, "1 tensors are missing, output_norm.weight"),
        (
            {"tensors": hf.weights(hf.config()) | {"model.x": np.zeros(1)}},
            GgufUnsupported,
            "tensor 'model.x' is not known",
        ),
        (
            {"tensors": hf.weights(hf.config()) | {"model.layers.2.mlp.up_proj.weight": np.zeros(1)}},
            GgufUnsupported,
            "tensor 'model.layers.2.mlp.up_proj.weight' is not known",
        ),
        (
            {"tensors": without() | {"model.layers.0.self_attn.q_proj.weight": np.zeros((63, 64))}},
            GgufUnsupported,
            "has the shape [63, 64], not one of 4 heads",
        ),
        (
            {"tensors": without() | {"model.layers.0.self_attn.q_proj.weight": np.zeros(())}},
            GgufUnsupported,
            "has the shape [], not one of 4 heads",
        ),
    ],
)
def test_refusals(said: dict[str, Any], kind: type[OllamaMaxError], text: str) -> None:
    with pytest.raises(kind) as caught:
        made(**{"tensors": without(), **said})
    assert type(caught.value) is kind
    assert text in str(caught.value)


def test_a_tensor_that_comes_twice() -> None:
    tensors = stored(without())
    texts = {"config.json": json.dumps(hf.config()).encode(), "tokenizer.json": json.dumps(hf.tokenizer()).encode()}
    tensors["again.safetensors"] = tensors["model.safetensors"][:1]
    with pytest.raises(GgufError, match=r"'model\.embed_tokens\.weight' comes twice"):
        hf_model.of_directory(texts, tensors)


def test_tensors_that_nobody_needs(tmp_path: Path) -> None:
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(8)}
    assert len(made(tensors=without() | extra).tensors) == len(made().tensors)


def test_which_files_have_the_weights() -> None:
    names = ["consolidated.safetensors", "a/model-1.safetensors", "config.json", "model-2.safetensors"]
    assert hf_model.weights_among(names) == ["a/model-1.safetensors", "model-2.safetensors"]
    assert hf_model.weights_among(names[:1]) == names[:1]
    assert hf_model.are_safetensors(names)
    assert not hf_model.are_safetensors(["a.gguf"])
