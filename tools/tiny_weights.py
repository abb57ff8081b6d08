"""Miniature random weights in the file formats that users have, for tests and for the demo.

    python tools/tiny_weights.py MODELS_FOLDER [--seed 0]

writes one file of each kind under ComfyUI's models folder, with the names that the shipped workflows load. Nothing is
trained: pictures made with these files are coloured noise. They exist so that every part of the program runs, with
finite and varied numbers, in seconds and without a download.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vino_core.checkpoints.files import model_metadata, save_tokens  # noqa: E402
from vino_core.config import ConnectorConfig, MMDiTConfig  # noqa: E402
from vino_core.mmdit.model import MMDiT  # noqa: E402

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

MODEL_FILE = "diffusion_models/vino_bf16.safetensors"
TOKENS_FILE = "embeddings/vino_tokens.safetensors"
TEXT_ENCODER_FILE = "text_encoders/qwen3vl_4b_bf16.safetensors"
VAE_FILE = "vae/hunyuan_video_vae_bf16.safetensors"
SHIPPED = {"model": MODEL_FILE, "tokens": TOKENS_FILE, "text_encoder": TEXT_ENCODER_FILE, "vae": VAE_FILE}


@dataclass(frozen=True)
class TinyVLM:
    """Dimensions of a miniature Qwen3-VL; field names as in its published `config.json`."""

    hidden_size: int = 64
    intermediate_size: int = 96
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 16
    mrope_section: tuple[int, int, int] = (4, 2, 2)
    vocab_size: int = 151936
    vision_hidden_size: int = 32
    vision_intermediate_size: int = 64
    vision_depth: int = 3
    vision_heads: int = 2
    deepstack_visual_indexes: tuple[int, ...] = (0, 1)
    num_position_embeddings: int = 36
    patch_pixels: int = 3 * 2 * 16 * 16
    merge: int = 2

    def metadata(self) -> str:
        """The two halves of a Qwen3-VL `config.json` as JSON text."""
        text = {
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "rms_norm_eps": 1e-6,
            "rope_theta": 5000000.0,
            "rope_scaling": {"mrope_section": list(self.mrope_section), "mrope_interleaved": True},
        }
        vision = {
            "hidden_size": self.vision_hidden_size,
            "intermediate_size": self.vision_intermediate_size,
            "depth": self.vision_depth,
            "num_heads": self.vision_heads,
            "deepstack_visual_indexes": list(self.deepstack_visual_indexes),
            "num_position_embeddings": self.num_position_embeddings,
            "out_hidden_size": self.hidden_size,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": self.merge,
        }
        return json.dumps({"text_config": text, "vision_config": vision})


VLM = TinyVLM()
MODEL = MMDiTConfig(
    hidden_size=64,
    num_heads=2,
    depth=2,
    depth_single=2,
    depth_refiner=1,
    text_dim=48,
    rope_axes=(8, 12, 12),
    connectors=(
        ConnectorConfig("connector", VLM.hidden_size, 48),
        ConnectorConfig("connector_vae_branch", VLM.hidden_size, 64),
    ),
)
TOKENS = 8


def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of a linear layer's parameters."""
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def layer_norm(name: str, size: int) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of a LayerNorm's parameters."""
    yield f"{name}.weight", (size,)
    yield f"{name}.bias", (size,)


