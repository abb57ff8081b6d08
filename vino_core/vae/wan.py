"""A causal video VAE of the shape of Wan 2.1's (4x time, 8x space, 16 channels), of any width.

Parameters are named as in Wan 2.1's published file, so stock loaders read this module's weights. Whole clips at once:
Wan's chunks with carried-over frames compute the same, and the zeros before the first frame make a single picture a
plain 2-D network (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from .base import VAE, check_state

LATENT_CHANNELS = 16
WIDTH_OF = "decoder.head.0.gamma"
"""The tensor with one entry for each channel at full size; no other VAE has one of this name."""
_MULTIPLES = (1, 2, 4, 4)
_HALVES_TIME = (False, True, True)
"""Of the three steps down in the encoder; the decoder's steps up go the other way."""


class CausalConv(nn.Module):
    """A convolution over [B, C, T, H, W] whose kernel ends at its own frame: time sees zeros before the first one."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[2]
        if frames == 1 or self.kernel == 1:
            return _per_frame(
                x, lambda flat: F.conv2d(flat, self.weight[:, :, -1], self.bias, padding=self.kernel // 2)
            )
        return _over_three_frames(F.pad(x, (0, 0, 0, 0, 2, 0)), self.weight, self.bias)


class TimeConv(nn.Module):
    """A convolution over three frames, pixel by pixel, without padding."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return _over_three_frames(x, self.weight, self.bias, self.stride)


class Norm(nn.Module):
    """Root mean square normalisation over the channels, axis 1."""

    def __init__(self, channels: int, axes: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(1, keepdim=True) + 1e-12).rsqrt() * self.gamma


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # The gap is the dropout's place in the published numbering.
        self.residual = nn.Sequential(
            Norm(inputs), nn.SiLU(), CausalConv(inputs, outputs), Norm(outputs), nn.SiLU(), nn.Identity(),
            CausalConv(outputs, outputs),
        )  # fmt: skip
        self.shortcut = CausalConv(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.residual(x)


class Attention(nn.Module):
    """One head over the places of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels, axes=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + _per_frame(x, self._attend)

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))


class Down(nn.Module):
    """Half the size; with `time` also half the frames after the first, which stays alone."""

    def __init__(self, channels: int, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = TimeConv(channels, channels, stride=2) if time else None

    def forward(self, x: Tensor) -> Tensor:
        x = _per_frame(x, self.resample)
        if self.time_conv is None or x.shape[2] == 1:
            return x
        return torch.cat([x[:, :, :1], self.time_conv(x)], dim=2)


class Up(nn.Module):
    """Twice the size and half the channels; with `time` also two frames for each after the first."""

    def __init__(self, channels: int, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Upsample(scale_factor=2.0), nn.Conv2d(channels, channels // 2, 3, padding=1))
        self.time_conv = TimeConv(channels, 2 * channels) if time else None

    def forward(self, x: Tensor) -> Tensor:
        if self.time_conv is not None and x.shape[2] > 1:
            # The first frame is no part of the later ones' past.
            pairs = self.time_conv(F.pad(x[:, :, 1:], (0, 0, 0, 0, 2, 0)))
            later = pairs.unflatten(1, (2, -1)).transpose(1, 2).transpose(2, 3).flatten(2, 3)
            x = torch.cat([x[:, :, :1], later], dim=2)
        return _per_frame(x, self.resample)


class Encoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * multiple for multiple in (1, *_MULTIPLES)]
        self.conv1 = CausalConv(3, width)
        steps: list[nn.Module] = []
        for level, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            steps += [Residual(inputs, outputs), Residual(outputs, outputs)]
            if level < len(_HALVES_TIME):
                steps.append(Down(outputs, _HALVES_TIME[level]))
        self.downsamples = nn.Sequential(*steps)
        self.middle = _middle(widths[-1])
        self.head = nn.Sequential(Norm(widths[-1]), nn.SiLU(), CausalConv(widths[-1], 2 * LATENT_CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.downsamples(self.conv1(x))))


class Decoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * multiple for multiple in (_MULTIPLES[-1], *_MULTIPLES[::-1])]
        self.conv1 = CausalConv(LATENT_CHANNELS, widths[0])
        self.middle = _middle(widths[0])
        steps: list[nn.Module] = []
        for level, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            inputs = inputs if level == 0 else inputs // 2
            steps += [Residual(inputs, outputs), Residual(outputs, outputs), Residual(outputs, outputs)]
            if level < len(_HALVES_TIME):
                steps.append(Up(outputs, _HALVES_TIME[::-1][level]))
        self.upsamples = nn.Sequential(*steps)
        self.head = nn.Sequential(Norm(widths[-1]), nn.SiLU(), CausalConv(widths[-1], 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.upsamples(self.middle(self.conv1(x))))


class WanNetwork(nn.Module):
    """`width` channels at full size, 1, 2, 4 and 4 times as many on the way down."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = Encoder(width)
        self.conv1 = CausalConv(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1)
        self.conv2 = CausalConv(LATENT_CHANNELS, LATENT_CHANNELS, 1)
        self.decoder = Decoder(width)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance [B, 16, t, H/8, W/8] of pixels [B, 3, 4(t-1)+1, H, W] in -1..1."""
        mean, log_variance = self.conv1(self.encoder(x)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels [B, 3, 4(t-1)+1, H, W] of latents [B, 16, t, H/8, W/8]."""
        return self.decoder(self.conv2(latents))


class WanVAE(VAE):
    """`module` is a WanNetwork whose latents, times `scale`, have a standard deviation of 1."""

    module: WanNetwork

    @classmethod
    def from_tensors(
        cls, state: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device | str, source: str
    ) -> WanVAE:
        """Build from tensors in the original layout; WIDTH_OF tells the width.

        Raises InputError, naming `source`, when names or shapes differ from those of that width.
        """
        with torch.device("meta"):
            module = WanNetwork(len(state[WIDTH_OF]))
        expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
        check_state(state, expected, source, "a VAE of Wan 2.1's shape", "Download or copy the file again.")
        module.load_state_dict(
            {name: tensor.to(device=device, dtype=dtype) for name, tensor in state.items()}, assign=True
        )
        return cls(module)

    def enable_tiling(self) -> None:
        raise InputError("This VAE works on whole pictures only: leave out the tiling (--vae-tiling).")

    def posterior(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        return self.module.encode(unit)

    def pixels(self, latents: Tensor) -> Tensor:
        return self.module.decode(latents)


def _middle(channels: int) -> nn.Sequential:
    return nn.Sequential(Residual(channels, channels), Attention(channels), Residual(channels, channels))


def _per_frame(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of [N, C, H, W] over the frames of [B, C, T, H, W]."""
    batch, _, frames, _, _ = x.shape
    if frames == 1:
        return function(x[:, :, 0])[:, :, None]
    flat = function(x.transpose(1, 2).flatten(0, 1))
    return flat.unflatten(0, (batch, frames)).transpose(1, 2)


def _over_three_frames(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1) -> Tensor:
    """A 3-D convolution that is 3 frames deep and not padded in time, as a 2-D one over three frames' channels.

    In fp32 on a CPU the 3-D one takes ten times as long.
    """
    frames = x.shape[2]
    taps = torch.cat([x[:, :, tap : frames - 2 + tap : stride] for tap in range(3)], dim=1)
    flat = weight.transpose(1, 2).flatten(1, 2)
    return _per_frame(taps, lambda frame: F.conv2d(frame, flat, bias, padding=weight.shape[-1] // 2))
