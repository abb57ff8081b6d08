"""Pictures and videos on ComfyUI's wires, as the core takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from comfy_api.latest import Input
from torch import Tensor

from ...vino_core.errors import InputError
from ...vino_core.media.references import Clip


def numbered(slots: Mapping[str, Any] | None) -> Iterator[tuple[str, Any]]:
    """The connected slots of an Autogrow input in the order of their numbers ("image_10" behind "image_9")."""
    for name in sorted(slots or {}, key=lambda name: int(name.rsplit("_", 1)[-1])):
        if slots[name] is not None:
            yield name, slots[name]


def to_uint8(image: Tensor, name: str) -> Tensor:
    """IMAGE [B, H, W, 1, 3 or 4] in 0..1 as uint8 [B, H, W, 3]; transparency is laid over white.

    Raises InputError for other shapes and for values that are not finite.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        raise InputError(f"{name}: expected a picture [batch, height, width, channels], got {list(image.shape)}.")
    if not torch.isfinite(image).all():
        raise InputError(f"{name}: NaN or infinite pixels. Check the node that made the picture.")
    if image.shape[-1] == 4:
        colour, alpha = image.split((3, 1), dim=-1)
        image = colour * alpha + (1 - alpha)
    pixels = (image.cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.expand(*pixels.shape[:3], 3)


def clip_of(video: Input.Video, name: str) -> Clip:
    """A VIDEO as the core prepares it.

    A whole file is read by the core, which keeps only the frames it needs; a trimmed or generated one comes as frames.
    Raises InputError for a video that cannot be used.
    """
    source = video.get_stream_source() if hasattr(video, "get_active_trim_window") else None
    if isinstance(source, str) and video.get_active_trim_window() == (0.0, 0.0):
        return Clip(source)
    components = video.get_components()
    return Clip(to_uint8(components.images, name), float(components.frame_rate))
