"""The vision-language models that ComfyUI has and the systems use: how their files are told apart and core built.

Core's own loaders know published sizes only. Here the sizes come from the file: from the shapes of its tensors, and
what shapes do not tell from the `config` entry of its metadata (the model's config.json).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.sd
from comfy.text_encoders import qwen3vl, qwen_image, qwen_vl
from comfy.text_encoders.llama import Llama2_, Qwen3VL_4BConfig, Qwen25_7BVLI, Qwen25_7BVLI_Config
from torch import Tensor, nn

from ...vino_core.encoder.families import FAMILIES as CORE_FAMILIES
from ...vino_core.encoder.families import Family as CoreFamily
from ...vino_core.encoder.families import family_in as core_family_in
from ...vino_core.systems import SYSTEMS
from ...vino_core.systems.base import System

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """What core's classes are built from: arguments of its text config, fields that this config keeps on its class,
    and the arguments of its vision tower."""

    text: dict[str, Any]
    text_fields: dict[str, Any]
    vision: dict[str, Any]


@dataclass(frozen=True)
class Family:
    """One architecture. `key` is core's name for it in a CLIP."""

    core: CoreFamily
    key: str
    clip_type: str
    """The type that Load CLIP takes for it."""
    tied: bool
    """Whether the embedding writes the text where there is no head."""
    model: type[nn.Module]
    config: type
    read: Callable[[Weights, Mapping[str, Any], Mapping[str, Any]], Sizes]
    """Sizes of (weights with core's names, text config, vision config). Raises KeyError for what is not there."""
    vision: Callable[..., nn.Module]
    tokenizer: Callable[..., Any]

    @property
    def title(self) -> str:
        return self.core.title

    @property
    def system(self) -> System:
        """The system of text encoders that name none."""
        return next(system for system in SYSTEMS.values() if system.published.vlm_title == self.title)

    def build(self, sizes: Sizes, config_dict: dict, dtype: Any, device: Any, operations: Any) -> nn.Module:
        """Core's model in other sizes than its constructor knows."""
        model = self.model.__new__(self.model)
        nn.Module.__init__(model)
        config = self.config(**{**sizes.text, **config_dict})
        for name, value in sizes.text_fields.items():
            setattr(config, name, value)
        model.num_layers = config.num_hidden_layers
        model.model = Llama2_(config, device=device, dtype=dtype, ops=operations)
        model.visual = self.vision(sizes.vision, device=device, dtype=dtype, ops=operations)
        model.dtype = dtype
        return model


def rows(weights: Weights, name: str) -> int:
    return weights[name].shape[0]  # 4-bit formats halve the other dimensions


def count(weights: Weights, prefix: str) -> int:
    """Number of the layers called `prefix`0, `prefix`1 ..."""
    return 1 + max((int(name[len(prefix) :].split(".")[0]) for name in weights if name.startswith(prefix)), default=-1)


def _side(kernel: Tensor) -> int:
    """Width of a convolution's kernel. GGUF files flatten it and keep the true shape beside it."""
    return getattr(kernel, "tensor_shape", kernel.shape)[-1]


def _text(
    weights: Weights, config: Mapping[str, Any], head_dim: int, theta: float, sections: list[int]
) -> dict[str, dict[str, Any]]:
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return {
        "text": {
            "vocab_size": rows(weights, "model.embed_tokens.weight"),
            "hidden_size": rows(weights, "model.layers.0.input_layernorm.weight"),
            "intermediate_size": rows(weights, "model.layers.0.mlp.gate_proj.weight"),
            "num_hidden_layers": count(weights, "model.layers."),
            "num_attention_heads": rows(weights, "model.layers.0.self_attn.q_proj.weight") // head_dim,
            "num_key_value_heads": rows(weights, "model.layers.0.self_attn.k_proj.weight") // head_dim,
            "rms_norm_eps": config.get("rms_norm_eps", 1e-6),
            "rope_theta": float(config.get("rope_theta", rope.get("rope_theta", theta))),
            "final_norm": "model.norm.weight" in weights,
            "lm_head": "model.lm_head.weight" in weights,
        },
        "text_fields": {"head_dim": head_dim, "rope_dims": rope.get("mrope_section") or sections},
    }


_DEEPSTACK_LAYERS = {24: [5, 11, 17], 27: [8, 16, 24]}
"""Vision layers whose features go to the decoder, by vision depth, in the published models."""


