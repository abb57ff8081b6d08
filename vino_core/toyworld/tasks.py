"""Toy examples of every task, by number: endless, and the same for the same seed, split and number."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..errors import InputError
from ..training.example import TASKS, Example
from .backgrounds import BACKGROUNDS, PATTERNED
from .captions import (
    at,
    brief_caption,
    filmed,
    ground,
    long_caption,
    moves,
    moving,
    sentence,
    short_caption,
    the,
)
from .edits import EDITS, SUBJECT_EDITS
from .plans import Plan, ToyExample, drawn, first_frame
from .sampling import SPLITS, Draw, Unfit, belongs, check, moved, portrait, scene, sprite, standing_out
from .world import PLACES, STILL, SUBJECT_SHAPES, Camera, Scene, Sprite

CAPTIONS = ("both", "long", "short")
_ATTEMPTS = 10_000
_COUNTS = (1, 2, 2)
"""How many sprites a scene has: one, or twice as often two."""

_CAPTION_KINDS = ("one sprite", "two sprites", "two sprites")
_SUBJECT_KINDS = ("1 subject", "2 subjects", "2 subjects", "2 subjects", "3 subjects", "4 subjects")
_REFERENCE_KINDS = (*SUBJECT_EDITS, "style")
KINDS: dict[str, tuple[str, ...]] = {
    "t2i": _CAPTION_KINDS,
    "t2v": _CAPTION_KINDS,
    "i2v": ("motion", "motion", "camera"),
    "ti2v": _SUBJECT_KINDS,
    "ti2i": (*EDITS, *EDITS, *_SUBJECT_KINDS),
    "ti2i_baseimg": _REFERENCE_KINDS,
    "tv2v": tuple(name for name in EDITS if name != "move"),
    "tiv2v": _REFERENCE_KINDS,
    "tiv2v_clone": ("named motion", "free path"),
    "tiv2v_camclone": ("named movement", "free flight"),
    "reconstruct_image": ("one image",),
    "select_image": ("2 images", "3 images", "4 images"),
}
"""What examples of a task are about; a kind that stands there twice comes twice as often."""


@dataclass(frozen=True)
class ToySource:
    """Examples of one task (an ExampleSource). Pictures are `size` x `size` pixels, clips have `frames` frames, 4n + 1.

    `split` "train" never shows the combinations of shape, colour, texture and background that "heldout" is made of,
    nor its patterns, free motions and duotones. `captions` decides whether text-to-image and text-to-video prompts are
    long, short or both by turns. Raises InputError for values outside what is named here.
    """

    task: str
    seed: int = 0
    size: int = 64
    frames: int = 9
    split: str = "train"
    captions: str = "both"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("task", self.task, TASKS),
            ("split", self.split, SPLITS),
            ("captions", self.captions, CAPTIONS),
        ):
            if value not in allowed:
                raise InputError(f"Toy world: {name} '{value}' is unknown. Choose one of {', '.join(allowed)}.")
        if self.size < 48 or self.size % 16:
            raise InputError(f"Toy world: size {self.size}. It must be a multiple of 16 and at least 48 pixels.")
        if self.frames < 5 or self.frames % 4 != 1:
            raise InputError(f"Toy world: {self.frames} frames. A clip has 4n + 1 of them, at least 5.")
        if self.seed < 0:
            raise InputError(f"Toy world: seed {self.seed}. It must be 0 or more.")

    @property
    def name(self) -> str:
        return self.task

    @property
    def count(self) -> None:
        """There is no end of them."""
        return None

    def example(self, index: int) -> Example:
        """Example number `index`, 0 or more."""
        return self.toy(index).example

    def toy(self, index: int) -> ToyExample:
        """Example number `index` with its ground truth."""
        name = f"toy-{self.task}-{self.split}-{self.seed}-{index}"
        return drawn(self.plan(index), name, self.size, self.frames)

    def plan(self, index: int) -> Plan:
        """The scenes and words of example number `index`."""
        draw = Draw(self.split, self.seed, zlib.crc32(self.task.encode()), index)
        # Drawn once, so that kinds which seldom fit are not rarer for it.
        kind = draw.pick(KINDS[self.task])
        for _ in range(_ATTEMPTS):
            try:
                plan = _PLANNERS[self.task](draw, self, kind)
            except Unfit:
                continue
            if belongs(self.split, plan.scenes):
                return plan
        raise RuntimeError(f"no {self.task} example fits the rules after {_ATTEMPTS} draws")


def _captioned(draw: Draw, source: ToySource, kind: str) -> Plan:
    is_clip = source.task == "t2v"
    count = 1 if kind == "one sprite" else 2
    camera = is_clip and draw.chance(0.3)
    shown = scene(draw, count, motion=is_clip and not camera, camera=camera)
    if draw.chance(0.1):
        shown = check(replace(shown, style=draw.style()))
    is_long = draw.chance(0.5) if source.captions == "both" else source.captions == "long"
    is_open = not is_long and draw.chance(0.4)
    if is_long:
        prompt = long_caption(shown, draw, is_clip)
    else:
        prompt = (brief_caption if is_open else short_caption)(shown, draw)
    return Plan(source.task, kind, prompt, shown, is_clip, is_open=is_open)


def _first_frame(draw: Draw, source: ToySource, kind: str) -> Plan:
    camera = kind == "camera"
    shown = scene(draw, draw.pick(_COUNTS), patterned=0.4, motion=not camera, camera=camera)
    if camera:
        told = sentence(filmed(shown.camera))
    else:
        told = " ".join(
            sentence(f"{the(one)} {moves(one.motion, draw)}")
            for one in shown.sprites
            if one.motion.kind != STILL or draw.chance(0.5)
        )
    opening = draw.pick(("Use Image 1 as the first frame.", "Image 1 is the first frame of the video."))
    still = first_frame(shown)
    return Plan(source.task, kind, f"{opening} {told}", shown, True, images=(still,), source=still)


def _subjects(draw: Draw, source: ToySource, kind: str) -> Plan:
    """One to four subjects, each shown by a reference, in a new scene."""
    is_clip = source.task == "ti2v"
    count = int(kind[0])
    sizes = ("small", "large") if count < 3 else ("small",)
    background = draw.pick(tuple(BACKGROUNDS))
    chosen = tuple(standing_out(lambda: (_subject(draw, sizes), background))[0] for _ in range(count))
    if is_clip:
        chosen = tuple(
            moved(draw, one) if number == 0 or (count < 3 and draw.chance(0.5)) else one
            for number, one in enumerate(chosen)
        )
    shown = Scene(chosen, background)
    if len({one.place for one in chosen}) < count:
        raise Unfit
    # Subjects may share a shape: it is the reference that tells them apart, not its name.
    for one in chosen:
        check(replace(shown, sprites=(one,)))
    check(replace(shown, sprites=tuple(replace(one, shape=SUBJECT_SHAPES[n]) for n, one in enumerate(chosen))))
    references = tuple(portrait(draw, one) for one in chosen)
    names = [_subject_name(draw, one, f"Image {number}") for number, one in enumerate(chosen, start=1)]
    told = []
    if draw.chance(0.5):
        parts = [
            f"a {one.size} copy of {name} {at(one)}" + (f" {moving(one.motion)}" if one.motion.kind != STILL else "")
            for name, one in zip(names, chosen, strict=True)
        ]
        prompt = sentence(f"{'; '.join(parts)}; {ground(shown)}")
    else:
        told = [
            sentence(f"{name} is {one.size} and stands {at(one)}")
            + (f" It {moves(one.motion, draw)}." if is_clip else "")
            for name, one in zip(names, chosen, strict=True)
        ]
        medium = "video" if is_clip else "picture"
        opening = draw.pick((f"Make a {medium} {ground(shown)}.", f"The {medium} shows the subjects {ground(shown)}."))
        prompt = " ".join([opening, *told])
    return Plan(source.task, kind, prompt, shown, is_clip, images=references)


def _subject(draw: Draw, sizes: tuple[str, ...]) -> Sprite:
    place = PLACES[draw.pick(tuple(PLACES))]
    return Sprite(draw.pick(SUBJECT_SHAPES), None, draw.pattern(), draw.pick(sizes), place)


def _subject_name(draw: Draw, subject: Sprite, reference: str) -> str:
    return draw.pick(
        (f"the {subject.shape} from {reference}", f"the {subject.shape} in {reference}", f"the subject of {reference}")
    )


def _picture_edit(draw: Draw, source: ToySource, kind: str) -> Plan:
    if kind not in EDITS:
        return _subjects(draw, source, kind)
    before = scene(draw, draw.pick(_COUNTS), patterned=0.2)
    target, prompt = EDITS[kind](draw, before, draw.pick(("Image 1", "the image")))
    return Plan(source.task, kind, prompt, target, False, images=(before,), source=before)


def _clip_edit(draw: Draw, source: ToySource, kind: str) -> Plan:
    before = scene(draw, draw.pick(_COUNTS), patterned=0.2, motion=True)
    target, prompt = EDITS[kind](draw, before, draw.pick(("Video 1", "the video")))
    return Plan(source.task, kind, prompt, target, True, videos=(before,), source=before)


def _reference_edit(draw: Draw, source: ToySource, kind: str) -> Plan:
    """An edit that takes a subject, a surface or a style from one reference to the picture or clip of another."""
    is_clip = source.task == "tiv2v"
    where = "Video 1" if is_clip else "Image 2"
    before = scene(draw, draw.pick(_COUNTS), motion=is_clip)
    if kind == "style":
        style = draw.style(duotone=0.7)
        reference = check(replace(scene(draw, draw.pick(_COUNTS)), style=style))
        target = check(replace(before, style=style))
        prompt = draw.pick(
            (
                f"Change the style of {where} to the style of Image 1.",
                f"Show {where} in the style of Image 1.",
                f"Apply the style of Image 1 to {where}.",
            )
        )
    else:
        subject, _ = standing_out(lambda: (_subject(draw, ("large",)), before.background))
        reference = portrait(draw, subject)
        target, prompt = SUBJECT_EDITS[kind](draw, before, where, subject, _subject_name(draw, subject, "Image 1"))
    if is_clip:
        return Plan(source.task, kind, prompt, target, True, images=(reference,), videos=(before,), source=before)
    return Plan(source.task, kind, prompt, target, False, images=(reference, before), source=before, base_image=True)


def _motion_clone(draw: Draw, source: ToySource, kind: str) -> Plan:
    """A sprite of the picture moves like the one in the clip."""
    film = scene(draw, 1, patterned=0.3, motion=True, free=float(kind == "free path"))
    picture = scene(draw, draw.pick((1, 1, 2)), patterned=0.4)
    actor, *others = picture.sprites
    model = film.sprites[0]
    motion = model.motion
    if motion.kind in ("grow", "shrink") and actor.size != model.size:
        raise Unfit
    target = check(replace(picture, sprites=(replace(actor, motion=motion), *others)))
    prompt = draw.pick(
        (
            f"Apply the motion of {the(model)} in Video 1 to {the(actor)} in Image 1.",
            f"Let {the(actor)} in Image 1 move like {the(model)} in Video 1.",
            f"Refer to the motion in Video 1 and animate {the(actor)} of Image 1 with it.",
        )
    )
    return Plan(source.task, kind, prompt, target, True, images=(picture,), videos=(film,), source=picture)


def _camera_clone(draw: Draw, source: ToySource, kind: str) -> Plan:
    """The picture's scene, filmed as the clip was."""
    film = scene(draw, draw.pick((1, 2)), camera=True, free=float(kind == "free flight"))
    picture = scene(draw, draw.pick((1, 2)), patterned=0.4)
    if picture.background not in PATTERNED:
        raise Unfit
    target = check(replace(picture, camera=Camera(film.camera.kind, film.camera.seed)))
    prompt = draw.pick(
        (
            "Refer to the camera movement of Video 1 and apply it to Image 1.",
            "Film the scene of Image 1 with the camera movement of Video 1.",
            "Apply the camera motion of Video 1 to Image 1.",
        )
    )
    return Plan(source.task, kind, prompt, target, True, images=(picture,), videos=(film,), source=picture)


