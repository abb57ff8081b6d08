"""Miniature random weights of VOGUE in the file formats that users have, beside those of `tiny_weights`.

    python tools/tiny_vogue_weights.py MODELS_FOLDER

writes what the shipped workflows of VOGUE load, but for the VAE, which is VINO's. The text encoder comes twice, as
users have it: with its decoder in scaled fp8 and no head, and whole.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from tiny_weights import MODEL, Shape, linear, model_shapes, random_weights  # noqa: E402

from vino_core.checkpoints.files import model_metadata  # noqa: E402
from vino_core.config import ConnectorConfig, MMDiTConfig  # noqa: E402
from vino_core.systems.base import System  # noqa: E402
from vino_core.systems.vogue import VOGUE  # noqa: E402

MODEL_FILE = "diffusion_models/vogue_bf16.safetensors"
FP8_FILE = "text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors"
WHOLE_FILE = "text_encoders/qwen_2.5_vl_7b.safetensors"
SHIPPED = {"model": MODEL_FILE, "text_encoder": WHOLE_FILE, "text_encoder_fp8": FP8_FILE}
_FP8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class TinyVLM:
    """Dimensions of a miniature Qwen2.5-VL. Heads of the decoder are as wide as the published ones and vision has as
    many, since files tell neither."""

    hidden_size: int = 32
    intermediate_size: int = 64
    num_hidden_layers: int = 2
    heads: int = 4
    head_dim: int = 128
    vocab_size: int = 152_064
    vision_hidden_size: int = 64
    vision_intermediate_size: int = 64
    vision_depth: int = 2
    patch: int = 14
    merge: int = 2


VLM = TinyVLM()


def model_config(vlm: TinyVLM = VLM) -> MMDiTConfig:
    """VINO's miniature MMDiT with VOGUE's connector."""
    connector = ConnectorConfig("qwen_project_in", vlm.hidden_size, MODEL.text_dim, "none", hidden_features=64)
    return replace(MODEL, connectors=(connector,))


def text_encoder_shapes(vlm: TinyVLM = VLM) -> dict[str, Shape]:
    """Qwen2.5-VL, named as in its older published files, which are the ones that ComfyUI's users have."""
    hidden, width = vlm.hidden_size, vlm.vision_hidden_size
    shapes: dict[str, Shape] = {
        "model.embed_tokens.weight": (vlm.vocab_size, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vlm.vocab_size, hidden),
    }
    inner = vlm.heads * vlm.head_dim
    for index in range(vlm.num_hidden_layers):
        layer = f"model.layers.{index}"
        shapes[f"{layer}.input_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        for name in ("q_proj", "k_proj", "v_proj"):
            shapes.update(linear(f"{layer}.self_attn.{name}", hidden, inner))
        shapes.update(linear(f"{layer}.self_attn.o_proj", inner, hidden, bias=False))
        shapes.update(linear(f"{layer}.mlp.gate_proj", hidden, vlm.intermediate_size, bias=False))
        shapes.update(linear(f"{layer}.mlp.up_proj", hidden, vlm.intermediate_size, bias=False))
        shapes.update(linear(f"{layer}.mlp.down_proj", vlm.intermediate_size, hidden, bias=False))

    shapes["visual.patch_embed.proj.weight"] = (width, 3, 2, vlm.patch, vlm.patch)
    for index in range(vlm.vision_depth):
        block = f"visual.blocks.{index}"
        shapes[f"{block}.norm1.weight"] = shapes[f"{block}.norm2.weight"] = (width,)
        shapes.update(linear(f"{block}.attn.qkv", width, 3 * width))
        shapes.update(linear(f"{block}.attn.proj", width, width))
        shapes.update(linear(f"{block}.mlp.gate_proj", width, vlm.vision_intermediate_size))
        shapes.update(linear(f"{block}.mlp.up_proj", width, vlm.vision_intermediate_size))
        shapes.update(linear(f"{block}.mlp.down_proj", vlm.vision_intermediate_size, width))
    merged = width * vlm.merge**2
    shapes["visual.merger.ln_q.weight"] = (width,)
    shapes.update(linear("visual.merger.mlp.0", merged, merged))
    shapes.update(linear("visual.merger.mlp.2", merged, hidden))
    return shapes


def scaled_fp8(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's matrices in fp8 with a scale each, and no head."""
    small: dict[str, Tensor] = {"scaled_fp8": torch.zeros(2, dtype=_FP8)}
    for name, value in weights.items():
        if name.startswith("model.layers.") and name.endswith("_proj.weight"):
            scale = value.abs().max() / torch.finfo(_FP8).max
            small[name] = (value / scale).to(_FP8)
            small[f"{name.removesuffix('weight')}scale_weight"] = scale.reshape(1)
        elif name != "lm_head.weight":
            small[name] = value
    return small


def write_tiny_vogue_weights(
    models: Path, seed: int = 0, system: System = VOGUE, names: Mapping[str, str] = SHIPPED, told: bool = False
) -> None:
    """Write the files in `names` under the ComfyUI models folder `models`; the same seed gives the same bytes.

    `told`: whether the text encoder says that it belongs to `system`, as the published one does not.
    """
    vlm = replace(VLM, patch=system.vision.patch)
    config = model_config(vlm)
    encoder, says = random_weights(text_encoder_shapes(vlm), seed + 1), {"system": system.name} if told else {}
    files = {
        "model": (random_weights(model_shapes(config), seed), model_metadata(system.name, config)),
        "text_encoder": (encoder, says),
        "text_encoder_fp8": (scaled_fp8(encoder), says),
    }
    for name, place in names.items():
        (models / place).parent.mkdir(parents=True, exist_ok=True)
        weights, metadata = files[name]
        save_file(weights, models / place, metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, help="ComfyUI's models folder")
    arguments = parser.parse_args()
    write_tiny_vogue_weights(arguments.models)
    print(f"random miniature weights written under {arguments.models}")


if __name__ == "__main__":
    main()
