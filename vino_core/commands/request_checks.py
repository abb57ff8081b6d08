"""What `vino generate` checks before it loads weights, which takes minutes."""

from __future__ import annotations

import argparse

from ..branches import check_base_image, check_image_to_edit, check_tags
from ..encoder.understand import check_question
from ..errors import InputError
from ..media.sizing import check_frames, check_size, nearest_side
from ..request import Request
from ..sampling.schedule import sigmas
from ..systems import check_thinking
from ..systems.base import System
from ..tasks import UNDERSTANDING, Task, check_area, check_picture, check_scaled, get_preset


def check_flags(arguments: argparse.Namespace, system: System) -> None:
    """Raise InputError for a flag that no item can take, whatever it is: known before minutes of loading."""
    if arguments.frames is not None:
        check_frames(arguments.frames, system.max_frames)
    check_area(arguments.area, system.unit)
    if arguments.width is not None and arguments.height is not None:
        check_size(arguments.width, arguments.height, system.unit)
    for name in ("width", "height"):
        side = getattr(arguments, name)
        if side is not None and side != (nearest := nearest_side(side, system.unit)):
            raise InputError(
                f"--{name} is {side}; it must be a positive multiple of {system.unit}. The nearest is {nearest}."
            )
    names = ("text_scale", "image_scale", "shift", "steps", "seed")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    preset = get_preset(system, system.default_task(0, 0, 1, False))
    usual = {"text_scale": preset.text_scale, "shift": preset.shift, "steps": preset.steps}
    # The same checks as later, with all that is not given at a value that passes.
    tried = Request("", system.unit, system.unit, 1, "", **{**usual, **given})
    tried.validate(system)
    sigmas(tried.steps, tried.shift)


def check_single(task: Task, arguments: argparse.Namespace, system: System) -> None:
    """Raise InputError for a request that cannot be made, as far as that is known before minutes of loading. Of a task
    list such items fail alone."""
    for path in task.missing:
        raise InputError(f"there is no file '{path}'. Check the paths at --image and --video.")
    counts = len(task.images), len(task.videos)
    if task.preset != UNDERSTANDING:
        system.arrange(task.preset, *counts)
        check_image_to_edit(task.base_image, len(task.images))
        check_base_image(system, task.base_image, task.preset, *counts)
        preset = get_preset(system, task.preset)
        if None in (preset.width, preset.height) and not any(counts):
            raise InputError(
                f"the task {task.preset} takes its size from a picture or video, and none is given. Add one with "
                "--image or --video, or choose another --preset."
            )
        check_scaled(system, task.preset, arguments.area)
        if arguments.frames is not None:
            check_picture(system, task.preset, *counts, arguments.frames)
    check_tags(system, task.tags)


def check_prompt(task: Task, arguments: argparse.Namespace, system: System) -> None:
    """Raise InputError for a task that is to be thought about and cannot, and for a question that does not stand
    alone."""
    if task.preset == UNDERSTANDING:
        try:
            check_question(task.prompt)
        except InputError as error:
            raise InputError(f"{task.index}: {error}") from error
        if arguments.understand:
            raise InputError(f"{task.index}: --understand writes a prompt, and this is a question. Leave it out.")
    if task.think is None:
        return
    if arguments.understand:
        raise InputError(f"{task.index}: both --understand and thinking are asked for. Leave one of them out.")
    try:
        check_thinking(system, task.think, task.preset, "Choose that one, or do not think.")
    except InputError as error:
        raise InputError(f"{task.index}: {error}") from error