def _any_picture(draw: Draw) -> Scene:
    if draw.chance(0.25):
        return portrait(draw, sprite(draw, patterned=0.5))
    return scene(draw, draw.pick(_COUNTS), patterned=0.2)


def _reconstruction(draw: Draw, source: ToySource, kind: str) -> Plan:
    shown = _any_picture(draw)
    prompt = draw.pick(("Reconstruct Image 1.", "Show Image 1 again.", "Reconstruct the image."))
    return Plan(source.task, kind, prompt, shown, False, images=(shown,), source=shown)


def _selection(draw: Draw, source: ToySource, kind: str) -> Plan:
    shown = tuple(_any_picture(draw) for _ in range(int(kind[0])))
    chosen = draw.pick(range(len(shown)))
    prompt = draw.pick((f"Reconstruct Image {chosen + 1}.", f"Show Image {chosen + 1} again."))
    return Plan(source.task, kind, prompt, shown[chosen], False, images=shown, source=shown[chosen])


_PLANNERS: dict[str, Callable[[Draw, ToySource, str], Plan]] = {
    "t2i": _captioned,
    "t2v": _captioned,
    "i2v": _first_frame,
    "ti2v": _subjects,
    "ti2i": _picture_edit,
    "ti2i_baseimg": _reference_edit,
    "tv2v": _clip_edit,
    "tiv2v": _reference_edit,
    "tiv2v_clone": _motion_clone,
    "tiv2v_camclone": _camera_clone,
    "reconstruct_image": _reconstruction,
    "select_image": _selection,
}