def text_encoder_shapes(vlm: TinyVLM = VLM) -> dict[str, Shape]:
    """Qwen3-VL with tied word embeddings, named as in its published single file."""
    shapes: dict[str, Shape] = {}
    text, hidden = "model.language_model", vlm.hidden_size
    shapes[f"{text}.embed_tokens.weight"] = (vlm.vocab_size, hidden)
    shapes[f"{text}.norm.weight"] = (hidden,)
    for index in range(vlm.num_hidden_layers):
        layer = f"{text}.layers.{index}"
        shapes[f"{layer}.input_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.self_attn.q_norm.weight"] = (vlm.head_dim,)
        shapes[f"{layer}.self_attn.k_norm.weight"] = (vlm.head_dim,)
        queries, keys = vlm.num_attention_heads * vlm.head_dim, vlm.num_key_value_heads * vlm.head_dim
        shapes.update(linear(f"{layer}.self_attn.q_proj", hidden, queries, bias=False))
        shapes.update(linear(f"{layer}.self_attn.k_proj", hidden, keys, bias=False))
        shapes.update(linear(f"{layer}.self_attn.v_proj", hidden, keys, bias=False))
        shapes.update(linear(f"{layer}.self_attn.o_proj", queries, hidden, bias=False))
        shapes.update(linear(f"{layer}.mlp.gate_proj", hidden, vlm.intermediate_size, bias=False))
        shapes.update(linear(f"{layer}.mlp.up_proj", hidden, vlm.intermediate_size, bias=False))
        shapes.update(linear(f"{layer}.mlp.down_proj", vlm.intermediate_size, hidden, bias=False))

    vision, width = "model.visual", vlm.vision_hidden_size
    merged = width * vlm.merge**2
    shapes[f"{vision}.patch_embed.proj.weight"] = (width, 3, 2, 16, 16)
    shapes[f"{vision}.patch_embed.proj.bias"] = (width,)
    shapes[f"{vision}.pos_embed.weight"] = (vlm.num_position_embeddings, width)
    for index in range(vlm.vision_depth):
        block = f"{vision}.blocks.{index}"
        shapes.update(layer_norm(f"{block}.norm1", width))
        shapes.update(layer_norm(f"{block}.norm2", width))
        shapes.update(linear(f"{block}.attn.qkv", width, 3 * width))
        shapes.update(linear(f"{block}.attn.proj", width, width))
        shapes.update(linear(f"{block}.mlp.linear_fc1", width, vlm.vision_intermediate_size))
        shapes.update(linear(f"{block}.mlp.linear_fc2", vlm.vision_intermediate_size, width))
    mergers = [("merger", width)]
    mergers += [(f"deepstack_merger_list.{index}", merged) for index in range(len(vlm.deepstack_visual_indexes))]
    for name, norm_width in mergers:
        shapes.update(layer_norm(f"{vision}.{name}.norm", norm_width))
        shapes.update(linear(f"{vision}.{name}.linear_fc1", merged, merged))
        shapes.update(linear(f"{vision}.{name}.linear_fc2", merged, hidden))
    return shapes


def convolution(name: str, inputs: int, outputs: int, kernel: Shape) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of a convolution's parameters."""
    yield f"{name}.weight", (outputs, inputs, *kernel)
    yield f"{name}.bias", (outputs,)


