"""A text encoder file's own tokenizer in the place of the Qwen vocabulary that ComfyUI carries."""

from __future__ import annotations

from typing import Any

from comfy.text_encoders.qwen3vl import Qwen3VLTokenizer
from transformers import PreTrainedTokenizerBase

from ...vino_core.encoder.engine import END_OF_TEXT, IMAGE_PAD
from ...vino_core.encoder.tokenizer import special_id


class OwnTokenizer(Qwen3VLTokenizer):
    """Core's tokenizer for Qwen3-VL, chat template included, with a vocabulary of its own.

    Core finds the place of a picture by the id that Qwen's vocabulary gives its pad; here the id is looked up.
    """

    def __init__(
        self, model_type: str, tokenizer: PreTrainedTokenizerBase, embedding_size: int, **options: Any
    ) -> None:
        super().__init__(model_type=model_type, **options)
        inner = getattr(self, self.clip)
        inner.tokenizer = tokenizer
        inner.inv_vocab = {number: name for name, number in tokenizer.get_vocab().items()}
        inner.pad_token = special_id(tokenizer, END_OF_TEXT)
        inner.embedding_size = embedding_size
        self._image_pad = special_id(tokenizer, IMAGE_PAD)

    def tokenize_with_weights(self, text: str, *arguments: Any, images: Any = (), **options: Any) -> dict:
        image = options.get("image")
        pictures = [image[i : i + 1] for i in range(len(image))] if image is not None and not len(images) else images
        made = super().tokenize_with_weights(text, *arguments, images=list(pictures), **options)
        waiting = iter(pictures)
        return {name: [self._filled(row, waiting) for row in rows] for name, rows in made.items()}

    def _filled(self, row: list[tuple], pictures: Any) -> list[tuple]:
        """The row with the next pictures in place of their pads, as core marks them."""
        filled = []
        for entry in row:
            picture = next(pictures, None) if entry[0] == self._image_pad else None
            if picture is not None:
                entry = ({"type": "image", "data": picture, "original_type": "image"}, *entry[1:])
            filled.append(entry)
        return filled
