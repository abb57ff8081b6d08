"""Headless VAEs: pixels to scaled latents and back. The file's tensors decide which architecture is built."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..checkpoints.sources import Checkpoint
from ..errors import InputError
from ..media.sizing import check_frames, check_size

SPATIAL = 8


def to_unit_range(pixels: Tensor) -> Tensor:
    """Pixels 0..255 as float32 in -1..1."""
    return (pixels.float() - 127.5) / 127.5


class VAE(ABC):
    """Encodes references and decodes results. `module` is the network, `scale` its scaling factor.

    Latents are scaled by it (0.476986 for HunyuanVideo), as the MMDiT sees them.
    """

    scale: float = 0.476986

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval().requires_grad_(False)

    @staticmethod
    def load(path: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> VAE:
        """Load HunyuanVideo's VAE, from a diffusers folder, the model folder above its `vae`, or a file in either
        published layout, or a VAE of Wan 2.1's shape from one file in its original layout.

        A `config.json` beside HunyuanVideo's weights decides the dimensions; without one they are the published ones.
        Raises InputError when the path is missing or holds something else.
        """
        path = Path(path)
        if path.is_dir() and not (path / "config.json").is_file() and (path / "vae").is_dir():
            path = path / "vae"
        checkpoint = Checkpoint([path])
        config = _read_config((path if path.is_dir() else path.parent) / "config.json")
        return VAE.from_state({name: checkpoint.read(name) for name in checkpoint}, config, dtype, device, str(path))

    @staticmethod
    def from_state(
        state: Mapping[str, Tensor],
        config: Mapping[str, Any],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        source: str = "VAE",
    ) -> VAE:
        """Build from tensors under any of the accepted names and diffusers' configuration (may be empty).

        Raises InputError, naming `source`, when names or shapes differ from what the architecture asks for.
        """
        from .hunyuan import HunyuanVAE
        from .wan import WIDTH_OF, WanVAE

        if WIDTH_OF in state:
            return WanVAE.from_tensors(state, dtype, device, source)
        return HunyuanVAE.from_tensors(state, config, dtype, device, source)

    @abstractmethod
    def enable_tiling(self) -> None:
        """Work in overlapping tiles of 256 x 256 pixels: less memory, slower, faint differences at the seams.

        Raises InputError where the architecture has no tiles.
        """

    @abstractmethod
    def posterior(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Unscaled mean and log-variance [B, 16, t, h, w] of pixels [B, 3, T, H, W] in -1..1 of the module's dtype."""

    @abstractmethod
    def pixels(self, latents: Tensor) -> Tensor:
        """Pixels [B, 3, T, H, W] in -1..1 of unscaled latents [B, 16, t, h, w] of the module's dtype."""

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
        frames = pixels[None] if pixels.ndim == 3 else pixels
        return self.encode_batch(frames[None], posterior, generator)

    @torch.no_grad()
    def encode_batch(
        self,
        pixels: Tensor,
        posterior: Literal["mode", "sample"] = "mode",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """As `encode`, of several clips of one size: latents [B, 16, t, h, w] of uint8 [B, T, H, W, 3]."""
        if posterior not in ("mode", "sample"):
            raise InputError(f"Posterior '{posterior}' is unknown. Choose 'mode' (the mean) or 'sample'.")
        check_frames(pixels.shape[1])
        check_size(pixels.shape[3], pixels.shape[2], SPATIAL)
        weight = next(self.module.parameters())
        unit = to_unit_range(pixels.to(weight.device)).permute(0, 4, 1, 2, 3)
        mean, log_variance = self.posterior(unit.to(weight.dtype))
        if posterior == "sample":
            where = generator.device if generator is not None else mean.device
            noise = torch.randn(mean.shape, generator=generator, device=where, dtype=mean.dtype).to(mean.device)
            mean = mean + torch.exp(0.5 * log_variance) * noise
        return mean.float() * self.scale

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
        weight = next(self.module.parameters())
        unscaled = latents.to(weight.device, torch.float32) / self.scale
        return self.pixels(unscaled.to(weight.dtype)).float()


def check_state(
    state: Mapping[str, Tensor], expected: Mapping[str, torch.Size], source: str, what: str, advice: str
) -> None:
    """Raises InputError, naming `source`, when names or shapes of the weights of `what` are not the expected ones."""
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
            f"{source}: these are not the weights of {what}: {len(problems)} differences ({shown}). {advice}"
        )


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config.get("_class_name", "AutoencoderKLHunyuanVideo")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a model configuration ({error}). Download the folder again.") from error
    if kind != "AutoencoderKLHunyuanVideo":
        raise InputError(f"{path}: describes {kind}, not AutoencoderKLHunyuanVideo. Choose HunyuanVideo's VAE.")
    return config
