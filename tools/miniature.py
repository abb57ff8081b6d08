"""The miniatures that tests and demo run, in the folders and under the names that ComfyUI wants."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from workflows.kits import VINO_KIT, VOGUE_KIT, Kit  # noqa: E402

from vino_core.systems.base import System  # noqa: E402
from vino_core.systems.vino_tiny import VINO_TINY  # noqa: E402
from vino_core.systems.vogue_tiny import VOGUE_TINY  # noqa: E402

NOTICE = "vino-tiny, trained on drawn shapes: everything runs as it does in full size, in a world of 64x64 pixels."


@dataclass(frozen=True)
class Miniature:
    """A small system that runs the workflows of `kit`, with the VAE of `vae_of`."""

    system: System
    kit: Kit
    vae_of: System

    @property
    def folder(self) -> Path:
        """Where its own files are, once it is trained."""
        return ROOT / "models" / self.system.name

    @property
    def is_trained(self) -> bool:
        """Whether all of its own files are there."""
        return all((self.folder / f"{name}.safetensors").is_file() for name in self.files)

    @property
    def files(self) -> dict[str, str]:
        """Where each of its own files goes below ComfyUI's models folder, by its name in `folder`."""
        stem, family = self.system.name.replace("-", "_"), self.kit.system.name
        files = {
            "model": f"diffusion_models/{stem}.safetensors",
            "tokens": f"embeddings/{family}_tokens_tiny.safetensors",
            "text_encoder": f"text_encoders/{stem}_text_encoder.safetensors",
        }
        return {name: place for name, place in files.items() if name != "tokens" or self.system.learnable_tokens}

    @property
    def vae(self) -> str:
        """Where the VAE goes."""
        return f"vae/{self.vae_of.name.replace('-', '_')}_vae.safetensors"

    @property
    def loaders(self) -> dict[str, dict[str, Any]]:
        """What the loaders of a graph must be set to, by node type."""
        inputs = {
            "model": ("VINOModelLoader", "model_name"),
            "tokens": ("VINOTokensLoader", "tokens_name"),
            "text_encoder": ("VINOTextEncoderLoader", "text_encoder_name"),
        }
        loaders = {inputs[name][0]: {inputs[name][1]: Path(place).name} for name, place in self.files.items()}
        return {**loaders, "VAELoader": {"vae_name": Path(self.vae).name}}

    def write(self, models: Path) -> None:
        """Put its files below the ComfyUI models folder `models`."""
        for name, place in self.files.items():
            _copy(self.folder / f"{name}.safetensors", models / place)
        self.write_vae(models)

    def write_vae(self, models: Path) -> None:
        """Put the VAE there alone."""
        _copy(ROOT / "models" / self.vae_of.name / "vae.safetensors", models / self.vae)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


TINY_VINO = Miniature(VINO_TINY, VINO_KIT, VINO_TINY)
TINY_VOGUE = Miniature(VOGUE_TINY, VOGUE_KIT, VINO_TINY)
MINIATURES = (TINY_VINO, TINY_VOGUE)
