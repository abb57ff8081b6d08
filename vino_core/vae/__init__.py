"""The VAEs that turn pixels into latents and back, without ComfyUI."""

from .base import VAE, to_unit_range
from .hunyuan import HunyuanVAE, original_name
from .wan import WanVAE

__all__ = ["VAE", "HunyuanVAE", "WanVAE", "original_name", "to_unit_range"]
