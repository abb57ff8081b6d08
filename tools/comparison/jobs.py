"""What users ask for, by names of its own: both systems have other words for it."""

from __future__ import annotations

from dataclasses import dataclass

TITLES = {
    "t2i": "text to image",
    "ti2i": "edit an image",
    "ti2i_baseimg": "edit an image with a reference",
    "t2v": "text to video",
    "i2v": "image to video",
    "ti2v": "references to video",
    "tv2v": "edit a video",
    "tiv2v": "edit a video with a reference",
    "tiv2v_clone": "clone a motion",
    "tiv2v_camclone": "clone a camera movement",
}
"""By the names under which both systems train these tasks."""


@dataclass(frozen=True)
class Job:
    """A task with its number of references."""

    task: str
    images: int = 0
    videos: int = 0
    base_image: bool = False

    @property
    def title(self) -> str:
        return TITLES[self.task]


JOBS = (
    Job("t2i"),
    Job("ti2i", images=1),
    Job("ti2i_baseimg", images=2, base_image=True),
    Job("t2v"),
    Job("i2v", images=1),
    Job("ti2v", images=2),
    Job("tv2v", videos=1),
    Job("tiv2v", images=1, videos=1),
    Job("tiv2v_clone", images=1, videos=1),
    Job("tiv2v_camclone", images=1, videos=1),
)
