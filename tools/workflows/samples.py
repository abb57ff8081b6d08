"""Drawn stand-ins for the pictures and the clip that a user would load, for the workflows' thumbnails."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE = (768, 512)
SKY, SEA, SAND, SUN = "#9cc9e8", "#3b7ea1", "#e6cf9b", "#ffd95e"
SKIN, HAIR, SHIRT, HAT, BAND = "#f0c39e", "#5a3a24", "#c8553d", "#d9b26a", "#5b3f8c"
STRIPE, PAPER = "#f2b880", "#f4efe6"
INK, PENCIL = "#e0203a", "#2f3a4a"
Point = tuple[float, float]


def _shirt(draw: ImageDraw.ImageDraw, x: float, y: float, unit: float) -> None:
    body = [(-1.1, 0), (1.1, 0), (2.1, 1.0), (1.5, 1.7), (1.1, 1.3), (1.1, 3.2), (-1.1, 3.2), (-1.1, 1.3)]
    body += [(-1.5, 1.7), (-2.1, 1.0)]
    draw.polygon([(x + unit * a, y + unit * b) for a, b in body], fill=SHIRT)
    for stripe in (1.5, 2.1, 2.7):
        draw.rectangle((x - 1.1 * unit, y + stripe * unit, x + 1.1 * unit, y + (stripe + 0.2) * unit), fill=STRIPE)


def _hat(draw: ImageDraw.ImageDraw, x: float, y: float, unit: float) -> None:
    draw.pieslice((x - 1.1 * unit, y - 1.5 * unit, x + 1.1 * unit, y + 1.3 * unit), 180, 360, fill=HAT)
    draw.rectangle((x - 1.1 * unit, y - 0.5 * unit, x + 1.1 * unit, y - 0.1 * unit), fill=BAND)
    draw.ellipse((x - 2.0 * unit, y - 0.3 * unit, x + 2.0 * unit, y + 0.3 * unit), fill=HAT)


def _person(draw: ImageDraw.ImageDraw, x: float, y: float, unit: float) -> None:
    draw.rectangle((x - 0.35 * unit, y + 0.9 * unit, x + 0.35 * unit, y + 1.6 * unit), fill=SKIN)
    shoulders = ((-2, 4.5), (-1.5, 1.9), (-0.4, 1.4), (0.4, 1.4), (1.5, 1.9), (2, 4.5))
    draw.polygon([(x + unit * a, y + unit * b) for a, b in shoulders], fill="#56749b")
    draw.ellipse((x - 1.05 * unit, y - 1.35 * unit, x + 1.05 * unit, y + 1.0 * unit), fill=HAIR)
    draw.ellipse((x - 0.85 * unit, y - 1.0 * unit, x + 0.85 * unit, y + 1.2 * unit), fill=SKIN)
    for side in (-1, 1):
        eye = x + side * 0.35 * unit
        draw.ellipse((eye - 0.1 * unit, y - 0.1 * unit, eye + 0.1 * unit, y + 0.1 * unit), fill=HAIR)
    draw.arc((x - 0.4 * unit, y + 0.1 * unit, x + 0.4 * unit, y + 0.8 * unit), 20, 160, fill="#a4473b", width=6)


def _beach(shift: float = 0.0) -> Image.Image:
    """A beach; `shift` in [0, 1) moves sun and waves."""
    width, height = SIZE
    picture = Image.new("RGB", SIZE, SKY)
    draw = ImageDraw.Draw(picture)
    x = width * (0.2 + 0.5 * shift)
    draw.ellipse((x, 60, x + 90, 150), fill=SUN)
    draw.rectangle((0, height * 0.55, width, height), fill=SEA)
    shore = [(t, height * 0.8 + 14 * math.sin(t / 60 + 2 * math.pi * shift)) for t in range(0, width + 1, 8)]
    draw.polygon([*shore, (width, height), (0, height)], fill=SAND)
    return picture


def _arrow(draw: ImageDraw.ImageDraw, points: list[Point], colour: str) -> None:
    """A line by hand through `points`, with a tip at its end."""
    draw.line(points, fill=colour, width=7, joint="curve")
    (x0, y0), (x, y) = points[-2:]
    turn = math.atan2(y - y0, x - x0)
    tip = [(x + 12 * math.cos(turn), y + 12 * math.sin(turn))]
    tip += [(x + 26 * math.cos(turn + side), y + 26 * math.sin(turn + side)) for side in (2.5, -2.5)]
    draw.polygon(tip, fill=colour)


def _write(draw: ImageDraw.ImageDraw, at: Point, text: str, colour: str, size: int = 30) -> None:
    draw.text(at, text, colour, ImageFont.load_default(size), stroke_width=3, stroke_fill=PAPER)


def _bend(start: Point, end: Point, rise: float) -> list[Point]:
    """Points of an arc between two, `rise` pixels high in its middle."""
    steps = [index / 16 for index in range(17)]
    return [
        (start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1]) - 4 * rise * t * (1 - t)) for t in steps
    ]


def _boat(draw: ImageDraw.ImageDraw, x: float, y: float, unit: float, colour: str) -> None:
    """A sailing boat in outline, as one draws it on the margin."""
    hull = [(-1.4, 0), (1.4, 0), (0.9, 0.6), (-0.9, 0.6), (-1.4, 0)]
    sail = [(0, -0.1), (0, -2), (1.1, -0.4), (0, -0.4)]
    for outline in (hull, sail):
        draw.line([(x + unit * a, y + unit * b) for a, b in outline], fill=colour, width=5, joint="curve")


def annotated() -> Image.Image:
    """The beach, with what should happen drawn on it."""
    picture = _beach()
    draw = ImageDraw.Draw(picture)
    _arrow(draw, _bend((260, 92), (600, 210), 60), INK)
    _write(draw, (470, 60), "1  sun sets", INK)
    _boat(draw, 120, 318, 26, INK)
    _arrow(draw, [(180, 322), (330, 322), (470, 318)], INK)
    _write(draw, (486, 298), "2  a boat sails by", INK)
    draw.ellipse((40, 400, 300, 462), outline=INK, width=6)
    _write(draw, (316, 430), "3  waves wash the sand away", INK)
    return picture


def canvas() -> Image.Image:
    """A story of three pictures, with arrows and notes."""
    picture = Image.new("RGB", SIZE, PAPER)
    draw = ImageDraw.Draw(picture)
    _person(draw, 130, 130, 44)
    _hat(draw, 372, 206, 54)
    beach = _beach().resize((216, 144))
    picture.paste(beach, (528, 96))
    draw.rectangle((528, 96, 744, 240), outline=PENCIL, width=4)
    _boat(draw, 664, 190, 15, PENCIL)
    _arrow(draw, _bend((372, 114), (190, 70), 40), PENCIL)
    _arrow(draw, _bend((226, 322), (560, 262), -70), PENCIL)
    for at, text in (
        ((60, 344), "1  Mia"),
        ((262, 250), "2  puts on her hat"),
        ((300, 384), "3  runs to the sea"),
        ((532, 444), "and sails away"),
    ):
        _write(draw, at, text, PENCIL)
    _arrow(draw, [(632, 434), (640, 350), (652, 262)], PENCIL)
    return picture


def write_samples(folder: Path) -> None:
    """Write person.png, shirt.png, hat.png, landscape.png, annotated.png, canvas.png and clip.mp4 into `folder`."""
    import av

    width, height = SIZE
    for name, drawn in (("landscape", _beach()), ("annotated", annotated()), ("canvas", canvas())):
        drawn.save(folder / f"{name}.png")
    for name, draw_it, top, unit in (
        ("person", _person, 190, 78),
        ("shirt", _shirt, 70, 110),
        ("hat", _hat, 300, 130),
    ):
        picture = Image.new("RGB", SIZE, PAPER)
        draw_it(ImageDraw.Draw(picture), width / 2, top, unit)
        picture.save(folder / f"{name}.png")

    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(24))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(33):
            frame = _beach(index / 33)
            _person(ImageDraw.Draw(frame), width * (0.3 + 0.4 * index / 33), 210, 66)
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def write_dataset(folder: Path) -> None:
    """Write a few of the pictures with captions into `folder`, to train on."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = {"person": "a person in flat colours", "hat": "a straw hat in flat colours"}
    drawings = {"person": (_person, 190, 78), "hat": (_hat, 300, 130)}
    for name, caption in captions.items():
        draw_it, top, unit = drawings[name]
        picture = Image.new("RGB", SIZE, PAPER)
        draw_it(ImageDraw.Draw(picture), SIZE[0] / 2, top, unit)
        picture.save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
