"""The one exception that stands for a mistake of the user's, not of the program's, and where a package is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """A value that cannot be used. The message names the input, the value, what is allowed and what to do."""


@contextmanager
def needed(what: str, requirement: str) -> Iterator[None]:
    """Around the import of an optional package: `what` says who needs it, `requirement` is what pip takes.

    Raises InputError with both when the import fails.
    """
    try:
        yield
    except ImportError as error:
        raise InputError(f"{what} ({error}). Install it: pip install '{requirement}'") from error
