"""Where the tests find what they need: reference numbers, ComfyUI's source tree, the Qwen tokenizer in it."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GOLDENS = ROOT / "tests" / "goldens" / "vino"


def comfyui() -> Path:
    """ComfyUI's source tree: the COMFYUI_PATH variable or, failing that, the copy that `make` fetches."""
    return Path(os.environ.get("COMFYUI_PATH") or ROOT / ".cache" / "comfyui")


def _qwen_folder() -> Path:
    folder = comfyui() / "comfy" / "text_encoders" / "qwen25_tokenizer"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: set COMFYUI_PATH to a ComfyUI folder or run `make setup`.")
    return folder


@lru_cache(maxsize=1)
def qwen_tokenizer() -> Any:
    """The Qwen2 tokenizer, from the files that ComfyUI carries."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(_qwen_folder(), local_files_only=True)


SMALL_MERGES = 2000


@lru_cache(maxsize=1)
def small_tokenizer() -> Any:
    """The Qwen2 tokenizer with its first merges only, for files that are read again and again: reading all of it takes
    a second. It knows every text and every special token, but under other numbers."""
    from transformers import AutoTokenizer

    whole = _qwen_folder()
    header, *merges = (whole / "merges.txt").read_text(encoding="utf-8").splitlines()[: 1 + SMALL_MERGES]
    names = json.loads((whole / "vocab.json").read_text(encoding="utf-8"))
    kept = {name: number for name, number in names.items() if number < 256 + SMALL_MERGES}
    settings = json.loads((whole / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = settings["added_tokens_decoder"].values()
    settings["added_tokens_decoder"] = {str(len(kept) + place): token for place, token in enumerate(added)}
    with TemporaryDirectory() as folder:
        for name, text in (
            ("merges.txt", "\n".join([header, *merges])),
            ("vocab.json", json.dumps(kept)),
            ("tokenizer_config.json", json.dumps(settings)),
        ):
            (Path(folder) / name).write_text(text, encoding="utf-8")
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
