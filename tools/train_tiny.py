"""Trains the demo model `tiny` from scratch, on text that it makes itself, and writes it as a GGUF.

Needs, beside Python 3.11: torch, numpy, gguf (and a C++ compiler with --compile). The product needs none of them.
One seed decides text, tokeniser, initial weights and order of the batches.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from tiny_gguf import write
from tiny_model import Llama, Shape, optimisers
from tiny_talk import draw
from tiny_template import pieces
from tiny_tokens import Tokeniser, train

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "src" / "ollamamax" / "data" / "tiny" / "tiny.gguf"
LENGTHS = (48, 96, 192, 288, 448, 704, 1024)
BATCH_TOKENS = 4096
VOCABULARY, BLANKS = 1536, 520

Batch = tuple[torch.Tensor, torch.Tensor]


def tokeniser_of(seed: int) -> Tokeniser:
    """Learn the tokeniser from its own sample of conversations."""
    rng = random.Random(seed)
    texts = ("".join(text for text, _ in pieces(draw(rng))) for _ in range(20000))
    return train(texts, VOCABULARY, BLANKS)


def batches(tokeniser: Tokeniser, seed: int) -> Iterator[Batch]:
    """Yield batches of token ids and loss weights without end, of about BATCH_TOKENS, rows of similar length."""
    rng = random.Random(seed)
    waiting: dict[int, list[tuple[list[int], list[float]]]] = {length: [] for length in LENGTHS}
    while True:
        ready: list[Batch] = []
        for _ in range(6000):
            ids, weights = tokeniser.encode_weighted(pieces(draw(rng)))
            length = next((size for size in LENGTHS if len(ids) <= size), LENGTHS[-1])
            rows = waiting[length]
            rows.append((ids[:length], weights[:length]))
            if len(rows) == BATCH_TOKENS // length:
                ready.append(_tensors(rows, length))
                waiting[length] = []
        rng.shuffle(ready)
        yield from ready


def _tensors(rows: list[tuple[list[int], list[float]]], length: int) -> Batch:
    """Pad rows at the end; padding has weight 0 and comes after all that attends."""
    ids = np.zeros((len(rows), length), dtype=np.int64)
    weights = np.zeros((len(rows), length), dtype=np.float32)
    for i, (row, row_weights) in enumerate(rows):
        ids[i, : len(row)], weights[i, : len(row)] = row, row_weights
    return torch.from_numpy(ids), torch.from_numpy(weights)


def rate(step: int, steps: int) -> float:
    """Return the factor on the learning rates: a short rise, a plateau, a linear fall over the last 60 %."""
    return min(1.0, (step + 1) / 60, max(0.02, (steps - step) / (0.6 * steps)))


def export(model: Llama, tokeniser: Tokeniser, path: Path, quant: str) -> None:
    """Write the weights as they are now."""
    tensors = {
        name if name.endswith(".weight") else f"{name}.weight": value.detach().float().numpy()
        for name, value in model.state_dict().items()
    }
    size = write(path, model.shape, tensors, tokeniser, quant)
    print(f"wrote {path}: {size} bytes", flush=True)


def run(args: argparse.Namespace) -> None:
    """Train for args.steps and write the model now and then, and at the end."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    tokeniser = tokeniser_of(args.seed)
    model = Llama(Shape(len(tokeniser.tokens), heads=4, kv_heads=2), LENGTHS[-1])
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    if args.compile:
        model.hidden = torch.compile(model.hidden)  # type: ignore[method-assign]
    opts = optimisers(model, args.matrix_rate, args.other_rate)
    full = [[group["lr"] for group in opt.param_groups] for opt in opts]
    source = batches(tokeniser, args.seed + 1)
    start, seen, losses = time.monotonic(), 0, []
    for step in range(args.steps):
        ids, weights = next(source)
        for opt, rates in zip(opts, full, strict=True):
            for group, base in zip(opt.param_groups, rates, strict=True):
                group["lr"] = base * rate(step, args.steps)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(ids, weights)
        loss.backward()
        for opt in opts:
            opt.step()
            opt.zero_grad()
        seen += ids.numel()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            took = time.monotonic() - start
            mean = sum(losses[-50:]) / 50
            print(f"step {step + 1} loss {mean:.4f} tokens {seen} time {took:.0f} s", flush=True)
        if args.every and (step + 1) % args.every == 0:
            export(model, tokeniser, args.out, args.quant)
    export(model, tokeniser, args.out, args.quant)
    if args.keep:
        torch.save(model.state_dict(), args.keep)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=11434)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--matrix-rate", type=float, default=0.02, help="learning rate of the blocks' matrices (Muon)")
    parser.add_argument("--other-rate", type=float, default=0.004, help="learning rate of all else (AdamW)")
    parser.add_argument("--quant", choices=["f16", "q8_0"], default="f16")
    parser.add_argument("--every", type=int, default=0, help="also write the model every so many steps")
    parser.add_argument("--compile", action="store_true", help="fuse the network's loops; twice as fast")
    parser.add_argument("--keep", type=Path, help="also keep the float32 weights here")
    parser.add_argument("--out", type=Path, default=OUT)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
