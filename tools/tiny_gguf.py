"""Writes `tiny` as a GGUF: metadata, tokeniser, chat template and tensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType

from tiny_template import TEMPLATE
from tiny_tokens import CONTROL, MARKERS, Tokeniser

CONTEXT = 2048
DESCRIPTION = "A tiny demo model that comes with OllamaMax: small talk, small sums, capitals, colours, tool calls."
_QUANTS = {
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}


def _about(writer: gguf.GGUFWriter, parameters: int, quant: str) -> None:
    """Write the general facts. parameters: number of weights."""
    writer.add_name("tiny")
    writer.add_basename("tiny")
    writer.add_size_label(f"{parameters / 1e6:.1f}M")
    writer.add_organization("OllamaMax")
    writer.add_license("apache-2.0")
    writer.add_description(DESCRIPTION)
    writer.add_languages(["en"])
    writer.add_tags(["text-generation", "demo"])
    writer.add_file_type(_QUANTS[quant][1])
    if quant != "f16":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _sizes(writer: gguf.GGUFWriter, shape: Any) -> None:
    """Write the sizes of the network that llama.cpp needs to build it."""
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_vocab_size(shape.vocab)


def _tokens(writer: gguf.GGUFWriter, tokeniser: Tokeniser) -> None:
    """Write tokens and merges; the text begins without a token of its own and ends with <|im_end|>."""
    kinds = dict.fromkeys(CONTROL, gguf.TokenType.CONTROL) | dict.fromkeys(MARKERS, gguf.TokenType.USER_DEFINED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokeniser.tokens)
    writer.add_token_types([kinds.get(token, gguf.TokenType.NORMAL) for token in tokeniser.tokens])
    writer.add_token_merges([f"{a} {b}" for a, b in tokeniser.merges])
    writer.add_bos_token_id(tokeniser.ids["<|endoftext|>"])
    writer.add_eos_token_id(tokeniser.ids["<|im_end|>"])
    writer.add_eot_token_id(tokeniser.ids["<|im_end|>"])
    writer.add_pad_token_id(tokeniser.ids["<|endoftext|>"])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(TEMPLATE)


def write(path: Path, shape: Any, tensors: dict[str, np.ndarray], tokeniser: Tokeniser, quant: str) -> int:
    """Write the file in one piece (a reader never sees half of it) and return its size in bytes.

    tensors: float32, named as in a GGUF. quant: "f16" or "q8_0" for the matrices; vectors stay float32.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    writer = gguf.GGUFWriter(part, "llama")
    _about(writer, sum(tensor.size for tensor in tensors.values()), quant)
    _sizes(writer, shape)
    _tokens(writer, tokeniser)
    kind = _QUANTS[quant][0]
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            writer.add_tensor(name, tensor.astype(np.float32))
        else:
            writer.add_tensor(name, gguf.quants.quantize(tensor.astype(np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(part, path)
    return path.stat().st_size
