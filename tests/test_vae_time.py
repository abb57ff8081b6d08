"""Clips of more than 16 frames pass the VAE in overlapping groups: headless, in ComfyUI, and by hand, frame by frame.

By hand means: written down from the description alone (groups of 16 frames behind a first one, every 12 frames, what
two groups have in common fades from the one to the other), one frame of the result at a time, without diffusers' loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest
import torch
from comfy_inprocess import pack
from test_vae import to_original
from torch import Tensor

from vino_core.vae import HunyuanVAE, to_unit_range

GROUP, STEP, BLEND = 16, 12, 4
"""Frames: of a group behind its first one, from group to group, and in common."""
LIMIT = 1e-5
FRAMES = [17, 21, 29, 33]
"""One group and a short one; the same with more; two whole ones and a single frame; three."""


@pytest.fixture(scope="module")
def vae() -> HunyuanVAE:
    """A narrow one with random weights, of the published depth."""
    from diffusers import AutoencoderKLHunyuanVideo

    torch.manual_seed(0)
    return HunyuanVAE(AutoencoderKLHunyuanVideo(block_out_channels=(32, 64, 128, 128)))


@pytest.fixture(scope="module")
def stock(vae: HunyuanVAE) -> Iterator[Any]:
    """ComfyUI's VAE with the same weights. It knows the published width only: that alone is exchanged."""
    pack("nodes.comfy.vae")
    import comfy.sd

    with pytest.MonkeyPatch.context() as patch:
        real = comfy.sd.AutoencoderKL
        patch.setattr(
            comfy.sd,
            "AutoencoderKL",
            lambda ddconfig, embed_dim: real(ddconfig={**ddconfig, "ch": 32}, embed_dim=embed_dim),
        )
        yield comfy.sd.VAE(sd=to_original(vae.module.state_dict()), dtype=torch.float32)


@lru_cache
def clip(frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randint(0, 256, (frames, 32, 16, 3), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def encoded_by_hand(vae: HunyuanVAE, frames: Tensor) -> Tensor:
    """Unscaled mean of each latent frame: of the group that shows it first.

    Groups overlap in one latent frame, and there the later one fades in from nothing: it is the earlier one's.
    """
    module, pixels = vae.module, to_unit_range(frames).permute(3, 0, 1, 2)[None]

    @lru_cache
    def moments(first: int) -> Tensor:
        return module.quant_conv(module.encoder(pixels[:, :, first : first + GROUP + 1]))

    latents = []
    for number in range((len(frames) - 1) // 4 + 1):
        group = 0
        while number * 4 > group * STEP + GROUP:
            group += 1
        first = group * STEP
        latents.append(moments(first)[:, :16, number - first // 4])
    return torch.stack(latents, dim=2)


@torch.no_grad()
def decoded_by_hand(vae: HunyuanVAE, latents: Tensor) -> Tensor:
    """Each frame of the group that shows it last, mixed with the group before while that still shows it too."""
    module = vae.module

    @lru_cache
    def pixels(first: int) -> Tensor:
        return module.decoder(module.post_quant_conv(latents[:, :, first : first + GROUP // 4 + 1]))

    def shown(group: int, frame: int) -> Tensor:
        return pixels(group * STEP // 4)[:, :, frame - group * STEP]

    frames = []
    for number in range((latents.shape[2] - 1) * 4 + 1):
        group = max(0, (number - 1) // STEP)  # the first frame of a later group only starts it: it is not shown
        into = number - 1 - group * STEP
        frame = shown(group, number)
        if group and into < BLEND:
            share = into / BLEND
            frame = (1 - share) * shown(group - 1, number) + share * frame
        frames.append(frame)
    return torch.stack(frames, dim=2)


def far(one: Tensor, other: Tensor) -> list[float]:
    """Largest difference of each frame."""
    assert one.shape == other.shape
    return (one - other).abs().amax(dim=(0, 1, 3, 4)).tolist()


@pytest.mark.parametrize("frames", FRAMES)
def test_clips_are_encoded_in_groups(vae: HunyuanVAE, frames: int) -> None:
    expected = encoded_by_hand(vae, clip(frames))
    assert max(far(vae.encode(clip(frames)) / vae.scale, expected)) < LIMIT
    with torch.no_grad():
        pixels = to_unit_range(clip(frames)).permute(3, 0, 1, 2)[None]
        assert max(far(vae.module.encode(pixels).latent_dist.mean, expected)) < LIMIT
        whole = vae.module.quant_conv(vae.module.encoder(pixels))[:, :16]
    apart = max(far(whole, expected))
    assert apart < LIMIT if frames == 17 else apart > 10 * LIMIT, "one group is the whole clip, several are not"


@pytest.mark.parametrize("frames", FRAMES)
def test_comfyui_encodes_the_same_groups(vae: HunyuanVAE, stock: Any, frames: int) -> None:
    with torch.inference_mode():
        latents = pack("nodes.comfy.vae").encode(stock, clip(frames).float() / 255)
    assert max(far(latents, encoded_by_hand(vae, clip(frames)))) < LIMIT


@pytest.mark.parametrize("frames", FRAMES)
def test_results_are_decoded_in_groups_that_fade(vae: HunyuanVAE, frames: int) -> None:
    scaled = torch.randn(1, 16, (frames - 1) // 4 + 1, 4, 2, generator=torch.Generator().manual_seed(frames))
    latents = scaled / vae.scale
    expected = decoded_by_hand(vae, latents)
    assert max(far(vae.decode_unit(scaled), expected)) < LIMIT
    with torch.no_grad():
        assert max(far(vae.module.decode(latents).sample, expected)) < LIMIT
        whole = vae.module.decoder(vae.module.post_quant_conv(latents))
    apart = far(whole, expected)
    if frames == 17:
        assert max(apart[:14]) < LIMIT, (
            "up to the seam, and in its first frame, the first group is shown: the whole clip"
        )
    assert min(apart[14:]) > 10 * LIMIT, "behind it the second one, which starts afresh"


def test_a_seam_fades_evenly(vae: HunyuanVAE) -> None:
    """Of two groups that differ by a constant, the mixture goes from the one to the other in quarters."""
    module = vae.module
    earlier, later = torch.zeros(1, 3, 17, 8, 8), torch.ones(1, 3, 17, 8, 8)
    groups = iter([earlier, later.clone(), later.clone()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.decoder, "forward", lambda z: next(groups)[:, :, : (z.shape[2] - 1) * 4 + 1])
        frames = vae.decode_unit(torch.zeros(1, 16, 8, 1, 1))
    steps = frames.mean(dim=(0, 1, 3, 4)).tolist()
    assert steps == [0.0] * 13 + [0.0, 0.25, 0.5, 0.75] + [1.0] * 12
