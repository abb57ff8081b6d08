"""The reference folder's miniature weights, written in the formats that ComfyUI loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from parity_groups import load, mllm
from parity_groups.mm_encoder import PREFIX, model_config
from parity_groups.transformer import config_of
from parity_groups.vogue.transformer import SYSTEM as VOGUE
from parity_groups.vogue.transformer import tiny_config
from parity_groups.weights import native_from_official
from vino_core.checkpoints.files import model_metadata, save_tokens, tokens_metadata
from vino_core.config import ConnectorConfig, MMDiTConfig

MODEL = "diffusion_models/reference_vino.safetensors"
TEXT_ENCODER = "text_encoders/reference_qwen3vl.safetensors"
TOKENS = "embeddings/reference_vino_tokens.safetensors"
VOGUE_MODEL = "diffusion_models/reference_vogue.safetensors"
VOGUE_TEXT_ENCODER = "text_encoders/reference_qwen25vl.safetensors"
VOGUE_TOKENS = "embeddings/reference_vogue_tokens.safetensors"


def text_encoder(reference: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of the text encoder file."""
    index = json.loads((reference / "mm_encoder_index.json").read_text())
    weights = load(reference / index["weights"])
    state = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    embedding = torch.zeros(index["config"]["vocab_size"], weights["embed_rows"].shape[1])
    embedding[weights["embed_ids"]] = weights["embed_rows"]
    state["model.language_model.embed_tokens.weight"] = embedding
    return state, {"config": json.dumps(model_config(index["config"]))}


def model_config_of(reference: Path) -> MMDiTConfig:
    """Dimensions of the MMDiT with its connectors."""
    encoder = json.loads((reference / "mm_encoder_index.json").read_text())["config"]
    index = json.loads((reference / "transformer_index.json").read_text())
    width = encoder["text"]["hidden_size"]
    return replace(
        config_of(index["config"]),
        connectors=(
            ConnectorConfig("connector", width, encoder["z_dim"]),
            ConnectorConfig("connector_vae_branch", width, encoder["hy_dim"]),
        ),
    )


def model(reference: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of the model file."""
    config = model_config_of(reference)
    transformer = load(reference / json.loads((reference / "transformer_index.json").read_text())["weights"])
    encoder = load(reference / json.loads((reference / "mm_encoder_index.json").read_text())["weights"])
    official = {**transformer, **encoder}
    return native_from_official(official, config), model_metadata("vino", config)


def tokens(reference: Path) -> Tensor:
    """The learnable tokens [count, width]."""
    index = json.loads((reference / "mm_encoder_index.json").read_text())
    return load(reference / index["weights"])["mm_encoder.metaquery"]


def write_reference_weights(reference: Path, models: Path) -> None:
    """Write all three files under the ComfyUI models folder `models`. The VAE has none: core fixes its width."""
    files = {
        MODEL: model(reference),
        TEXT_ENCODER: text_encoder(reference),
        TOKENS: ({"metaquery": tokens(reference)}, tokens_metadata("vino")),
    }
    for name, (tensors, metadata) in files.items():
        path = models / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)


def vogue_text_encoder(reference: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, by the names of older files, and metadata of VOGUE's text encoder file."""
    state, _, index = mllm.reference_state(reference)
    return state, {"config": json.dumps(mllm.model_config(index["config"]))}


def vogue_model(reference: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of VOGUE's model file.

    The reference's latents have 4 channels. Those that ComfyUI's latents have beyond them go in and out with weights of
    zero, so they neither change the others nor themselves.
    """
    index = json.loads((reference / "transformer_index.json").read_text())
    small, published = tiny_config(index["config"]), VOGUE.published
    weights = {published.canonical(name): value for name, value in load(reference / index["weights"]).items()}
    state = native_from_official(weights, small, published.connectors)
    config = replace(small, in_channels=VOGUE.latent_channels, out_channels=VOGUE.latent_channels)
    more = VOGUE.latent_channels - small.in_channels
    values = more * state["final_layer.linear.weight"].shape[0] // small.out_channels
    state["img_in.proj.weight"] = pad(state["img_in.proj.weight"], (0, 0, 0, 0, 0, 0, 0, more))
    state["final_layer.linear.weight"] = pad(state["final_layer.linear.weight"], (0, 0, 0, values))
    state["final_layer.linear.bias"] = pad(state["final_layer.linear.bias"], (0, values))
    return state, model_metadata("vogue", config)


def vogue_tokens(reference: Path) -> Tensor:
    """The learnable queries between their marks [count + 2, width]."""
    return mllm.reference_state(reference)[1]


def write_vogue_weights(reference: Path, models: Path) -> None:
    """Write VOGUE's three files under the ComfyUI models folder `models`."""
    files = {VOGUE_MODEL: vogue_model(reference), VOGUE_TEXT_ENCODER: vogue_text_encoder(reference)}
    for name, (tensors, metadata) in files.items():
        path = models / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    (models / VOGUE_TOKENS).parent.mkdir(parents=True, exist_ok=True)
    save_tokens(models / VOGUE_TOKENS, vogue_tokens(reference), "vogue")
