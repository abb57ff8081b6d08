"""`vino generate`: one request from flags, or a task list in the official format."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..checkpoints.folder import PARTS
from ..errors import InputError
from ..media.output import check_folder
from ..systems import THINKING, get_thinking
from ..systems.base import System
from ..tasks import (
    UNDERSTANDING,
    Task,
    check_scaled,
    get_preset,
    load_tasks,
    prepare_question,
    prepare_references,
    target_size,
)
from .loading import (
    add_file_arguments,
    add_machine_arguments,
    check_given,
    choose_system,
    given_files,
    load_pipeline,
    load_text_encoder,
)
from .request_checks import check_flags, check_prompt, check_single

if TYPE_CHECKING:
    from torch import Tensor

    from ..encoder.think import Thought
    from ..media.references import Clip
    from ..pipeline import Pipeline
    from ..request import Request

OVERRIDES = ("width", "height", "frames", "text_scale", "image_scale", "shift", "steps")
LISTED = {"image": "ref_image_paths", "video": "ref_video_path", "base_image": "ref_image_have_base"}
"""Flags of one request, which a row of a task list says itself."""
OF_QUESTIONS = ("frames", "area", "dtype")
"""Settings that a question has too."""
UNASKED = (
    *(name for name in OVERRIDES if name not in OF_QUESTIONS),
    "base_image",
    "negative",
    "seed",
    "posterior",
    "tags",
)
"""Flags that mean nothing to a question, which the text encoder answers with its most likely words."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to generate")
    what.add_argument("--prompt", help="the prompt of one request")
    what.add_argument("--image", type=Path, action="append", default=[], help="reference image; repeat for more")
    what.add_argument("--video", type=Path, action="append", default=[], help="reference video; repeat for more")
    what.add_argument("--base-image", action="store_true", help="the last image is the one to edit")
    what.add_argument("--tasks", type=Path, help="a task list (JSON) instead of --prompt")
    what.add_argument(
        "--preset",
        help="take the settings of this task instead of the one that the input makes it; 'understanding': the text "
        "encoder answers the prompt, a question about what is given",
    )
    what.add_argument("--understand", action="store_true", help="let the text encoder rewrite the prompt first")
    what.add_argument(
        "--think",
        choices=THINKING,
        help="let the text encoder work out the prompt from what is drawn: on a picture that the video begins with, or "
        "on a canvas of subjects and plans. The prompt may then be ''. VOGUE only",
    )
    how = parser.add_argument_group("settings (default: the task's own)")
    how.add_argument("--negative", help="negative prompt; '' for none")
    how.add_argument("--width", type=int)
    how.add_argument("--height", type=int)
    how.add_argument(
        "--frames", type=int, help="4n+1; 1 makes a picture. As many of a reference video; fewer where it is shorter"
    )
    how.add_argument("--text-scale", type=float)
    how.add_argument("--image-scale", type=float)
    how.add_argument("--shift", type=float)
    how.add_argument("--steps", type=int)
    how.add_argument("--seed", type=int, help="of every item without a seed of its own; default: drawn and recorded")
    how.add_argument("--posterior", choices=("mode", "sample"), default="mode", help="how references become latents")
    how.add_argument(
        "--area",
        type=int,
        help="pixels of a prepared reference (default: the system's); VOGUE: of what is edited or animated, and so of "
        "the result",
    )
    how.add_argument(
        "--tags", action="store_true", help="'Image 1: ', 'Video 1: ' before references (VOGUE; VINO has labels anyway)"
    )
    parts = add_file_arguments(parser)
    parts.add_argument("--out", type=Path, default=Path("output"), help="output folder (default: output)")
    parts.add_argument("--overwrite", action="store_true", help="make items again that exist with other settings")
    add_machine_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    if (arguments.prompt is None) == (arguments.tasks is None):
        raise InputError("Give either --prompt or --tasks.")
    if arguments.tasks is not None and (given := _given(arguments, LISTED)):
        fields = ", ".join(LISTED.values())
        raise InputError(
            f"{given}: of one request only. In a task list each row says it ({fields}): leave it out here."
        )
    system = choose_system(arguments, complete=False)
    tasks = load_tasks(arguments.tasks, system) if arguments.tasks else [_single(arguments, system)]
    if arguments.preset:
        tasks = [replace(task, preset=arguments.preset) for task in tasks]
    if _only_questions(tasks) and (given := _given(arguments, UNASKED)):
        raise InputError(f"{given}: not for a question, which the text encoder answers alone. Leave it out.")
    check_flags(arguments, system)
    check_given(arguments, system, ("text_encoder",) if _only_questions(tasks) else PARTS)
    if arguments.think:
        tasks = [replace(task, think=arguments.think) for task in tasks]
    if arguments.tags:
        tasks = [replace(task, tags=True) for task in tasks]
    for task in tasks:
        check_prompt(task, arguments, system)
    if arguments.tasks is None:
        check_single(tasks[0], arguments, system)
    todo = [task for task in tasks if not _done(task, arguments)]
    print(f"{len(tasks) - len(todo)} of {len(tasks)} done already" if len(todo) < len(tasks) else f"{len(tasks)} to do")
    if not todo:
        return 0
    for task in todo:
        for path in task.missing:
            print(f"{task.index} will fail: there is no file '{path}'", file=sys.stderr, flush=True)
    check_folder(arguments.out)
    generator = _Generator(arguments, system, todo)
    failed = []
    for number, task in enumerate(todo, start=1):
        print(f"[{number}/{len(todo)}] {task.index}: {task.preset}", flush=True)
        try:
            print(f"  {generator.make(task)}", flush=True)
        except InputError as error:
            failed.append(task.index)
            print(f"  failed: {error}", file=sys.stderr, flush=True)
    if failed:
        print(f"{len(failed)} of {len(todo)} failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _given(arguments: argparse.Namespace, flags: Iterable[str]) -> str:
    """Those of the `flags` that the user gave, as they are written."""
    without = {"posterior": "mode", "image": [], "video": []}
    values = {name: getattr(arguments, name) for name in flags}
    given = (name for name, value in values.items() if value is not None and value is not False)
    return ", ".join(f"--{name.replace('_', '-')}" for name in given if values[name] != without.get(name))


def _single(arguments: argparse.Namespace, system: System) -> Task:
    frames, preset = arguments.frames, arguments.preset
    if arguments.think and preset is None:
        preset = get_thinking(system, arguments.think).task
    if frames is None:
        frames = get_preset(system, preset).frames if preset not in (None, UNDERSTANDING) else 1
    name = system.default_task(len(arguments.image), len(arguments.video), frames, arguments.base_image)
    name = preset or name
    index = f"{time.strftime('%Y%m%d-%H%M%S')}_{name}"
    images, videos = tuple(arguments.image), tuple(arguments.video)
    return Task(index, name, arguments.prompt, images, videos, arguments.base_image)


def _only_questions(tasks: list[Task]) -> bool:
    return all(task.preset == UNDERSTANDING for task in tasks)


def _asked(task: Task, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a user asked for, as it is compared on a resume: of a question only what can change its answer; a seed that
    nobody gave is not part of it."""
    weights = {name: path.name for name, path in given_files(arguments).items()}
    row = {"preset": task.preset, "prompt": task.prompt}
    files = {"images": [str(p) for p in task.images], "videos": [str(p) for p in task.videos]}
    if task.preset == UNDERSTANDING:
        asked = {name: getattr(arguments, name) for name in OF_QUESTIONS}
        return {**asked, **row, **files, **{name: weights[name] for name in ("model", "text_encoder")}}
    flags = (*OVERRIDES, "posterior", "area", "understand", "negative", "dtype")
    asked = {name: getattr(arguments, name) for name in flags}
    seed = task.seed if task.seed is not None else arguments.seed
    tags = {"tags": True} if task.tags else {}  # results from before there were tags count as made without
    return {
        **asked,
        **row,
        "base_image": task.base_image,
        **files,
        "task_negative": task.negative,
        "think": task.think,
        "seed": seed,
        **tags,
        **weights,
    }


def _done(task: Task, arguments: argparse.Namespace) -> bool:
    """Whether an earlier run finished this item. Raises InputError when it did so with other settings."""
    sidecar = arguments.out / f"{task.index}.json"
    if not sidecar.is_file():
        return False
    record = _read_sidecar(sidecar)
    if record is None:
        if arguments.overwrite:
            return False
        raise InputError(f"{sidecar} was not made by `vino generate`. Choose another --out, or --overwrite.")
    if not (arguments.out / record["file"]).is_file():
        return False
    before, asked = record["asked"], _asked(task, arguments)
    changed = [name for name in {**asked, **before} if before.get(name) != asked.get(name)]
    if not changed:
        return True
    if arguments.overwrite:
        return False
    raise InputError(
        f"{sidecar} exists with other settings ({', '.join(changed)}). Choose another --out, or --overwrite."
    )


def _read_sidecar(path: Path) -> dict[str, Any] | None:
    """What a sidecar records, or None when it is not one of ours."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    ours = isinstance(record, dict) and isinstance(record.get("file"), str) and isinstance(record.get("asked"), dict)
    return record if ours else None


def _opened(task: Task) -> tuple[list[Tensor], list[Clip]]:
    """The task's pictures, read, and its clips. Raises InputError for a picture that cannot be used."""
    from ..media.images import read_image
    from ..media.references import Clip

    return [read_image(path) for path in task.images], [Clip(path) for path in task.videos]


class _Generator:
    """Loads the parts that the tasks need once and makes one item after another."""

    def __init__(self, arguments: argparse.Namespace, system: System, tasks: list[Task]) -> None:
        self.arguments, self.system = arguments, system
        self.pipeline: Pipeline | None = None if _only_questions(tasks) else load_pipeline(arguments, system)
        self.engine = load_text_encoder(arguments, system) if self.pipeline is None else self.pipeline.engine

    def make(self, task: Task) -> Path:
        """Generate one item; return the file. Its sidecar is written last, so that it vouches for the file."""
        if task.preset == UNDERSTANDING:
            return self.answer(task)
        from tqdm import tqdm

        from ..media.output import write_image, write_video

        started = time.perf_counter()
        request, thought = self.reworded(self.request(task), task)
        with tqdm(total=request.steps, desc=f"  {task.index}", unit="step", leave=False) as bar:
            frames = self.pipeline.generate(request, lambda done, steps, latents: bar.update(done - bar.n))
        file = self.arguments.out / f"{task.index}{'.png' if len(frames) == 1 else '.mp4'}"
        settings = {**request.settings(), "system": self.system.name, "vino": __version__}
        if len(frames) == 1:
            write_image(file, frames[0], settings)
        else:
            write_video(file, frames, self.system.frame_rate, settings)
        self.record(file, task, settings, started, **({} if thought is None else {"thought": asdict(thought)}))
        return file

    def record(self, file: Path, task: Task, settings: dict[str, Any], started: float, **more: Any) -> None:
        """Write the sidecar of `file`, which was begun at `started` by `time.perf_counter`."""
        from torch import __version__ as torch_version

        from ..media.output import write_text

        device = self.engine.device if self.pipeline is None else self.pipeline.device
        record = {
            "file": file.name,
            "asked": _asked(task, self.arguments),
            "settings": settings,
            **more,
            "files": {name: str(path) for name, path in given_files(self.arguments).items()},
            "machine": {"device": str(device), "dtype": self.arguments.dtype, "torch": torch_version},
            "seconds": round(time.perf_counter() - started, 2),
        }
        write_text(file.with_suffix(".json"), json.dumps(record, indent=2, ensure_ascii=False))

    def answer(self, task: Task) -> Path:
        """Ask the text encoder the task's question; return the file of its answer, which is printed too."""
        import torch
        from tqdm import tqdm

        from ..encoder.encode import encode_visuals
        from ..encoder.understand import ask, usual_sampling
        from ..media.output import write_text

        started, arguments, engine = time.perf_counter(), self.arguments, self.engine
        references = prepare_question(self.system, *_opened(task), arguments.frames, arguments.area)
        working = nullcontext() if self.pipeline is None else self.pipeline.resident(engine.model)
        most = usual_sampling(self.system).max_new_tokens
        with working, torch.inference_mode(), tqdm(total=most, desc="  answering", unit="token", leave=False) as bar:
            visuals = encode_visuals(engine, references, self.system.vision, understanding=True)
            text = ask(engine, self.system, task.prompt, visuals, on_token=lambda done: bar.update(done - bar.n))
        print(f"  answer: {text}", flush=True)
        file = arguments.out / f"{task.index}.txt"
        write_text(file, text + "\n")
        settings = {"task": UNDERSTANDING, "prompt": task.prompt, "system": self.system.name, "vino": __version__}
        self.record(file, task, settings, started, answer=text)
        return file

    def reworded(self, request: Request, task: Task) -> tuple[Request, Thought | None]:
        """The request with the prompt that the text encoder writes, where it is asked to, and what it thought."""
        import torch
        from tqdm import tqdm

        from ..encoder.encode import encode_visuals
        from ..encoder.think import think
        from ..encoder.understand import rewrite_prompt, usual_sampling

        if not (self.arguments.understand or task.think):
            return request, None
        system, engine, thought = self.pipeline.system, self.pipeline.engine, None
        request.validate(system)  # writing takes long
        with self.pipeline.resident(engine.model), torch.inference_mode():
            visuals = encode_visuals(engine, request.references, system.vision, understanding=True)
            if task.think:
                most = 2 * usual_sampling(system).max_new_tokens
                with tqdm(total=most, desc="  thinking", unit="token", leave=False) as bar:
                    thought = think(
                        engine,
                        system,
                        task.think,
                        request.prompt,
                        visuals,
                        on_token=lambda done: bar.update(done - bar.n),
                    )
                prompt = thought.prompt
                print(f"  plan: {thought.plan}\n  prompt: {prompt}", flush=True)
            else:
                prompt = rewrite_prompt(engine, system, request.prompt, visuals)
                print(f"  rewritten: {prompt}", flush=True)
        return replace(request, prompt=prompt), thought

    def request(self, task: Task) -> Request:
        """The full request of a task: its preset, what the references decide, what the flags override."""
        from ..request import Request

        arguments, system = self.arguments, self.pipeline.system
        preset = get_preset(system, task.preset)
        frames = preset.frames if arguments.frames is None else arguments.frames
        height, width = arguments.height or preset.height, arguments.width or preset.width
        check_scaled(system, task.preset, arguments.area)
        references = prepare_references(
            system,
            task.preset,
            *_opened(task),
            frames,
            None if height is None or width is None else (height, width),
            arguments.area,
        )
        height, width, frames = target_size(preset, references, frames)
        if arguments.frames not in (None, frames):
            print(f"  the video decides the length: {frames} frames, not {arguments.frames}", flush=True)
        negative = next(text for text in (arguments.negative, task.negative, preset.negative) if text is not None)
        seed = task.seed if task.seed is not None else arguments.seed
        request = Request(
            prompt=task.prompt,
            width=width,
            height=height,
            frames=frames,
            negative=negative,
            references=references,
            text_scale=preset.text_scale,
            image_scale=preset.image_scale,
            shift=preset.shift,
            steps=preset.steps,
            seed=secrets.randbelow(2**32) if seed is None else seed,
            base_image=task.base_image,
            posterior=arguments.posterior,
            task=task.preset,
            tags=task.tags,
        )
        given = {name: getattr(arguments, name) for name in OVERRIDES if getattr(arguments, name) is not None}
        return replace(request, **{**given, "frames": frames})
