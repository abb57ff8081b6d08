"""HunyuanVideo's VAE headless: pixels to scaled latents and back, through diffusers.

Inside ComfyUI its own VAE does this work; only the pixel range is shared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from .checkpoints.sources import Checkpoint
from .errors import InputError
from .media.sizing import check_frames, check_size

if TYPE_CHECKING:
    from diffusers import AutoencoderKLHunyuanVideo

_CLASS = "AutoencoderKLHunyuanVideo"
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def to_unit_range(pixels: Tensor) -> Tensor:
    """Pixels 0..255 as float32 in -1..1."""
    return (pixels.float() - 127.5) / 127.5


class VAE:
    """Encodes references and decodes results. `module` is diffusers' AutoencoderKLHunyuanVideo.

    Latents are scaled by the module's `scaling_factor` (0.476986 for HunyuanVideo), as the MMDiT sees them.
    """

    def __init__(self, module: AutoencoderKLHunyuanVideo) -> None:
        self.module = module.eval().requires_grad_(False)

    @classmethod
    def load(cls, path: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> VAE:
        """Load from a diffusers folder, the model folder above its `vae`, or a file in either published layout.

        A `config.json` beside the weights decides the dimensions; without one they are the published ones.
        Raises InputError when the path is missing or holds something else than this VAE.
        """
        path = Path(path)
        if path.is_dir() and not (path / "config.json").is_file() and (path / "vae").is_dir():
            path = path / "vae"
        checkpoint = Checkpoint([path])
        config = _read_config((path if path.is_dir() else path.parent) / "config.json")
        return cls.from_state({name: checkpoint.read(name) for name in checkpoint}, config, dtype, device, str(path))

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, Tensor],
        config: Mapping[str, Any],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        source: str = "VAE",
    ) -> VAE:
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
        _check_state(state, expected, source)
        weights = {name: tensor.to(device=device, dtype=dtype) for name, tensor in state.items()}
        module.load_state_dict(weights, assign=True)
        return cls(module)

    def enable_tiling(self) -> None:
        """Work in overlapping tiles of 256 x 256 pixels: less memory, slower, faint differences at the seams.

        Long clips are always cut in time, into overlapping groups of 16 frames, as in the published setup.
        """
        self.module.enable_tiling()

    @torch.no_grad()
    def encode(
        self,
        pixels: Tensor,
        posterior: Literal["mode", "sample"] = "mode",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Scaled latents float32 [1, 16, t, h, w] of uint8 [T, H, W, 3] frames or a [H, W, 3] picture.

        T = 4(t-1) + 1, H = 8h, W = 8w. `posterior` takes the mean or draws a sample with `generator`.
        Raises InputError for other sizes or another posterior.
        """
        if posterior not in ("mode", "sample"):
            raise InputError(f"Posterior '{posterior}' is unknown. Choose 'mode' (the mean) or 'sample'.")
        frames = pixels[None] if pixels.ndim == 3 else pixels
        check_frames(len(frames))
        check_size(frames.shape[2], frames.shape[1], self.module.config.spatial_compression_ratio)
        unit = to_unit_range(frames.to(self.module.device)).permute(3, 0, 1, 2)[None]
        distribution = self.module.encode(unit.to(self.module.dtype)).latent_dist
        latents = distribution.mode() if posterior == "mode" else distribution.sample(generator)
        return latents.float() * self.module.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Frames uint8 [B, T, H, W, 3] on the CPU of scaled latents [B, 16, t, h, w].

        Raises InputError for latents that are not finite, which would silently become a black picture.
        """
        if not torch.isfinite(latents).all():
            raise InputError(
                "The latents hold NaN or infinite values, so there is no picture to decode. Use a wider dtype "
                "(bfloat16 or float32 instead of float16) or lower guidance scales."
            )
        unit = self.decode_unit(latents).permute(0, 2, 3, 4, 1)
        # Fractions are cut off, not rounded, as in the published code.
        return (unit * 127.5 + 127.5).clamp(0, 255).to(torch.uint8).cpu()

    @torch.no_grad()
    def decode_unit(self, latents: Tensor) -> Tensor:
        """Pixels float32 [B, 3, T, H, W], -1..1 but for overshoot, of scaled latents [B, 16, t, h, w]."""
        scaled = latents.to(self.module.device, torch.float32) / self.module.config.scaling_factor
        return self.module.decode(scaled.to(self.module.dtype)).sample.float()


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


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config.get("_class_name", _CLASS)
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a model configuration ({error}). Download the folder again.") from error
    if kind != _CLASS:
        raise InputError(f"{path}: describes {kind}, not {_CLASS}. Choose HunyuanVideo's VAE.")
    return config


def _check_state(state: Mapping[str, Tensor], expected: Mapping[str, torch.Size], source: str) -> None:
    problems = [f"missing: {name}" for name in expected if name not in state]
    problems += [f"unexpected: {name}" for name in state if name not in expected]
    problems += [
        f"{name} is {list(tensor.shape)}, not {list(expected[name])}"
        for name, tensor in state.items()
        if name in expected and tensor.shape != expected[name]
    ]
    if problems:
        shown = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        raise InputError(
            f"{source}: these are not the weights of HunyuanVideo's VAE: {len(problems)} differences ({shown}). "
            "Choose hunyuan_video_vae (ComfyUI) or the vae folder of hunyuanvideo-community/HunyuanVideo."
        )
