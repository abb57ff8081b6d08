"""One generation, fully specified."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from .branches import check_base_image, check_scales, check_tags
from .errors import InputError
from .media.references import References
from .media.sizing import check_frames, check_size
from .systems.base import Arrangement, System
from .tasks import check_picture, get_preset

Posterior = Literal["mode", "sample"]


@dataclass(frozen=True)
class Request:
    """What to generate and how. Sizes in pixels, `frames` 4n + 1 (1 for a picture).

    `negative` is the negative prompt itself, "" for none. `base_image`: the last image is the one to edit.
    `posterior`: how references become latents, "mode" (the mean) or "sample" (drawn from the VAE's posterior).
    `task` is a preset's name; None: the one that references and frames make it. `tags`: whether references get the
    system's tags.
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
    task: str | None = None
    tags: bool = False

    def task_for(self, system: System) -> str:
        """The task, or what references and frames make it."""
        counts = len(self.references.images), len(self.references.videos)
        return self.task or system.default_task(*counts, self.frames, self.base_image)

    def arrangement(self, system: System) -> Arrangement:
        """Where the references go. Raises InputError for numbers that the task cannot take."""
        counts = len(self.references.images), len(self.references.videos)
        return system.places(self.task_for(system), *counts)

    def instructed(self, system: System) -> str:
        """The prompt behind the task's instruction."""
        return get_preset(system, self.task_for(system)).instruction + self.prompt

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
        check_scales(system, self.text_scale)
        check_tags(system, self.tags)
        counts = len(self.references.images), len(self.references.videos)
        check_base_image(system, self.base_image, self.task_for(system), *counts)
        check_references(system, self.task_for(system), self.references, self.width, self.height, self.frames)
        if self.posterior not in ("mode", "sample"):
            raise InputError(f"posterior is '{self.posterior}'; it must be 'mode' or 'sample'.")

    def settings(self) -> dict[str, Any]:
        """Everything but the references, as plain values for a sidecar file."""
        values = {name: value for name, value in self.__dict__.items() if name != "references"}
        return {**values, "images": len(self.references.images), "videos": len(self.references.videos)}


def check_references(system: System, task: str, references: References, width: int, height: int, frames: int) -> None:
    """Raise InputError when `task` cannot take these references, or not for a result of this size."""
    counts = len(references.images), len(references.videos)
    get_preset(system, task)
    arrangement = system.arrange(task, *counts)
    check_picture(system, task, *counts, frames)
    if arrangement.first_frame is not None and frames == 1:
        raise InputError(f"{task} goes on from a picture: frames is 1, it must be at least 5.")
    for index in arrangement.after:
        given = len(references.packed[index])
        if index >= len(references.images) and given != frames:
            raise InputError(
                f"frames is {frames}: the video to edit gives {given} (4n + 1 of its own), and {system.name} edits "
                f"frame by frame. Set it to {given}, leave it to the video, or choose a longer video."
            )
    for pixels in references.packed if system.one_size else ():
        rows, columns = pixels.shape[1:3]
        if (rows, columns) != (height, width):
            raise InputError(
                f"size {width} x {height}: the references were prepared for {columns} x {rows}, and {system.name} "
                "takes one size for all. Leave width and height to the picture or video to edit; choose an area to "
                "change its size ('scaled' at VINO References, or --area)."
            )
