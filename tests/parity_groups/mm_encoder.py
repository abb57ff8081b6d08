"""Prompts, visual input, VLM states and connectors against reference numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from paths import qwen_tokenizer
from PIL import Image
from torch import Tensor

from parity_groups import Row, case_tensors, compare, equal, load
from vino_core.config import ConnectorConfig
from vino_core.encoder.encode import BranchPrompt, EncodedVisual, append_tokens, encode_branches
from vino_core.encoder.positions import appended_positions
from vino_core.encoder.prompt import VisualItem
from vino_core.encoder.transformers_engine import TransformersEngine, engine_from_state
from vino_core.encoder.visual import image_patches, video_patches
from vino_core.mmdit.connectors import Connector
from vino_core.systems import get_system
from vino_core.systems.base import VisionLimits

INDEX = "mm_encoder_index.json"

VISION_LIMIT = 2e-5
STATE_LIMIT = 5e-5
CONNECTOR_LIMIT = 2e-5
ROW_SUM_LIMIT = 1e-3  # sums of 1536 values of size 1, stored as float64
PREFIX = "mm_encoder.mm_encoder."


def model_config(config: dict[str, Any]) -> dict[str, Any]:
    """A Qwen3-VL config.json's content for the dimensions listed in the index."""
    text = dict(config["text"])
    rope = {"rope_type": "default", "mrope_section": text.pop("mrope_section"), "mrope_interleaved": True}
    return {
        "text_config": {
            **text,
            "vocab_size": config["vocab_size"],
            "rms_norm_eps": config["rms_norm_eps"],
            "rope_theta": config["rope_theta"],
            "rope_scaling": rope,
        },
        "vision_config": dict(config["vision"]),
        "tie_word_embeddings": True,
    }


def reference_engine(folder: Path) -> tuple[TransformersEngine, dict[str, Tensor], dict[str, Any]]:
    """The miniature VLM of `folder`, all tensors of its weights file, and the index."""
    index = json.loads((folder / INDEX).read_text())
    weights = load(folder / index["weights"])
    rows = weights["embed_rows"]
    embedding = torch.zeros(index["config"]["vocab_size"], rows.shape[1])
    embedding[weights["embed_ids"]] = rows
    state = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    state["model.language_model.embed_tokens.weight"] = embedding
    return engine_from_state(model_config(index["config"]), state, qwen_tokenizer()), weights, index


def reference_connectors(weights: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Connector]:
    """Both connectors of the reference, by the name their output has in the cases."""
    width = config["text"]["hidden_size"]
    connectors = {}
    for output, name, out_features in (
        ("context", "connector", config["z_dim"]),
        ("special", "connector_vae_branch", config["hy_dim"]),
    ):
        connector = Connector(ConnectorConfig(name, width, out_features)).eval().requires_grad_(False)
        state = case_tensors({key.replace(f"mm_encoder.{name}.", "x/"): value for key, value in weights.items()}, "x")
        connector.load_state_dict(state)
        connectors[output] = connector
    return connectors


