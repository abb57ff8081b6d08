"""HunyuanVideo's VAE headless, through diffusers.

Inside ComfyUI its own VAE does this work; only the pixel range is shared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError
from .base import VAE, check_state

if TYPE_CHECKING:
    from diffusers import AutoencoderKLHunyuanVideo

_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


class HunyuanVAE(VAE):
    """`module` is diffusers' AutoencoderKLHunyuanVideo, `scale` its own `scaling_factor`."""

    module: AutoencoderKLHunyuanVideo

    def __init__(self, module: AutoencoderKLHunyuanVideo) -> None:
        super().__init__(module)
        self.scale = module.config.scaling_factor

    @classmethod
    def from_tensors(
        cls,
        state: Mapping[str, Tensor],
        config: Mapping[str, Any],
        dtype: torch.dtype,
        device: torch.device | str,
        source: str,
    ) -> HunyuanVAE:
        """Build from tensors in diffusers' or the original layout and diffusers' configuration (may be empty).

        Raises InputError, naming `source`, when names or shapes differ from what the configuration asks for.
        """
        try:
            from diffusers import AutoencoderKLHunyuanVideo
        except ImportError as error:
            raise InputError(
                f"{source}: the headless VAE needs the package diffusers, which is not installed. "
                "Install it with: pip install 'diffusers>=0.35'"
            ) from error
        with torch.device("meta"):
            module = AutoencoderKLHunyuanVideo.from_config(dict(config))
        expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
        if any(name.startswith("encoder.down.") for name in state):
            state = _from_original(state, expected, len(module.config.block_out_channels))
        check_state(
            state,
            expected,
            source,
            "HunyuanVideo's VAE",
            "Choose hunyuan_video_vae (ComfyUI) or the vae folder of hunyuanvideo-community/HunyuanVideo.",
        )
        weights = {name: tensor.to(device=device, dtype=dtype) for name, tensor in state.items()}
        module.load_state_dict(weights, assign=True)
        return cls(module)

    def enable_tiling(self) -> None:
        """As promised. Long clips are always cut in time, into overlapping groups of 16 frames, as published."""
        self.module.enable_tiling()

    def posterior(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        distribution = self.module.encode(unit).latent_dist
        return distribution.mean, distribution.logvar

    def pixels(self, latents: Tensor) -> Tensor:
        return self.module.decode(latents).sample


def original_name(name: str, blocks: int = 4) -> str:
    """Name in the original layout (the one of ComfyUI's HunyuanVideo VAE files) of a diffusers parameter.

    `blocks` is the number of resolution levels; the decoder's are counted from the other end.
    """

    def level(match: re.Match[str]) -> str:
        number = int(match[2])
        return f"down.{number}." if match[1] == "down" else f"up.{blocks - 1 - number}."

    name = re.sub(r"(down|up)_blocks\.(\d+)\.", level, name)
    name = re.sub(r"(?<!mid_block\.)resnets\.(\d+)\.", r"block.\1.", name)
    name = re.sub(r"(down|up)samplers\.0\.", r"\1sample.", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)\.", lambda match: f"mid.block_{int(match[1]) + 1}.", name)
    name = re.sub(
        r"mid_block\.attentions\.0\.(group_norm|to_q|to_k|to_v|to_out\.0)\.",
        lambda match: f"mid.attn_1.{_ATTENTION[match[1]]}.",
        name,
    )
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def _from_original(state: Mapping[str, Tensor], expected: Mapping[str, torch.Size], blocks: int) -> dict[str, Tensor]:
    """`state` under diffusers' names; names of neither layout are kept, to be reported."""
    names = {original_name(name, blocks): name for name in expected}
    renamed = {names.get(name, name): tensor for name, tensor in state.items()}
    # The original writes the attention's matrices as convolutions over one pixel.
    return {
        name: tensor[..., 0, 0, 0] if "attentions" in name and tensor.ndim == 5 else tensor
        for name, tensor in renamed.items()
    }
