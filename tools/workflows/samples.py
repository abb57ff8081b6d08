"""Drawn stand-ins for the pictures and the clip that a user would load, for the workflows' thumbnails."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

from PIL import Image, ImageDraw

SIZE = (768, 512)
SKY, SEA, SAND, SUN = "#9cc9e8", "#3b7ea1", "#e6cf9b", "#ffd95e"
SKIN, HAIR, SHIRT, HAT, BAND = "#f0c39e", "#5a3a24", "#c8553d", "#d9b26a", "#5b3f8c"
STRIPE, PAPER = "#f2b880", "#f4efe6"


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


def write_samples(folder: Path) -> None:
    """Write person.png, shirt.png, hat.png, landscape.png and clip.mp4 into `folder`."""
    import av

    width, height = SIZE
    _beach().save(folder / "landscape.png")
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
