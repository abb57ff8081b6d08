"""Contact sheets: inputs, instruction, result and truth side by side, for a person to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .evaluate import Sample

_CELL = 128
_GAP = 6
_TEXT = 44
_INPUTS = 6
_RESULT = 3
"""Frames of a clip that are shown: the first, the middle and the last."""
_WIDTH = (_INPUTS + 2 * _RESULT) * (_CELL + _GAP) + 4 * _GAP


def contact_sheet(samples: Sequence[Sample]) -> Tensor:
    """A picture uint8 [H, W, 3], one row per sample: task and instruction; references, result, truth, what was missed.

    Raises ValueError for no sample.
    """
    if not samples:
        raise ValueError("a contact sheet needs at least one sample")
    height = _CELL + _TEXT + _GAP
    sheet = Image.new("RGB", (_WIDTH, height * len(samples) + _TEXT // 2), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    columns = {"references": _GAP, "result": _left_of_result(), "truth": _left_of_truth()}
    for title, left in columns.items():
        pen.text((left, 3), title, fill="black", font=font)
    for number, sample in enumerate(samples):
        _paint_row(sheet, pen, font, sample, height * number + _TEXT // 2)
    return torch.from_numpy(np.array(sheet))


def _left_of_result() -> int:
    return _GAP + _INPUTS * (_CELL + _GAP) + _GAP


def _left_of_truth() -> int:
    return _left_of_result() + _RESULT * (_CELL + _GAP) + _GAP


def _paint_row(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, sample: Sample, top: int
) -> None:
    example, score = sample.toy.example, sample.score
    missed = [name for name, holds in score.checks.items() if not holds]
    missed += ["identity"] if score.identity is False else []
    verdict = "ok" if not missed else f"missed: {', '.join(missed)}"
    if score.untouched is not None:
        verdict += f"; {score.untouched:.1f} dB untouched"
    lines = textwrap.wrap(f"{example.task}: {example.prompt}  [{verdict}]", 225)[:2]
    pen.multiline_text((_GAP, top), "\n".join(lines), fill="black", font=font)
    top += _TEXT - 4
    cells = [image.numpy() for image in example.images]
    for video in example.videos:
        cells += _shown(video)
    for left, pixels in (
        (_GAP, cells),
        (_left_of_result(), _shown(sample.result)),
        (_left_of_truth(), _shown(example.target)),
    ):
        for column, cell in enumerate(pixels):
            picture = Image.fromarray(cell).resize((_CELL, _CELL), Image.Resampling.NEAREST)
            sheet.paste(picture, (left + column * (_CELL + _GAP), top))


def _shown(clip: Tensor) -> list[NDArray[np.uint8]]:
    if len(clip) == 1:
        return [clip[0].numpy()]
    return [clip[index].numpy() for index in (0, len(clip) // 2, len(clip) - 1)]
