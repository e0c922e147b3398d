"""The network of the demo model `tiny` and the optimiser that trains it.

A llama-architecture decoder (RMSNorm, rotary positions, grouped-query attention, SwiGLU), written so
that its weights map one to one on the tensors llama.cpp expects. Needs PyTorch, which only the training
script needs; the product itself does not import this file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes of the network, in elements (not bytes)."""

    vocab: int
    width: int = 256
    layers: int = 5
    heads: int = 8
    kv_heads: int = 4
    hidden: int = 512
    rope_base: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


def rotary_tables(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the rotary angles, each (length, head_dim / 2)."""
    steps = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    angles = torch.outer(torch.arange(length, dtype=torch.float32), shape.rope_base**-steps)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring pairs (2i, 2i+1) of x (batch, heads, time, head_dim).

    llama.cpp pairs neighbours for the llama architecture, so exported weights need no permutation.
    """
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).to(x.dtype)


class Block(nn.Module):
    """One decoder layer: attention, then the gated feed-forward, each on a normalised residual."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv_width = shape.kv_heads * shape.head_dim
        self.attn_norm = nn.Parameter(torch.ones(shape.width))
        self.attn_q = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_k = nn.Linear(shape.width, kv_width, bias=False)
        self.attn_v = nn.Linear(shape.width, kv_width, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_norm = nn.Parameter(torch.ones(shape.width))
        self.ffn_gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map the residual stream (batch, time, width) to the next one."""
        shape = self.shape
        h = F.rms_norm(x, (shape.width,), self.attn_norm, shape.norm_eps)
        q = self.attn_q(h).unflatten(-1, (shape.heads, -1)).transpose(1, 2)
        k = self.attn_k(h).unflatten(-1, (shape.kv_heads, -1)).transpose(1, 2)
        v = self.attn_v(h).unflatten(-1, (shape.kv_heads, -1)).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.attn_output(mixed.transpose(1, 2).flatten(-2))
        h = F.rms_norm(x, (shape.width,), self.ffn_norm, shape.norm_eps)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))


class Llama(nn.Module):
    """The whole decoder; parameter names follow the tensor names of a GGUF."""

    def __init__(self, shape: Shape, max_length: int) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocab, shape.width)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = nn.Parameter(torch.ones(shape.width))
        self.output = nn.Linear(shape.width, shape.vocab, bias=False)
        cos, sin = rotary_tables(shape, max_length)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.reset()

    def reset(self) -> None:
        """Draw the initial weights; residual outputs start at zero so that each block starts as identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.5 * module.in_features**-0.5)
        nn.init.normal_(self.token_embd.weight, std=0.5)
        for block in self.blk:
            nn.init.zeros_(block.attn_output.weight)
            nn.init.zeros_(block.ffn_down.weight)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return the normalised last hidden states (batch, time, width) of token ids (batch, time)."""
        length = tokens.shape[1]
        x = self.token_embd(tokens)
        cos, sin = self.cos[:length], self.sin[:length]
        for block in self.blk:
            x = block(x, cos, sin)
        return F.rms_norm(x, (self.shape.width,), self.output_norm, self.shape.norm_eps)

    def loss(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted mean cross-entropy (nats per token).

        tokens: ids (batch, time). weights: (batch, time), the weight of predicting that very token;
        positions of weight 0 skip the output layer, which saves most of its cost.
        """
        h = self.hidden(tokens[:, :-1])
        weights = weights[:, 1:]
        chosen = weights > 0
        logits = self.output(h[chosen]).float()
        each = F.cross_entropy(logits, tokens[:, 1:][chosen], reduction="none")
        return (each * weights[chosen]).sum() / weights[chosen].sum()


def orthogonalise(grad: Tensor, steps: int = 5) -> Tensor:
    """Approximate the nearest semi-orthogonal matrix of a gradient by a quintic Newton-Schulz iteration."""
    x = grad.bfloat16()
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tall else x).to(grad.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalised: for the matrices inside the blocks (K. Jordan's Muon)."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply one update from the gradients in place."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state["buf"] = torch.zeros_like(param)
                buf = state["buf"].lerp_(param.grad, 1 - group["momentum"])
                step = orthogonalise(param.grad.lerp(buf, group["momentum"]))
                scale = max(1.0, param.shape[0] / param.shape[1]) ** 0.5
                param.mul_(1 - group["lr"] * group["decay"])
                param.add_(step, alpha=-group["lr"] * scale)


def optimisers(model: Llama, matrix_lr: float, other_lr: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the blocks' matrices and AdamW for embeddings, output and norms."""
    matrices = [p for p in model.blk.parameters() if p.ndim == 2]
    rest = [model.token_embd.weight, model.output.weight]
    norms = [p for p in model.parameters() if p.ndim == 1]
    adam = torch.optim.AdamW(
        [{"params": rest, "lr": other_lr}, {"params": norms, "lr": other_lr, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        weight_decay=0.01,
        fused=True,
    )
    return [Muon(matrices, lr=matrix_lr, decay=0.1), adam]
