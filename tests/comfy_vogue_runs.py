"""VOGUE's reference runs inside this process, on ComfyUI's own classes: shared by the tests of nodes and model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from comfy_inprocess import pack
from comfy_reference import VOGUE_MODEL, VOGUE_TEXT_ENCODER, VOGUE_TOKENS, write_vogue_weights
from comfy_runs import SCALE, nodes
from torch import Tensor
from torch.nn.functional import pad
from vogue_files import VOGUE_GOLDENS

from parity_groups import load
from parity_groups.vogue.pipeline import INDEX
from parity_groups.vogue.vae import reference_vae

ENTRIES: dict[str, dict[str, Any]] = {
    entry["name"]: entry for entry in json.loads((VOGUE_GOLDENS / INDEX).read_text())["cases"]
}
CHANNELS = 4
"""Of the reference's latents. The others of ComfyUI's 16 stay what they are, see `comfy_reference.vogue_model`."""
_FOLDER = TemporaryDirectory(prefix="vogue-reference-")


def widened(latents: Tensor) -> Tensor:
    """The reference's latents with as many channels as ComfyUI's."""
    return pad(latents, (0, 0, 0, 0, 0, 0, 0, 16 - CHANNELS))


class ReferenceVAE:
    """Stands in for the reference's VAE, whose width ComfyUI cannot load: the same latents, computed by the core."""

    def __init__(self) -> None:
        self.vae = reference_vae(VOGUE_GOLDENS)

    def encode(self, pixels: Tensor) -> Tensor:
        return widened(self.vae.encode(pixels * 255) / SCALE)


@lru_cache(maxsize=1)
def folder() -> Path:
    """A models folder with VOGUE's three files."""
    write_vogue_weights(VOGUE_GOLDENS, Path(_FOLDER.name))
    return Path(_FOLDER.name)


@lru_cache(maxsize=1)
def model() -> Any:
    """The reference model on the MODEL wire, loaded as the stock Load Diffusion Model does."""
    nodes()
    import comfy.sd

    return comfy.sd.load_diffusion_model(str(folder() / VOGUE_MODEL))


@lru_cache(maxsize=1)
def clip() -> Any:
    return pack("nodes.comfy.text_encoder").load_text_encoder(str(folder() / VOGUE_TEXT_ENCODER))


@lru_cache(maxsize=1)
def tokens() -> Any:
    """What VINO Tokens Loader gives for the queries variant."""
    path, files = folder() / VOGUE_TOKENS, pack("vino_core.checkpoints.files")
    return pack("nodes.types").LearnableTokens(files.load_tokens(path), files.made_for(path))


def picture(pixels: Tensor) -> Tensor:
    """uint8 [H, W, 3] as an IMAGE."""
    return pixels[None].float() / 255


def given_clip(frames: Tensor) -> Any:
    """uint8 frames as a VIDEO."""
    nodes()
    from comfy_api.latest import InputImpl, Types

    components = Types.VideoComponents(images=frames.float() / 255, frame_rate=24)
    return InputImpl.VideoFromComponents(components)


def references(entry: dict[str, Any], tensors: dict[str, Tensor], **options: Any) -> tuple[Any, int, int, int]:
    """What VINO References makes of the case's pictures and clips, at the reference's small area."""
    pictures = [tensors[name] for name in sorted(tensors) if name.startswith("in.ref_image.")]
    if "in.cond_image" in tensors:
        pictures.append(tensors["in.cond_image"])
    slots = {
        "images": {f"image_{number + 1}": picture(pixels) for number, pixels in enumerate(pictures)},
        "videos": {"video_1": given_clip(tensors["mid.cond_frames"])} if "mid.cond_frames" in tensors else {},
    }
    decides = {"first_frame", "cond"} & set(entry["frame_order"])
    height, width = (8 * side for side in tensors["in.noise"].shape[-2:])
    size = {"size": "auto"} if decides else {"size": "custom", "width": width, "height": height}
    options = {"task": entry["task"], "clip": clip(), **options}
    return nodes().VINOReferences.execute(size, entry["num_frames"], **slots, **options).args


@contextmanager
def small_references(entry: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[None]:
    """VINO References prepares for the reference's few pixels. Clips, which were resized already, keep their size."""
    module = pack("nodes.references")
    area = entry["height"] * entry["width"]
    if "mid.cond_frames" in tensors:
        _, height, width, _ = tensors["mid.cond_frames"].shape
        area = height * width
    with patch.object(module, "prepare_references", partial(module.prepare_references, area=area)):
        yield


class Case:
    """One reference run up to sampling: its conditionings and its start, and what it must end in."""

    def __init__(self, name: str) -> None:
        self.entry = entry = ENTRIES[name]
        self.tensors = tensors = load(VOGUE_GOLDENS / entry["file"])
        given = tokens() if entry["variant"] == "queries" else None
        negative = {"negative": "custom", "negative_prompt": entry["negative_prompt"]}
        with torch.inference_mode(), small_references(entry, tensors):
            prepared, width, height, length = references(entry, tensors)
            context = nodes().VINOEncoder.execute(
                clip(), prepared, entry["prompt"], negative, False, entry["image_guidance_scale"], tokens=given
            )[0]
            branches = nodes().VINOLearnableTokens.execute(clip(), context).args
            self.branches = nodes().VINOReferenceLatents.execute(*branches, ReferenceVAE(), prepared).args
            self.latent = nodes().VINOEmptyLatent.execute(width, height, length, 1)[0]
        self.noise, self.expected = widened(tensors["in.noise"]), tensors["out.latents"]


case = lru_cache(maxsize=2)(Case)
"""`Case` by name, kept for the next test."""
