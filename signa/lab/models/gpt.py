"""A GPT over tokens: what the optimizer is shown on.

Names decide routing: `embed` and `head` go to the dense group, every other parameter is a matrix (`q`, `k`, `v`, or the
three merged in `qkv`; `proj`, `fc`, `out`). There are no biases and no learnable gains, so only the two vocabulary
matrices are dense.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["GPT", "Qkv"]

#: Whether queries, keys and values have a matrix each, or one together: (3 width, width), queries first.
Qkv = Literal["separate", "merged"]

ROTARY_BASE = 10_000.0  # arXiv 2104.09864, section 3.3


class Attention(nn.Module):
    """Causal self-attention with rotary positions and normalised queries and keys.

    Why: four square matrices of one shape make one stack. Merged, they are the way most code has them, and the group's
    `matrix: "(three o) i -> three o i"` takes them apart again. Normalised `q` and `k` (arXiv 2010.04245) bound
    the logits, which the optimizers compared here would otherwise grow at different speeds.

    Shapes: (batch, time, width) -> the same.
    """

    def __init__(self, width: int, heads: int, qkv: Qkv = "separate") -> None:
        super().__init__()
        self.count, self.merged = heads, qkv == "merged"
        if self.merged:
            self.qkv = nn.Linear(width, 3 * width, bias=False)
        else:
            self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Mix the tokens of each sequence with those before them."""
        b, t, width = x.shape
        parts = self.qkv(x).chunk(3, dim=-1) if self.merged else (self.q(x), self.k(x), self.v(x))
        q, k, v = (rearrange(part, "b t (h d) -> b h t d", h=self.count) for part in parts)
        q, k = rotate(rms_norm(q), cos, sin), rotate(rms_norm(k), cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(b, t, width))
        return out


class Block(nn.Module):
    """`x <- x + attention(norm x);  x <- x + out(relu(fc(norm x))^2)`, the squared ReLU of arXiv 2109.08668."""

    def __init__(self, width: int, heads: int, qkv: Qkv = "separate") -> None:
        super().__init__()
        self.attention = Attention(width, heads, qkv)
        self.fc = nn.Linear(width, 4 * width, bias=False)
        self.out = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Apply the two residual branches."""
        x = x + self.attention(rms_norm(x), cos, sin)
        out: Tensor = x + self.out(F.relu(self.fc(rms_norm(x))).square())
        return out


class GPT(nn.Module):
    """A pre-norm transformer over tokens with an untied head.

    Shapes: tokens (batch, time) of integers -> logits (batch, time, vocabulary) in float32.

    >>> GPT(vocabulary=65, layers=1, heads=2, width=16, context=8)(torch.zeros(3, 8, dtype=torch.long)).shape
    torch.Size([3, 8, 65])
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self, *, vocabulary: int, layers: int, heads: int, width: int, context: int, qkv: Qkv = "separate"
    ) -> None:
        super().__init__()
        self.context = context
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, heads, qkv) for _ in range(layers))
        self.head = nn.Linear(width, vocabulary, bias=False)
        cos, sin = rotary(context, width // heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the weights from torch's global generator: N(0, 1/fan_in), the branch outputs and the head zero.

        Why: zero branch outputs make each block the identity at the start (arXiv 1901.09321).
        """
        for name, p in self.named_parameters():
            if name.endswith(("proj.weight", "out.weight", "head.weight")):
                p.zero_()
            else:
                p.normal_(std=1.0 if name == "embed.weight" else 1.0 / math.sqrt(p.shape[1]))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of each next token."""
        time = tokens.shape[1]
        cos, sin = self.cos[:time], self.sin[:time]
        x = rms_norm(self.embed(tokens))
        for block in self.blocks:
            x = block(x, cos, sin)
        logits: Tensor = self.head(rms_norm(x))
        return logits.float()


def rms_norm(x: Tensor) -> Tensor:
    """`x / sqrt(mean(x^2))` over the last axis, without a gain (arXiv 1910.07467)."""
    return F.rms_norm(x, (x.shape[-1],))


def rotary(context: int, dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, each (context, dim / 2)."""
    frequency = ROTARY_BASE ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    angle = torch.outer(torch.arange(context, dtype=torch.float32), frequency)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i + d/2}) by its position's angle (arXiv 2104.09864, equation 34).

    Shapes: (..., time, d) -> the same.
    """
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
