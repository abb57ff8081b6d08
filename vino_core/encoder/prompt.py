"""The chat prompt around references and the user's text, as ids, positions and spans (VINO paper section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..errors import InputError
from ..systems.base import System
from .engine import IM_END, IM_START, IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START, PromptTokenizer
from .labels import prompt_messages
from .positions import Block, sequence_positions

Span = tuple[int, int]


@dataclass(frozen=True)
class VisualItem:
    """One reference as the prompt sees it: its kind and its (time, height, width) in vision patches."""

    kind: Literal["image", "video"]
    grid: tuple[int, int, int]


@dataclass(frozen=True)
class TokenPlan:
    """How learnable tokens continue a prompt, and which states go on to the MMDiT.

    first: position of the first one, counted from the prompt's last token.
    closing: ids behind the tokens, whose states stand before theirs.
    marks: learnable tokens at either end whose states are left out.
    kept_from: states of the prompt before this one are left out.
    """

    first: int = 0
    closing: tuple[int, ...] = ()
    marks: int = 0
    kept_from: int = 0


@dataclass(frozen=True, eq=False)
class PromptPlan:
    """A tokenised prompt.

    ids: all token ids, pads of pictures and clips included.
    positions: int64 [3, n], see `positions.sequence_positions`.
    visual_spans: the (start, end) of each run of pads: one per picture, and per clip or temporal group of a clip.
    boundaries: one (index of the first vision start, index of the last vision end) per reference.
    prefix_length: tokens before the segment that holds the user's text. Prompts with the same references share them.
    messages: what looks like a mistake in the text, worth showing to the user (empty most of the time).
    tokens: what happens behind the prompt.
    """

    ids: tuple[int, ...]
    positions: Tensor
    visual_spans: tuple[Span, ...]
    boundaries: tuple[Span, ...]
    prefix_length: int
    messages: tuple[str, ...]
    tokens: TokenPlan = TokenPlan()


def time_stamps(groups: int, frames_per_group: int, frame_rate: float) -> list[float]:
    """Seconds shown before each temporal group of a clip: the mean of its first and last frame's times."""
    starts = range(0, groups * frames_per_group, frames_per_group)
    return [(start / frame_rate + (start + frames_per_group - 1) / frame_rate) / 2 for start in starts]


