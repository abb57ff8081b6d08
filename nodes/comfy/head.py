"""The layer with which Qwen2.5-VL writes text, where ComfyUI left it out: from the file that the CLIP was loaded from.

Core builds Qwen2.5-VL without it, as pictures are made without it, and passes over `lm_head.weight` in the file. A file
whose config says that it is tied has none: its word embedding is the head too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from comfy.sd import CLIP
from torch import Tensor

from ...vino_core.checkpoints.header import short_name
from ...vino_core.checkpoints.sources import Checkpoint
from ...vino_core.errors import InputError

_NAMES = ("lm_head.weight", "model.lm_head.weight")
_EMBEDDINGS = ("model.language_model.embed_tokens.weight", "model.embed_tokens.weight")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_ADVICE = (
    "Load it with VINO Text Encoder Loader, from a file that holds lm_head.weight: Qwen's own weights do, and what "
    "`vino convert` makes of VOGUE's mllm.ckpt."
)


def file_of(clip: CLIP) -> Path | None:
    """The one file of a CLIP, which its loader notes for further copies: core's does, and ours. None: not known."""
    _, arguments, *_ = getattr(clip.patcher, "cached_patcher_init", None) or (None, ())
    files = arguments[0] if arguments else ()
    if isinstance(files, (str, Path)):
        return Path(files)
    return Path(files[0]) if isinstance(files, (list, tuple)) and len(files) == 1 else None


def read_head(clip: CLIP, title: str, shape: tuple[int, int]) -> Tensor:
    """The head [vocabulary, hidden_size], mapped from the file of a CLIP that was loaded without it.

    Raises InputError when the file is not known or holds no such layer that can be used as it is.
    """
    path = file_of(clip)
    if path is None:
        raise InputError(
            f"clip: this {title} was loaded without the layer that writes text (lm_head.weight), by a node that does "
            f"not tell from which file. {_ADVICE}"
        )
    checkpoint = Checkpoint([path])
    names = (*_NAMES, *_EMBEDDINGS) if _is_tied(checkpoint.metadata) else _NAMES
    name = next((name for name in names if name in checkpoint.tensors), None)
    if name is None:
        raise InputError(
            f"clip: '{path}' holds {title} without the layer that writes text (lm_head.weight), so it can condition a "
            f"model and nothing else. {_ADVICE}"
        )
    info = checkpoint.tensors[name]
    if info.dtype not in _FLOATS or info.shape != shape:
        raise InputError(
            f"clip: '{path}' holds the layer that writes text ({name}) as {short_name(info.dtype)} {list(info.shape)}; "
            f"of a text encoder from Load CLIP it is read as fp32, fp16 or bf16 {list(shape)}. {_ADVICE}"
        )
    return checkpoint.read(name)


def _is_tied(metadata: Mapping[str, str]) -> bool:
    """Whether the config that a file carries says that the word embedding is the head."""
    try:
        return json.loads(metadata.get("config", "{}")).get("tie_word_embeddings") is True
    except (json.JSONDecodeError, AttributeError):
        return False
