"""The memory estimate against what llama.cpp says it takes: caches to the byte, compute buffers within a factor."""

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf as writer
import msgspec
import numpy as np
import pytest

from ollamamax.core.modelspec import gguf
from ollamamax.core.residency.fit import memory_need
from ollamamax.core.types import LaunchSpec

COMPUTE_FACTOR = 1.25
MIB = 1 << 20
LOAD = """
import json, sys
from ollamamax.adapters.engines.llamacpp_child import parameters
import xllamacpp
made = parameters(json.loads(sys.argv[1]))
made.verbosity = 5
server = xllamacpp.Server(made)
sys.stdin.read()
"""

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"architecture": "llama", "width": 256, "heads": 16, "kv_heads": 4, "head": 32, "vocab": 2000},
    "windowed": {"architecture": "gemma2", "width": 256, "heads": 4, "kv_heads": 2, "head": 64, "vocab": 600},
}


def write_model(path: Path, architecture: str, width: int, heads: int, kv_heads: int, head: int, vocab: int) -> None:
    """Four layers of zeros; a gemma2's even layers see a window of 1024 tokens."""
    feed_forward = 4 * width
    made = writer.GGUFWriter(str(path), architecture)
    bytes_ = [f"<0x{byte:02X}>".encode() for byte in range(256)]
    words = [f"w{number}".encode() for number in range(vocab - 259)]
    made.add_context_length(32_768)
    made.add_embedding_length(width)
    made.add_block_count(4)
    made.add_feed_forward_length(feed_forward)
    made.add_head_count(heads)
    made.add_head_count_kv(kv_heads)
    made.add_key_length(head)
    made.add_value_length(head)
    made.add_rope_dimension_count(head)
    made.add_layer_norm_rms_eps(1e-5)
    made.add_vocab_size(vocab)
    made.add_sliding_window(1024 if architecture == "gemma2" else 0)
    made.add_tokenizer_model("llama")
    made.add_token_list([b"<unk>", b"<s>", b"</s>", *bytes_, *words])
    made.add_token_scores([0.0] * vocab)
    made.add_token_types([2, 3, 3, *[6] * 256, *[1] * len(words)])
    made.add_bos_token_id(1)
    made.add_eos_token_id(2)
    shapes = {
        "attn_q": (heads * head, width),
        "attn_k": (kv_heads * head, width),
        "attn_v": (kv_heads * head, width),
        "attn_output": (width, heads * head),
        "ffn_gate": (feed_forward, width),
        "ffn_up": (feed_forward, width),
        "ffn_down": (width, feed_forward),
    }
    norms = ["attn_norm", "ffn_norm"]
    norms += ["post_attention_norm", "post_ffw_norm"] if architecture == "gemma2" else []
    made.add_tensor("token_embd.weight", np.zeros((vocab, width), np.float16))
    made.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(4):
        for name, shape in shapes.items():
            made.add_tensor(f"blk.{layer}.{name}.weight", np.zeros(shape, np.float16))
        for name in norms:
            made.add_tensor(f"blk.{layer}.{name}.weight", np.ones(width, np.float32))
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()


@pytest.fixture(scope="module", params=SHAPES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shapes") / f"{request.param}.gguf"
    write_model(made, **SHAPES[request.param])
    return made


def told(path: Path, **launch: Any) -> tuple[float, float]:
    """What the engine logs of its caches and its compute buffers, in MiB."""
    spec = LaunchSpec(key="k", name="n", model_path=str(path), gpu_layers=0, **launch)
    config = msgspec.json.encode({**msgspec.structs.asdict(spec), "api_key": "k"}).decode()
    command = [sys.executable, "-c", LOAD, config]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as engine:
        assert engine.stderr is not None
        text = "".join(itertools.takewhile(lambda line: "listening on" not in line, engine.stderr))
        engine.kill()  # its own way out waits for threads that may not have begun
    caches = re.findall(r"KV buffer size = +([\d.]+) MiB", text)
    buffers = re.findall(r"compute buffer size = +([\d.]+) MiB", text)
    assert caches, text[-2000:]
    assert buffers, text[-2000:]
    return sum(map(float, caches)), sum(map(float, buffers))


@pytest.mark.parametrize(
    "launch",
    [
        {"ctx_tokens": 4096},
        {"ctx_tokens": 1000, "parallel": 4},
        {"ctx_tokens": 4000, "parallel": 2, "flash_attention": "off"},
        {"ctx_tokens": 8192, "kv_cache_type": "q8_0"},
        {"ctx_tokens": 2048, "kv_cache_type": "q4_0", "batch_tokens": 2048},
    ],
    ids=str,
)
def test_the_estimate(path: Path, launch: dict[str, Any]) -> None:
    data = path.read_bytes()
    need = memory_need(gguf.parse(data, len(data)), **launch)
    caches_mib, buffers_mib = told(path, **launch)
    assert need.kv_bytes / MIB == pytest.approx(caches_mib, abs=0.011)  # the log has two decimals for each cache
    assert buffers_mib / COMPUTE_FACTOR <= need.compute_bytes / MIB <= buffers_mib * COMPUTE_FACTOR