class _Writer:
    """Collects ids and runs. Adjacent pieces of text are tokenised together, as one string between special tokens."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.runs: list[int | Block] = []
        self.spans: list[Span] = []
        self._pending = ""

    def text(self, text: str) -> None:
        self._pending += text

    def special(self, name: str) -> None:
        ids = [*self.tokenizer.tokenize(self._pending), self.tokenizer.token_id(name)]
        self._pending = ""
        self.ids += ids
        self.runs.append(len(ids))

    def block(self, pad: str, block: Block) -> Span:
        """Write the pads of a picture or clip; return the places of its vision start and end."""
        self.special(VISION_START)
        start = len(self.ids)
        self.ids += [self.tokenizer.token_id(pad)] * (block.frames * block.height * block.width)
        self.runs.append(block)
        self.spans.append((start, len(self.ids)))
        self.special(VISION_END)
        return start - 1, len(self.ids) - 1


def check_text(text: str) -> None:
    """Raise InputError for what is no valid text."""
    if not isinstance(text, str):
        raise InputError(f"The prompt is a {type(text).__name__}; it must be text.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"The prompt's character {error.start + 1} is half of a surrogate pair, not a character. "
            "Save the prompt as UTF-8 text and paste it again."
        ) from error


def _check_items(items: Sequence[VisualItem], merge: int) -> None:
    kinds = [item.kind for item in items]
    if kinds != sorted(kinds):
        raise ValueError(f"references must come as images, then videos, not {kinds}")
    for item in items:
        if any(side <= 0 or side % merge for side in item.grid[1:]) or item.grid[0] <= 0:
            raise ValueError(f"{item.kind} grid {item.grid} must be positive, its sides multiples of {merge}")


def build_prompt(
    system: System,
    tokenizer: PromptTokenizer,
    text: str,
    items: Sequence[VisualItem] = (),
    understanding: bool = False,
    answering: bool = False,
    tags: bool = False,
) -> PromptPlan:
    """Lay out the prompt of `system` for `text` and its references, images first.

    `text` may be empty, of any length and script; special tokens written in it are plain text. `understanding` takes
    the system sentence that asks for a caption. `answering` ends the prompt where the VLM's own text begins. `tags`
    puts the system's tags before references that have no label. Raises InputError when `text` is not valid text.
    """
    template, vision = system.prompt, system.vision
    check_text(text)
    _check_items(items, vision.merge)
    writer = _Writer(tokenizer)
    writer.special(IM_START)
    writer.text("system\n" + (template.understanding if understanding else template.system))
    writer.special(IM_END)
    writer.text("\n")
    writer.special(IM_START)
    writer.text("user\n")
    head = len(writer.ids) + len(tokenizer.tokenize("user\n"))

    text, messages = _cut(text, tokenizer, template.max_text_tokens)
    labels = {
        "image": template.image_label or (template.image_tag if tags else ""),
        "video": template.video_label or (template.video_tag if tags else ""),
    }
    unlabelled = [kind for kind, label in labels.items() if not label]
    boundaries: list[Span] = []
    counts = {"image": 0, "video": 0}
    for item in items:
        counts[item.kind] += 1
        groups, height, width = item.grid[0], item.grid[1] // vision.merge, item.grid[2] // vision.merge
        writer.text(labels[item.kind].format(counts[item.kind]))
        if item.kind == "image":
            blocks = [writer.block(IMAGE_PAD, Block(height, width))]
        elif template.video_step is not None:
            blocks = [writer.block(VIDEO_PAD, Block(height, width, groups, template.video_step))]
        else:
            blocks = []
            for seconds in time_stamps(groups, vision.temporal_patch, template.frame_rate):
                writer.text(f"<{seconds:.1f} seconds>")
                blocks.append(writer.block(VIDEO_PAD, Block(height, width)))
        boundaries.append((blocks[0][0], blocks[-1][1]))

    # Without references "user\n" is still pending here: it is one string with the text, so it is not in the prefix.
    prefix_length = len(writer.ids)
    writer.text(text)
    writer.special(IM_END)
    writer.text("\n")
    writer.special(IM_START)
    ids = writer.ids + list(tokenizer.tokenize("assistant\n" + ("" if answering else template.before_tokens)))
    runs = [*writer.runs, len(ids) - len(writer.ids)]
    return PromptPlan(
        ids=tuple(ids),
        positions=sequence_positions(runs),
        visual_spans=tuple(writer.spans),
        boundaries=tuple(boundaries),
        prefix_length=prefix_length,
        messages=messages + prompt_messages(text, counts["image"], counts["video"], unlabelled),
        tokens=TokenPlan(
            first=template.token_step,
            closing=(tokenizer.token_id(IM_END),) if template.marked_tokens else (),
            marks=int(template.marked_tokens),
            kept_from={"all": 0, "turn": head, "text": boundaries[-1][1] + 1 if boundaries else head}[template.keeps],
        ),
    )


def _cut(text: str, tokenizer: PromptTokenizer, limit: int | None) -> tuple[str, tuple[str, ...]]:
    """The text that the system reads of `text`, and a message where that is not all of it."""
    if limit is None or len(text.encode()) <= limit:  # a token is a byte at least
        return text, ()
    ids = tokenizer.tokenize(text)
    if len(ids) <= limit:
        return text, ()
    kept = tokenizer.detokenize(ids[:limit]).rstrip("\N{REPLACEMENT CHARACTER}")
    return kept, (f"The prompt has {len(ids)} tokens; only the first {limit} are read. Shorten it.",)
