"""Contact sheets: inputs, instruction, result and truth side by side, for a person to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..training.example import Example
from .evaluate import Sample

_WIDTH = 1976
_MARGIN = 16
_BETWEEN = 12
"""Between cards."""
_PADDING = 10
"""Within a card."""
_CELL = 128
_NEAR, _FAR = 4, 14
"""Between pictures of one group (references, result, truth), and between groups."""
_BESIDE = 300
"""Narrowest column of text beside the pictures; with less room it stands below them."""
_MOST_LINES = 8
_MOST_MISSED = 5
_TITLE, _TEXT, _LABEL = 22, 15, 12
_LINE = 19
_HEAD = 38
_ABOVE = 16
"""Height of the groups' labels."""
_PAPER, _CARD, _EDGE, _INK, _FAINT = "#ffffff", "#f1f2f4", "#cfd4da", "#1d2126", "#7a828c"
_RIGHT, _WRONG = "#1f9d55", "#d64545"

Card = Mapping[str, Sample]
"""The samples of one example, by what their results are called."""


@dataclass(frozen=True)
class _Cells:
    """A group of pictures, what it is called and the colour of its frame."""

    title: str
    pictures: list[NDArray[np.uint8]]
    frame: str = _EDGE

    @property
    def width(self) -> int:
        return len(self.pictures) * (_CELL + _NEAR) - _NEAR


@dataclass(frozen=True)
class _Grid:
    """How the cards of one task are laid out: all of one width, text beside the pictures or below them."""

    columns: int
    width: int
    height: int
    text: tuple[int, int]
    """Left edge and width of the text within a card."""
    beside: bool


def contact_sheet(samples: Sequence[Sample]) -> Tensor:
    """A picture uint8 [H, W, 3], a section per task and a card per sample: references, result, truth; the instruction
    and what was missed. The result's frame is green where everything is right (`Score.passed`), else red.

    Raises ValueError for no sample.
    """
    return comparison_sheet([{"result": sample} for sample in samples])


