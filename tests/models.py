"""Writes tiny GGUF models that llama.cpp loads in milliseconds: random ones, embedders, and chains.

A chain is a model whose answer is known: each token is followed by one fixed other, by a margin so wide that neither
temperature nor the order of floating-point sums changes it. So a lost, doubled or moved token shows in the text.
All have one vocabulary: `<unk>` 0, `<s>` 1, `</s>` 2, then one token per byte; token_id(byte) = 3 + byte.
"""

from pathlib import Path
from typing import Final

import gguf
import numpy as np

FIRST_BYTE: Final = 3
EOS: Final = 2
CYCLE: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
TEMPLATE: Final = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
"""Knows roles and nothing else: no tools, no thinking."""

_CHAIN_WIDTH: Final = 288  # at least one dimension per token


def chain_text(prompt: str, count: int, cycle: str = CYCLE) -> str:
    """The `count` tokens that a chain answers to a prompt, as text (an incomplete last character is left out)."""
    follow = _successors(cycle, ends=False)
    token = FIRST_BYTE + prompt.encode()[-1]
    answer = bytearray()
    for _ in range(count):
        token = follow[token]
        answer.append(token - FIRST_BYTE)
    return answer.decode("utf-8", "ignore")


def write_llama(
    path: str | Path,
    *,
    seed: int = 0,
    chain: bool = False,
    cycle: str = CYCLE,
    ends: bool = False,
    pooling: int | None = None,
    context: int = 512,
    width: int = 64,
    layers: int = 2,
    template: str = TEMPLATE,
    name: str = "synthetic",
) -> Path:
    """Write a llama model of F16 weights; the same arguments give the same bytes.

    chain: answer along `cycle`, whose bytes must be distinct; any other token leads to its first one. ends: the last
    one of the cycle leads to the end of the answer instead of back to the first.  pooling: a pooling type makes an
    embedder (1 = mean).  context: in tokens.  width, layers: of random models; 64 and 2 make a file of 240 kB.
    """
    width, layers = (_CHAIN_WIDTH, 1) if chain else (width, layers)
    writer = gguf.GGUFWriter(str(path), "llama")
    _describe(writer, width, layers, context, template, name)
    if pooling is not None:
        writer.add_pooling_type(gguf.PoolingType(pooling))
    if chain:
        _chain_tensors(writer, _successors(cycle, ends), width)
    else:
        _random_tensors(writer, np.random.default_rng(seed), width, layers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path)


def _describe(writer: gguf.GGUFWriter, width: int, layers: int, context: int, template: str, name: str) -> None:
    tokens = [b"<unk>", b"<s>", b"</s>"] + [f"<0x{byte:02X}>".encode() for byte in range(256)]
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL] + [gguf.TokenType.BYTE] * 256
    writer.add_name(name)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(4)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 4)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(EOS)
    writer.add_chat_template(template)


def _random_tensors(writer: gguf.GGUFWriter, dice: np.random.Generator, width: int, layers: int) -> None:
    vocabulary = FIRST_BYTE + 256

    def weights(*shape: int) -> np.ndarray:
        return (dice.standard_normal(shape) * 0.05).astype(np.float16)

    _outer_tensors(writer, weights(vocabulary, width), weights(vocabulary, width), width)
    for layer in range(layers):
        _layer_tensors(writer, layer, width, weights)


def _chain_tensors(writer: gguf.GGUFWriter, follow: dict[int, int], width: int) -> None:
    """Embeddings are one-hot, the layer adds nothing, the output layer reads the token and names the next."""
    vocabulary = FIRST_BYTE + 256
    output = np.zeros((vocabulary, width), np.float16)
    for token, following in follow.items():
        output[following, token] = 4.0  # times sqrt(width) = 68 after the norm: the margin in logits
    _outer_tensors(writer, np.eye(vocabulary, width, dtype=np.float16), output, width)
    _layer_tensors(writer, 0, width, lambda *shape: np.zeros(shape, np.float16))


def _outer_tensors(writer: gguf.GGUFWriter, embedding: np.ndarray, output: np.ndarray, width: int) -> None:
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))


def _layer_tensors(writer: gguf.GGUFWriter, layer: int, width: int, weights) -> None:  # type: ignore[no-untyped-def]
    shapes = {
        "attn_q": (width, width),
        "attn_k": (width // 4, width),
        "attn_v": (width // 4, width),
        "attn_output": (width, width),
        "ffn_gate": (2 * width, width),
        "ffn_up": (2 * width, width),
        "ffn_down": (width, 2 * width),
    }
    for tensor, shape in shapes.items():
        writer.add_tensor(f"blk.{layer}.{tensor}.weight", weights(*shape))
    for norm in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(width, np.float32))


def _successors(cycle: str, ends: bool) -> dict[int, int]:
    """Which token follows which."""
    tokens = [FIRST_BYTE + byte for byte in cycle.encode()]
    assert len(set(tokens)) == len(tokens), "a byte that occurs twice in the cycle would have two successors"
    follow = dict.fromkeys(range(FIRST_BYTE + 256), tokens[0])
    follow.update(zip(tokens, [*tokens[1:], EOS if ends else tokens[0]], strict=True))
    return follow
