"""What makes one system differ from another: data, and a few small strategies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..checkpoints.published import Published
from ..config import ConnectorConfig, MMDiTConfig
from ..errors import InputError
from ..mmdit.packing import Grid, Layout

if TYPE_CHECKING:
    from torch import Tensor

    from ..media.references import Clip, References, Wanted


@dataclass(frozen=True)
class PixelLimits:
    """Sizes a picture may take: multiples of `factor`, between `min_pixels` and `max_pixels` in all."""

    factor: int
    min_pixels: int
    max_pixels: int


@dataclass(frozen=True)
class VisionLimits:
    """How pictures and frames are resized for the VLM, the shape of a patch, and the range of its values.

    A picture is resized by Pillow first. Where there is no second resize, the frames of a clip are too, each by itself.
    """

    image_first: PixelLimits
    image_second: PixelLimits | None
    video_first: PixelLimits
    video_second: PixelLimits | None
    """For the second video resize the pixel counts run over all frames together."""
    frames: int = 8
    """Frames of a clip that generation shows to the VLM."""
    whole_clips: bool = False
    """Whether shorter clips stay as short, and understanding sees all frames. Otherwise it is always `frames`."""
    patch: int = 16
    merge: int = 2
    temporal_patch: int = 2
    shown: bool = True
    """Whether the VLM sees references where something is generated. Otherwise it reads the text alone."""
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    """Of red, green and blue in 0..255: what becomes 0."""
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    """How far from it is 1."""


@dataclass(frozen=True)
class PromptTemplate:
    """The chat around the user's text, and which of its states the MMDiT gets.

    Labels and tags take the 1-based number of the picture or clip. Tags are labels that the user may switch on.
    """

    system: str
    understanding: str
    """System sentence of understand-then-generate."""
    image_label: str = "Image {}: "
    video_label: str = "Video {}: "
    image_tag: str = ""
    video_tag: str = ""
    frame_rate: float = 24.0
    """Frame rate from which the time stamps of a video's frames are computed."""
    video_step: int | None = None
    """A clip is one run of tokens whose time grows by this from one temporal group to the next. None: each group is a
    picture of its own, behind its time stamp."""
    max_text_tokens: int | None = None
    """Where the text is cut; None for nowhere."""
    before_tokens: str = ""
    """Text between the assistant's header and the learnable tokens."""
    keeps: Literal["all", "turn", "text"] = "all"
    """The states for the MMDiT: all, those behind the head of the user's turn, or those behind the last reference."""
    token_step: int = 0
    """Position of the first learnable token, counted from the prompt's last one."""
    marked_tokens: bool = False
    """The first and the last learnable token mark the begin and the end, and the turn ends behind them. The MMDiT gets
    neither mark, and the end of the turn before the tokens."""
    answer_tokens: int = 256
    """Longest answer of understanding where nothing else is asked for."""
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class Preset:
    """Published settings of one kind of task. `width` and `height` are None when a reference decides.

    `area` in pixels is that of prepared references where it is not the system's. `instruction` is put before the user's
    prompt, and never before the negative one.
    """

    width: int | None
    height: int | None
    frames: int
    text_scale: float
    image_scale: float
    shift: float
    negative: str
    steps: int = 50
    area: int | None = None
    instruction: str = ""


@dataclass(frozen=True)
class Job:
    """A generation of which it matters what it needs: size of the target and number of references."""

    name: str
    frames: int
    height: int
    width: int
    images: int = 0
    videos: int = 0


@dataclass(frozen=True)
class Thinking:
    """How the VLM turns one kind of drawn picture into a prompt (VOGUE paper section 2.3): it writes a plan, and then,
    shown the plan, the prompt.

    `task` is the preset that it runs as. The two requests have places: `{plan}` for the plan, and `{words}` for what
    the user wrote, which is put into `words` at `{text}`; it is nothing where the user wrote nothing.
    """

    task: str
    plan: str
    prompt: str
    words: str

    def request_for_plan(self, text: str) -> str:
        """What the VLM is asked first; `text` is the user's own."""
        return self.plan.format(words=self._said(text))

    def request_for_prompt(self, text: str, plan: str) -> str:
        """What the VLM is asked when it has written the plan."""
        return self.prompt.format(words=self._said(text), plan=plan)

    def _said(self, text: str) -> str:
        return self.words.format(text=text.strip()) if text.strip() else ""


