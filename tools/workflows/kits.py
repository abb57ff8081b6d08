"""The published systems as a user has them: which files, where from, and under which licences."""

from __future__ import annotations

from dataclasses import dataclass

from vino_core.systems.base import System
from vino_core.systems.vino import VINO
from vino_core.systems.vogue import VOGUE

VAE_FILE = "hunyuan_video_vae_bf16.safetensors"
_VAE_LICENCE = "HunyuanVideo VAE Tencent Community Licence"


@dataclass(frozen=True)
class Kit:
    """One system with the names of its files.

    `load_clip` is the type under which the stock Load CLIP takes the text encoder; None where the pack's own loader is
    used. `writer` is the text encoder's file for workflows that let it write text, with the pack's own loader. The
    other texts stand in the notes; `head` where the text encoder writes.
    """

    system: System
    model: str
    text_encoder: str
    tokens: str | None
    load_clip: str | None
    writer: str
    origin: str
    licences: tuple[str, ...]
    encoder_licence: str
    head: str = ""
    more: str = ""
    vae: str = VAE_FILE


VINO_KIT = Kit(
    system=VINO,
    model="vino_bf16.safetensors",
    text_encoder="qwen3vl_4b_bf16.safetensors",
    tokens="vino_tokens.safetensors",
    load_clip=None,
    writer="qwen3vl_4b_bf16.safetensors",
    origin="The first two come from the official checkpoint through `vino convert`; the others are the files that "
    "ComfyUI uses for Qwen3-VL-4B-Instruct and HunyuanVideo.",
    licences=("VINO CC BY-NC 4.0 (no commercial use)", _VAE_LICENCE),
    encoder_licence="Qwen3-VL-4B Apache-2.0",
)

VOGUE_KIT = Kit(
    system=VOGUE,
    model="vogue_bf16.safetensors",
    text_encoder="qwen_2.5_vl_7b_fp8_scaled.safetensors",
    tokens=None,
    load_clip="qwen_image",
    writer="qwen_2.5_vl_7b.safetensors",
    origin="The first comes from UniVideo's `model.ckpt` through `vino convert`; the others are the files that "
    "ComfyUI uses for Qwen-Image and HunyuanVideo.",
    licences=("VOGUE as UniVideo's model page says", _VAE_LICENCE),
    encoder_licence="Qwen2.5-VL-7B Apache-2.0",
    head="To write text, the text encoder needs a file that holds `lm_head.weight`: Qwen's own weights do, and what "
    "`vino convert` makes of `mllm.ckpt`. Some stock files leave it out.",
    more="**With learnable queries**: this is the variant without. For the other one add VINO Tokens Loader and "
    "connect it to VINO Interleaved Encoder and to VINO Learnable Tokens.",
)
