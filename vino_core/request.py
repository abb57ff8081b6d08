"""One generation, fully specified."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import InputError
from .media.references import References
from .media.sizing import check_frames, check_size
from .systems.base import System

Posterior = Literal["mode", "sample"]


@dataclass(frozen=True)
class Request:
    """What to generate and how. Sizes in pixels, `frames` 4n + 1 (1 for a picture).

    `negative` is the negative prompt itself, "" for none. `base_image`: the last image is the one to edit.
    `posterior`: how references become latents, "mode" (the mean) or "sample" (drawn from the VAE's posterior).
    """

    prompt: str
    width: int
    height: int
    frames: int
    negative: str
    text_scale: float
    shift: float
    steps: int
    references: References = field(default_factory=References, repr=False)
    image_scale: float = 1.0
    seed: int = 0
    base_image: bool = False
    posterior: Posterior = "mode"

    def validate(self, system: System) -> None:
        """Raise InputError for a value outside what `system` can do."""
        check_size(self.width, self.height, system.unit)
        check_frames(self.frames, system.max_frames)
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; at least 1 is needed.")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed is {self.seed}; it must lie between 0 and 2^63 - 1.")
        for name in ("text_scale", "image_scale"):
            value = getattr(self, name)
            if not 0.0 <= value <= 100.0:
                raise InputError(f"{name} is {value}; it must lie between 0 and 100 (1 or less switches it off).")
        if self.posterior not in ("mode", "sample"):
            raise InputError(f"posterior is '{self.posterior}'; it must be 'mode' or 'sample'.")

    def settings(self) -> dict[str, Any]:
        """Everything but the references, as plain values for a sidecar file."""
        values = {name: value for name, value in self.__dict__.items() if name != "references"}
        return {**values, "images": len(self.references.images), "videos": len(self.references.videos)}
