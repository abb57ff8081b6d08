"""The reference folder's miniature weights, written in the formats that ComfyUI loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from parity_groups import load
from parity_groups.mm_encoder import PREFIX, model_config
from parity_groups.transformer import config_of
from parity_groups.weights import native_from_official
from vino_core.checkpoints.files import model_metadata, tokens_metadata
from vino_core.config import ConnectorConfig, MMDiTConfig

MODEL = "diffusion_models/reference_vino.safetensors"
TEXT_ENCODER = "text_encoders/reference_qwen3vl.safetensors"
TOKENS = "embeddings/reference_vino_tokens.safetensors"


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
