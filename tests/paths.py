"""Where the tests find what they need: reference numbers, ComfyUI's source tree, the Qwen tokenizer in it."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GOLDENS = ROOT / "tests" / "goldens" / "vino"


def comfyui() -> Path:
    """ComfyUI's source tree: the COMFYUI_PATH variable or, failing that, the copy that `make` fetches."""
    return Path(os.environ.get("COMFYUI_PATH") or ROOT / ".cache" / "comfyui")


@lru_cache(maxsize=1)
def qwen_tokenizer() -> Any:
    """The Qwen2 tokenizer, from the files that ComfyUI carries."""
    from transformers import AutoTokenizer

    folder = comfyui() / "comfy" / "text_encoders" / "qwen25_tokenizer"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: set COMFYUI_PATH to a ComfyUI folder or run `make setup`.")
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)
