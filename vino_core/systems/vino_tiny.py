"""VINO at miniature size, for the toy world: the same prompt structure, packing and branches, small pictures.

Its prompts and pictures are short so that a laptop's CPU trains and runs it; see docs/tiny.md.
"""

from __future__ import annotations

from dataclasses import replace

from .base import PixelLimits, Preset
from .vino import VINO

_PICTURE = Preset(width=64, height=64, frames=1, text_scale=2.0, image_scale=1.0, shift=2.0, negative="", steps=20)
_CLIP = replace(_PICTURE, frames=9)
_EDIT = replace(_PICTURE, width=None, height=None)
_CLIP_EDIT = replace(_CLIP, width=None, height=None)
_FRAME = PixelLimits(32, 64 * 64, 128 * 128)

VINO_TINY = replace(
    VINO,
    name="vino-tiny",
    mmdit=replace(VINO.mmdit, patch_size=(1, 1, 1)),
    prompt=replace(VINO.prompt, system="You draw.", understanding="You describe."),
    vision=replace(
        VINO.vision,
        image_first=_FRAME,
        image_second=_FRAME,
        video_first=_FRAME,
        video_second=PixelLimits(32, 64 * 64, 8 * 128 * 128),
    ),
    presets={
        "t2i": _PICTURE,
        "t2v": _CLIP,
        "i2v": _CLIP_EDIT,
        "ti2i": _EDIT,
        "ti2i_baseimg": replace(_EDIT, image_scale=1.5),
        "ti2v": _CLIP,
        "tv2v": _CLIP_EDIT,
        "tiv2v": _CLIP_EDIT,
        "tiv2v_clone": _CLIP_EDIT,
        "tiv2v_camclone": _CLIP_EDIT,
        "paper": replace(_CLIP, image_scale=1.5),
        "paper_text": _CLIP,
    },
    jobs=(),
    negative_image="",
    negative_video="",
    learnable_tokens=8,
    area=64 * 64,
    max_frames=17,
    frame_rate=8.0,
)
