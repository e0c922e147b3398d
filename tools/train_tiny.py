"""Trains the demo model `tiny` from scratch, on text that it makes itself, and writes it as a GGUF.

Needs, beside Python 3.11: torch, numpy, gguf (and a C++ compiler with --compile). The product needs none of them.
One seed decides text, tokeniser, initial weights and order of the batches.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from tiny_focus import focused
from tiny_gguf import write
from tiny_model import Llama, Shape, optimisers
from tiny_talk import draw
from tiny_template import Talk, pieces
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


def batches(tokeniser: Tokeniser, seed: int, draw: Callable[[random.Random], Talk]) -> Iterator[Batch]:
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


def learn(model: Llama, opts: list[torch.optim.Optimizer], batch: Batch) -> float:
    """Take one step and return its loss (nats per token)."""
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(*batch)
    loss.backward()
    for opt in opts:
        opt.step()
        opt.zero_grad()
    return loss.item()


def save(path: Path, model: Llama, opts: list[torch.optim.Optimizer], step: int) -> None:
    """Keep what a later run needs to go on at this step; a reader never sees half of it."""
    part = path.with_name(f".{path.name}.part")
    torch.save({"model": model.state_dict(), "opts": [opt.state_dict() for opt in opts], "step": step}, part)
    part.replace(path)


def resume(path: Path, model: Llama, opts: list[torch.optim.Optimizer]) -> int:
    """Load what `save` kept and return the step to go on with. Without "opts" the momenta start at zero."""
    kept = torch.load(path, weights_only=True)
    model.load_state_dict(kept["model"])
    for opt, state in zip(opts, kept.get("opts", []), strict=False):
        opt.load_state_dict(state)
    return int(kept["step"])


def run(args: argparse.Namespace) -> None:
    """Train up to args.steps, write the model at the end, and keep what is needed to go on."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    tokeniser = tokeniser_of(args.seed)
    model = Llama(Shape(len(tokeniser.tokens), heads=4, kv_heads=2), LENGTHS[-1])
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    opts = optimisers(model, args.matrix_rate, args.other_rate)
    full = [[group["lr"] for group in opt.param_groups] for opt in opts]
    step = first = resume(args.resume, model, opts) if args.resume else 0
    if args.compile:
        model.hidden = torch.compile(model.hidden)  # type: ignore[method-assign]
    broad = batches(tokeniser, args.seed + 1 + first, draw)
    narrow = batches(tokeniser, args.seed + 2 + first, focused)
    start, losses = time.monotonic(), []
    while step < args.steps and time.monotonic() - start < args.minutes * 60:
        for opt, rates in zip(opts, full, strict=True):
            for group, base in zip(opt.param_groups, rates, strict=True):
                group["lr"] = base * rate(step, args.steps)
        losses.append(learn(model, opts, next(narrow if step >= args.focus_from else broad)))
        step += 1
        if step % 50 == 0:
            mean = sum(losses[-50:]) / len(losses[-50:])
            print(f"step {step} loss {mean:.4f} time {time.monotonic() - start:.0f} s", flush=True)
        if args.keep and step % 300 == 0:
            save(args.keep, model, opts, step)
    if args.keep:
        save(args.keep, model, opts, step)
    if step >= args.steps:
        export(model, tokeniser, args.out, args.quant)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--focus-from", type=int, default=2400, help="from this step on, dwell on sums and the like")
    parser.add_argument("--seed", type=int, default=11434)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--matrix-rate", type=float, default=0.02, help="learning rate of the blocks' matrices (Muon)")
    parser.add_argument("--other-rate", type=float, default=0.004, help="learning rate of all else (AdamW)")
    parser.add_argument("--quant", choices=["f16", "q8_0"], default="f16")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this wall time; --resume goes on")
    parser.add_argument("--compile", action="store_true", help="fuse the network's loops; twice as fast")
    parser.add_argument("--keep", type=Path, help="keep weights and momenta here, every 300 steps and at the end")
    parser.add_argument("--resume", type=Path, help="go on from what --keep kept")
    parser.add_argument("--out", type=Path, default=OUT)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
