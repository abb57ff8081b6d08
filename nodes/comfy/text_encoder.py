"""Load a vision-language model of any size into ComfyUI's own classes.

Core's Load CLIP knows published sizes only. A file whose metadata has a `tokenizer` (the text of a tokenizer.json) is
read with that one, any other with Qwen's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import comfy.sd
import comfy.utils
import torch
from comfy.sd1_clip import SD1ClipModel, SDClipModel
from comfy.text_encoders.hunyuan_video import llama_detect
from comfy.text_encoders.qwen3vl import Qwen3VLClipModel
from transformers import PreTrainedTokenizerBase

from ...vino_core.checkpoints.header import read_header
from ...vino_core.encoder.engine import END_OF_TEXT
from ...vino_core.encoder.families import agreed_family
from ...vino_core.encoder.tokenizer import special_id, tokenizer_from_json
from ...vino_core.errors import InputError
from ...vino_core.systems import system_of
from .families import TITLES, Family, Sizes, Weights, builder, family_in
from .own_tokenizer import OwnTokenizer

_QWEN_PAD = 151643
"""What Qwen's own vocabulary pads with, as in core's classes."""
_PREFIXES = {"model.language_model.": "model.", "model.visual.": "visual.", "lm_head.": "model.lm_head."}


def load_text_encoder(
    path: str, embedding_directory: list[str] | None = None, device: str = "default"
) -> comfy.sd.CLIP:
    """The vision-language model of a safetensors file as a CLIP; `device` is "default" or "cpu".

    Raises InputError when the file is damaged, holds another model, lacks weights or was made for an unknown system.
    """
    if path.lower().endswith((".safetensors", ".sft")):
        read_header(path)
    weights, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    weights, metadata = comfy.utils.convert_old_quants(weights, metadata=metadata)
    weights = comfy.utils.state_dict_prefix_replace(weights, _PREFIXES)
    family, sizes = read_sizes(weights, metadata, path)
    own = metadata.get("tokenizer")
    tokenizer = tokenizer_from_json(own, f"text encoder '{path}'") if own else None
    system = system_of({"system": family.system.name, **metadata}, path)
    options = {} if device == "default" else {key: torch.device(device) for key in ("load_device", "offload_device")}
    target = _Target(family, sizes, llama_detect(weights), tokenizer)
    names = set(weights)
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=embedding_directory,
        parameters=comfy.utils.calculate_parameters(weights),
        state_dict=[weights],
        model_options=options,
    )
    transformer = getattr(clip.cond_stage_model, family.key).transformer
    missing = [name for name, _ in transformer.named_parameters() if name not in names]
    if missing:
        raise InputError(
            f"text encoder '{path}': {len(missing)} weights are missing, {missing[0]} among them. The file is "
            f"incomplete: download {family.title} again."
        )
    clip.tokenizer.vino_system = system.name
    clip.patcher.cached_patcher_init = (_load_patcher, (path, embedding_directory, device))
    return clip


def _load_patcher(path: str, embedding_directory: list[str] | None, device: str) -> Any:
    """Second copy of the weights, for ComfyUI's work on several GPUs."""
    return load_text_encoder(path, embedding_directory, device).patcher


def read_sizes(weights: Weights, metadata: Mapping[str, str], path: str) -> tuple[Family, Sizes]:
    """What the model in `weights` is, which carry core's names. Raises InputError when it is another one."""
    family = family_in(weights)
    reason = "none of their weights found"
    if family is not None:
        try:
            config = json.loads(metadata.get("config", "{}"))
            agreed_family(config, weights, f"text encoder '{path}'", "the config in its metadata")
            # Of Qwen2.5-VL the text model's config may be the whole one.
            return family, family.read(weights, config.get("text_config", config), config.get("vision_config", {}))
        except (KeyError, json.JSONDecodeError, AttributeError) as error:
            reason = f"{error} not found"
    raise InputError(
        f"text encoder '{path}': this is not a Qwen3-VL or Qwen2.5-VL ({reason}). Use {TITLES} as one safetensors file "
        "in models/text_encoders."
    )


class _ClipModel(Qwen3VLClipModel):
    """Core's wrapper around it."""

    def __init__(
        self,
        family: Family,
        sizes: Sizes,
        pad: int,
        device: Any = "cpu",
        dtype: Any = None,
        model_options: Any = None,
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
            model_class=builder(family, sizes),
            enable_attention_masks=True,
            return_attention_masks=True,
            model_options=model_options or {},
        )


class _Target:
    """Tells `comfy.sd.CLIP` which classes to build."""

    def __init__(
        self, family: Family, sizes: Sizes, detected: Mapping[str, Any], own: PreTrainedTokenizerBase | None
    ) -> None:
        self.params: dict[str, Any] = {}
        self.key = family.key
        if own is None:
            self.tokenizer, pad = family.tokenizer, _QWEN_PAD
        else:
            width = sizes.text["hidden_size"]
            self.tokenizer, pad = partial(OwnTokenizer, family.key, own, width), special_id(own, END_OF_TEXT)
        self.model = partial(_ClipModel, family, sizes, pad)
        self.dtype = detected.get("dtype_llama")
        self.quantization = detected.get("llama_quantization_metadata")

    def clip(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> SD1ClipModel:
        options = dict(model_options or {})
        if self.quantization is not None:
            options["quantization_metadata"] = self.quantization
        return SD1ClipModel(
            device=device,
            dtype=self.dtype or dtype,
            name=self.key,
            clip_model=self.model,
            model_options=options,
        )
