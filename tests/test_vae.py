"""The VAE's files, layouts and edges. Its numbers are in the parity check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from comfy_inprocess import pack
from paths import GOLDENS
from safetensors.torch import load_file, save_file
from torch import Tensor

from parity_groups.vae import reference_vae
from vino_core.errors import InputError
from vino_core.vae import VAE, original_name

PICTURE = torch.randint(0, 256, (32, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def vae() -> VAE:
    return reference_vae(GOLDENS)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return {name.removeprefix("vae."): value for name, value in load_file(GOLDENS / "vae_weights.safetensors").items()}


def config() -> dict:
    return json.loads((GOLDENS / "pipeline_index.json").read_text())["vae_config"]


def to_original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The original layout: its names, and convolutions over one pixel for the attention's matrices."""
    return {
        original_name(name): value[..., None, None, None] if "attentions" in name and value.ndim == 2 else value
        for name, value in state.items()
    }


def save(folder: Path, state: dict[str, Tensor], name: str = "diffusion_pytorch_model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, folder / name)
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLHunyuanVideo", **config()}))
    return folder / name


def test_every_place_and_layout_gives_the_same(tmp_path: Path, vae: VAE, state: dict[str, Tensor]) -> None:
    expected = vae.encode(PICTURE)
    file = save(tmp_path / "model" / "vae", state)
    original = save(tmp_path / "original", to_original(state), "hunyuan_video_vae.safetensors")
    for path in (file, file.parent, file.parents[1], original):
        assert torch.equal(VAE.load(path).encode(PICTURE), expected), path


def test_original_names_are_those_of_comfyui() -> None:
    from diffusers import AutoencoderKLHunyuanVideo

    pack("vino_core.errors")
    from comfy.ldm.models.autoencoder import AutoencoderKL

    dimensions = {
        "double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0, "conv3d": True,
        "time_compress": 4,
    }  # fmt: skip
    with torch.device("meta"):
        comfy = AutoencoderKL(ddconfig=dimensions, embed_dim=16).state_dict()
        ours = to_original(AutoencoderKLHunyuanVideo().state_dict())
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in comfy.items()}


def test_wrong_weights_are_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    broken = dict(state)
    del broken["quant_conv.bias"]
    broken["decoder.extra"] = torch.zeros(1)
    broken["post_quant_conv.bias"] = torch.zeros(4)
    path = save(tmp_path, broken)
    with pytest.raises(InputError) as caught:
        VAE.load(path)
    message = str(caught.value)
    assert str(path) in message and "3 differences" in message
    assert "missing: quant_conv.bias" in message and "unexpected: decoder.extra" in message
    assert "post_quant_conv.bias is [4], not [16]" in message


def test_weights_of_another_size_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = save(tmp_path, to_original(state))
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="not the weights of HunyuanVideo's VAE"):
        VAE.load(path)


def test_another_vae_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = save(tmp_path, state)
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKLWan"}')
    with pytest.raises(InputError, match="describes AutoencoderKLWan"):
        VAE.load(path)


def test_truncated_file(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = save(tmp_path, state)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=path.name):
        VAE.load(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        VAE.load(tmp_path / "nowhere.safetensors")


def test_shapes(vae: VAE) -> None:
    assert vae.encode(PICTURE).shape == (1, 16, 1, 4, 6)
    clip = PICTURE.expand(9, -1, -1, -1)
    latents = vae.encode(clip)
    assert latents.shape == (1, 16, 3, 4, 6) and latents.dtype == torch.float32
    frames = vae.decode(latents)
    assert frames.shape == (1, 9, 32, 48, 3) and frames.dtype == torch.uint8


def test_sample_follows_the_generator(vae: VAE) -> None:
    mean = vae.encode(PICTURE)
    one, again = (vae.encode(PICTURE, "sample", torch.Generator().manual_seed(5)) for _ in range(2))
    other = vae.encode(PICTURE, "sample", torch.Generator().manual_seed(6))
    assert torch.equal(one, again) and not torch.equal(one, other) and not torch.equal(one, mean)


def test_bfloat16_is_near(vae: VAE, state: dict[str, Tensor]) -> None:
    small = VAE.from_state(state, config(), dtype=torch.bfloat16)
    latents = small.encode(PICTURE)
    assert latents.dtype == torch.float32
    assert (latents - vae.encode(PICTURE)).abs().max() < 0.1
    difference = small.decode(latents).float() - vae.decode(latents).float()
    assert difference.abs().mean() < 3


def test_tiling_is_near(state: dict[str, Tensor]) -> None:
    vae = VAE.from_state(state, config())
    latents = torch.randn(1, 16, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    whole = vae.decode_unit(latents)
    vae.enable_tiling()
    tiled = vae.decode_unit(latents)
    assert tiled.shape == whole.shape and not torch.equal(tiled, whole)
    assert (tiled - whole).abs().mean() < 0.05


def test_nan_latents(vae: VAE) -> None:
    latents = torch.zeros(1, 16, 1, 4, 4)
    latents[0, 3, 0, 1, 1] = float("nan")
    with pytest.raises(InputError, match="NaN or infinite"):
        vae.decode(latents)


@pytest.mark.parametrize(
    ("pixels", "posterior", "message"),
    [
        (PICTURE.expand(8, -1, -1, -1), "mode", "8 frames: .*nearest is 5 or 9"),
        (PICTURE[:30], "mode", "Size 48 x 30: .*multiples of 8.*nearest is 48 x 32"),
        (PICTURE, "median", "Posterior 'median'.*'mode'"),
    ],
)
def test_unusable_input(vae: VAE, pixels: Tensor, posterior: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        vae.encode(pixels, posterior)
