"""What the authors of a system publish, as data: the files, what tensors are called in them, and what is where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

TRANSFORMER = "transformer."
"""What stands before the MMDiT's names, which are diffusers'. Files that leave it out are read as if it were there."""


class ConnectorNames(NamedTuple):
    """How a connector's parameters are called: `prefix`, the connector's own name, then `norm` or `mlp`."""

    prefix: str = "mm_encoder."
    norm: str = "norm_qwen"


class OfficialFile(NamedTuple):
    """One published file: the names that begin with `holds`, written with `writes` in its place."""

    name: str
    holds: str = ""
    writes: str = ""


@dataclass(frozen=True)
class Published:
    """The published form of one system. Names are whole, as they are once `canonical` has been applied."""

    title: str
    files: tuple[OfficialFile, ...]
    marks: tuple[str, ...]
    """A checkpoint in which a name, as stored, begins with one of these is this system's."""
    hints: tuple[tuple[str, str], ...]
    """(part of a name, what a file with such a name is), for files of this system that are not what was asked for."""
    connectors: ConnectorNames
    pooled: int | None
    """Width of HunyuanVideo's pooled text where its unused embedder is published too; None where it was removed."""
    vlm: str
    """What stands before the text encoder's names."""
    vlm_title: str
    tokens: str | None
    """Name of the learnable tokens. None: they are the last rows of the text encoder's word embedding, behind the rows
    of two markers (begin and end)."""
    embedding: str
    """The text encoder's word embedding; `head` its output layer. Both behind `vlm`."""
    head: str = "lm_head.weight"
    tied: bool = False
    """Whether the text encoder's own files leave the output layer out because it equals the word embedding."""
    vocabulary: int = 0
    """Rows of the text encoder's own word embedding. Only read where `tokens` is None."""
    text_encoder: str | None = None
    """File name, without suffix, under which the text encoder is written by a conversion; None: it is only checked."""
    renames: tuple[tuple[str, str], ...] = ()
    """(beginning, what to put in its place): other names under which the same tensors are found."""

    def canonical(self, name: str) -> str:
        """The published name of a tensor that is stored as `name`."""
        return next((new + name[len(old) :] for old, new in self.renames if name.startswith(old)), name)
