"""The files users have: a model (MMDiT and connectors) and its learnable tokens, as safetensors with metadata."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from json import loads
from pathlib import Path
from re import compile as regex

import torch
from torch import Tensor

from ..config import ConnectorConfig, MMDiTConfig
from ..errors import InputError
from ..mmdit.model import MMDiT
from ..systems import DEFAULT, SYSTEMS, get_system, system_of
from ..systems.base import System
from .header import FP8, TensorInfo, main_dtype, read_header
from .layouts import BEGIN, END, HEAD_ROWS, MARKED_TOKENS, NORM, TOKENS, Shape, native_shapes
from .manifest import compare, guess_family
from .sources import Checkpoint
from .writing import Plan, write_safetensors

log = logging.getLogger(__name__)

FORMAT_VERSION = "1"
COMFY_PREFIX = "model.diffusion_model."
"""What ComfyUI's own saving nodes put before every name."""
LEARNABLE = "learnable_tokens"
"""Entry of a model's metadata: how many it was trained with. Only written where the system has variants."""
SAVED = {"config": "vino_config", "system": "vino_system", LEARNABLE: "vino_learnable_tokens"}
"""Tensors that stand for entries of metadata, where ComfyUI's own nodes saved the file without ours."""
_OFFICIAL_BLOCKS = ("transformer.transformer_blocks.0.", "transformer_blocks.0.")
_SCALES = (".weight_scale", ".scale_weight")
_QUANT_EXTRAS = (*_SCALES, ".input_scale", ".scale_input", ".comfy_quant")
_DEFAULT_AXES = {128: (16, 56, 56)}
"""Rotary axes by head width where a file has no metadata: only HunyuanVideo's own width is known."""


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file (`system`, `config`, `format_version`, ...), empty where there is none.

    Raises InputError when the file is missing, truncated or of another format.
    """
    return read_header(path).metadata


def made_for(path: str | Path) -> System:
    """The system that a file, index of shards or folder was made for: the one its metadata names, else `seems_for`.

    Raises InputError when it cannot be read, and for a system that is unknown here.
    """
    checkpoint = described(path)
    return system_of({"system": seems_for(checkpoint.tensors), **checkpoint.metadata}, path)


def seems_for(names: Iterable[str]) -> str:
    """Name of the first system whose model or tokens file has such names; DEFAULT where they tell nothing."""
    names = set(names)
    for system in SYSTEMS.values():
        if f"{system.text_connector}.{NORM}.weight" in names:
            return system.name
        if {MARKED_TOKENS, BEGIN, END} <= names and _marked(system):
            return system.name
    return DEFAULT


def _marked(system: System) -> bool:
    """Whether the learnable tokens of a system have markers around them, so that its files name three tensors."""
    variant = system.with_tokens or system
    return variant.prompt.marked_tokens


def saved_metadata(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Entries of metadata from those of SAVED that are among `tensors`, uint8 [bytes of the text] each."""
    return {key: bytes(tensors[name].tolist()).decode() for key, name in SAVED.items() if name in tensors}


def described(path: str | Path) -> Checkpoint:
    """A checkpoint whose metadata holds what SAVED says too."""
    checkpoint = Checkpoint([path], strip=(COMFY_PREFIX,))
    stored = {name: checkpoint.read(name) for name in SAVED.values() if name in checkpoint.tensors}
    checkpoint.metadata.update(saved_metadata(stored))
    return checkpoint


