"""VOGUE's prompts, visual input, MLLM states and answers against reference numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from paths import qwen_tokenizer
from torch import Tensor

from parity_groups import Row, compare, equal, load
from vino_core.encoder.encode import (
    BranchPrompt,
    EncodedPrompt,
    EncodedVisual,
    append_tokens,
    embed_prompt,
    encode_branches,
)
from vino_core.encoder.engine import Sampling
from vino_core.encoder.positions import appended_positions
from vino_core.encoder.prompt import VisualItem, build_prompt
from vino_core.encoder.transformers_engine import TransformersEngine, engine_from_state
from vino_core.encoder.visual import image_patches, video_patches
from vino_core.systems import get_system
from vino_core.systems.base import System

INDEX = "mllm_index.json"

STATE_LIMIT = 5e-5
PIXEL_LIMIT = 1e-4
VOCABULARY = 152_064
BEGIN, END = VOCABULARY, VOCABULARY + 1


def model_config(config: dict[str, Any]) -> dict[str, Any]:
    """A Qwen2.5-VL config.json's content for the dimensions listed in the index."""
    text = {key: value for key, value in config["text"].items() if key != "mrope_section"}
    section = config["text"]["mrope_section"]
    return {
        "model_type": "qwen2_5_vl",
        "text_config": {**text, "rope_scaling": {"type": "mrope", "mrope_section": section}},
        "vision_config": dict(config["vision"]),
        "tie_word_embeddings": config["text"]["tie_word_embeddings"],
    }


def _table(weights: Mapping[str, Tensor], name: str) -> Tensor:
    rows = weights[f"{name}.rows"]
    table = torch.zeros(VOCABULARY, rows.shape[1])
    table[weights[f"{name}.row_ids"].long()] = rows
    return table


def reference_state(folder: Path) -> tuple[dict[str, Tensor], Tensor, dict[str, Any]]:
    """Weights of the miniature MLLM by their names in files of transformers 4.51, the learnable queries between their
    marks, and the index."""
    index = json.loads((folder / INDEX).read_text())
    weights = load(folder / index["weights"])
    state = {name: value for name, value in weights.items() if name.startswith(("model.", "visual."))}
    state |= {
        "model.embed_tokens.weight": _table(weights, "embed_tokens"),
        "lm_head.weight": _table(weights, "lm_head"),
    }
    begin, end, *_ = rows = weights["queries.embed_tokens.rows"]
    return state, torch.cat([begin[None], rows[2:], end[None]]), index


def reference_engine(folder: Path) -> tuple[TransformersEngine, Tensor, dict[str, Any]]:
    """The miniature MLLM of `folder`, its learnable queries between their marks, and the index."""
    state, queries, index = reference_state(folder)
    return engine_from_state(model_config(index["config"]), state, qwen_tokenizer()), queries, index


def _patches(system: System, entry: dict[str, Any], pictures: Mapping[str, Tensor]) -> Iterator[tuple[str, Any]]:
    for number, image in enumerate(entry["images"] or ()):
        times = image["nearest_upscale"]
        pixels = pictures[f"in.image.{number}"].repeat_interleave(times, 0).repeat_interleave(times, 1)
        yield "image", image_patches(pixels, system.vision)
    for number in range(len(entry["videos"] or ())):
        yield "video", video_patches(pictures[f"in.video.{number}"], system.vision)


def _vision_rows(
    case: str, patches: list[tuple[str, Any]], visuals: tuple[EncodedVisual, ...], pictures: Mapping[str, Tensor]
) -> Iterator[Row]:
    for kind in dict.fromkeys(kind for kind, _ in patches):
        values = torch.cat([values for found, (values, _) in patches if found == kind])
        features = torch.cat([visual.features.embeds for visual in visuals if visual.item.kind == kind])
        selected = values[pictures[f"mid.{kind}_pixel_rows_index"].long()]
        yield compare(case, f"{kind}_pixel_rows", selected, pictures[f"mid.{kind}_pixel_rows"], PIXEL_LIMIT)
        yield compare(
            case, f"{kind}_pixel_row_mean", values.mean(dim=1), pictures[f"mid.{kind}_pixel_row_mean"], PIXEL_LIMIT
        )
        yield compare(case, f"{kind}_features", features, pictures[f"mid.{kind}_features"], STATE_LIMIT)


