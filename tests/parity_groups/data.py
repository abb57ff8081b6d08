"""Sizes, frame choices and pixels: exact, from the tables to the patches the VLM reads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vino_core.encoder.visual import first_video_resize, image_patches, image_sizes, video_patches, video_sizes
from vino_core.errors import InputError
from vino_core.media.images import letterbox, read_image
from vino_core.media.references import prepare_image, prepare_video, scale_frames
from vino_core.media.sizing import best_grid, crop_to_unit, fit_area, video_frame_indices, vlm_frame_indices
from vino_core.systems import get_system
from vino_core.vae import to_unit_range

from . import Row, case_tensors, compare, equal, load

INDEX = "data_tables.json"
VISION = get_system("vino").vision
Entry = Mapping[str, Any]


def check(folder: Path) -> Iterator[Row]:
    tables = json.loads((folder / INDEX).read_text())
    for name, columns in TABLES.items():
        yield from _table(name, tables[name], columns)
    if (folder / "data_pixels_index.json").is_file():
        yield from _pixels(folder)
    if (folder / "mm_encoder_index.json").is_file():
        yield from _vlm_pixels(folder)
    if (folder / "pipeline_index.json").is_file():
        yield from _references(folder)


def _table(name: str, entries: list[Entry], columns: Callable[[Entry], Entry]) -> Iterator[Row]:
    """One row for a table that is right; otherwise one for every wrong entry."""
    wrong = 0
    for number, entry in enumerate(entries):
        for column, actual in columns(entry).items():
            if actual != entry.get(column):
                wrong += 1
                yield equal(name, f"entry {number} {column} {actual}", actual, entry.get(column))
    if not wrong:
        yield equal(name, f"{len(entries)} entries", wrong, 0)


def _grid(entry: Entry) -> Entry:
    return {"out_hw": list(best_grid(entry["w"], entry["h"], entry["target_area"], entry["unit"]))}


def _transformed(entry: Entry) -> Entry:
    size = (entry["h"], entry["w"])
    if entry["perform_resize"]:
        size = fit_area(entry["w"], entry["h"], entry["height"] * entry["width"])
    return {"out_tchw": [1, 3, *crop_to_unit(*size)]}


def _frames(entry: Entry) -> Entry:
    try:
        return {
            "indices": video_frame_indices(
                entry["n_frames"], entry["fps"], entry["num_frames"], sample_fps=entry["sample_fps"]
            )
        }
    except InputError as error:
        return {"indices": None, "error": entry.get("error", error)}


def _vision(sizes: tuple[tuple[int, int], tuple[int, int]], time: int) -> Entry:
    first, second = sizes
    grid = [time, *(side // VISION.patch for side in second)]
    tokens = grid[0] * grid[1] * grid[2] // VISION.merge**2
    return {"first_hw": list(first), "second_hw": list(second), "grid_thw": grid, "n_tokens": tokens}


def _vlm_video(entry: Entry) -> Entry:
    limits = dataclasses.replace(VISION, frames=entry["n"])
    return _vision(video_sizes(entry["h"], entry["w"], limits), entry["n"] // VISION.temporal_patch)


TABLES: dict[str, Callable[[Entry], Entry]] = {
    "calc_target_resolution": lambda e: {"out_hw": list(fit_area(e["w"], e["h"], e["max_area"]))},
    "solve_optimal_grid": _grid,
    "transform_tensor_shape": _transformed,
    "video_frame_indices": _frames,
    "video_decode_size": lambda e: {"decode_wh": list(fit_area(e["w"], e["h"], e["area"])[::-1])},
    "vlm_frame_indices": lambda e: {"indices": vlm_frame_indices(e["n_frames"])},
    "vlm_image_sizes": lambda e: _vision(image_sizes(e["h"], e["w"], VISION), 1),
    "vlm_video_sizes": _vlm_video,
}


def _pixels(folder: Path) -> Iterator[Row]:
    tensors = load(folder / "data_pixels.safetensors")
    for case, entry in json.loads((folder / "data_pixels_index.json").read_text()).items():
        area = entry["height"] * entry["width"]
        pixels = tensors[f"{case}.in"]
        if case.startswith("letterbox"):
            yield compare(case, "out", letterbox(pixels, area), tensors[f"{case}.out"])
            continue
        for name, size in (("crop", pixels.shape[1:3]), ("resize", fit_area(*entry["in_wh"], area))):
            height, width = crop_to_unit(*size)
            scaled = scale_frames(pixels, tuple(size))[:, :height, :width]
            yield compare(case, name, to_unit_range(scaled).permute(0, 3, 1, 2), tensors[f"{case}.{name}.out"])


def _vlm_pixels(folder: Path) -> Iterator[Row]:
    """Pictures and clips of the mm_encoder cases, read from their files, up to the vision tower's patches."""
    tensors = load(folder / "mm_encoder_cases.safetensors")
    for case, entry in json.loads((folder / "mm_encoder_index.json").read_text())["cases"].items():
        if case == "_media":
            for clip in entry:
                seen = prepare_video(folder / "media" / clip, 1).vlm_frames
                yield compare(clip, "vlm_frames_u8", seen, tensors[f"media.{clip}/vlm_frames_u8"])
            continue
        expected = case_tensors(tensors, case)
        if "image_grid_thw" in expected:
            pictures = [image_patches(read_image(folder / "media" / name), VISION) for name in entry["images"]]
            yield compare(case, "image_grid_thw", torch.tensor([g for _, g in pictures]), expected["image_grid_thw"])
            yield from _patches(case, "pixel_values", torch.cat([p for p, _ in pictures]), expected)
        if "video_grid_thw" in expected:
            frames = prepare_video(folder / "media" / entry["video"], 1).vlm_frames
            patches, grid = video_patches(frames, VISION)
            yield compare(case, "video_grid_thw", torch.tensor([grid]), expected["video_grid_thw"])
            yield from _patches(case, "pixel_values_videos", patches, expected)
            if "video_first_resize_frame_sums" in expected:
                resized = first_video_resize(frames, video_sizes(*frames.shape[1:3], VISION)[0])
                sums = resized.double().sum(dim=(1, 2, 3))
                yield compare(case, "first_resize_sums", sums, expected["video_first_resize_frame_sums"])
                crop = resized[[0, 5], :, 40:104, 200:264]
                yield compare(case, "first_resize_crop", crop, expected["video_first_resize_crop_u8"])


