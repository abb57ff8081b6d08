"""The MMDiT with its connectors: velocity of a noisy target, given text and references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config import MMDiTConfig
from ..errors import InputError
from .attention import Attention, sdpa, without_padding
from .blocks import DoubleBlock, FinalLayer, MLPEmbedder, Operations, Placement, SingleBlock, timestep_embedding
from .connectors import Connector
from .packing import Grid, Layout, bounded_layout, pack, rotary_table
from .refiner import TokenRefiner

BlockRunner = Callable[..., Any]
"""Runs one block: `runner(kind, index, block, *arguments, **needed)` with kind "double_block" or "single_block".

`needed` may limit the rows of the result; a runner that ignores it returns them all.
"""


def run_block(kind: str, index: int, block: nn.Module, *arguments: Any, **needed: Any) -> Any:
    """The plain runner. Others may checkpoint, replace or observe the block."""
    return block(*arguments, **needed)


@dataclass(frozen=True)
class Conditioning:
    """What one guidance branch gives to the MMDiT, the same at every step.

    `text` [B, L, text_dim]; `boundaries` [B, 2K, C], start and end of each of the K references in turn, or None;
    `references` scaled latents [B, 16, t, h, w] that stand before the target, `conditions` those behind it.

    Rows of text that are no tokens come in two kinds. `padding` bool [B, L], True in such rows, is seen by nothing: a
    sample's numbers are those that it has alone. `mask` [B, L], zero in such rows, is what the published model gets:
    its refiner leaves them out, its blocks see them. Both are None when there are none.
    """

    text: Tensor
    boundaries: Tensor | None = None
    references: tuple[Tensor, ...] = ()
    mask: Tensor | None = None
    padding: Tensor | None = None
    conditions: tuple[Tensor, ...] = ()


class MMDiT(nn.Module):
    """HunyuanVideo's transformer over packed references and target (VINO paper section 2).

    `layout` decides where references lie; `operations` supplies the layers (torch.nn, or ComfyUI's); parameters are
    named as in HunyuanVideo's own files, connectors as in VINO's.
    """

    def __init__(
        self,
        config: MMDiTConfig,
        layout: Callable[[Sequence[Grid], Grid, Sequence[Grid]], Layout] = bounded_layout,
        operations: Operations = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        placement: Placement = {"dtype": dtype, "device": device}
        width, count = config.hidden_size, config.num_heads
        self.config = config
        self.layout = layout
        self.dtype = dtype
        self.img_in = nn.Module()
        self.img_in.proj = operations.Conv3d(
            config.in_channels, width, kernel_size=config.patch_size, stride=config.patch_size, **placement
        )
        self.time_in = MLPEmbedder(256, width, operations, placement)
        self.guidance_in = MLPEmbedder(256, width, operations, placement) if config.guidance_embed else None
        self.txt_in = TokenRefiner(config.text_dim, width, count, config.depth_refiner, operations, placement)
        self.double_blocks = nn.ModuleList(
            DoubleBlock(width, count, config.mlp_ratio, operations, placement) for _ in range(config.depth)
        )
        self.single_blocks = nn.ModuleList(
            SingleBlock(width, count, config.mlp_ratio, operations, placement) for _ in range(config.depth_single)
        )
        patch = config.patch_size[0] * config.patch_size[1] * config.patch_size[2]
        self.final_layer = FinalLayer(width, patch * config.out_channels, operations, placement)
        for connector in config.connectors:
            self.add_module(connector.name, Connector(connector, operations, dtype, device))

    def grid(self, latents: Tensor) -> Grid:
        """Size of [.., T, H, W] latents in patches. Raises InputError when they do not divide into patches."""
        sizes = latents.shape[-3:]
        if any(size % patch for size, patch in zip(sizes, self.config.patch_size, strict=True)):
            raise InputError(
                f"Latents of {tuple(sizes)} (frames, height, width) do not divide into patches of "
                f"{self.config.patch_size}. Use widths and heights that are multiples of 16 pixels."
            )
        frames, rows, columns = (size // patch for size, patch in zip(sizes, self.config.patch_size, strict=True))
        return frames, rows, columns

    def patchify(self, latents: Tensor) -> Tensor:
        """[B, 16, T, H, W] -> tokens [B, N, C]."""
        return self.img_in.proj(latents).flatten(2).transpose(1, 2)

    def unpatchify(self, tokens: Tensor, grid: Grid) -> Tensor:
        """[B, N, channels * patch] -> [B, channels, T, H, W]."""
        patches = tokens.unflatten(-1, (self.config.out_channels, *self.config.patch_size)).unflatten(1, grid)
        return patches.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def time_vector(self, timestep: Tensor, guidance: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Conditioning vector [B, C] of `timestep` [B] (0..1000) and `guidance` [1 or B] (scale x 1000)."""
        vector = self.time_in(timestep_embedding(timestep).to(dtype))
        if self.guidance_in is not None and guidance is not None:
            vector = vector + self.guidance_in(timestep_embedding(guidance).to(dtype))
        return vector

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        guidance: Tensor | None = None,
        attention: Attention = sdpa,
        runner: BlockRunner = run_block,
    ) -> Tensor:
        """Velocity [B, 16, T, H, W] of `latents` [B, 16, T, H, W] at `timestep` [B] (sigma x 999 for VINO).

        Every sample of the batch has the same layout; `batch.mixed_velocity` serves batches that differ.
        Raises InputError when sizes do not divide into patches.
        """
        grid = self.grid(latents)
        before, after = (
            [reference.expand(latents.shape[0], -1, -1, -1, -1) for reference in references]
            for references in (conditioning.references, conditioning.conditions)
        )
        layout = self.layout([self.grid(x) for x in before], grid, [self.grid(x) for x in after])
        text = conditioning.text.shape[1]
        rotary = rotary_table(layout, text, self.config.rope_axes, self.config.rope_theta, latents.device)

        references = [self.patchify(x) for x in (*before, *after)]
        img = pack(layout, self.patchify(latents), references, conditioning.boundaries)
        vector = self.time_vector(timestep, guidance, latents.dtype)
        padding = conditioning.padding
        txt = self.txt_in(conditioning.text, timestep, conditioning.mask, attention, padding)
        if padding is not None:
            visual = padding.new_ones(padding.shape[0], layout.tokens)
            attention = without_padding(attention, torch.cat((~padding, visual), dim=1))

        for index, block in enumerate(self.double_blocks):
            img, txt = runner("double_block", index, block, img, txt, vector, rotary, attention)
        x = torch.cat((txt, img), dim=1)
        target = slice(text + layout.target.start, text + layout.target.stop)
        for index, block in enumerate(self.single_blocks):
            # What the last block makes of other rows is never read.
            needed = {"rows": target} if index == len(self.single_blocks) - 1 else {}
            x = runner("single_block", index, block, x, vector, rotary, attention, **needed)
        if x.shape[1] == text + layout.tokens:
            x = x[:, target]
        return self.unpatchify(self.final_layer(x, vector), grid)
