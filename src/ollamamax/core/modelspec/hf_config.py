"""What the `config.json` of a model says, for the family of Llama: key-values of a GGUF, and the names of tensors.

Source: llama.cpp `convert_hf_to_gguf.py`, `gguf-py/gguf/tensor_mapping.py`; transformers `modeling_rope_utils.py`.

Deliberate limits: the architectures of ARCHITECTURES; no mixtures of experts, no weights that are quantised already,
rotation unscaled, linear, yarn or llama3. All else is refused by name.
"""

import re
import struct
from math import pi
from typing import Any, Final

from msgspec import Struct

from ollamamax.core.errors import GgufUnsupported
from ollamamax.core.modelspec.gguf_writer import f32, text, u32

ARCHITECTURES: Final = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Class of transformers -> llama.cpp's name."""

REMEDY: Final = "convert it with llama.cpp's convert_hf_to_gguf.py, then create from the GGUF"

_OUTER: Final = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_INNER: Final = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMS_OF_HEADS: Final = ("attn_q_norm", "attn_k_norm")
_LAYER: Final = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", re.ASCII)
_UNUSED: Final = re.compile(r"\.(inv_freq|masked_bias)$")


class HfConfig(Struct, frozen=True):
    """architecture: llama.cpp's name.  head_size: numbers per head.  frequencies: factors of the rotation, or none."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    is_tied: bool
    frequencies: tuple[float, ...]
    pairs: dict[str, bytes]

    def name_of(self, name: str) -> str:
        """GGUF's name of a tensor; "" for one that is not needed. Raises: GgufUnsupported."""
        if _UNUSED.search(name) or (self.is_tied and name == "lm_head.weight"):
            return ""
        if name in _OUTER:
            return _OUTER[name]
        match = _LAYER.fullmatch(name)
        if match is None or match[2] not in _INNER or int(match[1]) >= self.layers:
            raise GgufUnsupported(f"tensor {name[:80]!r} is not known of this architecture; {REMEDY}")
        return f"blk.{match[1]}.{_INNER[match[2]]}.{match[3]}"

    def heads_of(self, name: str) -> int:
        """How many heads of a tensor have to be interleaved; 0 for none. name: GGUF's."""
        if self.architecture != "llama":
            return 0
        found = re.search(r"\.attn_([qk])\.", name)
        return 0 if found is None else self.heads if found[1] == "q" else self.kv_heads

    def required(self) -> set[str]:
        """GGUF's names of the tensors that must be there."""
        inner = [name for name in _INNER.values() if name not in _NORMS_OF_HEADS or self.architecture == "qwen3"]
        outer = {name for name in _OUTER.values() if name != "output.weight" or not self.is_tied}
        return outer | {f"blk.{layer}.{name}.weight" for layer in range(self.layers) for name in inner}


def read(config: dict[str, Any]) -> HfConfig:
    """Raises: GgufUnsupported naming what can't be converted, or is missing."""
    named = config.get("architectures") or ["none"]
    architecture = ARCHITECTURES.get(str(named[0]))
    if architecture is None:
        raise GgufUnsupported(f"models of the architecture {str(named[0])[:80]} can't be converted here; {REMEDY}")
    if "quantization_config" in config:
        raise GgufUnsupported(f"the weights are quantised already, which can't be converted here; {REMEDY}")
    heads = _count(config, "num_attention_heads")
    embedding = _count(config, "hidden_size")
    head_size = config.get("head_dim") or embedding // heads
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = float(config.get("rope_theta") or rope.get("rope_theta") or 10_000.0)
    found = HfConfig(
        architecture=architecture,
        layers=_count(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_size=head_size,
        vocabulary=_count(config, "vocab_size"),
        is_tied=bool(config.get("tie_word_embeddings", False)),
        frequencies=_frequencies(rope, base, head_size) if _rope_type(rope) == "llama3" else (),
        pairs={"general.architecture": text(architecture), "general.type": text("model")},
    )
    counts = {
        "block_count": found.layers,
        "context_length": _count(config, "max_position_embeddings"),
        "embedding_length": embedding,
        "feed_forward_length": _count(config, "intermediate_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": found.kv_heads,
        "attention.key_length": head_size,
        "attention.value_length": head_size,
        "rope.dimension_count": head_size,
        "vocab_size": found.vocabulary,
    }
    found.pairs.update({f"{architecture}.{key}": u32(value) for key, value in counts.items()})
    found.pairs[f"{architecture}.attention.layer_norm_rms_epsilon"] = f32(float(config.get("rms_norm_eps", 1e-6)))
    found.pairs[f"{architecture}.rope.freq_base"] = f32(base)
    found.pairs.update({f"{architecture}.rope.scaling.{key}": value for key, value in _scaling(rope).items()})
    return found


def frequency_bytes(frequencies: tuple[float, ...]) -> bytes:
    """The data of the tensor that holds them."""
    return struct.pack(f"<{len(frequencies)}f", *frequencies)


def _count(config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
        raise GgufUnsupported(f"config.json does not say {key}, or not as a count; {REMEDY}")
    return value


def _rope_type(rope: dict[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _scaling(rope: dict[str, Any]) -> dict[str, bytes]:
    kind = _rope_type(rope)
    if kind in ("default", "llama3"):
        return {}
    if kind == "linear":
        return {"type": text(kind), "factor": f32(float(rope["factor"]))}
    if kind == "yarn" and "original_max_position_embeddings" in rope:
        original = u32(int(rope["original_max_position_embeddings"]))
        return {"type": text(kind), "factor": f32(float(rope["factor"])), "original_context_length": original}
    raise GgufUnsupported(f"its rotation is scaled as {kind[:40]!r}, which can't be converted here; {REMEDY}")


def _frequencies(rope: dict[str, Any], base: float, head_size: int) -> tuple[float, ...]:
    """By what each frequency is divided, as Llama 3.1 and later scale their rotation."""
    factor, low, high = float(rope["factor"]), float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    context = float(rope["original_max_position_embeddings"])
    found: list[float] = []
    for dimension in range(0, head_size, 2):
        length = 2 * pi * base ** (dimension / head_size)
        if length < context / high:
            found.append(1.0)
        elif length > context / low:
            found.append(factor)
        else:
            smooth = (context / length - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return tuple(found)
