"""A run is one typed config: a YAML file under `configs/`, and `--set name=value` on top."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError
from ..media.sizing import check_frames
from ..request import Request
from ..systems import DEFAULT, get_system
from ..systems.base import System
from .data.stored import SHAPES
from .example import TASKS
from .identity import comparable
from .typed import WrongSetting, apply_change, build
from .yaml_file import read_yaml

Part = Literal["mmdit", "connectors", "tokens", "plain_text"]


@dataclass(frozen=True)
class Files:
    """Where a run starts. `model` has MMDiT and connectors; `base` an MMDiT alone (HunyuanVideo T2V).

    `plain_text` lets a stage 0 go on from the result of another one: first pictures, then clips too.
    """

    text_encoder: str
    vae: str
    model: str | None = None
    base: str | None = None
    tokens: str | None = None
    plain_text: str | None = None


@dataclass(frozen=True)
class Fresh:
    """Dimensions of a model that starts from random weights; see MMDiTConfig."""

    hidden_size: int
    num_heads: int
    depth: int
    depth_single: int
    depth_refiner: int
    text_dim: int
    rope_axes: tuple[int, int, int]
    patch_size: tuple[int, int, int] = (1, 2, 2)
    mlp_ratio: float = 4.0


@dataclass(frozen=True)
class Optimizer:
    """AdamW and its rate: linear warm-up over `warmup` steps, constant, then linear to zero over the last `decay`.

    `kind` "muon" gives the matrices of the MMDiT's blocks to Muon, at a rate of `muon_rate`. The paper's stages use
    AdamW.
    """

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    eps: float = 1e-8
    clip: float = 1.0
    warmup: int = 0
    decay: int = 0
    kind: Literal["adamw", "muon"] = "adamw"
    muon_rate: float | None = None


@dataclass(frozen=True)
class Flow:
    """Noise levels: `shifted(t, shift)` with t uniform, or the logistic function of a normal variable."""

    shift: float
    time: Literal["uniform", "logit_normal"] = "uniform"
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class Task:
    """One task of the mixture, drawn in proportion to `weight`, and where its examples come from.

    `source`: "toy" (the procedural world), "folder" or "shards" (at `path`). `frames`, at most `data.frames`, limits
    the target and the reference clips, `images` the number of reference pictures; examples with more are skipped and
    listed. `validation`: path of held-out examples of the same kind; the toy world holds out its own. `captions`: which
    ones the toy world writes, or are taken from a folder's manifest or shards. `latents`: read what `vino data encode`
    made beforehand instead of asking the VAE; true looks beside the data, a path names another folder.
    """

    weight: float
    source: Literal["toy", "folder", "shards"] = "folder"
    path: str | None = None
    frames: int | None = None
    images: int | None = None
    batch: int | None = None
    validation: str | None = None
    captions: Literal["long", "short", "both"] = "both"
    latents: bool | str = False


@dataclass(frozen=True)
class Data:
    """`area`: pixels of a frame, and with `smallest_area` the most of them, each sample's being drawn from the range
    between the two; `frames`: longest clip; `batch`: examples per process and pass; `dropout`: chance per
    modality that a condition is left out; `max_tokens`: longest packed sequence, to fit which clips are
    shortened and several reference pictures made smaller; `workers`: threads that read ahead; `vlm_frames`: most frames
    of a clip that the VLM is shown, where it is not the system's own number."""

    tasks: dict[str, Task] = field(metadata={"names": TASKS})
    area: int
    frames: int = 1
    unit: int = 16
    batch: int = 1
    dropout: float = 0.1
    max_tokens: int | None = None
    workers: int = 2
    vlm_frames: int | None = None
    smallest_area: int | None = None


@dataclass(frozen=True)
class Parallel:
    """`mode` matters with several processes: "ddp" copies everything; "zero2" shards gradients, optimizer and EMA, and
    the weights outside of a step; "fsdp2" shards the weights within a step too; "deepspeed" is DeepSpeed's ZeRO-2.
    `timeout`: seconds that a process waits for the others before it gives up."""

    mode: Literal["ddp", "zero2", "fsdp2", "deepspeed"] = "ddp"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    checkpointing: bool = True
    accumulation: int = 1
    timeout: float = 600.0
    device: Literal["auto", "cpu"] = "auto"


@dataclass(frozen=True)
class Save:
    """A checkpoint every `every` steps and at the end; the last `keep` stay."""

    every: int = 500
    keep: int = 3


