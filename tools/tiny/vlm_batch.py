"""Lessons to padded batches: ids, positions, pictures and the weight of every token's loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vino_core.encoder.engine import END_OF_TEXT, IM_END, IMAGE_PAD, VIDEO_PAD, VISION_START
from vino_core.encoder.prompt import VisualItem, build_prompt
from vino_core.encoder.tokenizer import plain_tokenizer, special_id, tokenizer_from_json
from vino_core.systems.base import System

from .vlm_data import Lesson

PROMPT_WEIGHT = 0.05
"""Share of the loss of words that are given against words of the answer."""
_GRID = 4


class Words:
    """The `PromptTokenizer` of a `tokenizers.Tokenizer`, with a memory: lessons repeat the same few sentences."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer_from_json(tokenizer.to_str(), "tokenizer")
        self.tokenize = lru_cache(maxsize=1 << 16)(lambda text: tuple(self._plain(text)))
        self.token_id = lru_cache(maxsize=None)(lambda name: special_id(self._tokenizer, name))
        self._plain = plain_tokenizer(self._tokenizer)


class Row(NamedTuple):
    """One lesson as tokens; `answer` is where its answer begins. `pictures` [groups, 2, H, W, 3]."""

    ids: Tensor
    positions: Tensor
    weights: Tensor
    answer: int
    pictures: np.ndarray | None


class Batch(NamedTuple):
    """Rows of one length, padded at the end; `weights` [B, L] belong to the tokens that are to be foretold."""

    ids: Tensor
    positions: Tensor
    weights: Tensor
    pictures: Tensor | None


def make_row(words: Words, lesson: Lesson, system: System) -> Row:
    """The prompt exactly as `build_prompt` lays it out, the answer and the end of the turn behind it."""
    items = [VisualItem("image", (1, _GRID, _GRID)) for _ in lesson.images]
    items += [VisualItem("video", (4, _GRID, _GRID)) for _ in lesson.clips]
    plan = build_prompt(system, words, lesson.text, items, lesson.understanding)
    answer = [*words.tokenize(lesson.answer), words.token_id(IM_END)]
    ids = torch.tensor([*plan.ids, *answer])
    behind = plan.positions[:, -1:] + 1 + torch.arange(len(answer))
    positions = torch.cat([plan.positions, behind], 1)
    # Long answers count more, but less than in proportion: a question's single word is as precious as a caption.
    weights = torch.full((len(ids),), PROMPT_WEIGHT / len(plan.ids) ** 0.5)
    weights[: _fixed(plan)] = 0
    pads = torch.tensor([words.token_id(name) for name in (IMAGE_PAD, VIDEO_PAD, VISION_START)])
    weights[torch.isin(ids, pads)] = 0
    weights[len(plan.ids) :] = lesson.weight / len(answer) ** 0.5
    groups = [np.broadcast_to(image, (1, 2, *image.shape[2:])) for image in lesson.images] + list(lesson.clips)
    return Row(ids, positions, weights, len(plan.ids), np.concatenate(groups) if groups else None)


def _fixed(plan: Any) -> int:
    """Tokens that every prompt begins with, which teach nothing."""
    return min(plan.prefix_length, 11)


def collate(words: Words, rows: Sequence[Row]) -> Batch:
    """Pad rows to the longest."""
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), words.token_id(END_OF_TEXT))
    positions = torch.zeros(3, len(rows), length, dtype=torch.int64)
    weights = torch.zeros(len(rows), length)
    for index, row in enumerate(rows):
        count = len(row.ids)
        ids[index, :count], weights[index, :count] = row.ids, row.weights
        positions[:, index, :count] = row.positions
    pictures = [row.pictures for row in rows if row.pictures is not None]
    return Batch(ids, positions, weights, torch.from_numpy(np.concatenate(pictures)) if pictures else None)


def batches(words: Words, rows: Sequence[Row], tokens: int) -> Iterator[Batch]:
    """Rows of like length together, as many as make up about `tokens` tokens with their padding."""
    rest = sorted(rows, key=lambda row: len(row.ids))
    while rest:
        longest = len(rest[-1].ids)
        count = max(1, tokens // longest)
        yield collate(words, rest[-count:])
        del rest[-count:]
