"""Miniature random weights as the files of a headless user: model, tokens, text encoder folder, VAE folder."""

from __future__ import annotations

from pathlib import Path

import torch
from paths import small_tokenizer
from safetensors.torch import save_file
from tiny_vlm import HIDDEN, small_engine

from vino_core.checkpoints.files import model_metadata, save_tokens
from vino_core.config import ConnectorConfig, MMDiTConfig
from vino_core.mmdit.model import MMDiT

MODEL = MMDiTConfig(
    hidden_size=64,
    num_heads=2,
    depth=1,
    depth_single=1,
    depth_refiner=1,
    text_dim=48,
    rope_axes=(8, 12, 12),
    connectors=(ConnectorConfig("connector", HIDDEN, 48), ConnectorConfig("connector_vae_branch", HIDDEN, 64)),
)


def write_tiny_files(folder: Path) -> dict[str, Path]:
    """Write one of each; returns the paths by the name of the option of `vino generate` that takes them."""
    from diffusers import AutoencoderKLHunyuanVideo

    torch.manual_seed(0)
    files = {
        "--model": folder / "vino_tiny.safetensors",
        "--tokens": folder / "vino_tokens_tiny.safetensors",
        "--text-encoder": folder / "qwen",
        "--vae": folder / "vae",
    }
    save_file(MMDiT(MODEL).state_dict(), files["--model"], model_metadata("vino", MODEL))
    save_tokens(files["--tokens"], torch.randn(4, HIDDEN), "vino")
    small_engine().model.save_pretrained(files["--text-encoder"])
    small_tokenizer().save_pretrained(files["--text-encoder"])
    vae = AutoencoderKLHunyuanVideo(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    vae.save_pretrained(files["--vae"])
    return files
