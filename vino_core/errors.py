"""The one exception that stands for a mistake of the user's, not of the program's."""

from __future__ import annotations


class InputError(ValueError):
    """A value that cannot be used. The message names the input, the value, what is allowed and what to do."""