def load_state(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a file, index of shards or folder, memory-mapped: a tensor costs memory only once it is used."""
    checkpoint = Checkpoint([path], strip=(COMFY_PREFIX, "module."))
    return {name: checkpoint.read(name) for name in checkpoint}


def save_tokens(path: str | Path, tokens: Tensor, system: str, overwrite: bool = False) -> None:
    """Write learnable tokens [count, width] as an embedding file with metadata: one matrix, or apart from it the first
    and the last row of a system where these are markers.
    """
    rows = tokens.detach().cpu()
    parts = {TOKENS: rows}
    if _marked(get_system(system)):
        parts = {BEGIN: rows[0], MARKED_TOKENS: rows[1:-1], END: rows[-1]}
    tensors = {name: TensorInfo(part.dtype, tuple(part.shape)) for name, part in parts.items()}
    write_safetensors([Plan(Path(path), tensors, lambda name: [parts[name]], tokens_metadata(system))], overwrite)


def tokens_metadata(system: str) -> dict[str, str]:
    """Metadata of a tokens file."""
    return {"format": "pt", "format_version": FORMAT_VERSION, "system": system, "kind": "tokens"}


def model_metadata(system: str, config: MMDiTConfig, tokens: int | None = None) -> dict[str, str]:
    """Metadata of a model file. `tokens`: how many learnable ones it was trained with, where systems have variants."""
    metadata = {
        "format": "pt",
        "format_version": FORMAT_VERSION,
        "system": system,
        "kind": "model",
        "config": config.to_json(),
    }
    return metadata if tokens is None else {**metadata, LEARNABLE: str(tokens)}


def encoder_metadata(tokenizer: str | Path | None) -> dict[str, str]:
    """Metadata of a text encoder's file, with config and tokenizer of a published folder where one is named.

    It names no system: it is the published text encoder, which others use too. Raises InputError for a folder without
    config.json and tokenizer.json.
    """
    metadata = {"format": "pt", "format_version": FORMAT_VERSION, "kind": "text encoder"}
    if tokenizer is None:
        return metadata
    for key, name in (("config", "config.json"), ("tokenizer", "tokenizer.json")):
        file = Path(tokenizer) / name
        try:
            metadata[key] = file.read_text(encoding="utf-8")
            loads(metadata[key])
        except (OSError, ValueError) as error:
            raise InputError(
                f"{file}: cannot be read ({error}). Name the text encoder's published folder, with config.json and "
                "tokenizer.json."
            ) from error
    return metadata


def _count(shapes: Mapping[str, Shape], prefix: str) -> int:
    pattern = regex(rf"{prefix}\.(\d+)\.")
    return 1 + max((int(match[1]) for match in map(pattern.match, shapes) if match), default=-1)


def _infer_connectors(shapes: Mapping[str, Shape]) -> tuple[ConnectorConfig, ...]:
    """Connectors by their norms. Their activation, which no shape tells, is that of the system that calls one so."""
    known = {connector.name: connector for system in SYSTEMS.values() for connector in system.mmdit.connectors}
    suffix = f".{NORM}.weight"
    made = []
    for name in sorted(name.removesuffix(suffix) for name in shapes if name.endswith(suffix)):
        (width,), (out, inner) = shapes[name + suffix], shapes[f"{name}.mlp.2.weight"]
        gelu = known[name].gelu if name in known else ConnectorConfig.gelu
        made.append(ConnectorConfig(name, width, out, gelu, None if inner == 4 * out else inner))
    return tuple(made)


def infer_mmdit_config(shapes: Mapping[str, Shape], metadata: Mapping[str, str] | None = None) -> MMDiTConfig:
    """Dimensions of a native model from its metadata or, without a config there, from its shapes.

    Raises InputError when the shapes are not a model's, or when a head is not 128 wide and no metadata tells how its
    width divides into rotary axes.
    """
    if metadata and "config" in metadata:
        return MMDiTConfig.from_json(metadata["config"])
    try:
        hidden, channels, *patch = shapes["img_in.proj.weight"]
        head = shapes["double_blocks.0.img_attn.norm.query_norm.weight"][0]
        if head not in _DEFAULT_AXES:
            raise InputError(
                f"The model has heads {head} wide and no metadata. Without its config only heads 128 wide can be "
                "loaded: use the file as `vino convert` wrote it."
            )
        return MMDiTConfig(
            in_channels=channels,
            out_channels=shapes["final_layer.linear.weight"][0] // (patch[0] * patch[1] * patch[2]),
            hidden_size=hidden,
            num_heads=hidden // head,
            depth=_count(shapes, "double_blocks"),
            depth_single=_count(shapes, "single_blocks"),
            depth_refiner=_count(shapes, "txt_in.individual_token_refiner.blocks"),
            mlp_ratio=shapes["double_blocks.0.img_mlp.0.weight"][0] / hidden,
            patch_size=(patch[0], patch[1], patch[2]),
            text_dim=shapes["txt_in.input_embedder.weight"][1],
            guidance_embed="guidance_in.in_layer.weight" in shapes,
            rope_axes=_DEFAULT_AXES[head],
            connectors=_infer_connectors(shapes),
        )
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise InputError(f"The shapes are not those of a model that loads here ({error!r} was looked for).") from error


def open_model(path: str | Path) -> tuple[Checkpoint, MMDiTConfig]:
    """A native model file, checked by name and shape, and its dimensions.

    Raises InputError when the file is unreadable, another model, or its tensors do not fit its config.
    """
    checkpoint = described(path)
    shapes = {name: shape for name, shape in checkpoint.shapes.items() if not _is_extra(name)}
    if "double_blocks.0.img_attn.qkv.weight" not in shapes or not any(f".{NORM}." in name for name in shapes):
        seems = guess_family(shapes)
        official = any(name.startswith(_OFFICIAL_BLOCKS) for name in shapes)
        hint = (
            "it seems to be the official checkpoint: convert it first (`vino convert`)."
            if official and "lora" not in "".join(shapes)
            else f"it seems to be {seems}."
            if seems
            else f"its first names are {', '.join(list(shapes)[:3])}."
        )
        raise InputError(
            f"{path}: not a model that loads here; {hint} Choose the {' or '.join(_model_files())} that `vino convert` "
            "wrote."
        )
    try:
        config = infer_mmdit_config(shapes, checkpoint.metadata)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    mismatch = compare(shapes, native_shapes(config))
    if mismatch:
        raise InputError(
            f"{path}: its tensors do not fit its config. Convert the checkpoint again.\n{mismatch.describe()}"
        )
    return checkpoint, config


def _model_files() -> list[str]:
    return [f"{system.name}_*.safetensors" for system in SYSTEMS.values()]


def _is_extra(name: str) -> bool:
    return name.endswith(_QUANT_EXTRAS) or name == "scaled_fp8" or name in SAVED.values()


def _unquantised(checkpoint: Checkpoint, name: str) -> Tensor:
    """A tensor as stored or, if it is fp8, multiplied by its scale in float32."""
    tensor = checkpoint.read(name)
    if tensor.dtype not in FP8:
        return tensor
    module = name.removesuffix(".weight")
    scale = next((module + suffix for suffix in _SCALES if module + suffix in checkpoint.tensors), None)
    if scale is None:
        raise InputError(
            f"{checkpoint.label}: {name} is fp8 and has no scale, so its values cannot be restored. "
            "Use a scaled fp8 file, or a bf16 one."
        )
    factor = checkpoint.read(scale).float()
    if factor.numel() != 1:
        raise InputError(f"{checkpoint.label}: {scale} has shape {list(factor.shape)}; one number per layer is read.")
    return tensor.float() * factor.reshape(())


def load_mmdit(
    path: str | Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    unnamed: str | None = None,
) -> tuple[MMDiT, str]:
    """The model in a native file, frozen and in eval mode, and the name of its system.

    `dtype` None keeps the stored one (bf16 for fp8). `unnamed` is the system of a file that names none (None: see
    `seems_for`). Tensors that need no change stay memory-mapped.
    Raises InputError as `open_model` does, for fp8 weights without scales, and for a model without its system's
    connector.
    """
    checkpoint, config = open_model(path)
    system = system_of({"system": unnamed or seems_for(checkpoint.tensors), **checkpoint.metadata}, path)
    if system.text_connector not in {connector.name for connector in config.connectors}:
        own = seems_for(checkpoint.tensors)
        raise InputError(f"{path}: no model of {system.name}, but of {own}. Choose the system {own}, or another file.")
    if dtype is None:
        stored = main_dtype(checkpoint.tensors)
        dtype = torch.bfloat16 if stored in FP8 else stored
    model = MMDiT(config, system.layout, device="meta", dtype=dtype)
    state = {name: _unquantised(checkpoint, name).to(device, dtype) for name in model.state_dict()}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False), system.name


def load_tokens(path: str | Path) -> Tensor:
    """Learnable tokens [count, width], as stored: the matrix called `metaquery`, or the only matrix of the file, or
    `tokens` between the markers `begin` and `end`, which are its first and last row then.

    Raises InputError when the file is unreadable or holds no such matrix.
    """
    checkpoint = Checkpoint([path])
    shapes = {name: shape for name, shape in checkpoint.shapes.items() if name != HEAD_ROWS}
    marked = (BEGIN, MARKED_TOKENS, END)
    matrices = [name for name, shape in shapes.items() if len(shape) == 2]
    if shapes.keys() == set(marked) and [len(shapes[name]) for name in marked] == [1, 2, 1]:
        names: tuple[str, ...] = marked
    else:
        names = (TOKENS,) if TOKENS in matrices else tuple(matrices) if len(matrices) == 1 == len(shapes) else ()
    if not names or len({shapes[name][-1] for name in names}) > 1:
        seems = guess_family(checkpoint.shapes)
        raise InputError(
            f"{path}: no learnable tokens (one matrix called '{TOKENS}', or {', '.join(marked)}) among its "
            f"{len(checkpoint.tensors)} tensors"
            + (f"; it seems to be {seems}. " if seems else ". ")
            + "Choose the *_tokens*.safetensors that `vino convert` wrote."
        )
    parts = [checkpoint.read(name) for name in names]
    for part in parts:
        if part.dtype in FP8 or not part.is_floating_point():
            raise InputError(f"{path}: the learnable tokens are stored as {part.dtype}. Use bf16, fp16 or fp32.")
    return parts[0] if len(parts) == 1 else torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def check_variant(path: str | Path, tokens: Tensor | None) -> None:
    """Raise InputError when the model file says that it was trained with another number of learnable tokens.

    `tokens`: as `load_tokens` returns them; None for none. A file without our metadata, such as one that others
    quantised, passes as either variant, whose weights have the same names and shapes: where the system has variants,
    a warning is logged.
    """
    checkpoint = described(path)
    wanted = checkpoint.metadata.get(LEARNABLE)
    if wanted is None:
        if made_for(path).with_tokens is not None:
            log.warning(
                "%s: does not say whether it was trained with learnable tokens. It is taken for the variant %s them; "
                "with the wrong one the result does not follow the prompt.",
                path,
                "without" if tokens is None else "with",
            )
        return
    markers = 2 if _marked(made_for(path)) else 0
    count = 0 if tokens is None else tokens.shape[0] - markers
    if count != int(wanted):
        need = f"is the variant with {wanted} learnable tokens" if int(wanted) else "is the variant without them"
        found = f"{count} learnable tokens were given" if count else "no learnable tokens were given"
        raise InputError(
            f"{path}: {found}, and this model {need}. "
            + ("Name its tokens file." if int(wanted) else "Leave the tokens file out, or choose the other model.")
        )


def check_widths(config: MMDiTConfig, tokens: Tensor | None, encoder_width: int) -> None:
    """Raise InputError unless the text encoder, the connectors and the learnable tokens are equally wide."""
    widths = {f"the model's {connector.name}": connector.in_features for connector in config.connectors}
    if tokens is not None:
        widths["the learnable tokens"] = tokens.shape[-1]
    wrong = [f"{name} {width}" for name, width in widths.items() if width != encoder_width]
    if wrong:
        encoders = "; ".join(
            dict.fromkeys(
                f"{system.published.title} with {system.published.vlm_title}, "
                f"{system.connector(system.text_connector).in_features}"
                for system in SYSTEMS.values()
            )
        )
        raise InputError(
            f"The text encoder is {encoder_width} wide, but {' and '.join(wrong)}. Load files that belong together "
            f"(published: {encoders})."
        )
