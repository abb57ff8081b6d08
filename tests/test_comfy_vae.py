"""Reference clips inside ComfyUI: the node's latents from the stock VAE are those of the published one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy_inprocess import pack
from comfy_runs import given_references, nodes
from test_vae import to_original
from torch import Tensor

from vino_core.vae import VAE, HunyuanVAE

LIMIT = 1e-5
"""An encoder that lets frames see later ones is 1e-3 away, a rolling one 2e-2; rounding is 1e-6."""


@pytest.fixture(scope="module")
def vaes() -> tuple[VAE, Any]:
    """The headless VAE and ComfyUI's own, of full width, with the same random weights in fp32."""
    from diffusers import AutoencoderKLHunyuanVideo

    pack("nodes.comfy.vae")
    import comfy.sd

    torch.manual_seed(0)
    published = AutoencoderKLHunyuanVideo()
    return HunyuanVAE(published), comfy.sd.VAE(sd=to_original(published.state_dict()), dtype=torch.float32)


def clip(frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randint(0, 256, (frames, 32, 16, 3), dtype=torch.uint8, generator=generator)


def unit(pixels: Tensor) -> Tensor:
    return pixels.float() / 255


def difference(stock: Tensor, published: Tensor) -> float:
    assert stock.shape == published.shape
    return float((stock * 0.476986 - published).abs().max())


@torch.inference_mode()
def test_the_node_attaches_the_published_latents(vaes: tuple[VAE, Any]) -> None:
    """Of a picture, of a short clip, and of one that the published VAE cuts in time."""
    published, stock = vaes
    core, conditioning = pack("vino_core.media.references"), pack("nodes.comfy.conditioning")
    pixels = [clip(1), clip(5), clip(33)]
    images = (core.ImageReference(pixels[0][0]),)
    videos = tuple(core.VideoReference(frames, frames, 24.0) for frames in pixels[1:])
    prepared = given_references(core.References(images, videos), 96, 64, 5)
    branch = [[torch.zeros(1, 1, 1), {conditioning.SYSTEM: "vino", conditioning.REFERENCES: (0, 1, 2)}]]
    out = nodes().VINOReferenceLatents.execute(branch, branch, branch, stock, prepared)
    for latents, frames in zip(out[0][0][1]["reference_latents"], pixels, strict=True):
        assert difference(latents, published.encode(frames)) < LIMIT


@torch.inference_mode()
@pytest.mark.parametrize("frames", [17, 25])
def test_groups_join_as_published(frames: int, vaes: tuple[VAE, Any]) -> None:
    published, stock = vaes
    latents = pack("nodes.comfy.vae").encode(stock, unit(clip(frames)))
    assert difference(latents, published.encode(clip(frames))) < LIMIT


@torch.inference_mode()
def test_the_retry_in_tiles_is_corrected_too(vaes: tuple[VAE, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI encodes in tiles when memory runs out: here one tile covers everything."""
    published, stock = vaes

    def fail(*_: Any) -> int:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(stock, "memory_used_encode", fail)
    assert difference(pack("nodes.comfy.vae").encode(stock, unit(clip(5))), published.encode(clip(5))) < LIMIT


@torch.inference_mode()
def test_other_users_of_the_vae_notice_nothing(vaes: tuple[VAE, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a failure. The stock result still needs correcting: drop the adapter when this difference is gone."""
    published, stock = vaes
    before = stock.encode(unit(clip(5)))
    assert difference(before, published.encode(clip(5))) > 1e-3

    def fail(pixels: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stock.first_stage_model, "encode", fail)
        pack("nodes.comfy.vae").encode(stock, unit(clip(5)))
    pack("nodes.comfy.vae").encode(stock, unit(clip(5)))
    assert torch.equal(stock.encode(unit(clip(5))), before)
