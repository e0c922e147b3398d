"""Aggregated tokens/s of 16 concurrent streams through a node over the same load sent straight to the engine.

The model is synthetic (about 400 MB of random F16 weights, written in seconds), large enough that the engine is the
bottleneck. The direct path is the node's own engine program started with the same parameters; the two take turns, and
medians are compared.
"""

import argparse
import asyncio
import hashlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import gguf
import msgspec
import numpy as np

from common import call, machine, median, node
from ollamamax.core.types import LaunchSpec

STREAMS = 16
CTX_TOKENS = 512
KEY = "bench"
OPTIONS = {"temperature": 0, "num_ctx": CTX_TOKENS}
PROMPT = "The quick brown fox {n} jumps over the lazy dog."


def write_model(path: Path, width: int = 1024, layers: int = 8, feed_forward: int = 4096) -> None:
    """A llama of random F16 weights with a byte vocabulary padded to 32,000; about 400 MB at the defaults."""
    random = np.random.default_rng(7)
    writer = gguf.GGUFWriter(str(path), "llama")
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    tokens += [f"w{number}".encode() for number in range(32_000 - len(tokens))]
    types = [2, 3, 3, *([6] * 256), *([1] * (32_000 - 259))]
    writer.add_name("bench-400mb")
    writer.add_context_length(4096)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(16)
    writer.add_head_count_kv(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 16)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def weights(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape, dtype=np.float32) * 0.02).astype(np.float16)

    writer.add_tensor("token_embd.weight", weights(len(tokens), width))
    writer.add_tensor("output.weight", weights(len(tokens), width))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(width, width))
        writer.add_tensor(f"blk.{layer}.ffn_gate.weight", weights(feed_forward, width))
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", weights(feed_forward, width))
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", weights(width, feed_forward))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


async def through_node(base: str, tokens: int) -> float:
    """Tokens per second of STREAMS streams through /api/generate."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:

        async def one(n: int) -> int:
            options = {**OPTIONS, "num_predict": tokens}
            body = {"model": "bench", "prompt": PROMPT.format(n=n), "raw": True, "options": options}
            async with session.post(f"{base}/api/generate", json=body) as answer:
                async for line in answer.content:
                    last = json.loads(line)
            assert last.get("done"), last
            return int(last["eval_count"])

        start = time.perf_counter()
        counts = await asyncio.gather(*(one(n) for n in range(STREAMS)))
        return sum(counts) / (time.perf_counter() - start)


async def straight(url: str, tokens: int) -> float:
    """The same load to llama.cpp's own /completion."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=600)) as session:

        async def one(n: int) -> int:
            body = {"prompt": PROMPT.format(n=n), "stream": True, "n_predict": tokens, "temperature": 0,
                    "cache_prompt": True, "return_tokens": True}  # fmt: skip
            async with session.post(f"{url}/completion", json=body) as answer:
                async for line in answer.content:
                    if line.startswith(b"data: "):
                        last = json.loads(line[6:])
            assert last["stop"], last
            return int(last["tokens_predicted"])

        start = time.perf_counter()
        counts = await asyncio.gather(*(one(n) for n in range(STREAMS)))
        return sum(counts) / (time.perf_counter() - start)


@contextmanager
def engine(path: Path) -> Iterator[str]:
    """The engine's own program with the parameters that the node uses; gives its base url."""
    spec = LaunchSpec(key="bench", name="bench", model_path=str(path), ctx_tokens=CTX_TOKENS, parallel=STREAMS)
    config = msgspec.json.encode({**msgspec.structs.asdict(spec), "api_key": KEY}) + b"\n"
    command = [sys.executable, "-m", "ollamamax.adapters.engines.llamacpp_child"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(config)
        child.stdin.flush()
        yield f"http://127.0.0.1:{json.loads(child.stdout.readline())['port']}"
    finally:
        child.stdin.close()  # its lifeline
        child.wait(timeout=20)
        child.stdout.close()


def upload(base: str, path: Path) -> None:
    """The model into the node's store, as `ollamamax create` does it."""
    with path.open("rb") as file:
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    with path.open("rb") as file:
        request = urllib.request.Request(f"{base}/api/blobs/{digest}", data=file, method="POST")
        request.add_header("Content-Length", str(path.stat().st_size))
        urllib.request.urlopen(request, timeout=300).close()
    call("POST", f"{base}/api/create", {"model": "bench", "files": {path.name: digest}, "stream": False})


def compare(path: Path, rounds: int, tokens: int) -> tuple[list[float], list[float]]:
    """Tokens/s of each round: (direct, through the node). Only one of the two engines computes at a time."""
    direct, through = [], []
    extra = {"OLLAMA_NUM_PARALLEL": str(STREAMS), "OLLAMA_CONTEXT_LENGTH": str(CTX_TOKENS)}
    with engine(path) as url, node(extra) as (base, _, _):
        upload(base, path)
        asyncio.run(straight(url, 4))
        asyncio.run(through_node(base, 4))
        for number in range(rounds):
            direct.append(asyncio.run(straight(url, tokens)))
            through.append(asyncio.run(through_node(base, tokens)))
            print(f"round {number + 1}: direct {direct[-1]:.1f} tok/s, node {through[-1]:.1f} tok/s", flush=True)
    return direct, through


def main() -> int:
    """Print the table; the exit code is 1 below 0.95 of the direct rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of both paths (default 5)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per stream (default 64)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ollamamax-bench-") as folder:
        path = Path(folder) / "bench.gguf"
        write_model(path)
        size_mb = path.stat().st_size / 1e6
        direct, through = compare(path, options.rounds, options.tokens)
    ratio = median(through) / median(direct)
    print(f"\nmachine: {machine()}\nmodel: synthetic llama, F16, {size_mb:.0f} MB; {STREAMS} streams\n")
    print("| path | tokens/s, median | ratio |\n|---|---|---|")
    print(f"| direct | {median(direct):.1f} | 1.00 |\n| through a node | {median(through):.1f} | {ratio:.3f} |")
    print(f"\ngoal (>= 0.95): {'met' if ratio >= 0.95 else 'MISSED'}")
    return 0 if ratio >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