@dataclass(frozen=True)
class Preview:
    """A sample drawn while training: always the same noise."""

    prompt: str
    width: int
    height: int
    frames: int = 1
    steps: int = 20
    text_scale: float = 5.0
    seed: int = 0

    def request(self, shift: float) -> Request:
        """What is sampled, with the run's timestep shift."""
        return Request(
            prompt=self.prompt,
            negative="",
            width=self.width,
            height=self.height,
            frames=self.frames,
            steps=self.steps,
            text_scale=self.text_scale,
            shift=shift,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Watch:
    """What is written while a run goes on, each every so many steps (0: never). `peak_tflops` is what MFU is measured
    against; None measures a matrix product at the start."""

    log: int = 1
    tensorboard: bool = True
    progress: bool = True
    preview: int = 0
    previews: tuple[Preview, ...] = ()
    validate: int = 0
    validation_examples: int = 16
    peak_tflops: float | None = None


@dataclass(frozen=True)
class Lora:
    """Low-rank updates of every matrix whose name ends with one of `targets`."""

    rank: int = 16
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = (
        "img_attn.qkv", "img_attn.proj", "txt_attn.qkv", "txt_attn.proj", "img_mlp.0", "img_mlp.2",
        "txt_mlp.0", "txt_mlp.2", "linear1", "linear2", "connector.mlp.0", "connector.mlp.2",
        "connector_vae_branch.mlp.0", "connector_vae_branch.mlp.2", "qwen_project_in.mlp.0", "qwen_project_in.mlp.2",
    )  # fmt: skip


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run is. `stage` 0 trains the text-to-video base, 1 to 3 are those of VINO paper section 2.3,
    None is a fine-tuning. `tokens`: how many learnable tokens a run starts with that has no file of them."""

    out: str
    stage: int | None
    steps: int
    train: tuple[Part, ...]
    files: Files
    optimizer: Optimizer
    flow: Flow
    data: Data
    system: str = DEFAULT
    fresh: Fresh | None = None
    tokens: int | None = None
    seed: int = 0
    ema: float | None = None
    any_order: bool = False
    parallel: Parallel = field(default_factory=Parallel)
    save: Save = field(default_factory=Save)
    watch: Watch = field(default_factory=Watch)
    lora: Lora | None = None

    def __post_init__(self) -> None:
        _check(self)

    def identity(self) -> dict[str, Any]:
        """The settings that decide the numbers of a run, as plain values; a resume must keep them.

        Where data lie is none of them: what they hold is compared instead (`contents`).
        """
        values = json.loads(json.dumps(asdict(self)))
        for name in ("out", "steps", "save", "watch", "files"):
            del values[name]
        for name in ("timeout", "device"):
            del values["parallel"][name]
        del values["data"]["workers"]
        if self.data.smallest_area is None:
            del values["data"]["smallest_area"]
        if self.optimizer.kind == "adamw":
            del values["optimizer"]["kind"], values["optimizer"]["muon_rate"]
        if self.optimizer.decay:
            values["steps"] = self.steps
        return comparable(values)


def load_config(path: str | Path, changes: Sequence[str] = ()) -> RunConfig:
    """The config in a YAML file with changes such as `optimizer.learning_rate=1e-4`.

    Raises InputError for a missing or unreadable file or value and for unknown, ill-typed or contradictory settings.
    """
    path = Path(path)
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such config. Shipped ones are in the folder configs.") from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}). Give the path of a YAML file."
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: not readable as YAML ({error}).") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold settings (name: value).")
    given: dict[str, str] = {}
    for change in changes:
        for name in apply_change(change, values):
            given[name] = change
    try:
        return build(RunConfig, values)
    except WrongSetting as error:
        # The most exact one: of `--set lora.rank=x --set lora.alpha=1` the first is the cause of a wrong lora.rank.
        causes = [name for name in given if error.setting == name or error.setting.startswith((f"{name}.", f"{name}["))]
        source = f"--set {given[max(causes, key=len)]}" if causes else str(path)
        raise InputError(f"{source}: {error}") from error


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _check(run: RunConfig) -> None:
    data, optimizer = run.data, run.optimizer
    _require(run.stage in (None, 0, 1, 2, 3), f"stage is {run.stage}; use 0, 1, 2, 3, or null for a fine-tuning.")
    _require(run.steps >= 1, f"steps is {run.steps}; at least 1 is needed.")
    _require(0 <= run.seed < 2**63, f"seed is {run.seed}; it must lie between 0 and 2^63 - 1.")
    _require(
        bool(run.train) or run.lora is not None,
        "train is empty; name at least one of mmdit, connectors, tokens, plain_text, or set lora.",
    )
    _require(len(set(run.train)) == len(run.train), f"train is {list(run.train)}; a name occurs twice.")
    _require(run.tokens is None or run.tokens >= 0, f"tokens is {run.tokens}; it must be 0 or more.")
    _require(run.ema is None or 0 < run.ema < 1, f"ema is {run.ema}; it must lie between 0 and 1, or be null for none.")
    starts = [name for name, value in (("files.model", run.files.model), ("files.base", run.files.base)) if value]
    starts += ["fresh"] if run.fresh else []
    _require(len(starts) == 1, f"a run starts from one of files.model, files.base, fresh; given: {starts or 'none'}.")
    _require(not (run.tokens is not None and run.files.tokens), "tokens and files.tokens contradict: choose one.")
    _require((run.stage == 0) == ("plain_text" in run.train), "train: plain_text belongs to stage 0 and only there.")
    _require(
        bool(run.files.plain_text) == (run.stage == 0 and bool(run.files.model)),
        "files.plain_text belongs beside files.model in a stage 0 that goes on from another one, and only there.",
    )
    if run.stage == 0:
        _require(set(run.train) == {"mmdit", "plain_text"}, "stage 0 trains mmdit and plain_text, nothing else.")
        _require(run.tokens is None and not run.files.tokens, "stage 0 has no learnable tokens: leave them out.")
        _require(set(data.tasks) <= {"t2i", "t2v"}, "stage 0 has no references: its tasks are t2i and t2v.")
    _require(optimizer.learning_rate > 0, f"optimizer.learning_rate is {optimizer.learning_rate}; it must be above 0.")
    _require(
        all(0 <= beta < 1 for beta in optimizer.betas), f"optimizer.betas is {optimizer.betas}; use 0..1, below 1."
    )
    decayed = optimizer.weight_decay
    _require(decayed >= 0, f"optimizer.weight_decay is {decayed}; it must be 0 or more.")
    _require(optimizer.eps > 0, f"optimizer.eps is {optimizer.eps}; it must be above 0.")
    _require(optimizer.clip > 0, f"optimizer.clip is {optimizer.clip}; it must be above 0.")
    for name in ("warmup", "decay"):
        length = getattr(optimizer, name)
        _require(length >= 0, f"optimizer.{name} is {length}; it must be 0 steps or more.")
    _require(
        optimizer.warmup + optimizer.decay <= run.steps,
        f"optimizer: warmup {optimizer.warmup} + decay {optimizer.decay} is more than steps, {run.steps}. Lower "
        "optimizer.warmup or optimizer.decay, or raise steps.",
    )
    muon = optimizer.kind == "muon"
    _require(
        muon == (optimizer.muon_rate is not None), "optimizer.muon_rate belongs to optimizer.kind muon: give both."
    )
    if muon:
        _require(optimizer.muon_rate > 0, f"optimizer.muon_rate is {optimizer.muon_rate}; it must be above 0.")
        allowed = run.lora is None and "mmdit" in run.train
        _require(allowed, "optimizer.kind muon is for the MMDiT's matrices: it needs mmdit in train, and no LoRA.")
        _require(run.parallel.mode == "ddp", "optimizer.kind muon needs whole matrices: set parallel.mode to ddp.")
    for name in ("shift", "std"):
        value = getattr(run.flow, name)
        _require(value > 0, f"flow.{name} is {value}; it must be above 0.")
    _require(
        run.flow.time == "logit_normal" or (run.flow.mean, run.flow.std) == (Flow.mean, Flow.std),
        f"flow.mean and flow.std are of flow.time logit_normal, and it is {run.flow.time}: leave them out.",
    )
    system = get_system(run.system)
    _check_data(data, system)
    parallel = run.parallel
    _require(parallel.accumulation >= 1, f"parallel.accumulation is {parallel.accumulation}; at least 1 is needed.")
    _require(parallel.timeout > 0, f"parallel.timeout is {parallel.timeout} seconds; it must be above 0.")
    for name in ("every", "keep"):
        value = getattr(run.save, name)
        _require(value >= 1, f"save.{name} is {value}; it must be 1 or more.")
    watch = run.watch
    _require(watch.log >= 1, f"watch.log is {watch.log}; it must be 1 or more.")
    for name in ("preview", "validate"):
        value = getattr(watch, name)
        _require(value >= 0, f"watch.{name} is {value}; it must be 0 (never) or more.")
    _require(
        watch.peak_tflops is None or watch.peak_tflops > 0,
        f"watch.peak_tflops is {watch.peak_tflops}; it must be above 0, or null to measure it.",
    )
    _require(not watch.preview or bool(watch.previews), "watch.preview is on, but watch.previews names no prompt.")
    shown = watch.validation_examples
    _require(
        not watch.validate or shown >= 1,
        f"watch.validation_examples is {shown}; it must be 1 or more. To do without, set watch.validate to 0.",
    )
    _require(not (watch.preview and run.stage == 0), "watch.preview: stage 0 has no prompt encoder to preview with.")
    for number, preview in enumerate(watch.previews):
        try:
            preview.request(run.flow.shift).validate(system)
        except InputError as error:
            raise InputError(f"watch.previews[{number}]: {error}") from error
    if run.lora is not None:
        _require(run.stage is None, "lora is a fine-tuning: set stage to null.")
        _require("mmdit" not in run.train and "connectors" not in run.train,
                 "lora keeps the MMDiT and the connectors frozen: train may name tokens only.")  # fmt: skip
        _require(run.lora.rank >= 1, f"lora.rank is {run.lora.rank}; it must be 1 or more.")
        _require(run.lora.alpha > 0, f"lora.alpha is {run.lora.alpha}; it must be above 0.")
        _require(0 <= run.lora.dropout < 1, f"lora.dropout is {run.lora.dropout}; it must lie in 0..1.")


def _check_data(data: Data, system: System) -> None:
    _require(bool(data.tasks), "data.tasks is empty; name at least one task.")
    unknown = sorted(set(data.tasks) - set(TASKS))
    _require(not unknown, f"data.tasks: {', '.join(unknown)} unknown. Known: {', '.join(TASKS)}.")
    _require(any(task.weight > 0 for task in data.tasks.values()), "data.tasks: no task has a weight above 0.")
    for name, task in data.tasks.items():
        _require(task.weight >= 0, f"data.tasks.{name}.weight is {task.weight}; it must be 0 or more.")
        needs = "takes no" if task.source == "toy" else "needs a"
        _require((task.source == "toy") == (task.path is None), f"data.tasks.{name}: {task.source} {needs} path.")
        _require(
            not (task.latents and task.source == "toy"),
            f"data.tasks.{name}.latents: the toy world has no end. Write examples of it with `vino data toy`.",
        )
        _require(
            not (task.validation and task.source == "toy"),
            f"data.tasks.{name}: toy holds out examples of its own and takes no validation path. Leave it out.",
        )
        _require(task.images is None or task.images >= 1, f"data.tasks.{name}.images is {task.images}; use 1 or more.")
        most = SHAPES[name].images[1]
        _require(
            task.images is None or task.images <= most,
            f"data.tasks.{name}.images is {task.images}; {name} takes {most or 'no'} reference pictures. Leave it out.",
        )
        _require(task.batch is None or task.batch >= 1, f"data.tasks.{name}.batch is {task.batch}; use 1 or more.")
        if task.frames is not None:
            check_frames(task.frames)
            _require(
                task.frames == 1 or SHAPES[name].clip,
                f"data.tasks.{name}.frames is {task.frames}; {name} makes a picture. Leave it out, or set it to 1.",
            )
            _require(
                task.frames <= data.frames,
                f"data.tasks.{name}.frames is {task.frames}, and data.frames, the longest clip of all tasks, is "
                f"{data.frames}. Raise that, or lower this.",
            )
        _require(
            task.captions == "both" or task.source != "toy" or name in ("t2i", "t2v"),
            f"data.tasks.{name}.captions is {task.captions}; the toy world has one kind of prompt for {name}. Leave it "
            "out.",
        )
    check_frames(data.frames)
    _require(
        data.unit >= 1 and data.unit % system.unit == 0,
        f"data.unit is {data.unit}; sizes of {system.name} are multiples of {system.unit}: use {system.unit}, or a "
        "multiple of it.",
    )
    _require(data.area >= data.unit**2, f"data.area is {data.area} pixels; at least {data.unit**2} are needed.")
    _require(data.batch >= 1, f"data.batch is {data.batch}; at least 1 is needed.")
    smallest = data.smallest_area
    _require(
        smallest is None or data.unit**2 <= smallest <= data.area,
        f"data.smallest_area is {smallest} pixels; it lies between {data.unit**2} and data.area, {data.area}.",
    )
    cached = [name for name, task in data.tasks.items() if task.latents]
    _require(
        smallest is None or not cached,
        f"data.smallest_area: latents made beforehand (data.tasks.{next(iter(cached), '')}) have one size each. Leave "
        "one of the two out.",
    )
    most = data.max_tokens
    _require(most is None or most >= 1, f"data.max_tokens is {most}; it must be 1 or more, or null for no limit.")
    shown = data.vlm_frames
    _require(shown is None or shown >= 1, f"data.vlm_frames is {shown}; it must be 1 or more, or null.")
    _require(data.workers >= 0, f"data.workers is {data.workers}; it must be 0 or more.")
    _require(0 <= data.dropout < 1, f"data.dropout is {data.dropout}; it must lie in 0..1 (0.1 is usual).")