def _limits(processor: dict[str, Any]) -> VisionLimits:
    limits = get_system("vino").vision

    def sized(own: Any, name: str) -> Any:
        size = processor.get(name)
        return replace(own, min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"]) if size else own

    return replace(
        limits,
        image_second=sized(limits.image_second, "image_size"),
        video_second=sized(limits.video_second, "video_size"),
    )


def _unpadded(case: str, kind: str, patches: list[Tensor], expected: dict[str, Tensor]) -> Iterator[Row]:
    """Rows for the patches of all references of a kind, stored in part."""
    name = {"image": "pixel_values", "video": "pixel_values_videos"}[kind]
    if f"{name}_rowsum" not in expected:
        return
    values = torch.cat(patches)
    yield compare(case, f"{name}.rowsum", values.double().sum(dim=1), expected[f"{name}_rowsum"], ROW_SUM_LIMIT)
    if f"{name}_rows" in expected:
        yield compare(case, f"{name}.rows", values[expected[f"{name}_rows_idx"]], expected[f"{name}_rows"])
    if f"{name}_u8" in expected:
        copies = values.view(-1, 3, 2, 16, 16)
        levels = ((copies + 1) * 127.5).round().to(torch.uint8)
        yield compare(case, f"{name}.u8", levels[:, :, 0], expected[f"{name}_u8"])
        yield compare(case, f"{name}.u8 second copy", levels[:, :, 1], expected[f"{name}_u8"])


def _vision_rows(case: str, kind: str, visuals: list[EncodedVisual], expected: dict[str, Tensor]) -> Iterator[Row]:
    features = [visual.features for visual in visuals]
    levels = {"embeds": [feature.embeds for feature in features]}
    for level in range(len(features[0].deepstack) if features else 0):
        levels[f"deepstack.{level}"] = [feature.deepstack[level] for feature in features]
    for name, parts in levels.items():
        plain = f"vision.{kind}_{name}"
        base, _, level = name.partition(".")
        rows = f"vision.{kind}_{base}_rows" + (f".{level}" if level else "")
        if plain in expected:
            yield compare(case, plain, torch.cat(parts), expected[plain], VISION_LIMIT)
        elif rows in expected:
            selected = torch.cat(parts)[expected[f"vision.{kind}_rows_idx"]]
            yield compare(case, rows, selected, expected[rows], VISION_LIMIT)


def _state_rows(case: str, name: str, actual: Tensor, expected: dict[str, Tensor], limit: float) -> Iterator[Row]:
    if name in expected:
        yield compare(case, name, actual, expected[name], limit)
    elif f"{name}_rows" in expected:
        yield compare(case, f"{name}_rows", actual[:, expected["rows_idx"]], expected[f"{name}_rows"], limit)


def _boundaries(entry: dict[str, Any]) -> list[tuple[int, int]]:
    """The stored starts and ends as pairs; without a video the last end is stored twice."""
    starts, ends = entry["pos_vs"][0], entry["pos_ve"][0]
    return list(zip(starts, ends[: len(starts)], strict=True))


@torch.no_grad()
def check(folder: Path) -> Iterator[Row]:
    engine, weights, index = reference_engine(folder)
    connectors = reference_connectors(weights, index["config"])
    tokens = weights["mm_encoder.metaquery"]
    limits = _limits(index.get("processor", {}))
    tensors = load(folder / INDEX.replace("_index.json", "_cases.safetensors"))

    for case, entry in index["cases"].items():
        if case.startswith("_"):
            continue
        expected = case_tensors(tensors, case)
        patches: dict[str, list[tuple[Tensor, tuple[int, int, int]]]] = {"image": [], "video": []}
        for name in entry["images"] or ():
            with Image.open(folder / "media" / name) as picture:
                pixels = torch.tensor(list(picture.convert("RGB").tobytes()), dtype=torch.uint8)
                pixels = pixels.view(picture.height, picture.width, 3)
            patches["image"].append(image_patches(pixels, limits))
        if entry["video"]:
            patches["video"].append(video_patches(tensors[f"media.{entry['video']}/vlm_frames_u8"], limits))
        visuals: dict[str, list[EncodedVisual]] = {
            kind: [EncodedVisual(VisualItem(kind, grid), engine.vision(values, grid)) for values, grid in prepared]
            for kind, prepared in patches.items()
        }
        for kind, prepared in patches.items():
            grids = torch.tensor([grid for _, grid in prepared])
            if f"{kind}_grid_thw" in expected:
                yield compare(case, f"{kind}_grid_thw", grids, expected[f"{kind}_grid_thw"])
            if prepared:
                yield from _unpadded(case, kind, [values for values, _ in prepared], expected)
                yield from _vision_rows(case, kind, visuals[kind], expected)

        everything = (*visuals["image"], *visuals["video"])
        branch = BranchPrompt(entry["prompt"] or "", tuple(range(len(everything))))
        (encoded,) = encode_branches(engine, get_system("vino"), [branch], everything)
        plan = encoded.plan
        yield compare(case, "input_ids", torch.tensor([plan.ids]), expected["input_ids"])
        positions = torch.cat([plan.positions, appended_positions(plan.positions, len(tokens))], dim=1)
        yield compare(case, "position_ids", positions[:, None], expected["position_ids"])
        yield equal(case, "boundaries", list(plan.boundaries), _boundaries(entry))

        states = append_tokens(engine, encoded, tokens)
        ones = torch.ones(1, states.shape[1], dtype=torch.int64)
        yield compare(case, "prompt_attention_mask", ones, expected["prompt_attention_mask"])
        yield from _state_rows(case, "penultimate", states, expected, STATE_LIMIT)
        for name, connector in connectors.items():
            yield from _state_rows(case, name, connector(states), expected, CONNECTOR_LIMIT)

    unit = case_tensors(tensors, "connector_unit")
    for name, connector in connectors.items():
        if name in unit:
            yield compare("connector_unit", name, connector(unit["in"]), unit[name], CONNECTOR_LIMIT)
