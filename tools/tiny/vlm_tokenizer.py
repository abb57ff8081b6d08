"""The miniature's tokenizer: a byte-level BPE of Qwen's kind, in which every word of the toy world is one token.

Its special tokens are Qwen's by name, so that the same code finds them in either tokenizer; the ids are its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from vino_core.encoder.engine import END_OF_TEXT, IM_END, IM_START, IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START
from vino_core.toyworld.captions import GROUNDS
from vino_core.toyworld.tasks import KINDS, ToySource
from vino_core.toyworld.world import CAMERAS, COLOURS, MOTIONS, PLACES, SHAPES, SIZES, STYLES, TEXTURES

SPECIAL = (END_OF_TEXT, IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)

SPLIT = (
    r" ?<\d+\.\d seconds>|(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's pieces, and two more: a time stamp is one piece, and a digit takes the space before it."""

_TEMPLATE = "system user assistant You draw describe"
_STAMPS = tuple(f"<0.{tenth} seconds>" for tenth in range(4))
_QUESTIONS = """What Which Where How Is Are Does Do Describe Name Count colour shape shapes size texture background
style image images picture video many kind there any stands stand look looks like large move moves camera do first
second last in detail briefly caption yes no none nothing one two three four five six plain"""
_EVERYDAY = """color center gray black brown my me i we he she they that these those have had was were will would can
could please without under over above below beside next near side corner edge middle left right upper lower big tiny
little huge other another same different new old only very more less than when while then if or but both each every
its their object objects thing things photo frame frames draw generate create make turn set see seen look find get go
stop start begin end time slow slowly fast quickly around along through toward towards across object item scene sky
water sea wall ground color colors colours dot dots line lines stripe spot pattern patterns painted stays remain
remove behind"""
_SAMPLED = 400
"""Examples of each task whose prompts are read for words."""


def _words(more: str) -> list[str]:
    """Words of the toy world and of the text `more`, small, the most frequent first."""
    counts: dict[str, int] = {}
    texts = [_TEMPLATE, more, _QUESTIONS, *GROUNDS.values()]
    texts += [" ".join(names) for names in (SHAPES, COLOURS, SIZES, PLACES, TEXTURES, MOTIONS, CAMERAS, STYLES)]
    for task in KINDS:
        source = ToySource(task)
        texts += [source.plan(number).prompt for number in range(_SAMPLED)]
    for text in texts:
        for word in re.findall("[A-Za-z]+", text):
            counts[word.lower()] = counts.get(word.lower(), 0) + 1
    return sorted(counts, key=lambda word: (-counts[word], word))


def _pieces(more: str) -> Iterator[tuple[str, int]]:
    """Pieces of text that must become one token each, and how often they are counted."""
    for word in _words(more):
        yield f" {word}", 50
        yield word.capitalize(), 20
        yield word, 10
    for word in sorted({word.lower() for word in _EVERYDAY.split()}):
        yield f" {word}", 3
    for name in ("Image", "Video"):
        yield f" {name}", 50
    for stamp in _STAMPS:
        yield stamp, 50
        yield f" {stamp}", 50
    for digit in "0123456789":
        yield f" {digit}", 50
    for mark in (".\n", "?\n", ".", ",", ":", ";", " <", "\n\n"):
        yield mark, 50


@lru_cache(maxsize=2)
def build_tokenizer(more: str = "") -> Any:
    """The `tokenizers.Tokenizer` for the toy world and the words of `more`. The same on every call and machine."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1 << 16, min_frequency=1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    # The trainer counts pieces itself; merging goes on until every piece is whole.
    tokenizer.train_from_iterator((piece for piece, count in _pieces(more) for _ in range(count)), trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return tokenizer
