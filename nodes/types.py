"""What travels on the pack's own wires."""

from __future__ import annotations

from dataclasses import dataclass

from comfy_api.latest import io
from torch import Tensor

from ..vino_core.encoder.encode import EncodedPrompt
from ..vino_core.media.references import References
from ..vino_core.sampling.guidance import Branch

ReferencesType = io.Custom("VINO_REFERENCES")
ContextType = io.Custom("VINO_CONTEXT")
TokensType = io.Custom("VINO_TOKENS")


@dataclass(frozen=True, eq=False)
class PreparedReferences:
    """Prepared references and the number of frames to generate, which decides between picture and video defaults."""

    references: References
    frames: int


@dataclass(frozen=True, eq=False)
class EncodedBranch:
    """One branch after the text encoder, and the indices of the references it sees."""

    prompt: EncodedPrompt
    references: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Context:
    """The encoded branches of a request. `repeats_negative`: the third has no image to drop and equals the second."""

    branches: dict[Branch, EncodedBranch]
    repeats_negative: bool


Tokens = Tensor
"""Learnable tokens [count, width]."""
