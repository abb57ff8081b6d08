"""The building blocks of HunyuanVideo's MMDiT, with its own parameter names.

Every constructor takes `operations` (torch.nn or a replacement of its layers, such as ComfyUI's) and a `placement`
of dtype and device. Every forward takes the attention to use, see `Attention`.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from .attention import Attention, rotate

Operations = ModuleType | Any


class Placement(TypedDict):
    """Where new parameters live and of which type."""

    dtype: torch.dtype | None
    device: torch.device | str | None


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`x * (1 + scale) + shift` with per-sample [B, C] shift and scale on [B, N, C]."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


def gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """`x + gate * update` with a per-sample [B, C] gate on [B, N, C]."""
    return torch.addcmul(x, update, gate[:, None])


def heads(x: Tensor, parts: int, count: int) -> tuple[Tensor, ...]:
    """Split a fused projection [B, N, parts * heads * D] into `parts` tensors [B, heads, N, D]."""
    return x.unflatten(-1, (parts, count, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _timestep_frequencies() -> Tensor:
    """128 float32 frequencies from 1 down to almost 1/10,000: exp of float32 exponents, each rounded once.

    A float32 exp is not the same on every machine: MKL rounds other entries on Intel than on AMD. One last bit of one
    frequency turns the embedding of VOGUE's guidance, 6000, by up to 4e-4 and moves the output of the tiny transformer
    by 1e-4, so float64 takes the exponential and every machine gets the same bits.
    """
    exponents = -torch.arange(128, dtype=torch.float32, device="cpu") / 128 * math.log(10000.0)
    frequencies = exponents.double().exp().float()
    # The machine of the reference numbers rounded entry 12 up, where exact rounding is down (its fraction is 0.479).
    frequencies[12] = torch.nextafter(frequencies[12], frequencies.new_tensor(1.0))
    return frequencies


TIMESTEP_FREQUENCIES = _timestep_frequencies()


def timestep_embedding(t: Tensor) -> Tensor:
    """Cosines, then sines, of `t` [B] at 128 frequencies from 1 down to almost 1/10,000. Float32 [B, 256]."""
    angles = t.float()[:, None] * TIMESTEP_FREQUENCIES.to(t.device)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class MLPEmbedder(nn.Module):
    """Linear -> SiLU -> Linear."""

    def __init__(self, in_width: int, width: int, operations: Operations, placement: Placement) -> None:
        super().__init__()
        self.in_layer = operations.Linear(in_width, width, **placement)
        self.out_layer = operations.Linear(width, width, **placement)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(nn.functional.silu(self.in_layer(x)))


class QKNorm(nn.Module):
    """RMSNorm of queries and keys over the head width. They keep their type, but under autocast that of the weights."""

    def __init__(self, width: int, operations: Operations, placement: Placement) -> None:
        super().__init__()
        self.query_norm = operations.RMSNorm(width, eps=1e-6, **placement)
        self.key_norm = operations.RMSNorm(width, eps=1e-6, **placement)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        if torch.is_autocast_enabled(q.device.type):
            if self.query_norm.weight.dtype == torch.float32:
                q, k = q.float(), k.float()  # PyTorch's fused norm takes no two types
            return self.query_norm(q), self.key_norm(k)
        # Weights of another type stay as they are in ComfyUI, and most attentions want queries, keys and values alike.
        return self.query_norm(q).to(q.dtype), self.key_norm(k).to(k.dtype)


class Modulation(nn.Module):
    """SiLU -> Linear: `count` vectors [B, C] per sample from the conditioning vector."""

    def __init__(self, width: int, count: int, operations: Operations, placement: Placement) -> None:
        super().__init__()
        self.count = count
        self.lin = operations.Linear(width, count * width, **placement)

    def forward(self, vector: Tensor) -> tuple[Tensor, ...]:
        return self.lin(nn.functional.silu(vector)).chunk(self.count, dim=-1)


class StreamAttention(nn.Module):
    """Projections of one stream of a double block."""

    def __init__(self, width: int, count: int, operations: Operations, placement: Placement) -> None:
        super().__init__()
        self.count = count
        self.qkv = operations.Linear(width, 3 * width, **placement)
        self.norm = QKNorm(width // count, operations, placement)
        self.proj = operations.Linear(width, width, **placement)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, N, C] -> normalised queries and keys, and values, each [B, heads, N, D]."""
        q, k, v = heads(self.qkv(x), 3, self.count)
        return *self.norm(q, k), v


def mlp(width: int, ratio: float, activation: nn.Module, operations: Operations, placement: Placement) -> nn.Sequential:
    """Linear -> activation -> Linear with `ratio` times the width in between."""
    hidden = int(width * ratio)
    return nn.Sequential(
        operations.Linear(width, hidden, **placement), activation, operations.Linear(hidden, width, **placement)
    )


