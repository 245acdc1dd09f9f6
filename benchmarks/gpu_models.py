"""ViT-L/16 and a block of Llama-3-8B's shape as plain torch modules, dense or with half the inner width."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Sizes:
    """Widths of a transformer block; `kv_heads` below `heads` shares keys and values among heads."""

    width: int
    heads: int
    kv_heads: int
    head: int
    hidden: int

    def halved(self) -> Sizes:
        """Half the heads and half the hidden width: every linear layer keeps half its products."""
        return Sizes(self.width, self.heads // 2, self.kv_heads // 2, self.head, self.hidden // 2)


VIT_L = Sizes(1024, 16, 16, 64, 4096)
LLAMA_8B = Sizes(4096, 32, 8, 128, 14336)
TINY = Sizes(64, 4, 2, 16, 128)


class Attention(nn.Module):
    """Scaled dot-product attention, causal and with rotary positions for language models."""

    def __init__(self, sizes: Sizes, causal: bool, bias: bool) -> None:
        super().__init__()
        self.sizes, self.causal = sizes, causal
        outputs = (sizes.heads + 2 * sizes.kv_heads) * sizes.head
        self.qkv = nn.Linear(sizes.width, outputs, bias=bias)
        self.out = nn.Linear(sizes.heads * sizes.head, sizes.width, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s, (batch, tokens, _) = self.sizes, x.shape
        parts = self.qkv(x).split([s.heads * s.head, s.kv_heads * s.head, s.kv_heads * s.head], -1)
        q, k, v = (part.view(batch, tokens, -1, s.head).transpose(1, 2) for part in parts)
        if self.causal:
            q, k = _rotated(q), _rotated(k)
        shared = s.kv_heads != s.heads
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=shared)
        mixed: torch.Tensor = self.out(y.transpose(1, 2).reshape(batch, tokens, -1))
        return mixed


def _rotated(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions (angles are computed here; a serving stack keeps them)."""
    half = x.shape[-1] // 2
    steps = torch.arange(half, device=x.device) / half
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * 500000.0**-steps
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Gated(nn.Module):
    """Llama's feed-forward part; gate and up are one product."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.gate_up = nn.Linear(sizes.width, 2 * sizes.hidden, bias=False)
        self.down = nn.Linear(sizes.hidden, sizes.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        y: torch.Tensor = self.down(functional.silu(gate) * up)
        return y


class Block(nn.Module):
    """Norm, attention, norm, feed-forward, with residuals."""

    def __init__(self, sizes: Sizes, language: bool) -> None:
        super().__init__()
        norm = nn.RMSNorm if language else nn.LayerNorm
        self.norm1, self.norm2 = norm(sizes.width), norm(sizes.width)
        self.attention = Attention(sizes, language, not language)
        plain = (nn.Linear(sizes.width, sizes.hidden), nn.GELU(), nn.Linear(sizes.hidden, sizes.width))
        self.feed = Gated(sizes) if language else nn.Sequential(*plain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        y: torch.Tensor = x + self.feed(self.norm2(x))
        return y


class Vit(nn.Module):
    """ViT with patches of `patch` pixels, a class token and no dropout."""

    def __init__(self, sizes: Sizes = VIT_L, depth: int = 24, image: int = 224, patch: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, sizes.width, patch, patch)
        self.first = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.positions = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 1, sizes.width))
        self.blocks = nn.Sequential(*(Block(sizes, language=False) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(sizes.width), nn.Linear(sizes.width, 1000)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.positions
        y: torch.Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return y
