"""The shipped VAE of vino-tiny: how well it shows the toy world, and that ComfyUI's loader makes the same VAE of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_inprocess import pack
from comfy_runs import given_references, nodes
from safetensors.torch import load_file, save_file
from torch import Tensor

from vino_core.errors import InputError
from vino_core.toyworld.tasks import ToySource
from vino_core.vae import VAE, to_unit_range

FILE = Path(__file__).parents[1] / "models" / "vino-tiny" / "vae.safetensors"
LIMIT = 1e-4
"""Rounding is 7e-6; a frame too many or too few in the causal padding is 1e-1."""


@pytest.fixture(scope="module")
def vae() -> VAE:
    return VAE.load(FILE)


@pytest.fixture(scope="module")
def stock() -> Any:
    """What ComfyUI's Load VAE makes of the file, in fp32."""
    pack("nodes.comfy.vae")
    import comfy.sd
    import comfy.utils

    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(FILE)), dtype=torch.float32)


def pictures(task: str, count: int) -> Tensor:
    """uint8 [count, T, 64, 64, 3]: held-out targets."""
    source = ToySource(task, split="heldout")
    return torch.stack([source.example(index).target for index in range(count)])


def decibels(shown: Tensor, expected: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each of uint8 [B, T, H, W, 3]."""
    error = (shown.float() - expected.float()).div(255).square().flatten(1).mean(1)
    return -10 * error.clamp_min(1e-10).log10()


def test_pictures_and_clips_come_back(vae: VAE) -> None:
    """Half a decibel below what the shipped file reaches; chance weights reach 6 dB."""
    for task, count, floor in (("t2i", 24, 34.5), ("ti2i_baseimg", 24, 32.4), ("t2v", 8, 27.5)):
        expected = pictures(task, count)
        found = decibels(vae.decode(vae.encode_batch(expected)), expected).mean()
        assert found > floor, f"{task}: {found:.2f} dB"


def test_latents_are_white(vae: VAE) -> None:
    latents = vae.encode_batch(pictures("t2i", 48)).transpose(0, 1).flatten(1)
    assert latents.mean(1).abs().max() < 0.25
    assert 0.8 < latents.std(1).min() and latents.std(1).max() < 1.2


def test_a_batch_is_its_members(vae: VAE) -> None:
    clips = pictures("t2v", 2)
    apart = torch.cat([vae.encode(clip) for clip in clips])
    assert torch.allclose(vae.encode_batch(clips), apart, atol=1e-4)
    assert torch.allclose(vae.encode_batch(clips[:, :1]), apart[:, :, :1], atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_stock_vae_agrees(frames: int, vae: VAE, stock: Any) -> None:
    clip = ToySource("t2v", split="heldout", frames=max(frames, 5)).example(3).target[:frames]
    ours = vae.encode(clip)
    theirs = stock.encode(clip.float() / 255)
    assert theirs.shape == ours.shape == (1, 16, (frames - 1) // 4 + 1, 8, 8)
    assert (theirs * VAE.scale - ours).abs().max() < LIMIT
    shown = stock.decode(ours / VAE.scale)
    expected = (vae.decode_unit(ours).permute(0, 2, 3, 4, 1) + 1) / 2
    assert (shown - expected.clamp(0, 1)).abs().max() < LIMIT


@torch.inference_mode()
def test_the_node_attaches_the_headless_latents(vae: VAE, stock: Any) -> None:
    core, conditioning = pack("vino_core.media.references"), pack("nodes.comfy.conditioning")
    picture, clip = pictures("t2i", 1)[0, 0], pictures("t2v", 1)[0]
    references = core.References((core.ImageReference(picture),), (core.VideoReference(clip, clip, 24.0),))
    prepared = given_references(references, 64, 64, 9)
    branch = [[torch.zeros(1, 1, 1), {conditioning.SYSTEM: "vino", conditioning.REFERENCES: (0, 1)}]]
    out = nodes().VINOReferenceLatents.execute(branch, branch, branch, stock, prepared)
    for latents, pixels in zip(out[0][0][1]["reference_latents"], (picture, clip), strict=True):
        assert (latents * VAE.scale - vae.encode(pixels)).abs().max() < LIMIT


def test_samples_are_near_the_mean(vae: VAE) -> None:
    picture = pictures("t2i", 1)[0]
    mean = vae.encode(picture)
    one, again = (vae.encode(picture, "sample", torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, again)
    assert 0.01 < (one - mean).std() < 0.1


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    state = load_file(FILE)
    del state["encoder.conv1.bias"]
    state["decoder.conv1.bias"] = state["decoder.conv1.bias"][:-1].clone()
    save_file(state, tmp_path / "vae.safetensors")
    with pytest.raises(InputError, match="2 differences.*missing: encoder.conv1.bias.*decoder.conv1.bias is"):
        VAE.load(tmp_path / "vae.safetensors")


def test_tiles_are_refused(vae: VAE) -> None:
    with pytest.raises(InputError, match="leave out the tiling"):
        vae.enable_tiling()


def test_pixels_keep_their_range() -> None:
    assert to_unit_range(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]
