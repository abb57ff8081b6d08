"""Load a Qwen3-VL of any size into ComfyUI's own classes.

Core's Load CLIP knows the 4B and 8B sizes only. Here the sizes come from the file: from the shapes of its tensors, and
what shapes do not tell from the `config` entry of its metadata (the model's config.json). A file whose metadata has a
`tokenizer` (the text of a tokenizer.json) is read with that one, any other with Qwen's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.sd
import comfy.utils
import torch
from comfy.sd1_clip import SD1ClipModel, SDClipModel
from comfy.text_encoders import qwen3vl
from comfy.text_encoders.hunyuan_video import llama_detect
from comfy.text_encoders.llama import Llama2_, Qwen3VL_4BConfig
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...vino_core.checkpoints.header import read_header
from ...vino_core.encoder.engine import END_OF_TEXT
from ...vino_core.encoder.tokenizer import special_id, tokenizer_from_json
from ...vino_core.errors import InputError
from ...vino_core.systems import system_of
from .own_tokenizer import OwnTokenizer

_NAME = "qwen3vl_4b"
_QWEN_PAD = 151643
"""What Qwen's own vocabulary pads with, as in core's classes."""
_PREFIXES = {"model.language_model.": "model.", "model.visual.": "visual.", "lm_head.": "model.lm_head."}
_DEEPSTACK_LAYERS = {24: [5, 11, 17], 27: [8, 16, 24]}
"""Vision layers whose features go to the decoder, by vision depth, in the published models."""


@dataclass(frozen=True)
class Sizes:
    """What core's classes are built from: arguments of its text config, fields that this config keeps on its class,
    and the dictionary of its vision tower."""

    text: dict[str, Any]
    text_fields: dict[str, Any]
    vision: dict[str, Any]


def load_text_encoder(
    path: str, embedding_directory: list[str] | None = None, device: str = "default"
) -> comfy.sd.CLIP:
    """The Qwen3-VL of a safetensors file as a CLIP; `device` is "default" or "cpu".

    Raises InputError when the file is damaged, holds another model, lacks weights or was made for an unknown system.
    """
    if path.lower().endswith((".safetensors", ".sft")):
        read_header(path)
    weights, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    weights, metadata = comfy.utils.convert_old_quants(weights, metadata=metadata)
    weights = comfy.utils.state_dict_prefix_replace(weights, _PREFIXES)
    sizes = read_sizes(weights, metadata, path)
    own = metadata.get("tokenizer")
    tokenizer = tokenizer_from_json(own, f"text encoder '{path}'") if own else None
    system = system_of(metadata, path)
    options = {} if device == "default" else {key: torch.device(device) for key in ("load_device", "offload_device")}
    target = _Target(sizes, llama_detect(weights), tokenizer)
    names = set(weights)
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=embedding_directory,
        parameters=comfy.utils.calculate_parameters(weights),
        state_dict=[weights],
        model_options=options,
    )
    transformer = getattr(clip.cond_stage_model, _NAME).transformer
    missing = [name for name, _ in transformer.named_parameters() if name not in names]
    if missing:
        raise InputError(
            f"text encoder '{path}': {len(missing)} weights are missing, {missing[0]} among them. The file is "
            "incomplete: download Qwen3-VL-4B-Instruct again."
        )
    clip.tokenizer.vino_system = system.name
    clip.patcher.cached_patcher_init = (_load_patcher, (path, embedding_directory, device))
    return clip


def _load_patcher(path: str, embedding_directory: list[str] | None, device: str) -> Any:
    """Second copy of the weights, for ComfyUI's work on several GPUs."""
    return load_text_encoder(path, embedding_directory, device).patcher


