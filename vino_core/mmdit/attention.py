"""Rotary embedding and the attention that is used outside ComfyUI."""

from __future__ import annotations

from functools import cache
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


_SCORES = 1 << 24
"""How many scores attention on CPUs may hold at a time."""


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """PyTorch's own attention, see `Attention`, but for bfloat16 on CPUs.

    There PyTorch's fused kernel uses no bfloat16 instructions on CPUs without AMX: it is slower than plain matrix
    products by 3x, its backward pass by 10x. With AMX it is faster by 2x to 3x where nothing is to be learnt from it.
    """
    if _bfloat16_on_cpu(q) and (torch.is_grad_enabled() or not _has_amx()):
        batch, count, length, _ = q.shape
        if batch * count * length * k.shape[2] <= _SCORES:
            return bfloat16_scores(q, k, v, mask)
        if mask is None and not torch.is_grad_enabled():
            return bfloat16_rows(q, k, v)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def _bfloat16_on_cpu(q: Tensor) -> bool:
    if q.device.type != "cpu":
        return False
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return autocast or q.dtype == torch.bfloat16


@cache
def _has_amx() -> bool:
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)  # PyTorch has no public name for it
    return supported is not None and bool(supported())


def _centred(k: Tensor) -> Tensor:
    """Keys less their mean, in bfloat16. It moves all scores of a row alike, which softmax ignores; without it the
    scores round less."""
    return (k - k.detach().float().mean(dim=2, keepdim=True)).to(torch.bfloat16)


def bfloat16_scores(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of `Attention` in bfloat16 with all scores at once; for training, too."""
    batch, count, length, width = q.shape
    query, value = q.to(torch.bfloat16).flatten(0, 1), v.to(torch.bfloat16).flatten(0, 1)
    keys = _centred(k).flatten(0, 1).transpose(1, 2)
    hidden = query.new_zeros(())
    if mask is not None:
        hidden = query.new_zeros(mask.shape).masked_fill_(~mask, -torch.inf).expand(batch, count, -1, -1).flatten(0, 1)
    scores = torch.baddbmm(hidden, query, keys, beta=0 if mask is None else 1, alpha=width**-0.5)
    out = torch.bmm(scores.softmax(dim=-1), value)  # computed in float32, kept in bfloat16
    return out.unflatten(0, (batch, count)).transpose(1, 2).flatten(2)


def bfloat16_rows(q: Tensor, k: Tensor, v: Tensor, scores: int = _SCORES) -> Tensor:
    """Attention of `Attention` by whole rows of scores, at most `scores` of them at a time, for bfloat16 on CPUs."""
    q, v = q.to(torch.bfloat16), v.to(torch.bfloat16)
    batch, count, length, width = q.shape
    keys = _centred(k).transpose(2, 3)
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
