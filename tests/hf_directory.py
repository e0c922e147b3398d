"""Writes small models as transformers keeps them, and computes what they answer: the reference for the conversion."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

BYTES: Final = [*range(33, 127), *range(161, 173), *range(174, 256)]
"""Those that stand for themselves in a byte-level vocabulary."""
WORDS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3: Final[dict[str, Any]] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def alphabet() -> list[str]:
    """A character for each byte, as GPT-2 writes them."""
    others = iter(range(256, 512))
    return [chr(byte if byte in BYTES else next(others)) for byte in range(256)]


def config(kind: str = "LlamaForCausalLM", **changes: Any) -> dict[str, Any]:
    said = {
        "architectures": [kind],
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": 264,
        "tie_word_embeddings": False,
        "bos_token_id": 256,
        "eos_token_id": [257, 258],
    }
    return {**said, **changes}


def tokenizer(digits: str = r"\p{N}{1,3}", **changes: Any) -> dict[str, Any]:
    """Byte-level BPE without merges but one."""
    vocab = {content: number for number, content in enumerate(alphabet())} | {"he": 259}
    added = [{"id": 256, "content": "<s>", "special": True}, {"id": 257, "content": "</s>", "special": True}]
    split = {"type": "Split", "pattern": {"Regex": WORDS + digits + REST}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    said = {
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {
            "type": "Sequence",
            "processors": [byte_level, {"type": "TemplateProcessing", "single": single}],
        },
        "model": {"type": "BPE", "vocab": vocab, "merges": [["h", "e"]], "ignore_merges": digits != r"\p{N}"},
    }
    return {**said, **changes}


def weights(said: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random ones that give clear answers."""
    dice = np.random.default_rng(seed)
    width, inner = said["hidden_size"], said["intermediate_size"]
    heads, kv_heads = said["num_attention_heads"], said["num_key_value_heads"]
    head = said.get("head_dim") or width // heads
    made: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int) -> None:
        made[name] = (dice.standard_normal(shape) * (0.3 if len(shape) > 1 else 1.0)).astype(np.float32)

    add("model.embed_tokens.weight", said["vocab_size"], width)
    add("model.norm.weight", width)
    if not said["tie_word_embeddings"]:
        add("lm_head.weight", said["vocab_size"], width)
    for table in made.keys() - {"model.norm.weight"}:
        made[table][128:256] = made[table][257:259] = made[table][260:] = 0  # neither half a character nor the end
    for layer in range(said["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, rows, columns in (
            ("self_attn.q_proj", heads * head, width),
            ("self_attn.k_proj", kv_heads * head, width),
            ("self_attn.v_proj", kv_heads * head, width),
            ("self_attn.o_proj", width, heads * head),
            ("mlp.gate_proj", inner, width),
            ("mlp.up_proj", inner, width),
            ("mlp.down_proj", width, inner),
        ):
            add(f"{prefix}{name}.weight", rows, columns)
            if said["architectures"] == ["Qwen2ForCausalLM"] and name[-6] in "qkv" and "attn" in name:
                add(f"{prefix}{name}.bias", rows)
        for name in ("input_layernorm", "post_attention_layernorm"):
            add(f"{prefix}{name}.weight", width)
        if said["architectures"] == ["Qwen3ForCausalLM"]:
            for name in ("q_norm", "k_norm"):
                add(f"{prefix}self_attn.{name}.weight", head)
    return made


def safetensors(tensors: dict[str, np.ndarray], dtype: str = "F32") -> bytes:
    """The file. dtype: F32, F16 or BF16 (which is cut, not rounded)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, tensor in tensors.items():
        raw = encoded(tensor, dtype)
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def encoded(tensor: np.ndarray, dtype: str) -> bytes:
    if dtype == "BF16":
        return (np.ascontiguousarray(tensor, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return tensor.astype({"F32": np.float32, "F16": np.float16}[dtype]).tobytes()


def rounded(tensor: np.ndarray, dtype: str) -> np.ndarray:
    """What remains of the numbers in that type."""
    if dtype == "BF16":
        return (np.ascontiguousarray(tensor, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return tensor.astype({"F32": np.float32, "F16": np.float16}[dtype]).astype(np.float32)


def write(
    folder: Path, said: dict[str, Any], tensors: dict[str, np.ndarray], dtype: str = "F32", files: int = 1
) -> dict[str, Path]:
    """The directory, its weights in so many files; the files by name."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(tensors)
    for number in range(files):
        part = {name: tensors[name] for name in names[number::files]}
        (folder / f"model-{number + 1:05}-of-{files:05}.safetensors").write_bytes(safetensors(part, dtype))
    (folder / "config.json").write_text(json.dumps(said))
    digits = r"\p{N}" if said["architectures"][0].startswith("Qwen") else r"\p{N}{1,3}"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(digits)))
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    told = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return {path.name: path for path in folder.iterdir()}


def log_probabilities(said: dict[str, Any], tensors: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """Of each token after these, as transformers computes it: rotation by halves, in double precision."""
    heads, kv_heads = said["num_attention_heads"], said["num_key_value_heads"]
    head = said.get("head_dim") or said["hidden_size"] // heads
    w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + said["rms_norm_eps"]) * weight

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    angles = np.arange(len(ids))[:, None] * _frequencies(said, head)
    angles = np.concatenate([angles, angles], -1)

    def rotated(x: np.ndarray) -> np.ndarray:
        halves = np.concatenate([-x[..., head // 2 :], x[..., : head // 2]], -1)
        return x * np.cos(angles) + halves * np.sin(angles)

    x = w["model.embed_tokens.weight"][ids]
    for layer in range(said["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        y = norm(x, w[at + "input_layernorm.weight"])
        q = linear(y, at + "self_attn.q_proj").reshape(len(ids), heads, head).transpose(1, 0, 2)
        k = linear(y, at + "self_attn.k_proj").reshape(len(ids), kv_heads, head).transpose(1, 0, 2)
        v = linear(y, at + "self_attn.v_proj").reshape(len(ids), kv_heads, head).transpose(1, 0, 2)
        if at + "self_attn.q_norm.weight" in w:
            q, k = norm(q, w[at + "self_attn.q_norm.weight"]), norm(k, w[at + "self_attn.k_norm.weight"])
        k, v = (np.repeat(each, heads // kv_heads, 0) for each in (rotated(k), v))
        scores = rotated(q) @ k.transpose(0, 2, 1) / np.sqrt(head)
        scores += np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
        mixed = (_softmax(scores) @ v).transpose(1, 0, 2).reshape(len(ids), heads * head)
        x = x + linear(mixed, at + "self_attn.o_proj")
        y = norm(x, w[at + "post_attention_layernorm.weight"])
        gate = linear(y, at + "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(y, at + "mlp.up_proj"), at + "mlp.down_proj")
    output = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return np.log(_softmax(norm(x[-1], w["model.norm.weight"]) @ output.T))


def _frequencies(said: dict[str, Any], head: int) -> np.ndarray:
    found = said["rope_theta"] ** (-np.arange(0, head, 2) / head)
    scaling = said.get("rope_scaling")
    if scaling is None:
        return found
    lengths = 2 * np.pi / found
    context = scaling["original_max_position_embeddings"]
    low, high, factor = (scaling[key] for key in ("low_freq_factor", "high_freq_factor", "factor"))
    smooth = np.clip((context / lengths - low) / (high - low), 0, 1)
    return found * ((1 - smooth) / factor + smooth)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
