"""The miniature system that tests and demo run: vino-tiny, in the folders and under the names that ComfyUI wants."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from vino_core.systems.vino_tiny import VINO_TINY  # noqa: E402

SYSTEM = VINO_TINY

FOLDER = ROOT / "models" / "vino-tiny"
FILES = {
    "model": "diffusion_models/vino_tiny.safetensors",
    "tokens": "embeddings/vino_tokens_tiny.safetensors",
    "text_encoder": "text_encoders/vino_tiny_text_encoder.safetensors",
    "vae": "vae/vino_tiny_vae.safetensors",
}
"""Where each file goes below ComfyUI's models folder, by its name in FOLDER."""

NOTICE = "vino-tiny, trained on drawn shapes: everything runs as it does in full size, in a world of 64x64 pixels."

LOADERS: dict[str, dict[str, Any]] = {
    "VINOModelLoader": {"model_name": Path(FILES["model"]).name},
    "VINOTokensLoader": {"tokens_name": Path(FILES["tokens"]).name},
    "VINOTextEncoderLoader": {"text_encoder_name": Path(FILES["text_encoder"]).name},
    "VAELoader": {"vae_name": Path(FILES["vae"]).name},
}
"""What the loaders of a graph must be set to, by node type."""


def write_miniature(models: Path) -> None:
    """Put the four files below the ComfyUI models folder `models`."""
    for name, place in FILES.items():
        target = models / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(FOLDER / f"{name}.safetensors", target)
