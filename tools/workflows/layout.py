"""Where nodes go on the canvas: the note first, then one column per group, from left to right, tops aligned."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .graph import Workflow

Size = tuple[float, float]

GAP = 24
COLUMN_GAP = 56
TITLE_BAR = 30
GROUP_TITLE = 44
MARGIN = 16
NOTE_WIDTH = 380


@dataclass(frozen=True)
class Box:
    """A rectangle on the canvas in pixels; for a node, without its title bar, as the frontend counts."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Frame:
    """A titled group frame."""

    title: str
    box: Box
    colour: str


@dataclass(frozen=True)
class Layout:
    """Boxes by node id, the group frames, and the note's box."""

    nodes: dict[str, Box]
    frames: list[Frame]
    note: Box


def _note_height(text: str) -> float:
    # The frontend cannot say how tall rendered Markdown will be: about 56 characters fit into a line of the note.
    lines = sum(1 + len(line) // 56 for line in text.splitlines())
    return 20.0 * lines + 30


def arrange(flow: Workflow, sizes: dict[str, Size]) -> Layout:
    """Place the nodes of `flow`; `sizes` holds each node's smallest (width, height) by id."""
    note = Box(0, GROUP_TITLE + TITLE_BAR, NOTE_WIDTH, _note_height(flow.note))
    left = NOTE_WIDTH + COLUMN_GAP
    nodes: dict[str, Box] = {}
    frames: list[Frame] = []
    for group in flow.groups:
        width = max([group.width, *(math.ceil(sizes[node.id][0]) for node in group.nodes)])
        top = float(GROUP_TITLE)
        for node in group.nodes:
            height = max(math.ceil(sizes[node.id][1]), node.height or 0)
            nodes[node.id] = Box(left + MARGIN, top + TITLE_BAR, width, height)
            top += TITLE_BAR + height + GAP
        box = Box(left, 0, width + 2 * MARGIN, top - GAP + MARGIN)
        frames.append(Frame(group.title, box, group.colour))
        left += box.width + COLUMN_GAP
    return Layout(nodes, frames, note)
