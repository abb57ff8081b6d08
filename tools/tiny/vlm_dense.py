"""A helper for the vision tower's training: every patch tells which sprite it shows. Not part of the shipped file.

Words alone teach a small tower slowly: a caption has one word for a shape. Here all patches of a picture are asked at
once, by a linear layer on the tower's last states that is thrown away afterwards.
"""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vino_core.systems.base import VisionLimits
from vino_core.toyworld.backgrounds import BACKGROUNDS
from vino_core.toyworld.world import COLOURS, SHAPES, TEXTURES, Scene, appearance, times

from .vlm_data import FRAMES, Pool
from .vlm_model import see_patches

PICTURES, CLIPS = 128, 8
"""Scenes of one step."""
SIDE = 4
"""Patches along a picture's side."""
_NAMES = {
    "shape": ("", *SHAPES),
    "colour": ("", *COLOURS, None),
    "texture": ("", *TEXTURES, "pattern"),
    "background": tuple(BACKGROUNDS),
}
_PLACE = 3
"""Numbers for a sprite's place: its centre seen from the patch's centre, in patches, and its radius."""
_CLEAR = ("none", "mosaic")


class Labels(NamedTuple):
    """`classes` [N, patches, 4], -1 where it cannot be told; `place` [N, patches, 3], NaN without a sprite."""

    classes: Tensor
    place: Tensor


class DenseHead(nn.Module):
    """What the last states [N, patches, width] say, as logits by name and places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, sum(map(len, _NAMES.values())) + _PLACE)

    def loss(self, x: Tensor, labels: Labels) -> Tensor:
        *logits, place = self.linear(self.norm(x)).float().split([*map(len, _NAMES.values()), _PLACE], -1)
        losses = [
            F.cross_entropy(found.flatten(0, 1), labels.classes[..., index].flatten(), ignore_index=-1)
            for index, found in enumerate(logits)
        ]
        shows = ~labels.place.isnan()
        return sum(losses) + F.smooth_l1_loss(place[shows], labels.place[shows])


def draw_scenes(random: Random, pool: Pool) -> tuple[Tensor, Labels]:
    """Pictures [N, 2, H, W, 3] uint8 of random scenes, and the labels of their patches in the tower's order."""
    pictures, labels = [], []
    clock = times(FRAMES)
    for kind, count in (("picture", PICTURES), ("clip", CLIPS)):
        for item in random.choices(pool[kind], k=count):
            for groups in (*item.images, *item.clips):
                for index, frames in enumerate(groups):
                    pictures.append(np.broadcast_to(frames, (2, *frames.shape[1:])))
                    # A clip's eight frames are nearly evenly spread over its time.
                    time = 0.0 if kind == "picture" else (2 * index + 0.5) / 7 * clock[-1]
                    labels.append(_labels(item.target, time))
    classes, place = (np.stack(part) for part in zip(*labels, strict=True))
    return torch.from_numpy(np.stack(pictures)), Labels(torch.from_numpy(classes), torch.from_numpy(place))


def _order() -> np.ndarray:
    """The tower's order of patches: two by two neighbours together."""
    rows = np.arange(SIDE * SIDE).reshape(SIDE // 2, 2, SIDE // 2, 2)
    return rows.transpose(0, 2, 1, 3).ravel()


_CENTRES = np.stack([(_order() % SIDE + 0.5) / SIDE, (_order() // SIDE + 0.5) / SIDE], -1)


def _labels(scene: Scene, time: float) -> tuple[np.ndarray, np.ndarray]:
    count = SIDE * SIDE
    classes, place = np.zeros((count, 4), np.int64), np.full((count, _PLACE), np.nan, np.float32)
    nearest = np.full(count, np.inf)
    view = scene.camera.view(time)
    for sprite in scene.sprites:
        seen = appearance(sprite, view, time)
        gap = np.array([seen.x, seen.y]) - _CENTRES
        distance = np.hypot(*gap.T) - seen.radius
        here = (distance < 0.4 / SIDE) & (distance < nearest)
        nearest[here] = distance[here]
        found = (sprite.shape, sprite.colour, sprite.texture.kind)
        classes[here, :3] = [names.index(one) for names, one in zip(_NAMES.values(), found, strict=False)]
        place[here] = np.concatenate([gap[here] * SIDE, np.full((int(here.sum()), 1), seen.radius * SIDE)], 1)
    classes[:, 3] = _NAMES["background"].index(scene.background)
    if scene.style.kind not in _CLEAR:
        classes[:, 1] = -1
    return classes, place


def dense_loss(visual: Any, head: DenseHead, random: Random, pool: Pool, limits: VisionLimits) -> Tensor:
    """The loss of a step's scenes."""
    pictures, labels = draw_scenes(random, pool)
    with torch.autocast("cpu", torch.bfloat16):
        x, _ = see_patches(visual, pictures, limits)
    return head.loss(x.float(), labels)
