"""VOGUE's strings, settings, arrangements, sizes and frame choices: exact."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vino_core.encoder.visual import image_sizes
from vino_core.media.canvases import on_canvas, pad_to_square
from vino_core.media.references import Clip, References
from vino_core.media.sizing import crop_to_unit, fit_area, video_frame_indices, vlm_frame_indices
from vino_core.systems import get_system
from vino_core.tasks import prepare_references

from .. import Row, equal

INDEX = "data_tables.json"
SYSTEM = get_system("vogue")
QUERIES = SYSTEM.for_tokens(torch.ones(1, 1))
Entry = Mapping[str, Any]


def blank(height: int, width: int) -> Tensor:
    return torch.zeros(height, width, 3, dtype=torch.uint8)


def prepared_clip(frames: int, requested: int, system: Any = SYSTEM) -> References:
    """A small clip of `frames` frames, each of one grey that tells its number."""
    clip = torch.arange(frames, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 32, 32, 3)
    return prepare_references(system, "v2v_edit", [], [Clip(clip, 24.0)], requested, area=32 * 32)


def picture_size(entry: Entry) -> Entry:
    height, width = entry["source_hw"]
    area = entry["target_hw"][0] * entry["target_hw"][1]
    resized = fit_area(width, height, area)
    (image,) = prepare_references(SYSTEM, "i2i_edit", [blank(height, width)], area=area).images
    assert crop_to_unit(*resized) == tuple(image.packed.shape[:2])
    return {"resized_hw": list(resized), "cropped_hw": list(image.packed.shape[:2])}


def clip_size(entry: Entry) -> Entry:
    height, width = entry["source_hw"]
    area = entry["target_hw"][0] * entry["target_hw"][1]
    clip = Clip(blank(height, width).expand(entry["source_frames"], -1, -1, -1), 24.0)
    (video,) = prepare_references(SYSTEM, "v2v_edit", [], [clip], area=area).videos
    count, *size, channels = video.frames.shape
    return {
        "resized_hw": list(fit_area(width, height, area)),
        "cropped_hw": size,
        "used_frames": count,
        "tensor_shape": [count, channels, *size],
    }


def clip_frames(entry: Entry) -> Entry:
    found = prepared_clip(entry["source_frames"], entry["requested_frames"]).videos[0].frames[:, 0, 0, 0].tolist()
    assert found == video_frame_indices(entry["source_frames"], 24.0, entry["requested_frames"])
    return {
        "used_frames": len(found),
        "frame_indices": f"{found[0]}..{found[-1]}",
        "latent_frames": SYSTEM.latent_grid(len(found), 32, 32)[0],
        "noise_latent_frames": SYSTEM.latent_grid(entry["requested_frames"], 32, 32)[0],
    }


def vlm_frames(entry: Entry) -> Entry:
    total, count = entry["total"], entry["mllm_cond_video_num_frames"]
    indices = vlm_frame_indices(total, count, repeat=False)
    if total % 4 == 1:  # other numbers of frames are never prepared
        variant = {one.vision.frames: one for one in (SYSTEM, QUERIES)}[count]
        (video,) = prepared_clip(total, total, variant).videos
        assert video.vlm_frames[:, 0, 0, 0].tolist() == indices
    return {"index": indices}


def corner(canvas: Tensor) -> list[int]:
    """Row and column where what is not white begins."""
    rows, columns = (canvas != 255).any(dim=2).nonzero().amin(dim=0).tolist()
    return [rows, columns]


def square(entry: Entry) -> Entry:
    padded = pad_to_square(blank(*entry["source_hw"]))
    top, left = corner(padded)
    return {"padded_hw": list(padded.shape[:2]), "top": top, "left": left, "fill": 255}


def canvas(entry: Entry) -> Entry:
    height, width = entry["pixel_hw"]
    made = on_canvas(blank(100, 100), height, width)
    inside = (made != 255).any(dim=2)
    top, left = corner(made)
    whole = bool(inside.all())
    return {
        "latent_hw": list(SYSTEM.latent_grid(1, *made.shape[:2])[1:]),
        "resized_square": int(inside.sum(dim=1).max()),
        "top": top,
        "left": left,
        "pad_value": None if whole else (made.max().item() - 127.5) / 127.5,
    }


def vlm_size(entry: Entry) -> Entry:
    vision = SYSTEM.vision
    _, (height, width) = image_sizes(*entry["source_hw"], vision)
    grid = [height // vision.patch, width // vision.patch]
    return {
        "resized_hw": [height, width],
        "grid_hw": grid,
        "merged_tokens": grid[0] * grid[1] // vision.merge**2,
    }


TABLES: dict[str, Callable[[Entry], Entry]] = {
    "cond_image_size": picture_size,
    "cond_video_size": clip_size,
    "cond_video_frames": clip_frames,
    "mllm_frame_index": vlm_frames,
    "pad_to_square": square,
    "reference_canvas": canvas,
    "mllm_resize": vlm_size,
    "noise_latent_shape": lambda e: {"latent_thw": list(SYSTEM.latent_grid(e["num_frames"], *e["hw"]))},
}


def tables(folder: Path) -> Iterator[Row]:
    found = json.loads((folder / INDEX).read_text())
    for name, columns in TABLES.items():
        wrong = 0
        for number, entry in enumerate(found[name]):
            for column, actual in columns(entry).items():
                if actual != entry[column]:
                    wrong += 1
                    yield equal(name, f"entry {number} {column} {actual}", actual, entry[column])
        yield equal(name, f"{len(found[name])} entries", wrong, 0)


COUNTS = {
    "t2i": (0, 0),
    "t2v": (0, 0),
    "i2v": (1, 0),
    "i2i_edit": (1, 0),
    "i+i2i_edit": (2, 0),
    "multiid": (2, 0),
    "v2v_edit": (0, 1),
    "i+v2v_edit": (1, 1),
}
ORDERS = {
    "noisy": ((), False, ()),
    "first frame, noisy": ((), True, ()),
    "noisy, cond": ((), False, (-1,)),
    "refs, noisy, cond": ((0,), False, (-1,)),
    "refs, noisy": ((0, 1), False, ()),
}
"""Latent frame orders as written: references before, whether a first frame, conditions after."""


def settings(folder: Path) -> Iterator[Row]:
    found = json.loads((folder / "tasks.json").read_text())
    yield equal("tasks", "system_prompt", SYSTEM.prompt.system, found["system_prompt"])
    yield equal("tasks", "frame_rate", SYSTEM.frame_rate, found["output_fps"])
    tasks = {name: entry for name, entry in found["tasks"].items() if name != "understanding"}
    yield equal("tasks", "names", set(SYSTEM.presets), set(tasks))
    for name, entry in tasks.items():
        preset = SYSTEM.presets[name]
        yield equal(name, "instruction", preset.instruction, entry["instruction_prefix"])
        yield equal(name, "negative", preset.negative, found["demo_negative_prompt"])
        images, videos = COUNTS[name]
        order = entry["latent_frame_order"].split(" (1 frame")[0].replace(" (clean picture latent)", "")
        before, first, after = ORDERS[order]
        wanted = (before, 0 if first else None, tuple(index % (images + videos) for index in after))
        arranged = SYSTEM.arrange(name, images, videos)
        yield equal(name, "order", (arranged.before, arranged.first_frame, arranged.after), wanted)
        if entry["demo_defaults_source"] != "demo script":
            continue
        defaults = entry["demo_defaults"]
        numbers = (preset.frames, preset.steps, preset.text_scale, preset.image_scale)
        names = ("num_frames", "num_inference_steps", "guidance_scale", "image_guidance_scale")
        yield equal(name, "settings", numbers, tuple(defaults[key] for key in names))
        yield equal(name, "area", preset.area, defaults["height"] * defaults["width"])
        if preset.height is not None and preset.width is not None:
            published, ours = (
                SYSTEM.latent_grid(1, *size)
                for size in ((defaults["height"], defaults["width"]), (preset.height, preset.width))
            )
            yield equal(name, "latent size", ours, published)


def check(folder: Path) -> Iterator[Row]:
    yield from tables(folder)
    yield from settings(folder)
