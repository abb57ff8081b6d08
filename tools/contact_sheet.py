"""A picture of what went in and what came out, one row per run."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

CELL, GAP, TEXT_WIDTH = 192, 14, 300
BACKGROUND, INK, FAINT, NOTICE_COLOUR = "#15181c", "#e8e6e1", "#9aa3ad", "#f2b880"


@dataclass(frozen=True)
class Row:
    """One run: inputs and outputs as pictures."""

    title: str
    prompt: str
    inputs: list[Image.Image]
    outputs: list[Image.Image]


def frames_of(path: Path, count: int) -> list[Image.Image]:
    """Up to `count` pictures of a file: the picture itself, or frames spread evenly over a clip."""
    if path.suffix != ".mp4":
        picture = Image.open(path).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return [Image.alpha_composite(white, picture).convert("RGB")]
    with av.open(str(path)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    count = min(count, len(frames))
    return [frames[round(index * (len(frames) - 1) / max(1, count - 1))] for index in range(count)]


def _paste(sheet: Image.Image, pictures: list[Image.Image], x: int, y: int) -> None:
    for picture in pictures:
        # Small pictures grow by a whole factor, pixel by pixel: smoothing would hide what is in them.
        factor = max(1, CELL // max(picture.size))
        shown = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
        shown.thumbnail((CELL, CELL))
        sheet.paste(shown, (x + (CELL - shown.width) // 2, y + (CELL - shown.height) // 2))
        x += CELL + GAP


def draw(rows: list[Row], notice: str) -> Image.Image:
    """The contact sheet: title and prompt, inputs, arrow, outputs; `notice` stands at the top."""
    most_inputs = max(len(row.inputs) for row in rows)
    most_outputs = max(len(row.outputs) for row in rows)
    outputs_at = TEXT_WIDTH + GAP + most_inputs * (CELL + GAP) + 40
    width = outputs_at + most_outputs * (CELL + GAP) + GAP
    head = 84
    sheet = Image.new("RGB", (width, head + len(rows) * (CELL + GAP) + GAP), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(20), ImageFont.load_default(14)
    pen.text((GAP, 14), notice, NOTICE_COLOUR, large)
    pen.text((TEXT_WIDTH + GAP, 54), "in", FAINT, small)
    pen.text((outputs_at, 54), "out", FAINT, small)
    for index, row in enumerate(rows):
        top = head + index * (CELL + GAP)
        title = textwrap.wrap(row.title, 32)
        pen.multiline_text((GAP, top), "\n".join(title), INK, ImageFont.load_default(17))
        pen.multiline_text((GAP, top + 8 + 22 * len(title)), "\n".join(textwrap.wrap(row.prompt, 42)), FAINT, small)
        _paste(sheet, row.inputs, TEXT_WIDTH + GAP, top)
        middle = top + CELL // 2
        pen.line((outputs_at - 40, middle, outputs_at - 18, middle), INK, 2)
        pen.polygon([(outputs_at - 18, middle - 5), (outputs_at - 18, middle + 5), (outputs_at - 10, middle)], INK)
        _paste(sheet, row.outputs, outputs_at, top)
    return sheet