def comparison_sheet(cards: Sequence[Card], titles: Mapping[str, str] | None = None) -> Tensor:
    """As `contact_sheet`, with a card per example: several results of it side by side, under their names. `titles` of
    tasks stand above the sections in place of the tasks' own names.

    Raises ValueError for no card.
    """
    if not cards:
        raise ValueError("a contact sheet needs at least one sample")
    ordered = [list(members) for _, members in groupby(cards, key=lambda card: _example(card).task)]
    sections = [(members, _grid(members)) for members in ordered]
    height = _MARGIN + sum(_HEAD + -(-len(m) // g.columns) * (g.height + _BETWEEN) + _BETWEEN for m, g in sections)
    sheet = Image.new("RGB", (_WIDTH, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    top = _MARGIN
    for members, grid in sections:
        task = _example(members[0]).task
        title = (titles or {}).get(task, task)
        pen.text((_MARGIN, top), title, fill=_INK, font=_font(_TITLE))
        left = _MARGIN + _font(_TITLE).getlength(title) + 14
        pen.text((left, top + 7), _counted(members), fill=_FAINT, font=_font(_TEXT))
        top += _HEAD
        for number, card in enumerate(members):
            row, column = divmod(number, grid.columns)
            place = _MARGIN + column * (grid.width + _BETWEEN), top + row * (grid.height + _BETWEEN)
            _paint(sheet, pen, card, grid, *place)
        top += -(-len(members) // grid.columns) * (grid.height + _BETWEEN) + _BETWEEN
    return torch.from_numpy(np.array(sheet))


def _example(card: Card) -> Example:
    return next(iter(card.values())).toy.example


def _counted(cards: Sequence[Card]) -> str:
    counts = {name: sum(card[name].score.passed for card in cards) for name in cards[0]}
    named = [f"{name} {count}" if len(counts) > 1 else str(count) for name, count in counts.items()]
    return f"all right: {', '.join(named)} of these {len(cards)}"


def _grid(cards: Sequence[Card]) -> _Grid:
    """As many columns as the widest card allows, or fewer where that fills the same rows evenly."""
    pictures = max(_pictures_width(_groups(card)) for card in cards)
    room = _WIDTH - 2 * _MARGIN
    most = max(1, (room + _BETWEEN) // (pictures + 2 * _PADDING + _BETWEEN))
    rows = -(-len(cards) // most)
    columns = -(-len(cards) // rows)
    width = (room + _BETWEEN) // columns - _BETWEEN
    left = _PADDING + pictures + _FAR
    beside = width - left - _PADDING >= _BESIDE
    text = (left, width - left - _PADDING) if beside else (_PADDING, width - 2 * _PADDING)
    lines = _LINE * max(len(_prompt(card, text[1])) + len(_verdicts(card, text[1])) for card in cards)
    height = _ABOVE + (max(_CELL, lines) if beside else _CELL + 6 + lines)
    return _Grid(columns, width, 2 * _PADDING + height, text, beside)


def _paint(sheet: Image.Image, pen: ImageDraw.ImageDraw, card: Card, grid: _Grid, left: int, top: int) -> None:
    pen.rounded_rectangle((left, top, left + grid.width, top + grid.height), 8, fill=_CARD)
    right, down = left + _PADDING, top + _PADDING + _ABOVE
    for cells in _groups(card):
        pen.text((right, top + _PADDING - 3), cells.title, fill=_FAINT, font=_font(_LABEL))
        if cells.frame != _EDGE:
            pen.rectangle((right - 3, down - 3, right + cells.width + 2, down + _CELL + 2), fill=cells.frame)
        for pixels in cells.pictures:
            picture = Image.fromarray(pixels).resize((_CELL, _CELL), Image.Resampling.NEAREST)
            if cells.frame == _EDGE:
                pen.rectangle((right - 1, down - 1, right + _CELL, down + _CELL), fill=_EDGE)
            sheet.paste(picture, (right, down))
            right += _CELL + _NEAR
        right += _FAR - _NEAR
    x, y = left + grid.text[0], down - 3 if grid.beside else down + _CELL + 6
    width = grid.text[1]
    for line, colour in [*((line, _INK) for line in _prompt(card, width)), *_verdicts(card, width)]:
        pen.text((x, y), line, fill=colour, font=_font(_TEXT))
        y += _LINE


def _groups(card: Card) -> list[_Cells]:
    """The groups of pictures from left to right."""
    example = _example(card)
    references = [_Cells(f"image {n}", [image.numpy()]) for n, image in enumerate(example.images, 1)]
    references += [_Cells(f"video {n}", _shown(video)) for n, video in enumerate(example.videos, 1)]
    results = [_Cells(name, _shown(sample.result), _colour(sample)) for name, sample in card.items()]
    return [*references, *results, _Cells("truth", _shown(example.target))]


def _pictures_width(groups: Sequence[_Cells]) -> int:
    return sum(cells.width for cells in groups) + _FAR * (len(groups) - 1)


def _missed(sample: Sample) -> list[str]:
    score = sample.score
    missed = [name for name, holds in score.checks.items() if not holds]
    return [*missed, *["identity"] * (score.identity is False), *["the rest"] * (score.kept is False)]


def _colour(sample: Sample) -> str:
    return _RIGHT if sample.score.passed else _WRONG


def _verdicts(card: Card, width: int) -> list[tuple[str, str]]:
    """Lines of at most `width` pixels that say what each result missed, with their colours."""
    told = ((_verdict(name, sample, card), _colour(sample)) for name, sample in card.items())
    return [(line, colour) for text, colour in told for line in _wrapped(text, width)]


def _verdict(name: str, sample: Sample, card: Card) -> str:
    missed, untouched = _missed(sample), sample.score.untouched
    more = len(missed) - _MOST_MISSED
    told = ", ".join(missed) if more <= 1 else f"{', '.join(missed[:_MOST_MISSED])} and {more} more"
    verdict = f"missed {told}" if missed else "all right"
    if untouched is not None:
        verdict += f" · {untouched:.1f} dB untouched"
    return f"{name}: {verdict}" if len(card) > 1 else verdict


def _prompt(card: Card, width: int) -> list[str]:
    """Lines of the instruction, at most `width` pixels wide."""
    lines = list(_wrapped(_example(card).prompt, width))
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], lines[_MOST_LINES - 1].rstrip(" .,") + " ..."]
    return lines


def _wrapped(text: str, width: int) -> Iterator[str]:
    line = ""
    for word in text.split():
        longer = f"{line} {word}".lstrip()
        if line and _font(_TEXT).getlength(longer) > width:
            yield line
            longer = word
        line = longer
    yield line


def _shown(clip: Tensor) -> list[NDArray[np.uint8]]:
    """Of a clip the first, the middle and the last frame."""
    if len(clip) == 1:
        return [clip[0].numpy()]
    return [clip[index].numpy() for index in (0, len(clip) // 2, len(clip) - 1)]


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
