"""`vino data`: write the toy world as shards, check data before a run, and make its latents beforehand."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..systems import DEFAULT, SYSTEMS, get_system


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    toy = actions.add_parser("toy", help="write examples of the toy world as WebDataset shards, a folder per task")
    toy.add_argument("out", type=Path, help="folder; task T goes to its subfolder T")
    toy.add_argument("--task", nargs="+", required=True, metavar="TASK", help="for example t2i t2v ti2i")
    toy.add_argument("--count", type=int, required=True, help="examples of each task")
    toy.add_argument("--seed", type=int, default=0)
    toy.add_argument("--size", type=int, default=64, help="side of the pictures in pixels (default: 64)")
    toy.add_argument("--frames", type=int, default=9, help="frames of the clips, 4n+1 (default: 9)")
    toy.add_argument("--captions", choices=("both", "long", "short"), default="both", help="of t2i and t2v")
    toy.add_argument("--split", choices=("train", "heldout"), default="train")
    toy.set_defaults(action_run=_toy)
    encode = actions.add_parser("encode", help="make the VAE's latents of all folders and shards of a config")
    _add_config_arguments(encode)
    encode.add_argument("--engine", choices=("single", "ray"), default="single", help="ray: on many machines")
    encode.add_argument("--tasks", nargs="+", metavar="TASK", help="only these (default: all)")
    encode.add_argument("--device", help="default: cuda where there is one, else cpu")
    encode.add_argument(
        "--adopt",
        action="store_true",
        help="take over latents of another VAE file or system if a trial finds them the same",
    )
    encode.set_defaults(action_run=_encode)
    check = actions.add_parser("check", help="open every file of a dataset and list what is wrong")
    check.add_argument("path", type=Path, help="a config (YAML), a folder with a manifest, a manifest, or shards")
    check.add_argument("--full", action="store_true", help="decode every frame of clips, not only the first")
    check.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a config's setting")
    bare = check.add_argument_group("for a path that is no config")
    bare.add_argument("--system", choices=tuple(SYSTEMS), help="default: vino")
    bare.add_argument("--area", type=int, help="pixels of a frame (default: the system's)")
    bare.add_argument("--frames", type=int, help="longest clip, 4n+1 (default: the system's)")
    bare.add_argument("--task", help="of shards that do not say")
    check.set_defaults(action_run=_check)


def _add_config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="a YAML file; the shipped ones are under configs/")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting, for example data.tasks.t2i.path=my_pictures; repeat for more",
    )


def run(arguments: argparse.Namespace) -> int:
    return arguments.action_run(arguments)


def _toy(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..errors import InputError
    from ..toyworld.tasks import ToySource
    from ..training.data.shard_writing import write_shards

    if arguments.count < 1:
        raise InputError(f"--count is {arguments.count}; at least 1 is needed.")
    for task in dict.fromkeys(arguments.task):
        source = ToySource(
            task, arguments.seed, arguments.size, arguments.frames, arguments.split, arguments.captions
        )  # fmt: skip
        with tqdm(total=arguments.count, desc=task, unit="example", leave=False) as bar:
            shards = write_shards(
                arguments.out / task, source, arguments.count, progress=lambda done, bar=bar: bar.update(done - bar.n)
            )
        shown = "1 shard" if len(shards) == 1 else f"{len(shards)} shards"
        print(f"{arguments.out / task}: {arguments.count} examples in {shown}")
    return 0


def _encode(arguments: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from ..errors import InputError
    from ..training.config import load_config
    from ..training.data.adopt import adopt
    from ..training.data.encode import encode, jobs, single

    config = load_config(arguments.config, arguments.set)
    chosen = [job for job in jobs(config) if arguments.tasks is None or job.task in arguments.tasks]
    unknown = sorted(set(arguments.tasks or ()) - {job.task for job in chosen})
    if unknown:
        raise InputError(f"--tasks {' '.join(unknown)}: not among the folders and shards of {arguments.config}.")
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.engine == "ray":
        from ..training.data.ray_engine import on_ray

        engine = on_ray(device)
    else:
        engine = single(device)
    for job in chosen:
        if arguments.adopt and (taken := adopt(job, device)):
            print(taken)
        with tqdm(unit="example", desc=job.task, leave=False) as bar:

            def show(done: int, total: int, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            outcome = encode(job, engine, show)
        pieces = "1 piece" if outcome.made == 1 else f"{outcome.made} pieces"
        made = f"{pieces} made" if outcome.made else "nothing to do"
        print(f"{outcome.folder}: {outcome.examples} examples, {len(outcome.skipped)} skipped, {made}")
        for number, reason in outcome.skipped.items():
            print(f"  skipped {job.task} {number}: {reason}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..errors import InputError
    from ..media.sizing import check_frames
    from ..training.config import load_config
    from ..training.data.check import check_config, check_path

    path: Path = arguments.path
    is_config = path.suffix.lower() in (".yaml", ".yml")
    bare = [name for name in ("system", "area", "frames", "task") if getattr(arguments, name) is not None]
    if is_config and bare:
        raise InputError(f"--{bare[0]}: {path} is a config, which says that itself. Change it with --set NAME=VALUE.")
    if not is_config and arguments.set:
        raise InputError(f"--set {arguments.set[0]}: it changes a config (.yaml), and {path} is none. Leave it out.")
    with tqdm(unit="example", leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh() if done == total else bar.update(0)

        if is_config:
            findings = check_config(load_config(path, arguments.set), arguments.full, show)
        else:
            system = get_system(arguments.system or DEFAULT)
            frames = system.max_frames if arguments.frames is None else arguments.frames
            area = system.area if arguments.area is None else arguments.area
            check_frames(frames)
            if area < 16**2:
                raise InputError(f"--area is {area} pixels; at least {16**2} are needed.")
            findings = check_path(path, system, area, frames, arguments.task, arguments.full, show)
    for finding in findings:
        print(finding)
    return int(any(finding.problems for finding in findings))