def read_sizes(weights: Mapping[str, Tensor], metadata: Mapping[str, str], path: str) -> Sizes:
    """Sizes of the Qwen3-VL in `weights`, which carry core's names.

    Only first dimensions are read: 4-bit formats halve the others. Raises InputError when it is another model.
    """
    try:
        config = json.loads(metadata.get("config", "{}"))
        text, vision = config.get("text_config", {}), config.get("vision_config", {})
        head_dim = _rows(weights, "model.layers.0.self_attn.q_norm.weight")
        depth = _count(weights, "visual.blocks.")
        sections = text.get("rope_scaling", text.get("rope_parameters", {})).get("mrope_section")
        return Sizes(
            text={
                "vocab_size": _rows(weights, "model.embed_tokens.weight"),
                "hidden_size": _rows(weights, "model.layers.0.input_layernorm.weight"),
                "intermediate_size": _rows(weights, "model.layers.0.mlp.gate_proj.weight"),
                "num_hidden_layers": _count(weights, "model.layers."),
                "num_attention_heads": _rows(weights, "model.layers.0.self_attn.q_proj.weight") // head_dim,
                "num_key_value_heads": _rows(weights, "model.layers.0.self_attn.k_proj.weight") // head_dim,
                "rms_norm_eps": text.get("rms_norm_eps", 1e-6),
                "rope_theta": float(text.get("rope_theta", 5e6)),
                "final_norm": "model.norm.weight" in weights,
                "lm_head": "model.lm_head.weight" in weights,
            },
            text_fields={"head_dim": head_dim, "rope_dims": sections or _mrope_section(head_dim)},
            vision={
                **qwen3vl.QWEN3VL_VISION_COMMON,
                "hidden_size": _rows(weights, "visual.blocks.0.norm1.weight"),
                "intermediate_size": _rows(weights, "visual.blocks.0.mlp.linear_fc1.weight"),
                "depth": depth,
                "num_heads": vision.get("num_heads", 16),
                "num_position_embeddings": _rows(weights, "visual.pos_embed.weight"),
                "out_hidden_size": _rows(weights, "visual.merger.linear_fc2.weight"),
                "deepstack_visual_indexes": vision.get("deepstack_visual_indexes") or _DEEPSTACK_LAYERS[depth],
            },
        )
    except (KeyError, json.JSONDecodeError, AttributeError) as error:
        raise InputError(
            f"text encoder '{path}': this is not a Qwen3-VL ({error} not found). Use Qwen3-VL-4B-Instruct as one "
            "safetensors file in models/text_encoders."
        ) from error


def _rows(weights: Mapping[str, Tensor], name: str) -> int:
    return weights[name].shape[0]


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max((int(name[len(prefix) :].split(".")[0]) for name in weights if name.startswith(prefix)), default=-1)


def _mrope_section(head_dim: int) -> list[int]:
    """Qwen3-VL's own split of the rotary frequencies over time, rows and columns: 24, 20, 20 of 64."""
    side = head_dim * 10 // 64
    return [head_dim // 2 - 2 * side, side, side]


class _Qwen3VL(qwen3vl.Qwen3VL):
    """Core's Qwen3-VL, with sizes of its own."""

    def __init__(self, sizes: Sizes, config_dict: dict, dtype: Any, device: Any, operations: Any) -> None:
        torch.nn.Module.__init__(self)
        config = Qwen3VL_4BConfig(**{**sizes.text, **config_dict})
        for name, value in sizes.text_fields.items():
            setattr(config, name, value)
        self.num_layers = config.num_hidden_layers
        self.model = Llama2_(config, device=device, dtype=dtype, ops=operations)
        self.visual = qwen3vl.Qwen3VLVisionModel(sizes.vision, device=device, dtype=dtype, ops=operations)
        self.dtype = dtype


class _ClipModel(qwen3vl.Qwen3VLClipModel):
    """Core's wrapper around it."""

    def __init__(
        self, sizes: Sizes, pad: int, device: Any = "cpu", dtype: Any = None, model_options: Any = None
    ) -> None:
        SDClipModel.__init__(
            self,
            device=device,
            layer="hidden",
            layer_idx=-1,
            textmodel_json_config={},
            dtype=dtype,
            special_tokens={"pad": pad},
            layer_norm_hidden_state=False,
            model_class=partial(_Qwen3VL, sizes),
            enable_attention_masks=True,
            return_attention_masks=True,
            model_options=model_options or {},
        )


class _Target:
    """Tells `comfy.sd.CLIP` which classes to build."""

    def __init__(self, sizes: Sizes, detected: Mapping[str, Any], own: PreTrainedTokenizerBase | None) -> None:
        self.params: dict[str, Any] = {}
        if own is None:
            self.tokenizer, pad = qwen3vl.tokenizer(model_type=_NAME), _QWEN_PAD
        else:
            width = sizes.text["hidden_size"]
            self.tokenizer, pad = partial(OwnTokenizer, _NAME, own, width), special_id(own, END_OF_TEXT)
        self.model = partial(_ClipModel, sizes, pad)
        self.dtype = detected.get("dtype_llama")
        self.quantization = detected.get("llama_quantization_metadata")

    def clip(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> SD1ClipModel:
        options = dict(model_options or {})
        if self.quantization is not None:
            options["quantization_metadata"] = self.quantization
        return SD1ClipModel(
            device=device,
            dtype=self.dtype or dtype,
            name=_NAME,
            clip_model=self.model,
            model_options=options,
        )