def _patches(case: str, name: str, patches: Tensor, expected: Mapping[str, Tensor]) -> Iterator[Row]:
    if f"{name}_rowsum" in expected:
        # Sums of equal values still depend on the order in which a processor adds them up.
        yield compare(case, f"{name}_rowsum", patches.double().sum(dim=1), expected[f"{name}_rowsum"], limit=1e-9)
    if f"{name}_rows" in expected:
        rows = patches[expected[f"{name}_rows_idx"]]
        yield compare(case, f"{name}_rows", rows, expected[f"{name}_rows"])
    if f"{name}_u8" in expected:
        grey = ((patches.reshape(-1, 3, VISION.temporal_patch, 16, 16)[:, :, 0] + 1) * 127.5).round()
        yield compare(case, f"{name}_u8", grey, expected[f"{name}_u8"])


def _references(folder: Path) -> Iterator[Row]:
    """Letterboxed pictures and decoded clips of the pipeline cases, read from their files."""
    tensors = load(folder / "pipeline_cases.safetensors")
    for case, entry in json.loads((folder / "pipeline_index.json").read_text())["cases"].items():
        expected, row = case_tensors(tensors, case), entry.get("task_row", {})
        area = entry["dataset"]["height"] * entry["dataset"]["width"] if "dataset" in entry else 0
        for number, name in enumerate(row.get("ref_image_paths") or ()):
            pixels = prepare_image(read_image(folder / "media" / name), area).pixels
            yield compare(case, f"letterboxed.{number}", pixels, expected[f"in.letterboxed.{number}"])
        if row.get("ref_video_path"):
            clip = prepare_video(folder / "media" / row["ref_video_path"], entry["dataset"]["num_frames"], area=area)
            decoded = expected["in.ref_video_frames_u8"]
            height, width = crop_to_unit(*decoded.shape[1:3])
            yield compare(case, "ref_video_frames_u8", clip.frames, decoded[:, :height, :width])
