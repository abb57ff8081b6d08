"""Which of VINO's files are there. Reads headers only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.files import COMFY_PREFIX, infer_mmdit_config
from ..checkpoints.header import Header, main_dtype, read_header, short_name
from ..checkpoints.layouts import TOKENS
from ..errors import InputError

FOLDERS = {
    "model": ("diffusion_models", "unet"),
    "tokens": ("embeddings",),
    "text encoder": ("text_encoders", "clip"),
    "vae": ("vae",),
}
"""Folders of ComfyUI's models folder in which each kind of file belongs."""
REMEDIES = {
    "model": "convert the published vino.ckpt: vino convert vino.ckpt --out FOLDER, then move vino_*.safetensors",
    "tokens": "vino convert writes it beside the model: vino_tokens.safetensors",
    "text encoder": "Qwen3-VL-4B-Instruct: one file for ComfyUI, or the published folder for `vino generate`",
    "vae": "the VAE of HunyuanVideo (16 channels)",
}
_MARKS = {
    "model": "connector_vae_branch.mlp.0.weight",
    "text encoder": "model.visual.deepstack_merger_list.0.norm.weight",
}
_QWEN_WIDTH = "model.visual.merger.linear_fc2.weight"
_VAE_ENTRY = "decoder.conv_in.conv.weight"
_WAN_ENTRY = "decoder.conv1.weight"
"""Of a VAE in Wan 2.1's layout. Wan's own is another model's: only one that names a system is meant."""


@dataclass(frozen=True)
class Found:
    """One file or folder. `width` is that of the text encoder's states, which must agree between files."""

    kind: str
    path: Path
    size: int
    dtype: str
    details: str
    width: int | None = None


@dataclass(frozen=True)
class Problem:
    """A file that looks like one of VINO's and cannot be used, with the reason."""

    path: Path
    reason: str


def models_folder(comfyui: Path | None, models: Path | None) -> Path | None:
    """The folder to look into: `models` itself, `comfyui`/models, or the ComfyUI this pack is installed in.

    Raises InputError when a folder that was named does not exist.
    """
    if models is not None:
        chosen, option = models, "--models"
    elif comfyui is not None:
        chosen, option = comfyui / "models", "--comfyui"
    else:
        installed = Path(__file__).resolve().parents[3]
        return installed.parent / "models" if installed.name == "custom_nodes" else None
    if not chosen.is_dir():
        raise InputError(f"{option}: {chosen} is not a folder. Name ComfyUI's folder with --comfyui, or --models.")
    return chosen


def _identify(header: Header) -> str | None:
    shapes = {name.removeprefix(COMFY_PREFIX): shape for name, shape in header.shapes.items()}
    for kind, mark in _MARKS.items():
        if mark in shapes:
            return kind
    if TOKENS in shapes and len(shapes) == 1:
        return "tokens"
    if _WAN_ENTRY in shapes and "system" in header.metadata:
        return "vae"
    entry = shapes.get(_VAE_ENTRY, ())
    return "vae" if len(entry) == 5 and entry[1] == 16 else None


def _describe(kind: str, header: Header) -> tuple[str, int | None]:
    shapes = {name.removeprefix(COMFY_PREFIX): shape for name, shape in header.shapes.items()}
    system = header.metadata.get("system", "no metadata")
    if kind == "model":
        config = infer_mmdit_config(shapes, header.metadata)
        blocks = f"{config.depth}+{config.depth_single} blocks x {config.hidden_size}"
        return f"{system}, {blocks}", config.connectors[0].in_features if config.connectors else None
    if kind == "tokens":
        count, width = shapes[TOKENS]
        return f"{system}, {count} x {width}", width
    if kind == "text encoder":
        width = shapes[_QWEN_WIDTH][0]
        return _of_system(header, f"Qwen3-VL, width {width}"), width
    return _of_system(header, "HunyuanVideo" if _VAE_ENTRY in shapes else "in Wan 2.1's layout"), None


def _of_system(header: Header, details: str) -> str:
    """`details` behind the system that the file names, if it does: files of others name none."""
    return f"{header.metadata['system']}, {details}" if "system" in header.metadata else details


def inspect_file(path: Path) -> Found | None:
    """What a safetensors file is to VINO, or None. Raises InputError when it is damaged."""
    header = read_header(path)
    kind = _identify(header) if header.tensors else None
    if kind is None:
        return None
    details, width = _describe(kind, header)
    return Found(kind, path, path.stat().st_size, short_name(main_dtype(header.tensors)), details, width)


def inspect_folder(path: Path) -> Found | None:
    """What a published folder (config.json and shards) is to VINO, or None."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    weights = sorted(path.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in weights)
    dtype = str(config.get("torch_dtype", config.get("dtype", "unknown")))
    if config.get("model_type") == "qwen3_vl":
        width = config.get("text_config", {}).get("hidden_size")
        return Found("text encoder", path, size, dtype, f"Qwen3-VL folder, width {width}", width)
    if config.get("_class_name") == "AutoencoderKLHunyuanVideo":
        return Found("vae", path, size, dtype, "HunyuanVideo folder")
    return None


def _candidates(root: Path) -> Iterator[Path]:
    folders = [root / name for names in FOLDERS.values() for name in names]
    existing = [folder for folder in folders if folder.is_dir()]
    for folder in existing or [root]:
        yield from sorted(folder.rglob("*.safetensors"))


def take_inventory(root: Path) -> tuple[list[Found], list[Problem]]:
    """VINO's files under `root`: in ComfyUI's subfolders or, where there are none, anywhere below it."""
    found: list[Found] = []
    problems: list[Problem] = []
    seen: set[Path] = set()
    for path in _candidates(root):
        if path.parent not in seen:
            seen.add(path.parent)
            folder = inspect_folder(path.parent)
            found += [folder] if folder else []
        if any(entry.path == path.parent for entry in found):
            continue
        try:
            entry = inspect_file(path)
        except InputError as error:
            problems.append(Problem(path, str(error)))
            continue
        found += [entry] if entry else []
    return found, problems


def missing_kinds(found: Iterable[Found]) -> list[str]:
    """Kinds of file of which there is none."""
    present = {entry.kind for entry in found}
    return [kind for kind in FOLDERS if kind not in present]


def width_conflicts(found: Sequence[Found]) -> list[str]:
    """Models for which no text encoder or no tokens of their width were found, in words."""
    conflicts = []
    for model in (entry for entry in found if entry.kind == "model" and entry.width is not None):
        for kind in ("text encoder", "tokens"):
            widths = sorted({entry.width for entry in found if entry.kind == kind and entry.width is not None})
            if widths and model.width not in widths:
                conflicts.append(
                    f"{model.path.name} takes a {kind} of width {model.width}; found: {', '.join(map(str, widths))}"
                )
    return conflicts
