"""What makes one system differ from another, as data and two small strategies (prompt and packing)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..config import ConnectorConfig, MMDiTConfig
from ..mmdit.packing import Grid, Layout


@dataclass(frozen=True)
class PixelLimits:
    """Sizes a picture may take: multiples of `factor`, between `min_pixels` and `max_pixels` in all."""

    factor: int
    min_pixels: int
    max_pixels: int


@dataclass(frozen=True)
class VisionLimits:
    """How pictures and frames are resized for the VLM: two resizes each, and the shape of a patch."""

    image_first: PixelLimits
    image_second: PixelLimits
    video_first: PixelLimits
    video_second: PixelLimits
    """For the second video resize the pixel counts run over all frames together."""
    frames: int = 8
    patch: int = 16
    merge: int = 2
    temporal_patch: int = 2


@dataclass(frozen=True)
class PromptTemplate:
    """The chat around the user's text. Labels take the 1-based number of the picture or clip."""

    system: str
    understanding: str
    """System sentence of understand-then-generate."""
    image_label: str = "Image {}: "
    video_label: str = "Video {}: "
    frame_rate: float = 24.0
    """Frame rate from which the time stamps of a video's frames are computed."""


@dataclass(frozen=True)
class Preset:
    """Published settings of one kind of task. `width` and `height` are None when a reference decides."""

    width: int | None
    height: int | None
    frames: int
    text_scale: float
    image_scale: float
    shift: float
    negative: str
    steps: int = 50


@dataclass(frozen=True)
class System:
    """One generation system. Adding another means adding one file beside `vino.py`."""

    name: str
    prompt: PromptTemplate
    vision: VisionLimits
    mmdit: MMDiTConfig
    text_connector: str
    """Name of the connector that feeds the text stream."""
    boundary_connector: str | None
    """Name of the connector that makes boundary tokens, or None when references are packed without them."""
    layout: Callable[[Sequence[Grid], Grid], Layout]
    presets: Mapping[str, Preset]
    negative_image: str
    negative_video: str
    learnable_tokens: int
    """Number of learnable tokens of the released checkpoint; 0 for none."""
    area: int = 480 * 848
    """Target area in pixels of prepared references."""
    unit: int = 16
    vae_stride: Grid = (4, 8, 8)
    latent_channels: int = 16
    latent_scale: float = 0.476986
    max_frames: int = 89
    frame_rate: float = 24.0
    timestep_scale: float = 999.0
    guidance_input: float | None = 1000.0

    def connector(self, name: str) -> ConnectorConfig:
        """The released checkpoint's connector of that name. Raises KeyError when there is none."""
        return {connector.name: connector for connector in self.mmdit.connectors}[name]

    def latent_grid(self, frames: int, height: int, width: int) -> Grid:
        """Latent size of a clip of `frames` pictures of `height` x `width` pixels."""
        time, rows, columns = self.vae_stride
        return (frames - 1) // time + 1, height // rows, width // columns