class DoubleBlock(nn.Module):
    """Visual and text streams with weights of their own and one joint attention."""

    def __init__(self, width: int, count: int, ratio: float, operations: Operations, placement: Placement) -> None:
        super().__init__()
        norm = {"elementwise_affine": False, "eps": 1e-6, **placement}
        self.img_mod = Modulation(width, 6, operations, placement)
        self.img_norm1 = operations.LayerNorm(width, **norm)
        self.img_attn = StreamAttention(width, count, operations, placement)
        self.img_norm2 = operations.LayerNorm(width, **norm)
        self.img_mlp = mlp(width, ratio, nn.GELU(approximate="tanh"), operations, placement)
        self.txt_mod = Modulation(width, 6, operations, placement)
        self.txt_norm1 = operations.LayerNorm(width, **norm)
        self.txt_attn = StreamAttention(width, count, operations, placement)
        self.txt_norm2 = operations.LayerNorm(width, **norm)
        self.txt_mlp = mlp(width, ratio, nn.GELU(approximate="tanh"), operations, placement)

    def forward(
        self, img: Tensor, txt: Tensor, vector: Tensor, rotary: Tensor, attention: Attention
    ) -> tuple[Tensor, Tensor]:
        """`img` [B, N, C], `txt` [B, L, C], `vector` [B, C], `rotary` [L + N, D/2] -> the updated streams."""
        img_shift1, img_scale1, img_gate1, img_shift2, img_scale2, img_gate2 = self.img_mod(vector)
        txt_shift1, txt_scale1, txt_gate1, txt_shift2, txt_scale2, txt_gate2 = self.txt_mod(vector)

        img_q, img_k, img_v = self.img_attn.project(modulate(self.img_norm1(img), img_shift1, img_scale1))
        txt_q, txt_k, txt_v = self.txt_attn.project(modulate(self.txt_norm1(txt), txt_shift1, txt_scale1))
        q = rotate(torch.cat((txt_q, img_q), dim=2), rotary)
        k = rotate(torch.cat((txt_k, img_k), dim=2), rotary)
        v = torch.cat((txt_v, img_v), dim=2)
        txt_out, img_out = attention(q, k, v).split((txt.shape[1], img.shape[1]), dim=1)

        img = gated(img, self.img_attn.proj(img_out), img_gate1)
        img = gated(img, self.img_mlp(modulate(self.img_norm2(img), img_shift2, img_scale2)), img_gate2)
        txt = gated(txt, self.txt_attn.proj(txt_out), txt_gate1)
        txt = gated(txt, self.txt_mlp(modulate(self.txt_norm2(txt), txt_shift2, txt_scale2)), txt_gate2)
        return img, txt


class SingleBlock(nn.Module):
    """Text and visual tokens in one stream; attention and MLP side by side."""

    def __init__(self, width: int, count: int, ratio: float, operations: Operations, placement: Placement) -> None:
        super().__init__()
        self.count = count
        self.width = width
        hidden = int(width * ratio)
        self.linear1 = operations.Linear(width, 3 * width + hidden, **placement)
        self.linear2 = operations.Linear(width + hidden, width, **placement)
        self.norm = QKNorm(width // count, operations, placement)
        self.pre_norm = operations.LayerNorm(width, elementwise_affine=False, eps=1e-6, **placement)
        self.modulation = Modulation(width, 3, operations, placement)

    def forward(
        self, x: Tensor, vector: Tensor, rotary: Tensor, attention: Attention, rows: slice = slice(None)
    ) -> Tensor:
        """`x` [B, L + N, C], text first -> the `rows` of the updated stream, by default all."""
        shift, scale, gate = self.modulation(vector)
        fused = self.linear1(modulate(self.pre_norm(x), shift, scale))
        # One split: its backward pass joins the two gradients, where slices would each fill and add a whole tensor.
        projected, hidden = fused.split((3 * self.width, fused.shape[-1] - 3 * self.width), dim=-1)
        q, k, v = heads(projected, 3, self.count)
        q, k = self.norm(q[:, :, rows], k)
        attended = attention(rotate(q, rotary[rows]), rotate(k, rotary), v)
        joined = self._join(fused[:, rows], hidden[:, rows], attended)
        return gated(x[:, rows], self.linear2(joined), gate)

    def _join(self, fused: Tensor, hidden: Tensor, attended: Tensor) -> Tensor:
        """Attention's output beside the activated MLP, [B, L + N, width + hidden]."""
        if torch.is_grad_enabled():
            return torch.cat((attended, nn.functional.gelu(hidden, approximate="tanh")), dim=-1)
        # The values are spent, and their place is beside the MLP's: the largest tensors of a step stay the only ones.
        torch.ops.aten.gelu_(hidden, approximate="tanh")
        fused[..., 2 * self.width : 3 * self.width] = attended
        return fused[..., 2 * self.width :]


class FinalLayer(nn.Module):
    """Modulated LayerNorm and the projection from tokens to patches."""

    def __init__(self, width: int, out_width: int, operations: Operations, placement: Placement) -> None:
        super().__init__()
        self.norm_final = operations.LayerNorm(width, elementwise_affine=False, eps=1e-6, **placement)
        self.linear = operations.Linear(width, out_width, **placement)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), operations.Linear(width, 2 * width, **placement))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(vector).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))