def residual(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of one residual block of the Wan VAE."""
    yield f"{name}.residual.0.gamma", (inputs, 1, 1, 1)
    yield from convolution(f"{name}.residual.2", inputs, outputs, (3, 3, 3))
    yield f"{name}.residual.3.gamma", (outputs, 1, 1, 1)
    yield from convolution(f"{name}.residual.6", outputs, outputs, (3, 3, 3))
    if inputs != outputs:
        yield from convolution(f"{name}.shortcut", inputs, outputs, (1, 1, 1))


def middle(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of the residual, attention, residual sandwich of the Wan VAE."""
    yield from residual(f"{name}.0", width, width)
    yield f"{name}.1.norm.gamma", (width, 1, 1)
    yield from convolution(f"{name}.1.to_qkv", width, 3 * width, (1, 1))
    yield from convolution(f"{name}.1.proj", width, width, (1, 1))
    yield from residual(f"{name}.2", width, width)


def vae_shapes(width: int = 4, latent: int = 16) -> dict[str, Shape]:
    """A Wan-2.1-style video VAE, 4x in time and 8x in space, named as in its published file.

    ComfyUI fixes the width of HunyuanVideo's VAE but infers this one's from the file, so a miniature stands in for it.
    """
    shapes: dict[str, Shape] = {}
    shapes.update(convolution("encoder.conv1", 3, width, (3, 3, 3)))
    widths = [width, width, 2 * width, 4 * width, 4 * width]
    layer = 0
    for stage in range(4):
        inputs, outputs = widths[stage], widths[stage + 1]
        for channels in (inputs, outputs):
            shapes.update(residual(f"encoder.downsamples.{layer}", channels, outputs))
            layer += 1
        if stage < 3:
            shapes.update(convolution(f"encoder.downsamples.{layer}.resample.1", outputs, outputs, (3, 3)))
            if stage > 0:
                shapes.update(convolution(f"encoder.downsamples.{layer}.time_conv", outputs, outputs, (3, 1, 1)))
            layer += 1
    deepest = widths[-1]
    shapes.update(middle("encoder.middle", deepest))
    shapes["encoder.head.0.gamma"] = (deepest, 1, 1, 1)
    shapes.update(convolution("encoder.head.2", deepest, 2 * latent, (3, 3, 3)))
    shapes.update(convolution("conv1", 2 * latent, 2 * latent, (1, 1, 1)))
    shapes.update(convolution("conv2", latent, latent, (1, 1, 1)))

    shapes.update(convolution("decoder.conv1", latent, deepest, (3, 3, 3)))
    shapes.update(middle("decoder.middle", deepest))
    layer, inputs = 0, deepest
    for stage, outputs in enumerate((deepest, deepest, 2 * width, width)):
        for channels in (inputs, outputs, outputs):
            shapes.update(residual(f"decoder.upsamples.{layer}", channels, outputs))
            layer += 1
        if stage < 3:
            shapes.update(convolution(f"decoder.upsamples.{layer}.resample.1", outputs, outputs // 2, (3, 3)))
            if stage < 2:
                shapes.update(convolution(f"decoder.upsamples.{layer}.time_conv", outputs, 2 * outputs, (3, 1, 1)))
            layer += 1
        inputs = outputs // 2
    shapes["decoder.head.0.gamma"] = (width, 1, 1, 1)
    shapes.update(convolution("decoder.head.2", width, 3, (3, 3, 3)))
    return shapes


def model_shapes(config: MMDiTConfig = MODEL) -> dict[str, Shape]:
    """The MMDiT with its connectors."""
    return {name: tuple(tensor.shape) for name, tensor in MMDiT(config, device="meta").state_dict().items()}


def random_weights(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """float32 tensors that keep activations near unit size: matrices 1/sqrt(fan in), norms near 1, small biases."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for name, shape in sorted(shapes.items()):
        noise = torch.randn(shape, generator=generator)
        if name.endswith(".bias"):
            weights[name] = 0.05 * noise
        elif math.prod(shape) == shape[0]:
            weights[name] = 1 + 0.05 * noise
        else:
            weights[name] = noise / math.sqrt(math.prod(shape[1:]))
    return weights


def write_tiny_weights(models: Path, seed: int = 0, system: str = "vino", names: Mapping[str, str] = SHIPPED) -> None:
    """Write all four files under the ComfyUI models folder `models`; the same seed gives the same bytes.

    The files say that they belong to `system`; `names` tells their places.
    """
    files = {
        "model": (random_weights(model_shapes(), seed), model_metadata(system, MODEL)),
        "text_encoder": (
            random_weights(text_encoder_shapes(), seed + 1),
            {"config": VLM.metadata(), "system": system},
        ),
        "vae": (random_weights(vae_shapes(), seed + 2), {"system": system}),
    }
    for name, (weights, metadata) in files.items():
        path = models / names[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, path, metadata)
    tokens = torch.randn(TOKENS, VLM.hidden_size, generator=torch.Generator().manual_seed(seed + 3))
    (models / names["tokens"]).parent.mkdir(parents=True, exist_ok=True)
    save_tokens(models / names["tokens"], tokens, system, overwrite=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, help="ComfyUI's models folder")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files")
    arguments = parser.parse_args()
    write_tiny_weights(arguments.models, arguments.seed)
    print(f"random miniature weights written under {arguments.models}")


if __name__ == "__main__":
    main()