def _read_qwen3(weights: Weights, text: Mapping[str, Any], vision: Mapping[str, Any]) -> Sizes:
    head_dim = rows(weights, "model.layers.0.self_attn.q_norm.weight")
    depth = count(weights, "visual.blocks.")
    side = head_dim * 10 // 64  # of the rotary frequencies, which time, rows and columns share as 24, 20, 20 of 64
    return Sizes(
        **_text(weights, text, head_dim, 5e6, [head_dim // 2 - 2 * side, side, side]),
        vision={
            **qwen3vl.QWEN3VL_VISION_COMMON,
            "hidden_size": rows(weights, "visual.blocks.0.norm1.weight"),
            "intermediate_size": rows(weights, "visual.blocks.0.mlp.linear_fc1.weight"),
            "depth": depth,
            "num_heads": vision.get("num_heads", 16),
            "num_position_embeddings": rows(weights, "visual.pos_embed.weight"),
            "out_hidden_size": rows(weights, "visual.merger.linear_fc2.weight"),
            "deepstack_visual_indexes": vision.get("deepstack_visual_indexes") or _DEEPSTACK_LAYERS[depth],
        },
    )


def _read_qwen25(weights: Weights, text: Mapping[str, Any], vision: Mapping[str, Any]) -> Sizes:
    heads = text.get("num_attention_heads")
    head_dim = rows(weights, "model.layers.0.self_attn.q_proj.weight") // heads if heads else 128
    side = head_dim * 3 // 16  # 16, 24, 24 of 64
    return Sizes(
        **_text(weights, text, head_dim, 1e6, [head_dim // 2 - 2 * side, side, side]),
        vision={
            "hidden_size": rows(weights, "visual.blocks.0.norm1.weight"),
            "output_hidden_size": rows(weights, "visual.merger.mlp.2.weight"),
            "intermediate_size": rows(weights, "visual.blocks.0.mlp.gate_proj.weight"),
            "num_heads": vision.get("num_heads", 16),
            "num_layers": count(weights, "visual.blocks."),
            "patch_size": _side(weights["visual.patch_embed.proj.weight"]),
            "window_size": vision.get("window_size", 112),
            "whole_picture": vision.get("fullatt_block_indexes"),
        },
    )


def _windowed_tower(sizes: Mapping[str, Any], **placement: Any) -> nn.Module:
    """Core's vision tower. `whole_picture`: the layers without windows, where they are not the published ones."""
    tower = qwen_vl.Qwen2VLVisionTransformer(
        **{name: size for name, size in sizes.items() if name != "whole_picture"}, **placement
    )
    if sizes["whole_picture"] is not None:
        tower.fullatt_block_indexes = sizes["whole_picture"]
    return tower


FAMILIES = (
    Family(
        core=CORE_FAMILIES["qwen3_vl"],
        key="qwen3vl_4b",
        clip_type="stable_diffusion",
        tied=True,
        model=qwen3vl.Qwen3VL,
        config=Qwen3VL_4BConfig,
        read=_read_qwen3,
        vision=qwen3vl.Qwen3VLVisionModel,
        tokenizer=qwen3vl.tokenizer(model_type="qwen3vl_4b"),
    ),
    Family(
        core=CORE_FAMILIES["qwen2_5_vl"],
        key="qwen25_7b",
        clip_type="qwen_image",
        tied=False,
        model=Qwen25_7BVLI,
        config=Qwen25_7BVLI_Config,
        read=_read_qwen25,
        vision=_windowed_tower,
        tokenizer=qwen_image.QwenImageTokenizer,
    ),
)
TITLES = " or ".join(family.title for family in FAMILIES)


def transformer_of(clip: comfy.sd.CLIP | None) -> nn.Module | None:
    """The network inside a CLIP that holds a single one."""
    model = getattr(clip, "cond_stage_model", None)
    inner = getattr(model, getattr(model, "clip", ""), None)
    return getattr(inner, "transformer", model)


def family_of(transformer: nn.Module | None) -> Family | None:
    """The family that a network belongs to, however it was loaded; None for none of these."""
    return next((family for family in FAMILIES if isinstance(transformer, family.model)), None)


def family_in(weights: Weights) -> Family | None:
    """The family whose weights these are."""
    found = core_family_in(weights)
    return next((family for family in FAMILIES if family.core is found), None)


def builder(family: Family, sizes: Sizes) -> Callable[..., nn.Module]:
    """What core's CLIP classes call to make the network."""
    return partial(family.build, sizes)