def _state_rows(
    case: str, engine: TransformersEngine, encoded: EncodedPrompt, tokens: Tensor | None, expected: Mapping[str, Tensor]
) -> Iterator[Row]:
    plan = encoded.plan
    ids, positions = list(plan.ids), plan.positions
    if tokens is not None:
        queries = len(tokens) - 2
        behind = [BEGIN, *range(END + 1, END + 1 + queries), END, *plan.tokens.closing]
        ids += behind
        positions = torch.cat([positions, appended_positions(positions, len(behind), plan.tokens.first)], dim=1)
    yield compare(case, "input_ids", torch.tensor([ids]), expected["mid.input_ids"])
    yield compare(case, "attention_mask", torch.ones(1, len(ids)), expected["mid.attention_mask"])
    yield compare(case, "position_ids", positions[:, None], expected["mid.position_ids"])
    if "mid.last_hidden" not in expected:
        return
    hidden = expected["mid.last_hidden"]
    yield compare(case, "last_hidden", encoded.states, hidden[:, : len(plan.ids)], STATE_LIMIT)
    embeds = append_tokens(engine, encoded, tokens)
    wanted = hidden[:, 33:] if tokens is None else expected["out.prompt_embeds"]
    yield compare(case, "prompt_embeds", embeds, wanted, STATE_LIMIT)
    yield compare(case, "prompt_attention_mask", torch.ones(1, embeds.shape[1]), expected["out.prompt_attention_mask"])


def _answer_rows(
    case: str,
    engine: TransformersEngine,
    system: System,
    entry: dict[str, Any],
    visuals: tuple[EncodedVisual, ...],
    expected: Mapping[str, Tensor],
) -> Iterator[Row]:
    plan = build_prompt(system, engine, entry["user_text"], [visual.item for visual in visuals], answering=True)
    x, injection = embed_prompt(engine, plan, visuals)
    states, _ = engine.decode(x, plan.positions, injection)
    logits = engine.model.lm_head(states[0, -1])[[*range(32, 58), *range(264, 600), 151645]]
    yield compare(case, "last_logits_rows", logits, expected["out.last_logits_rows"], STATE_LIMIT)
    sampling = Sampling(entry["max_new_tokens"], repetition_penalty=system.prompt.repetition_penalty)
    ids = engine.generate_ids(x, plan.positions, injection, sampling, prompt=plan.ids)
    yield compare(case, "generated_ids", torch.tensor(ids), expected["out.generated_ids"])
    text = engine.generate(x, plan.positions, injection, sampling, prompt=plan.ids)
    yield equal(case, "generated_text", text, entry["generated_text"][0].strip())


@torch.no_grad()
def check(folder: Path) -> Iterator[Row]:
    engine, queries, index = reference_engine(folder)
    system = get_system("vogue")
    files = {entry["name"]: folder / entry["file"] for entry in index["cases"]}
    for entry in index["cases"]:
        case, expected = entry["name"], load(files[entry["name"]])
        pictures = load(files[entry["same_pictures_as"]]) if entry["same_pictures_as"] else expected
        tokens = queries if entry["variant"] == "queries" else None
        variant = system.for_tokens(tokens)

        patches = list(_patches(variant, entry, pictures))
        visuals = tuple(
            EncodedVisual(VisualItem(kind, grid), engine.vision(values, grid)) for kind, (values, grid) in patches
        )
        for kind in dict.fromkeys(kind for kind, _ in patches):
            grids = torch.tensor([grid for found, (_, grid) in patches if found == kind])
            yield compare(case, f"{kind}_grid_thw", grids, expected[f"mid.{kind}_grid_thw"])
        if pictures is expected:
            yield from _vision_rows(case, patches, visuals, pictures)

        branch = BranchPrompt(entry["user_text"], tuple(range(len(visuals))))
        (encoded,) = encode_branches(engine, variant, [branch], visuals)
        yield from _state_rows(case, engine, encoded, tokens, expected)
        if "out.generated_ids" in expected:
            yield from _answer_rows(case, engine, variant, entry, visuals, expected)