@dataclass(frozen=True)
class Arrangement:
    """Where each reference goes, by its number in the request (images first, then videos), in packed order.

    `before` and `after` the target. `first_frame` is the picture that the result begins with: its clean latent frame
    stands between those before and the noisy frames, which follow it in time, and is frame 0 of the result. It is in
    neither of the two.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    first_frame: int | None = None

    @property
    def leading(self) -> tuple[int, ...]:
        """All that stands before the noisy frames."""
        return self.before if self.first_frame is None else (*self.before, self.first_frame)

    @property
    def conditions(self) -> tuple[int, ...]:
        """What is edited or continued rather than referred to."""
        return self.after if self.first_frame is None else (*self.after, self.first_frame)

    def among(self, references: Sequence[int]) -> Arrangement:
        """The same places for those that are among `references`, each by its number there."""
        number = {reference: place for place, reference in enumerate(references)}
        before, after = (tuple(number[i] for i in places if i in number) for places in (self.before, self.after))
        return Arrangement(before, after, None if self.first_frame is None else number.get(self.first_frame))


def all_before(task: str, images: int, videos: int) -> Arrangement:
    """Every reference before the target, whatever the task."""
    return Arrangement(before=tuple(range(images + videos)))


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
    layout: Callable[[Sequence[Grid], Grid, Sequence[Grid]], Layout]
    """Packs the grids before the target, the target, and those after it."""
    default_task: Callable[[int, int, int, bool], str]
    """The preset that (images, videos, frames, base_image) make of a request that names no task."""
    arrange: Callable[[str, int, int], Arrangement]
    """Where the references of (task, images, videos) go. Raises InputError for numbers that the task cannot take."""
    kept: Callable[[int, int, bool], tuple[int, ...]]
    """The references that the third guidance branch keeps, of (images, videos, base_image)."""
    prepare: Callable[[Arrangement, Sequence[Tensor], Sequence[Clip], Wanted], References]
    """Sizes the references of a request, pictures uint8 [H, W, 3], for VLM and VAE."""
    presets: Mapping[str, Preset]
    training_tasks: Mapping[str, tuple[str, str]]
    """The presets that examples of a training task are: with one reference picture at most, and with several."""
    jobs: tuple[Job, ...]
    """Typical generations, whose memory `vino doctor` estimates; none for a system that fits anywhere."""
    negative_image: str
    negative_video: str
    learnable_tokens: int
    """Number of learnable tokens of the released checkpoint; 0 for none."""
    published: Published
    """What its authors published, and how that is named."""
    area: int = 480 * 848
    """Target area in pixels of prepared references."""
    question_area: int | None = None
    """Area in pixels of what a question is about; None for `area`."""
    unit: int = 16
    vae_stride: Grid = (4, 8, 8)
    latent_channels: int = 16
    latent_scale: float = 0.476986
    max_frames: int = 89
    frame_rate: float = 24.0
    timestep_scale: float = 999.0
    rounded_timestep: bool = False
    """Whether the timestep takes the model's own precision, as where it was trained that way."""
    guidance_input: float | None = 1000.0
    min_text_scale: float | None = None
    """Text guidance must lie above this; None where it can be switched off."""
    one_size: bool = False
    """Whether every reference must have the height and width of the result."""
    packed: bool = True
    """Whether the MMDiT gets the references too. Without them, what the VLM sees of them is all that it knows."""
    vae_of: str | None = None
    """Name of the system whose VAE this one works with, where that names its system; None for one of its own."""

    thinking: Mapping[str, Thinking] | None = None
    """Thinking mode by kind of drawn picture; None where the system has none."""

    with_tokens: System | None = None
    """This system as it is for checkpoints with learnable tokens, where others have none."""

    def for_tokens(self, tokens: object | None) -> System:
        """This system as it is for a checkpoint with these learnable tokens, or without any (None)."""
        return self if tokens is None or self.with_tokens is None else self.with_tokens

    @property
    def marks(self) -> int:
        """How many of the learnable tokens in memory only mark where the others begin and end."""
        return 2 * self.prompt.marked_tokens

    def trained_as(self, task: str, images: int) -> str:
        """The preset that an example of a training task with so many reference pictures is. Raises InputError for a
        task that this system does not have."""
        if task not in self.training_tasks:
            raise InputError(f"{self.name} has no task {task}. It trains on {', '.join(self.training_tasks)}.")
        return self.training_tasks[task][images > 1]

    def places(self, task: str, images: int, videos: int) -> Arrangement:
        """Where the MMDiT gets the references of (task, images, videos): as arranged, or nowhere without `packed`."""
        arranged = self.arrange(task, images, videos)
        return arranged if self.packed else Arrangement()

    def connector(self, name: str) -> ConnectorConfig:
        """The released checkpoint's connector of that name. Raises KeyError when there is none."""
        return {connector.name: connector for connector in self.mmdit.connectors}[name]

    def latent_grid(self, frames: int, height: int, width: int) -> Grid:
        """Latent size of a clip of `frames` pictures of `height` x `width` pixels."""
        time, rows, columns = self.vae_stride
        return (frames - 1) // time + 1, height // rows, width // columns
