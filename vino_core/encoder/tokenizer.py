"""Plain text to ids with a Hugging Face tokenizer, whatever its version, without ever producing an added token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import InputError
from .families import FAMILIES


def tokenizer_from_json(text: str, source: object) -> Any:
    """The Hugging Face tokenizer described by the text of a `tokenizer.json`, as a text encoder file may carry it.

    Raises InputError, naming `source`, when the text is damaged.
    """
    from transformers import PreTrainedTokenizerFast

    with TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        file.write_text(text, encoding="utf-8")
        try:
            return PreTrainedTokenizerFast(tokenizer_file=str(file), clean_up_tokenization_spaces=False)
        except Exception as error:  # the library raises no narrower type
            raise InputError(f"{source}: its tokenizer cannot be read ({error}). Download the file again.") from error


def plain_tokenizer(tokenizer: Any) -> Callable[[str], list[int]]:
    """A function text -> ids that reads every added token's name (`<|im_end|>`, `<|image_pad|>`, `<think>`) as text.

    `tokenizer` is a fast or slow Qwen2 tokenizer. A fast one recognises added tokens before its own pipeline runs, and
    its option to split them leaves out those not flagged as special, so the pipeline's stages are called one by one.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)

    def fast(text: str) -> list[int]:
        normalised = backend.normalizer.normalize_str(text) if backend.normalizer else text
        pieces = backend.pre_tokenizer.pre_tokenize_str(normalised)
        return [token.id for piece, _ in pieces for token in backend.model.tokenize(piece)]

    def slow(text: str) -> list[int]:
        return tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text, split_special_tokens=True))

    return slow if backend is None else fast


def special_id(tokenizer: Any, name: str) -> int:
    """Id of the special token `name`. Raises InputError when the tokenizer has no such token."""
    token = tokenizer.get_added_vocab().get(name)
    if token is None:
        raise InputError(
            f"The text encoder's tokenizer has no {name}. Use the tokenizer files that come with the text encoder ("
            f"{' or '.join(family.title for family in FAMILIES.values())})."
        )
    return token
