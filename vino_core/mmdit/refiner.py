"""HunyuanVideo's token refiner: two small transformer blocks over the text stream."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .attention import Attention
from .blocks import MLPEmbedder, Operations, Placement, gated, heads, mlp, timestep_embedding


class RefinerAttention(nn.Module):
    """The projections of a refiner block."""

    def __init__(self, width: int, operations: Operations, placement: Placement) -> None:
        super().__init__()
        self.qkv = operations.Linear(width, 3 * width, **placement)
        self.proj = operations.Linear(width, width, **placement)


class RefinerBlock(nn.Module):
    """Self-attention and SiLU MLP, each gated by the conditioning vector."""

    def __init__(self, width: int, count: int, operations: Operations, placement: Placement) -> None:
        super().__init__()
        norm: dict[str, Any] = {"eps": 1e-6, **placement}
        self.count = count
        self.norm1 = operations.LayerNorm(width, **norm)
        self.self_attn = RefinerAttention(width, operations, placement)
        self.norm2 = operations.LayerNorm(width, **norm)
        self.mlp = mlp(width, 4.0, nn.SiLU(), operations, placement)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), operations.Linear(width, 2 * width, **placement))

    def forward(self, x: Tensor, vector: Tensor, mask: Tensor | None, attention: Attention) -> Tensor:
        gate1, gate2 = self.adaLN_modulation(vector).chunk(2, dim=-1)
        q, k, v = heads(self.self_attn.qkv(self.norm1(x)), 3, self.count)
        x = gated(x, self.self_attn.proj(attention(q, k, v, mask)), gate1)
        return gated(x, self.mlp(self.norm2(x)), gate2)


class RefinerBlocks(nn.Module):
    """Holds the blocks under the name that HunyuanVideo's files use."""

    def __init__(self, width: int, count: int, depth: int, operations: Operations, placement: Placement) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(RefinerBlock(width, count, operations, placement) for _ in range(depth))


class TokenRefiner(nn.Module):
    """Text stream [B, L, text_dim] -> [B, L, C], conditioned on the time and the mean of the text."""

    def __init__(
        self, text_dim: int, width: int, count: int, depth: int, operations: Operations, placement: Placement
    ) -> None:
        super().__init__()
        self.input_embedder = operations.Linear(text_dim, width, **placement)
        self.t_embedder = MLPEmbedder(256, width, operations, placement)
        self.c_embedder = MLPEmbedder(text_dim, width, operations, placement)
        self.individual_token_refiner = RefinerBlocks(width, count, depth, operations, placement)

    def forward(
        self,
        text: Tensor,
        timestep: Tensor,
        mask: Tensor | None,
        attention: Attention,
        padding: Tensor | None = None,
    ) -> Tensor:
        """`mask` [B, L] is nonzero where there is a token, `padding` bool [B, L] True where there is none.

        Either may be None; `model.Conditioning` tells them apart.
        """
        pairs = None
        if padding is not None:
            present = ~padding
            pairs = present[:, None, None]
        elif mask is not None:
            present = mask.bool()
            pairs = (present[:, None, :, None] & present[:, None, None, :]).clone()
            pairs[..., 0] = True  # rows of padding would otherwise attend to nothing and become NaN
        if pairs is None:
            mean = text.float().mean(dim=1)
        else:
            weights = present[..., None].float()
            mean = (text.float() * weights).sum(dim=1) / weights.sum(dim=1)
        vector = self.t_embedder(timestep_embedding(timestep).to(text.dtype)) + self.c_embedder(mean.to(text.dtype))
        x = self.input_embedder(text)
        for block in self.individual_token_refiner.blocks:
            x = block(x, vector, pairs, attention)
        return x
