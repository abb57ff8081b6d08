"""The loss of a run as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from PIL import ImageDraw
    from PIL.Image import Image

_FINE = 3
"""Everything is drawn this many times larger and reduced at the end: Pillow's own lines have jagged edges."""
_PAPER, _GRID, _INK, _QUIET = "#ffffff", "#e7e9ee", "#23272f", "#6b7280"
_EACH, _MEAN = "#b9cdf0", "#1f5fc4"


def smoothed(values: Sequence[float], weight: float | None = None) -> list[float]:
    """Exponential moving average without the pull of its start; `weight` in 0..1 is what the past counts.

    None chooses it so that about a tenth of the values is averaged, 50 at most.
    """
    if weight is None:
        window = min(50.0, max(1.0, len(values) / 10))
        weight = 1 - 1 / window
    mean, norm, means = 0.0, 0.0, []
    for value in values:
        mean, norm = weight * mean + (1 - weight) * value, weight * norm + (1 - weight)
        means.append(mean / norm)
    return means


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers, multiples of 1, 2 or 5 times a power of ten, that enclose `low` and `high`."""
    if not high > low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


@dataclass(frozen=True)
class _Frame:
    """The area between the axes, in fine pixels, and what it shows."""

    left: float
    top: float
    right: float
    bottom: float
    steps: tuple[float, float]
    losses: tuple[float, float]

    def x(self, step: float) -> float:
        first, last = self.steps
        return self.left + (self.right - self.left) * (step - first) / (last - first)

    def y(self, loss: float) -> float:
        low, high = self.losses
        return self.bottom - (self.bottom - self.top) * (loss - low) / (high - low)


def loss_plot(
    steps: Sequence[int],
    losses: Sequence[float],
    title: str = "Training loss",
    total: int | None = None,
    size: tuple[int, int] = (960, 540),
) -> Image:
    """An RGB picture of `size` (width, height): each step's loss pale, their moving average strong.

    `total`: where the axis of steps ends, for a run that is not finished. Raises InputError without any finite loss.
    """
    from PIL import Image, ImageDraw

    points = [(step, loss) for step, loss in zip(steps, losses, strict=True) if math.isfinite(loss)]
    if not points:
        raise InputError("there is no loss to draw yet: the run has not finished a step.")
    width, height = size
    image = Image.new("RGB", (width * _FINE, height * _FINE), _PAPER)
    draw = ImageDraw.Draw(image)
    values = [loss for _, loss in points]
    marks = ticks(min(0.0, *values) if min(values) < 0.3 * max(values) else min(values), max(values), 6)
    first, last = points[0][0], max(points[-1][0], total or 0)
    frame = _Frame(
        left=(30 + 9 * max(len(_number(mark, marks)) for mark in marks)) * _FINE,
        top=76 * _FINE,
        right=(width - 24) * _FINE,
        bottom=(height - 56) * _FINE,
        steps=(first, max(last, first + 1)),
        losses=(marks[0], marks[-1]),
    )
    _axes(draw, frame, marks)
    _line(draw, frame, points, _EACH, 1.2)
    means = smoothed(values)
    _line(draw, frame, [(step, mean) for (step, _), mean in zip(points, means, strict=True)], _MEAN, 2.6)
    _captions(draw, frame, title, (points[-1][0], means[-1]))
    return image.resize(size, Image.LANCZOS)


def _axes(draw: ImageDraw.ImageDraw, frame: _Frame, marks: Sequence[float]) -> None:
    for mark in marks:
        y = frame.y(mark)
        draw.line([(frame.left, y), (frame.right, y)], fill=_GRID, width=_FINE)
        _text(draw, (frame.left - 10 * _FINE, y), _number(mark, marks), _QUIET, 14, "rm")
    first, last = frame.steps
    for mark in ticks(first, last, 8):
        if mark == int(mark) and first <= mark <= last:
            x = frame.x(mark)
            draw.line([(x, frame.bottom), (x, frame.bottom + 5 * _FINE)], fill=_QUIET, width=_FINE)
            _text(draw, (x, frame.bottom + 9 * _FINE), f"{int(mark):,}", _QUIET, 14, "mt")
    draw.line([(frame.left, frame.bottom), (frame.right, frame.bottom)], fill=_QUIET, width=_FINE)
    middle = (frame.left + frame.right) / 2
    _text(draw, (middle, frame.bottom + 32 * _FINE), "step", _INK, 15, "mt")
    _text(draw, (16 * _FINE, frame.top - 16 * _FINE), "loss", _INK, 15, "ls")


def _captions(draw: ImageDraw.ImageDraw, frame: _Frame, title: str, end: tuple[float, float]) -> None:
    """Title, what the two lines are, and where the average ends."""
    _text(draw, (16 * _FINE, 16 * _FINE), title, _INK, 19, "lt")
    x, y = frame.right, 26 * _FINE
    for label, colour, thick in ((f"average, now {end[1]:.4g}", _MEAN, 2.6), ("each step", _EACH, 1.6)):
        x -= _text(draw, (x, y), label, _QUIET, 14, "rm") + 8 * _FINE
        draw.line([(x - 24 * _FINE, y), (x, y)], fill=colour, width=round(thick * _FINE))
        x -= 44 * _FINE
    radius = 4.5 * _FINE
    x, y = frame.x(end[0]), frame.y(end[1])
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_MEAN, outline=_PAPER,
                 width=_FINE)  # fmt: skip


def _line(
    draw: ImageDraw.ImageDraw, frame: _Frame, points: Sequence[tuple[float, float]], colour: str, width: float
) -> None:
    places = [(frame.x(step), frame.y(loss)) for step, loss in points]
    if len(places) > 1:
        draw.line(places, fill=colour, width=round(width * _FINE), joint="curve")
    else:
        (x, y), radius = places[0], 1.5 * width * _FINE
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _text(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: str, points: int, anchor: str
) -> float:
    """Write, and return the width in fine pixels."""
    from PIL import ImageFont

    font = ImageFont.load_default(points * _FINE)
    draw.text(place, text, fill=colour, font=font, anchor=anchor)
    return draw.textlength(text, font=font)


def _number(mark: float, marks: Sequence[float]) -> str:
    """A tick's label with just the digits that tell neighbours apart."""
    step = abs(marks[1] - marks[0])
    return f"{mark:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
