"""Which files of the systems are there. Reads headers only."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.files import COMFY_PREFIX, LEARNABLE, described, infer_mmdit_config, seems_for
from ..checkpoints.folder import standing
from ..checkpoints.header import Header, main_dtype, read_header, short_name
from ..checkpoints.layouts import BEGIN, END, MARKED_TOKENS, NORM, TOKENS
from ..errors import InputError
from ..systems import DEFAULT, SYSTEMS
from ..systems.base import System

FOLDERS = {
    "model": ("diffusion_models", "unet"),
    "tokens": ("embeddings",),
    "text encoder": ("text_encoders", "clip"),
    "vae": ("vae",),
}
"""Folders of ComfyUI's models folder in which each kind of file belongs."""
_MODEL_MARKS = tuple(
    dict.fromkeys(
        f"{connector.name}.{NORM}.weight" for system in SYSTEMS.values() for connector in system.mmdit.connectors
    )
)
_ENCODERS = {
    "model.visual.merger.linear_fc2.weight": ("Qwen3-VL", "model.visual.deepstack_merger_list.0.norm.weight"),
    "visual.merger.mlp.2.weight": ("Qwen2.5-VL", "visual.merger.ln_q.weight"),
    "model.visual.merger.mlp.2.weight": ("Qwen2.5-VL", "model.visual.merger.ln_q.weight"),
}
"""The tensor whose rows are a text encoder's width -> its family, and another tensor that it has."""
_ENCODER_FOLDERS = {"qwen3_vl": "Qwen3-VL", "qwen2_5_vl": "Qwen2.5-VL"}
_VAE_ENTRY = "decoder.conv_in.conv.weight"
_WAN_ENTRY = "decoder.conv1.weight"
"""Of a VAE in Wan 2.1's layout. Wan's own is another model's: only one that names a system is meant."""


@dataclass(frozen=True)
class Found:
    """One file or folder. `width` is that of the text encoder's states, which must agree between files.

    `system` is the one that a model or tokens file is for. `plain` models are a variant without learnable tokens.
    """

    kind: str
    path: Path
    size: int
    dtype: str
    details: str
    width: int | None = None
    system: str | None = None
    plain: bool = False


@dataclass(frozen=True)
class Problem:
    """A file that looks like one of ours and cannot be used, with the reason."""

    path: Path
    reason: str


def comfyui_around() -> Path | None:
    """The ComfyUI that this pack is installed in, if it is."""
    installed = Path(__file__).resolve().parents[3]
    return installed.parent if installed.name == "custom_nodes" else None


def models_folder(comfyui: Path | None, models: Path | None) -> Path | None:
    """The folder to look into: `models` itself, `comfyui`/models, or the ComfyUI this pack is installed in.

    Raises InputError when a folder that was named does not exist.
    """
    if models is not None:
        chosen, option = models, "--models"
    elif comfyui is not None:
        chosen, option = comfyui / "models", "--comfyui"
    else:
        around = comfyui_around()
        return None if around is None else around / "models"
    if not chosen.is_dir():
        raise InputError(f"{option}: {chosen} is not a folder. Name ComfyUI's folder with --comfyui, or --models.")
    return chosen


def _identify(header: Header) -> str | None:
    shapes = {name.removeprefix(COMFY_PREFIX): shape for name, shape in header.shapes.items()}
    if any(mark in shapes for mark in _MODEL_MARKS):
        return "model"
    if any(width in shapes and mark in shapes for width, (_, mark) in _ENCODERS.items()):
        return "text encoder"
    if (TOKENS in shapes and len(shapes) == 1) or {BEGIN, MARKED_TOKENS, END} <= shapes.keys():
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
        count, width = shapes[TOKENS if TOKENS in shapes else MARKED_TOKENS]
        return f"{system}, {count} x {width}", width
    if kind == "text encoder":
        entry = next(name for name in _ENCODERS if name in shapes)
        width = shapes[entry][0]
        return _of_system(header, f"{_ENCODERS[entry][0]}, width {width}"), width
    return _of_system(header, "HunyuanVideo" if _VAE_ENTRY in shapes else "in Wan 2.1's layout"), None


def _of_system(header: Header, details: str) -> str:
    """`details` behind the system that the file names, if it does: files of others name none."""
    return f"{header.metadata['system']}, {details}" if "system" in header.metadata else details


def inspect_file(path: Path) -> Found | None:
    """What a safetensors file is to us, or None. Raises InputError when it is damaged."""
    header = read_header(path)
    kind = _identify(header) if header.tensors else None
    if kind is None:
        return None
    if kind == "model":
        header = header._replace(metadata=described(path).metadata)
    details, width = _describe(kind, header)
    names = (name.removeprefix(COMFY_PREFIX) for name in header.tensors)
    system = header.metadata.get("system", seems_for(names)) if kind in ("model", "tokens") else None
    plain = kind == "model" and _is_plain(header.metadata, SYSTEMS.get(system or ""))
    dtype = short_name(main_dtype(header.tensors))
    return Found(kind, path, path.stat().st_size, dtype, details, width, system, plain)


def _is_plain(metadata: Mapping[str, str], system: System | None) -> bool:
    """Whether a model has no learnable tokens: by its own entry or, as only systems with variants write one, because
    its system has none."""
    if LEARNABLE in metadata:
        return metadata[LEARNABLE] == "0"
    return system is not None and system.learnable_tokens == 0


