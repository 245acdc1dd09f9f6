"""`nn.MultiheadAttention` whose heads together are narrower (or wider) than the embedding that they read and make."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nf
from torch import nn


class NarrowAttention(nn.MultiheadAttention):
    """Takes the place of an `nn.MultiheadAttention` whose embedding did not lose as much as its heads.

    PyTorch's own takes the width of a head to be the embedding's divided by the number of heads. This one has the same
    parameters, arguments and results, with `head_dim` as it is; it is never constructed, but an attention is turned
    into it (`narrow`). It is not `_qkv_same_embed_dim`, which keeps the layers around it from their one-kernel path.
    """

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `nn.MultiheadAttention` does."""
        single = query.dim() == 2
        inputs = [
            t.unsqueeze(0) if single else t if self.batch_first else t.transpose(0, 1) for t in (query, key, value)
        ]
        q, k, v = (self._split(t) for t in self._projected(*inputs))
        k, v = self._longer(k, self.bias_k), self._longer(v, self.bias_v)
        mask = self._mask(q, k, key_padding_mask, attn_mask)
        if is_causal and (mask is None or not (need_weights or key_padding_mask is not None)):
            mask = _additive(torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1), q)
        found, weights = self._attend(q, k, v, mask, need_weights)
        out = self.out_proj(found.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if single:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, need_weights: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        scale, dropout = self.head_dim**-0.5, self.dropout if self.training else 0.0
        if not need_weights:
            return nf.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale), None
        scores = q @ k.transpose(-1, -2) * scale
        weights = nf.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
        return weights @ v, weights

    def _batched(self, x: torch.Tensor) -> torch.Tensor:
        """Batch, positions, embedding."""
        return x.unsqueeze(0) if x.dim() == 2 else x if self.batch_first else x.transpose(0, 1)

    def _projected(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        own = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = own if self.in_proj_weight is None else self.in_proj_weight.chunk(3)
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return [nf.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """Batch, heads, positions, width."""
        return x.view(*x.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)

    def _longer(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """With the positions that `add_bias_kv` and `add_zero_attn` add."""
        if bias is not None:
            x = torch.cat([x, self._split(bias.expand(x.shape[0], -1, -1))], 2)
        return nf.pad(x, (0, 0, 0, 1)) if self.add_zero_attn else x

    def _mask(
        self, q: torch.Tensor, k: torch.Tensor, padding: torch.Tensor | None, mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        """What to add to the scores, of four axes; positions that were added are seen by all."""
        total = None
        if padding is not None:
            total = _additive(padding if padding.dim() == 2 else padding.unsqueeze(0), q)[:, None, None, :]
        if mask is not None:
            own = _additive(mask, q)
            own = own if own.dim() == 2 else own.reshape(-1, self.num_heads, *own.shape[1:])
            total = own if total is None else total + own
        more = k.shape[2] - total.shape[-1] if total is not None else 0
        return nf.pad(total, (0, more)) if total is not None and more else total


def _additive(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if mask.dtype is not torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))


def narrow(module: nn.MultiheadAttention) -> None:
    """Turn an attention of PyTorch's own into a `NarrowAttention`, in place."""
    module.__class__ = NarrowAttention
    module._qkv_same_embed_dim = False


def plainly(module: Any) -> None:
    """Keep an `nn.TransformerEncoder` around narrow attention from packing sequences for the one-kernel path."""
    if any(isinstance(child, NarrowAttention) for child in module.modules()):
        module.use_nested_tensor = module.enable_nested_tensor = False


def narrowed(module: nn.Module) -> str:
    """Which attentions of a module were turned into such, in words."""
    paths = [path for path, child in module.named_modules() if isinstance(child, NarrowAttention)]
    if not paths:
        return ""
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    first = f"'{paths[0]}'" if paths[0] else "the module itself"
    return f"nn.MultiheadAttention became graphprune's NarrowAttention, whose heads may be fewer ({first}{more})"
