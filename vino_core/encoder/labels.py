"""What a prompt says about its references, compared with what is connected: messages for the user, never errors."""

from __future__ import annotations

import re
from collections.abc import Collection

_LABEL = re.compile(r"(?<![A-Za-z])(image|video)([ _-]?)([0-9]{1,6})(?![0-9A-Za-z])", re.IGNORECASE)
_SPECIAL = re.compile(r"<\|[a-z_]+\|>")


def mentioned(text: str) -> dict[str, set[int]]:
    """Numbers of the images and videos that `text` names: "Image 4", "Image_4", "image 4", "Video 2", "video_2".

    "video 2" in small letters with a space is not a label: "a video 10 seconds long" is too common.
    """
    numbers: dict[str, set[int]] = {"image": set(), "video": set()}
    for word, separator, number in _LABEL.findall(text):
        if word != "video" or separator == "_":
            numbers[word.lower()].add(int(number))
    return numbers


def _listed(numbers: list[int], most: int = 5) -> str:
    return ", ".join(map(str, numbers[:most])) + (", ..." if len(numbers) > most else "")


def prompt_messages(text: str, images: int, videos: int, unlabelled: Collection[str] = ()) -> tuple[str, ...]:
    """Messages about labels without a reference, references that the text leaves out, and special tokens in the text.

    A single reference needs no label and an empty text names nothing, so neither gives a message. Kinds of reference
    ("image", "video") that are `unlabelled` stand before the text without the names that it might call them by.
    """
    messages = []
    numbers = mentioned(text)
    for kind, count in (("image", images), ("video", videos)):
        word = kind.capitalize()
        absent = sorted(number for number in numbers[kind] if not 1 <= number <= count)
        if absent:
            verb = "is" if count == 1 else "are"
            connected = f"only {count} {verb} connected" if count else f"no {kind} is connected"
            messages.append(
                f"The prompt names {word} {_listed(absent)}, but {connected}. "
                f"Connect the missing {kind} or correct the number."
            )
        named = sorted(numbers[kind] & set(range(1, count + 1)))
        if kind in unlabelled and named:
            messages.append(
                f"The prompt names {word} {_listed(named)}, but the {kind}s are shown without these labels. Say what "
                "they show instead, or switch tags on."
            )
        silent = [number for number in range(1, count + 1) if number not in numbers[kind]]
        if text and count > 1 and silent and kind not in unlabelled:
            messages.append(
                f"{count} {kind}s are connected, but the prompt does not name {word} {_listed(silent)}. "
                f'Say which is which, for example "{word} {silent[0]}".'
            )
    if found := sorted(set(_SPECIAL.findall(text))):
        messages.append(f"The prompt contains {', '.join(found)}; it is read as plain text.")
    return tuple(messages)
