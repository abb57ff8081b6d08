"""The networks a run starts with: loaded from files, or fresh with weights that the seed decides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checkpoints.files import check_variant, check_widths, infer_mmdit_config, load_mmdit, load_tokens, read_metadata
from ..checkpoints.sources import Checkpoint
from ..config import MMDiTConfig
from ..encoder.transformers_engine import TransformersEngine, load_engine
from ..errors import InputError
from ..mmdit.model import MMDiT
from ..systems import expect_system, get_system
from ..systems.base import System
from ..vae import VAE
from . import draws
from .config import Fresh, RunConfig
from .stages import check_stage, check_tasks

_NOT_USED = "vector_in."
"""HunyuanVideo's pooled text, which VINO leaves out."""
_STARTS_AT_ZERO = ("img_mod.lin", "txt_mod.lin", "modulation.lin", "adaLN_modulation.1", "final_layer.linear")


@dataclass
class Parts:
    """Everything a run needs that is not data. `tokens` is None without learnable tokens; `engine` and `vae` are None
    when the examples come encoded."""

    system: System
    engine: TransformersEngine | None
    vae: VAE | None
    mmdit: MMDiT
    tokens: Tensor | None


def load_parts(run: RunConfig, device: torch.device | str) -> Parts:
    """Raises InputError for unusable files, and for a model that the stage does not start from."""
    system = get_system(run.system)
    check_tasks(run, system)
    dtype = getattr(torch, run.parallel.dtype)
    metadata = read_metadata(run.files.model) if run.files.model else {}
    check_stage(run, metadata)
    engine = load_engine(run.files.text_encoder, dtype, device)
    vae = VAE.load(run.files.vae, dtype, device)
    if run.files.model:
        mmdit, made_for = load_mmdit(run.files.model, dtype, device)
        expect_system(made_for, system, run.files.model)
    elif run.files.base:
        mmdit = _from_base(run.files.base, system, engine.hidden_size, run.seed, dtype, device)
    else:
        config = fresh_config(run.fresh, system, engine.hidden_size)
        mmdit = fresh_mmdit(config, system, run.seed).to(device)
    tokens = _tokens(run, system, engine.hidden_size)
    if tokens is not None:
        tokens = tokens.to(device)
    _check_tokens(run, tokens)
    check_widths(mmdit.config, tokens, engine.hidden_size)
    return Parts(system.for_tokens(tokens), engine, vae, mmdit, tokens)


def _tokens(run: RunConfig, system: System, width: int) -> Tensor | None:
    """Learnable tokens [rows, width] from their file, or fresh ones; None for a run without."""
    if run.files.tokens:
        return load_tokens(run.files.tokens)
    count = system.learnable_tokens if run.tokens is None else run.tokens
    if run.stage == 0 or not count:
        return None
    return fresh_tokens(count + system.for_tokens(count).marks, width, run.seed)


def _check_tokens(run: RunConfig, tokens: Tensor | None) -> None:
    """Raise InputError for another number of learnable tokens than the model's, or fresh ones in place of its own.

    Stage 1 is where they begin.
    """
    if not run.files.model or run.stage in (0, 1) or run.any_order:
        return
    check_variant(run.files.model, tokens)
    if tokens is not None and not run.files.tokens:
        raise InputError(
            f"files.tokens is not given: {len(tokens)} fresh learnable tokens would replace those that "
            f"{run.files.model} was trained with. Name their file (export writes tokens.safetensors beside the model), "
            "or set tokens: 0 for a model without any."
        )


def fresh_tokens(count: int, width: int, seed: int) -> Tensor:
    """Learnable tokens [count, width], normal with deviation 1/sqrt(width)."""
    return torch.randn(count, width, generator=draws.tensors(seed, "learnable tokens")) / math.sqrt(width)


def fresh_config(fresh: Fresh, system: System, encoder_width: int) -> MMDiTConfig:
    """Dimensions of a model from scratch, with the system's connectors."""
    widths = {system.text_connector: fresh.text_dim, system.boundary_connector: fresh.hidden_size}
    connectors = []
    for one in system.mmdit.connectors:
        # An inner width of its own stays in proportion to what comes in.
        inner = None if one.hidden_features is None else one.hidden_features * encoder_width // one.in_features
        sizes = {"in_features": encoder_width, "out_features": widths[one.name], "hidden_features": inner}
        connectors.append(replace(one, **sizes))
    return replace(system.mmdit, **fresh.__dict__, connectors=tuple(connectors))


def fresh_mmdit(config: MMDiTConfig, system: System, seed: int) -> MMDiT:
    """A model with random weights in float32; each tensor depends on the seed and its name only."""
    model = MMDiT(config, system.layout, device="meta", dtype=torch.float32)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(fresh_weights(shapes, seed), assign=True)
    return model


def fresh_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Matrices with deviation 1/sqrt(fan in), norms 1, biases 0; what a block adds to its input starts at zero."""
    weights = {}
    for name, shape in shapes.items():
        layer = name.rpartition(".")[0]
        if name.endswith(".bias") or layer.endswith(_STARTS_AT_ZERO):
            weights[name] = torch.zeros(shape)
        else:
            noise = torch.randn(shape, generator=draws.tensors(seed, "weights", name))
            weights[name] = torch.ones(shape) if len(shape) == 1 else noise / math.sqrt(math.prod(shape[1:]))
    return weights


def _from_base(
    path: str, system: System, encoder_width: int, seed: int, dtype: torch.dtype, device: torch.device | str
) -> MMDiT:
    """HunyuanVideo T2V, or the result of a stage 0 of any system, with fresh connectors.

    Raises InputError when a tensor is missing, unknown or misshapen, and for the result of a later stage.
    """
    checkpoint = Checkpoint([path], strip=("model.diffusion_model.", "module."))
    stage = checkpoint.metadata.get("stage", "0")
    if stage != "0":
        raise InputError(f"{path}: the result of stage {stage}, not a text-to-video base. Give it as files.model.")
    # A stage 0 leaves its system's connectors as they began.
    own = MMDiTConfig.from_json(checkpoint.metadata["config"]).connectors if "config" in checkpoint.metadata else ()
    unused = (_NOT_USED, *(f"{connector.name}." for connector in own))
    shapes = {name: shape for name, shape in checkpoint.shapes.items() if not name.startswith(unused)}
    found = infer_mmdit_config(shapes, checkpoint.metadata)
    dims = Fresh(**{name: getattr(found, name) for name in Fresh.__dataclass_fields__})
    model = MMDiT(fresh_config(dims, system, encoder_width), system.layout, device="meta", dtype=dtype)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    names = tuple(f"{connector.name}." for connector in model.config.connectors)
    fresh = fresh_weights({name: shape for name, shape in wanted.items() if name.startswith(names)}, seed)
    wrong = [name for name in wanted if name not in fresh and shapes.get(name) != wanted[name]]
    wrong += [name for name in shapes if name not in wanted]
    if wrong:
        raise InputError(
            f"{path}: not HunyuanVideo T2V in its own layout; {len(wrong)} tensors differ, first {wrong[0]}. "
            "Give the text-to-video base as files.base."
        )
    state = {name: fresh[name] if name in fresh else checkpoint.read(name) for name in wanted}
    model.load_state_dict({name: tensor.to(device, dtype) for name, tensor in state.items()}, assign=True)
    return model