def inspect_folder(path: Path) -> Found | None:
    """What a published folder (config.json and shards) is to us, or None."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    weights = sorted(path.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in weights)
    dtype = str(config.get("torch_dtype", config.get("dtype", "unknown")))
    family = _ENCODER_FOLDERS.get(config.get("model_type", ""))
    if family:
        # transformers below 4.52 writes the language model's fields beside the others.
        width = {**config, **config.get("text_config", {})}.get("hidden_size")
        return Found("text encoder", path, size, dtype, f"{family} folder, width {width}", width)
    if config.get("_class_name") == "AutoencoderKLHunyuanVideo":
        return Found("vae", path, size, dtype, "HunyuanVideo folder")
    return None


def _candidates(root: Path) -> Iterator[Path]:
    folders = [root / name for names in FOLDERS.values() for name in names]
    existing = [folder for folder in folders if folder.is_dir()]
    for folder in existing or [root]:
        yield from sorted(folder.rglob("*.safetensors"))


def _shared(found: Sequence[Found]) -> Iterator[Path]:
    """The VAEs that `vino generate` takes from beside the folders found, for systems that work with another's."""
    here = {entry.path.resolve() for entry in found}
    for entry in found:
        system = SYSTEMS.get(entry.system or "")
        if system is not None and system.vae_of is not None and entry.path.name == "model.safetensors":
            path = standing(entry.path.parent, "vae", system)
            if path.is_file() and path.resolve() not in here:
                here.add(path.resolve())
                yield path


def take_inventory(root: Path) -> tuple[list[Found], list[Problem]]:
    """Our files under `root`: in ComfyUI's subfolders or, where there are none, anywhere below it. VAEs that models
    there share with a system beside `root` count too."""
    found: list[Found] = []
    problems: list[Problem] = []
    seen: set[Path] = set()
    for path in _candidates(root):
        if path.parent not in seen:
            seen.add(path.parent)
            folder = inspect_folder(path.parent)
            found += [folder] if folder else []
        if not any(entry.path == path.parent for entry in found):
            _inspect(path, found, problems)
    for path in list(_shared(found)):
        _inspect(path, found, problems)
    return found, problems


def _inspect(path: Path, found: list[Found], problems: list[Problem]) -> None:
    """Add what a file is to us, if anything, to `found`, or to `problems` why it cannot be used."""
    try:
        entry = inspect_file(path)
    except InputError as error:
        problems.append(Problem(path, str(error)))
        return
    found += [entry] if entry else []


def _wanted(found: Sequence[Found]) -> Iterator[tuple[System, bool, int]]:
    """Of each model: its system, whether it is a variant without learnable tokens, and its width."""
    for entry in found:
        system = SYSTEMS.get(entry.system or "") if entry.kind == "model" else None
        if system is not None:
            yield system, entry.plain, entry.width or system.connector(system.text_connector).in_features


def _by_system(found: Sequence[Found]) -> dict[str | None, list[Found]]:
    groups: dict[str | None, list[Found]] = defaultdict(list)
    for entry in found:
        groups[entry.system].append(entry)
    return groups


def missing_kinds(found: Sequence[Found]) -> dict[str, str]:
    """Kinds of file that the models found still need, each with what to do; without any model, what DEFAULT needs."""
    default = SYSTEMS[DEFAULT]
    missing = {} if any(entry.kind == "model" for entry in found) else {"model": _remedy("model", default)}
    needs = list(_wanted(found)) or [(default, False, 0)]
    for system, plain, width in needs:
        for kind in FOLDERS:
            if kind == "tokens" and plain:
                continue
            of_kind = [entry for entry in found if entry.kind == kind]
            if kind == "tokens":
                of_kind = _by_system(of_kind)[system.name]
            if kind == "text encoder" and len(needs) > 1:
                of_kind = [entry for entry in of_kind if entry.width == width]
            if not of_kind:
                missing.setdefault(kind, _remedy(kind, system))
    return missing


def _remedy(kind: str, system: System) -> str:
    published = system.published
    files = " ".join(file.name for file in published.files)
    owner = system.vae_of
    return {
        "model": f"vino convert {files} --out FOLDER, of what was published; then move {system.name}_*.safetensors",
        "tokens": f"vino convert writes it beside the model: {system.name}_tokens.safetensors",
        "text encoder": f"{published.vlm_title}: one file for ComfyUI, or the published folder for `vino generate`",
        "vae": "the VAE of HunyuanVideo (16 channels)" if owner is None else f"{owner}'s own: {owner}/vae.safetensors",
    }[kind]


def width_conflicts(found: Sequence[Found]) -> list[str]:
    """Models for which no text encoder or no tokens of their width were found, in words."""
    conflicts = []
    for model in (entry for entry in found if entry.kind == "model" and entry.width is not None):
        for kind in ("text encoder", "tokens"):
            others = [entry for entry in found if entry.kind == kind and entry.width is not None]
            if kind == "tokens":
                others = [] if model.plain else _by_system(others)[model.system]
            widths = sorted({entry.width for entry in others if entry.width is not None})
            if widths and model.width not in widths:
                conflicts.append(
                    f"{model.path.name} takes a {kind} of width {model.width}; found: {', '.join(map(str, widths))}"
                )
    return conflicts
