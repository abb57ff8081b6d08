"""Messages that belong to a node, where its user sees them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import ui

log = logging.getLogger(__name__)
_marked: set[str] = set()
"""Nodes that show a message: the frontend keeps it until it gets another, so it has to be taken back."""


def show(name: str, messages: Sequence[str], hidden: Any) -> ui.PreviewText | None:
    """Write `messages` to the log and on the node of `hidden.unique_id`; the same as UI output for API clients.

    Without messages, what the node showed before disappears.
    """
    for message in messages:
        log.warning("%s: %s", name, message)
    text = "\n".join(messages)
    node = None if hidden is None else hidden.unique_id
    if node is not None and (messages or node in _marked):
        from server import PromptServer  # there is one only in a running ComfyUI

        PromptServer.instance.send_progress_text(text, node)
        (_marked.add if messages else _marked.discard)(node)
    return ui.PreviewText(text) if messages else None
