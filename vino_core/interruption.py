"""A host's wish to stop, asked for between the pieces of long work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_asked: ContextVar[Callable[[], None]] = ContextVar("interruption", default=lambda: None)


@contextmanager
def interruptible(ask: Callable[[], None]) -> Iterator[None]:
    """Long work in the block calls `ask` again and again, which raises what ends it."""
    token = _asked.set(ask)
    try:
        yield
    finally:
        _asked.reset(token)


def may_go_on() -> None:
    """Raise what the host wants raised, if it wants this to end."""
    _asked.get()()
