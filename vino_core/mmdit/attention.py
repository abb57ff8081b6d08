"""Rotary embedding and the attention that is used outside ComfyUI."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class Attention(Protocol):
    """Multi-head attention: q, k, v [B, heads, N, D] and an optional boolean mask -> [B, N, heads * D]."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor: ...


def without_padding(attention: Attention, present: Tensor) -> Attention:
    """`attention` that sees a key only where `present`, bool [B, N], is True."""
    mask = present[:, None, None]
    return lambda q, k, v, _=None: attention(q, k, v, mask)


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """PyTorch's own attention, see `Attention`."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and mask is None and not torch.is_grad_enabled():
        return bfloat16_rows(q, k, v)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def bfloat16_rows(q: Tensor, k: Tensor, v: Tensor, scores: int = 1 << 24) -> Tensor:
    """Attention of `Attention` by whole rows of scores, at most `scores` of them at a time, for bfloat16 on CPUs.

    PyTorch's fused kernel uses no bfloat16 instructions on CPUs without AMX and is then slower than this by 3x.
    """
    batch, count, length, width = q.shape
    # The mean key moves all scores of a row alike, which softmax ignores; without it the scores round less.
    keys = (k - k.float().mean(dim=2, keepdim=True)).to(k.dtype).transpose(2, 3)
    out = q.new_empty(batch, length, count, width)
    rows = max(256, scores // k.shape[2])
    for sample in range(batch):
        for head in range(count):
            for start in range(0, length, rows):
                query = q[sample, head, start : start + rows]
                row = torch.addmm(query.new_zeros(()), query, keys[sample, head], beta=0, alpha=width**-0.5)
                out[sample, start : start + rows, head] = row.softmax(dim=-1) @ v[sample, head]
    return out.flatten(2)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate neighbouring pairs of `x` [B, heads, N, D] by the complex factors `table` [N, D/2], in float32."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * table).flatten(-2).to(x.dtype)
