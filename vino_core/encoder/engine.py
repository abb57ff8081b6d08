"""The small interface to the vision-language model: transformers outside ComfyUI, its own Qwen inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import InputError

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
IMAGE_PAD = "<|image_pad|>"
VIDEO_PAD = "<|video_pad|>"
END_OF_TEXT = "<|endoftext|>"

KVCache = tuple[tuple[Tensor, Tensor], ...]
"""(keys, values) of each decoder layer, [1, kv_heads, n, head_dim], keys after rotary embedding. Never written to."""


@dataclass(frozen=True, eq=False)
class VisionFeatures:
    """What the vision tower makes of one reference: `embeds` [n, hidden_size] for the pads' places in the sequence,
    `deepstack`, one [n, hidden_size] for each of the first decoder layers, added after them (none for Qwen2.5-VL)."""

    embeds: Tensor
    deepstack: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class VisualInjection:
    """Where deepstack features go: `mask` bool [n] over the tokens of this call, `deepstack` [mask.sum(), hidden_size]
    each, in the order of the masked tokens."""

    mask: Tensor
    deepstack: tuple[Tensor, ...]


@dataclass(frozen=True)
class Sampling:
    """How a text is written: at most `max_new_tokens`, each chosen at `temperature` (0: the most likely one) among the
    `top_k` most likely (0: all) that hold `top_p` of the probability (1: all). `repetition_penalty` makes tokens of the
    prompt and of the text so far less likely (1: it does not). The seed fixes the text."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1 (256 is usual).")
        if not 0.0 <= self.temperature <= 10.0:
            raise InputError(f"temperature is {self.temperature}; it must lie between 0 (most likely word) and 10.")
        if self.top_k < 0:
            raise InputError(f"top_k is {self.top_k}; it must be 0 (no limit) or more.")
        if not 0.0 < self.top_p <= 1.0:
            raise InputError(f"top_p is {self.top_p}; it must lie above 0 and at most at 1 (no limit).")
        if not 1.0 <= self.repetition_penalty <= 10.0:
            raise InputError(
                f"repetition_penalty is {self.repetition_penalty}; it must lie between 1 (none) and 10 (1.05 is usual)."
            )


GREEDY = Sampling()


class PromptTokenizer(Protocol):
    """The part of an engine that the prompt template needs."""

    def tokenize(self, text: str) -> Sequence[int]:
        """Token ids of plain text. A special token's name written in it stays text: its id never comes out."""
        ...

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens. Part of a character at an end becomes U+FFFD."""
        ...

    def token_id(self, name: str) -> int:
        """Id of a special token such as `<|vision_start|>`. Raises InputError when the tokenizer lacks it."""
        ...


class VLMEngine(PromptTokenizer, Protocol):
    """A frozen Qwen-VL. Nothing here keeps state between calls, so several prompts can continue one prefix.

    The states that it gives are those that its systems were trained with: of Qwen3-VL what enters the last decoder
    layer, of Qwen2.5-VL what leaves the final norm.
    """

    @property
    def hidden_size(self) -> int:
        """Width of the text model's hidden states (2560 for Qwen3-VL-4B, 3584 for Qwen2.5-VL-7B)."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Token embeddings, [1, n, hidden_size]."""
        ...

    def vision(self, patches: Tensor, grid: tuple[int, int, int]) -> VisionFeatures:
        """Vision tower and merger for one reference: `patches` [t*h*w, values], `grid` (t, h, w) in patches."""
        ...

    def decode(
        self, x: Tensor, positions: Tensor, visual: VisualInjection | None = None, past: KVCache | None = None
    ) -> tuple[Tensor, KVCache]:
        """Run `x` [1, n, hidden_size] at `positions` [3, n] behind `past`; return its states [1, n, hidden_size] and
        the cache of all tokens so far. What follows the states (the LM head, perhaps a layer) is not computed. `past`
        stays as it is. Gradients flow to `x`."""
        ...

    def generate_ids(
        self,
        x: Tensor,
        positions: Tensor,
        visual: VisualInjection | None = None,
        sampling: Sampling = GREEDY,
        on_token: Callable[[int], None] | None = None,
        prompt: Sequence[int] = (),
    ) -> list[int]:
        """Continue the prompt `x` [1, n, hidden_size] with text until the turn or the sampling ends; return its ids.
        `on_token` is called before each token with the number of tokens so far, and may raise to stop. `prompt` holds
        the prompt's ids, for the repetition penalty."""
        ...

    def generate(self, *arguments: Any, **options: Any) -> str:
        """The text of `generate_ids`, which takes the same."""
        ...


class TextGeneration:
    """`generate` for any engine that has `generate_ids`."""

    def generate(self: VLMEngine, *arguments: Any, **options: Any) -> str:
        """See `VLMEngine`."""
        return self.detokenize(self.generate_ids(*arguments, **options)).strip()


class BatchEngine(VLMEngine, Protocol):
    """An engine that also takes batches, for training: x [B, n, hidden_size], a cache of B rows, and the deepstack
    features of all samples in turn."""

    def visions(self, patches: Tensor, grid: tuple[int, int, int]) -> list[VisionFeatures]:
        """The vision tower for B references of one size: `patches` [B, t*h*w, values]."""
        ...

    def decode(
        self,
        x: Tensor,
        positions: Tensor,
        visual: VisualInjection | None = None,
        past: KVCache | None = None,
        present: Tensor | None = None,
    ) -> tuple[Tensor, KVCache]:
        """As `VLMEngine.decode`; `positions` [3, n] for all or [3, B, n]. `present` bool [B, past + n] is False at
        keys that are padding; None: there is none."""
        ...
