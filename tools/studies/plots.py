"""Pictures of the studies, drawn with Pillow in the style of a run's loss plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from PIL import Image, ImageDraw, ImageFont

from vino_core.training.plot import smoothed, ticks

_FINE = 3
"""Everything is drawn this many times larger and reduced at the end."""
_PAPER, _GRID, _INK, _QUIET = "#ffffff", "#e7e9ee", "#23272f", "#6b7280"
COLOURS = ("#1f5fc4", "#d9622b", "#2a8f64", "#8a4fbf")
"""Of series, in their order; told apart by readers who do not see red and green as well."""

Band = tuple[float, float, float]
"""Lowest value, mean and highest value over seeds."""


@dataclass(frozen=True)
class Series:
    """One line: its name and a band at every x."""

    name: str
    points: Sequence[tuple[float, Band]]


def band(values: Sequence[float]) -> Band:
    return min(values), fmean(values), max(values)


def curves(seeds: Sequence[Sequence[float]], name: str) -> Series:
    """The smoothed values of several seeds, step by step, as far as the shortest of them goes."""
    smooth = [smoothed(values) for values in seeds]
    length = min(map(len, smooth))
    return Series(name, [(step + 1, band([values[step] for values in smooth])) for step in range(length)])


class _Chart:
    """Axes with marks; coordinates of data in fine pixels."""

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        box: tuple[int, int, int, int],
        x: tuple[float, float],
        values: Sequence[float],
        percent: bool,
    ) -> None:
        self.draw = draw
        self.left, self.top, self.right, self.bottom = (edge * _FINE for edge in box)
        self.first, self.last = x
        if percent:
            values = [min(100.0, max(0.0, value)) for value in values]
        self.marks = ticks(min(values), max(values), 5)
        for mark in self.marks:
            y = self.y(mark)
            draw.line([(self.left, y), (self.right, y)], fill=_GRID, width=_FINE)
            digits = max(0, len(f"{self.marks[1] - self.marks[0]:.10f}".rstrip("0").partition(".")[2]))
            text(draw, (self.left - 8 * _FINE, y), f"{mark:.{digits}f}", _QUIET, 13, "rm")
        draw.line([(self.left, self.bottom), (self.right, self.bottom)], fill=_QUIET, width=_FINE)

    def x(self, value: float) -> float:
        return self.left + (self.right - self.left) * (value - self.first) / ((self.last - self.first) or 1)

    def y(self, value: float) -> float:
        low, high = self.marks[0], self.marks[-1]
        return self.bottom - (self.bottom - self.top) * (value - low) / (high - low)


def text(draw: ImageDraw.ImageDraw, place: tuple[float, float], words: str, colour: str, size: int, anchor: str):
    draw.text(place, words, fill=colour, font=ImageFont.load_default(size * _FINE), anchor=anchor)


def line_plot(
    title: str,
    series: Sequence[Series],
    x_label: str,
    percent: bool = False,
    marks: Sequence[float] | None = None,
    size: tuple[int, int] = (960, 520),
) -> Image.Image:
    """Means as lines over bands from the lowest to the highest seed. `marks`: where x is labelled, with dots there."""
    width, height = size
    image = Image.new("RGB", (width * _FINE, height * _FINE), _PAPER)
    draw = ImageDraw.Draw(image)
    xs = [x for one in series for x, _ in one.points]
    values = [value for one in series for _, band in one.points for value in band]
    chart = _Chart(draw, (64, 84, width - 28, height - 60), (min(xs), max(xs)), values, percent)
    for x in marks or [mark for mark in ticks(min(xs), max(xs), 8) if min(xs) <= mark <= max(xs)]:
        text(draw, (chart.x(x), chart.bottom + 9 * _FINE), f"{x:g}", _QUIET, 13, "mt")
    text(draw, ((chart.left + chart.right) / 2, chart.bottom + 32 * _FINE), x_label, _INK, 14, "mt")
    shades = Image.new("RGBA", image.size, (0, 0, 0, 0))
    for colour, one in zip(COLOURS, series, strict=False):
        low = [(chart.x(x), chart.y(band[0])) for x, band in one.points]
        high = [(chart.x(x), chart.y(band[2])) for x, band in one.points]
        if len(low) > 1:
            layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
            ImageDraw.Draw(layer).polygon([*low, *reversed(high)], fill=(*_rgb(colour), 46))
            shades = Image.alpha_composite(shades, layer)
    image.paste(shades, mask=shades.getchannel("A"))
    for colour, one in zip(COLOURS, series, strict=False):
        line = [(chart.x(x), chart.y(band[1])) for x, band in one.points]
        draw.line(line, fill=colour, width=round(2.4 * _FINE), joint="curve")
        for x, y in line if marks else line[-1:]:
            _dot(draw, x, y, 4, colour)
    _heading(draw, title, [one.name for one in series])
    return image.resize(size, Image.LANCZOS)


def dot_plot(
    title: str, panels: Mapping[str, Mapping[str, Sequence[float]]], names: Sequence[str], width: int = 960
) -> Image.Image:
    """For each measure a panel: every seed of every variant as a pale dot, the mean as a bar with its number.

    `names` are all variants, in order; a panel may lack some.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = (width, 100 + 250 * rows)
    image = Image.new("RGB", (size[0] * _FINE, size[1] * _FINE), _PAPER)
    draw = ImageDraw.Draw(image)
    for number, (measure, variants) in enumerate(panels.items()):
        left = 16 + (width - 32) * (number % columns) // columns
        right = 16 + (width - 32) * (number % columns + 1) // columns
        top = 100 + 250 * (number // columns)
        values = [value for seeds in variants.values() for value in seeds]
        text(draw, (left * _FINE, (top - 6) * _FINE), measure, _INK, 14, "ls")
        chart = _Chart(draw, (left + 56, top + 14, right - 16, top + 206), (0, len(names)), values, False)
        for place, (colour, name) in enumerate(zip(COLOURS, names, strict=False)):
            if name not in variants:
                continue
            middle, mean = chart.x(place + 0.5), chart.y(fmean(variants[name]))
            for value in variants[name]:
                _dot(draw, middle, chart.y(value), 5, _pale(colour))
            reach = 22 * _FINE
            draw.line([(middle - reach, mean), (middle + reach, mean)], fill=colour, width=3 * _FINE)
            label = f"{fmean(variants[name]):.4g}"
            text(draw, (middle, mean - 7 * _FINE), label, colour, 13, "mb")
    _heading(draw, title, names)
    return image.resize(size, Image.LANCZOS)


def _heading(draw: ImageDraw.ImageDraw, title: str, names: Sequence[str]) -> None:
    """The title, and below it what each colour stands for."""
    text(draw, (16 * _FINE, 14 * _FINE), title, _INK, 19, "lt")
    font = ImageFont.load_default(14 * _FINE)
    x, y = 16 * _FINE, 48 * _FINE
    for colour, name in zip(COLOURS, names, strict=False):
        draw.line([(x, y), (x + 22 * _FINE, y)], fill=colour, width=3 * _FINE)
        x += 30 * _FINE
        draw.text((x, y), name, fill=_QUIET, font=font, anchor="lm")
        x += draw.textlength(name, font=font) + 24 * _FINE


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: str) -> None:
    reach = radius * _FINE
    draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour, outline=_PAPER, width=_FINE)


def _rgb(colour: str) -> tuple[int, int, int]:
    return tuple(bytes.fromhex(colour[1:]))


def _pale(colour: str) -> str:
    return "#" + bytes((value + 255) // 2 for value in _rgb(colour)).hex()
