"""Which type each tensor gets when a model is quantised: the mixtures that llama.cpp and Ollama make.

Tensors that the answer depends on most get more bits than the others; small or odd ones stay as they are.
Source: llama.cpp `src/llama-quant.cpp`; Ollama `server/quantization.go`.
"""

import re
from typing import Final

import msgspec

from ollamamax.core.errors import BadRequest
from ollamamax.core.modelspec.assembly import Assembly, Planned
from ollamamax.core.modelspec.ggml_types import FILE_TYPES, TENSOR_TYPES
from ollamamax.core.modelspec.gguf_writer import u32
from ollamamax.core.types import GgufFacts

WHOLE: Final = ("F32", "F16", "BF16")
"""What can be quantised."""

QUANTIZATIONS: Final = (*WHOLE, "Q4_K_S", "Q4_K_M", "Q8_0")
"""What it can be quantised to."""

_F32, _F16, _Q8_0, _Q4_K, _Q5_K, _Q6_K = 0, 1, 8, 12, 13, 14
_SOURCES: Final = (_F32, _F16, 30)
_BASES: Final = {"F32": _F32, "F16": _F16, "BF16": 30, "Q8_0": _Q8_0, "Q4_K_S": _Q4_K, "Q4_K_M": _Q4_K}
_SMALLER_BLOCKS: Final = {_Q4_K: 6, _Q5_K: 7, _Q6_K: _Q8_0}
"""What a tensor gets whose rows can't be cut into blocks of 256."""
_QUANTIZATION_VERSION: Final = 2

_VALUE: Final = re.compile(r"attn_(v|qkv|kv_b)\.weight$")
_DOWN: Final = re.compile(r"ffn_down")
_LAYER: Final = re.compile(r"blk\.(\d+)\.", re.ASCII)
_KEPT: Final = re.compile(
    r"_norm\.weight$|ffn_gate_inp\.weight|ffn_gate_tid2eid|altup|laurel|per_layer_model_proj|^position_embd\.weight"
    r"|^token_types\.weight|ssm_conv1d|shortconv\.conv|indexer\.[kq]_proj|attn_rel_b|\.position_embd|\.rel_pos"
    r"|\.patch_embd|\.patch_merger"
    r"|time_mix_(first|w[012]|v[012]|a[012]|g[12]|decay_w[12]|lerp_fused)\.weight"
)


def normalised(asked: str) -> str:
    """The name of a quantisation as it is kept, e.g. `Q4_K_M` for `q4_k`; of unknown ones the upper case."""
    upper = asked.upper()
    return "Q4_K_M" if upper == "Q4_K" else upper


def check(asked: str) -> None:
    """Raises: BadRequest for what nothing can be quantised to."""
    if asked and normalised(asked) not in QUANTIZATIONS:
        raise BadRequest(
            f"unsupported quantization type {asked.upper()} - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0"
        )


def quantized(assembly: Assembly, facts: GgufFacts, asked: str) -> Assembly:
    """The same model with its weights in that quantisation. facts: of the model. asked: one that check() takes."""
    mixture = _Mixture(assembly, facts, normalised(asked))
    number = next(number for number, name in FILE_TYPES.items() if name == mixture.name)
    pairs = {
        **assembly.pairs,
        "general.file_type": u32(number),
        "general.quantization_version": u32(_QUANTIZATION_VERSION),
    }
    tensors = [msgspec.structs.replace(tensor, kind=mixture.kind_of(tensor)) for tensor in assembly.tensors]
    return Assembly(assembly.architecture, pairs, tuple(tensors))


class _Mixture:
    """Decides for one model."""

    def __init__(self, assembly: Assembly, facts: GgufFacts, name: str) -> None:
        self.name = name
        self._base = _BASES[name]
        self._architecture = assembly.architecture
        names = [tensor.name for tensor in assembly.tensors]
        self._is_tied = "output.weight" not in names
        self._value_order = _order(names, _VALUE)
        self._down_order = _order(names, _DOWN)
        self._experts = facts.metadata.get(f"{assembly.architecture}.expert_count", 0)
        shared_heads = bool(facts.head_count_kv) and max(facts.head_count_kv) < facts.head_count
        self._is_70b = assembly.architecture in ("llama", "qwen2") and facts.block_count == 80 and shared_heads

    def kind_of(self, tensor: Planned) -> int:
        """The number of the ggml type that it gets."""
        if not self._is_changed(tensor):
            return tensor.kind
        if self.name in WHOLE:
            return self._base
        return _fitting(self._wanted(tensor), tensor.shape[0])

    def _is_changed(self, tensor: Planned) -> bool:
        has_rows = len(tensor.shape) > 1 and any(size > 1 for size in tensor.shape[1:])
        is_weight = tensor.name.endswith("weight") and not _KEPT.search(tensor.name)
        return has_rows and is_weight and tensor.kind in _SOURCES

    def _wanted(self, tensor: Planned) -> int:
        name = tensor.name
        if name == "output.weight" or (self._is_tied and name in ("token_embd.weight", "per_layer_token_embd.weight")):
            return self._outer(tensor.shape[0])
        if self._base == _Q8_0:
            return _Q8_0
        if _VALUE.search(name):
            return self._value(self._value_order[name], len(self._value_order))
        if name.endswith("attn_k.weight") and self._experts == 8:
            return _Q8_0
        if name.endswith("attn_output.weight") and self._experts == 8 and self._architecture != "falcon":
            return _Q5_K
        if _DOWN.search(name):
            match = _LAYER.search(name)
            has_experts = self._experts > 1 and match is not None
            place = int(match[1]) if has_experts and match else self._down_order[name]
            return self._down(place, len(self._down_order))
        return self._base

    def _outer(self, width: int) -> int:
        """The output layer, or what stands in for it."""
        if self._base == _Q8_0 or self._architecture == "falcon" or width % TENSOR_TYPES[self._base][1]:
            return _Q8_0
        return _Q6_K

    def _value(self, place: int, count: int) -> int:
        if self._experts == 8:
            return _Q8_0
        if self.name == "Q4_K_M" and _is_sensitive(place, count):
            return _Q6_K
        if (self.name == "Q4_K_S" and place < 4) or self._is_70b:
            return _Q5_K
        return self._base

    def _down(self, place: int, count: int) -> int:
        if self.name == "Q4_K_S":
            return _Q5_K if self._architecture != "falcon" and place < count // 8 else _Q4_K
        if self._architecture == "falcon":
            return _Q6_K if place < count // 16 else _Q5_K if _is_sensitive(place, count) else _Q4_K
        return _Q6_K if _is_sensitive(place, count) else _Q4_K


def _order(names: list[str], pattern: re.Pattern[str]) -> dict[str, int]:
    """Tensors of that name, numbered by layer."""

    def layer(name: str) -> int:
        match = _LAYER.search(name)
        return int(match[1]) if match else -1

    found = sorted((name for name in names if pattern.search(name)), key=layer)
    return {name: place for place, name in enumerate(found)}


def _is_sensitive(place: int, count: int) -> bool:
    """The first and the last eighth, and every third between."""
    return place < count // 8 or place >= 7 * count // 8 or (place - count // 8) % 3 == 2


def _fitting(kind: int, width: int) -> int:
    """That type, or one with smaller blocks, or none at all, so that whole blocks make a row."""
    if width % TENSOR_TYPES[kind][1]:
        kind = _SMALLER_BLOCKS.get(kind, _F16)
    return _F16 if width % TENSOR_TYPES[kind][1] else kind
