"""Single forward passes of VOGUE's MMDiT, connector and all intermediates included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vino_core.config import ConnectorConfig, MMDiTConfig
from vino_core.mmdit.connectors import connect
from vino_core.mmdit.model import Conditioning, MMDiT
from vino_core.mmdit.packing import rotary_table
from vino_core.systems import get_system

from .. import Row, compare, load
from ..transformer import config_of, every_row, observe
from ..weights import native_from_official

INDEX = "transformer_index.json"
LIMIT = 2e-5
SYSTEM = get_system("vogue")


def tiny_config(entry: dict[str, Any]) -> MMDiTConfig:
    """The miniature's dimensions, its connector included."""
    connector = ConnectorConfig(
        SYSTEM.text_connector,
        entry["text_embed_dim"],
        entry["connector_out_dim"],
        SYSTEM.connector(SYSTEM.text_connector).gelu,
        hidden_features=entry["connector_hidden_dim"],
    )
    return replace(config_of(entry), text_dim=entry["connector_out_dim"], connectors=(connector,))


def reference_model(folder: Path) -> MMDiT:
    """The folder's miniature MMDiT with its connector."""
    index = json.loads((folder / INDEX).read_text())
    config, published = tiny_config(index["config"]), SYSTEM.published
    weights = {published.canonical(name): value for name, value in load(folder / index["weights"]).items()}
    model = MMDiT(config, SYSTEM.layout)
    model.load_state_dict(native_from_official(weights, config, published.connectors))
    return model.eval().requires_grad_(False)


def parts_of(entry: dict[str, Any], latents: Tensor) -> dict[str, Tensor]:
    """The frames of each part ("first", "ref", "noisy", "cond") of a packed [B, C, T, h, w]."""
    names = list(entry["parts"])
    return dict(zip(names, latents.split([entry["parts"][name] for name in names], dim=2), strict=True))


def case_rows(entry: dict[str, Any], model: MMDiT, tensors: dict[str, Tensor]) -> Iterator[Row]:
    case, latents, mask = entry["name"], tensors["in.hidden_states"], tensors["in.encoder_attention_mask"]
    parts = parts_of(entry, latents)
    text = connect(model, SYSTEM, tensors["in.encoder_hidden_states"], ()).text
    yield compare(case, "qwen_project_in", text, tensors["mid.qwen_project_in"], LIMIT)
    before = [name for name in ("ref", "first") if name in parts]
    conditioning = Conditioning(
        text,
        references=tuple(frame for name in before for frame in parts[name].split(1, dim=2)),
        conditions=(parts["cond"],) if "cond" in parts else (),
        mask=None if mask.all() else mask,
    )
    groups = (conditioning.references, conditioning.conditions)
    grids = [[model.grid(one) for one in group] for group in groups]
    layout = model.layout(grids[0], model.grid(parts["noisy"]), grids[1])
    table = rotary_table(layout, 0, model.config.rope_axes, model.config.rope_theta, torch.device("cpu"))
    yield compare(case, "rope_cos", table.real.repeat_interleave(2, dim=1), tensors["mid.rope_cos"], LIMIT)
    yield compare(case, "rope_sin", table.imag.repeat_interleave(2, dim=1), tensors["mid.rope_sin"], LIMIT)

    seen, hooks = observe(model, text.shape[1])
    hooks += [
        model.txt_in.input_embedder.register_forward_hook(lambda _, __, out: seen.update(proj_in=out)),
        model.txt_in.individual_token_refiner.blocks[0].register_forward_pre_hook(
            lambda _, inputs: seen.update(time_text_embed=inputs[1])
        ),
    ]
    arguments = parts["noisy"], tensors["in.timestep"], conditioning, tensors["in.guidance"]
    model(*arguments, runner=every_row)
    for hook in hooks:
        hook.remove()
    ours = {
        "mid.context_embedder.time_text_embed": seen["time_text_embed"],
        "mid.context_embedder.proj_in": seen["proj_in"],
        "mid.context_embedder": seen["mid.context"],
        "mid.temb": seen["mid.temb"],
        "mid.x_embedder": seen["mid.packed_tokens"],
    }
    for kind, count in (("double", model.config.depth), ("single", model.config.depth_single)):
        for index in range(count):
            name = f"mid.{'single_' if kind == 'single' else ''}transformer_blocks.{index}"
            ours[f"{name}.hidden"] = seen[f"mid.{kind}.{index}.img"]
            ours[f"{name}.encoder"] = seen[f"mid.{kind}.{index}.txt"]
    for name, actual in ours.items():
        yield compare(case, name, actual, tensors[name], LIMIT)
    yield compare(case, "mid.norm_out", seen["mid.norm_out"], tensors["mid.norm_out"][:, layout.target], LIMIT)
    # Ours makes no velocity of frames that are given.
    expected = parts_of(entry, tensors["out.sample"])["noisy"]
    yield compare(case, "out.sample", model(*arguments), expected, LIMIT)


@torch.no_grad()
def check(folder: Path) -> Iterator[Row]:
    model = reference_model(folder)
    for entry in json.loads((folder / INDEX).read_text())["cases"]:
        yield from case_rows(entry, model, load(folder / entry["file"]))
