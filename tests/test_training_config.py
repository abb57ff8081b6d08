"""Run configs: the shipped ones, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from paths import ROOT
from training_runs import config, tasks

from vino_core.cli import main
from vino_core.errors import InputError
from vino_core.training.config import load_config
from vino_core.training.example import PROXIES as TRAINING_PROXIES
from vino_core.training.stages import check_stage

SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))
PAPER = {
    # stage: rate, betas, steps, EMA, area, shift, trainable (VINO paper sections 2.3, 3.1 and B)
    1: (1e-4, (0.9, 0.99), 20_000, None, 320**2, 3, {"connectors", "tokens"}),
    2: (4e-5, (0.9, 0.95), 4_000, 0.9999, 640**2, 5, {"connectors", "tokens", "mmdit"}),
    3: (2e-5, (0.9, 0.95), 16_000, 0.9999, 640**2, 5, {"connectors", "tokens", "mmdit"}),
}


def test_all_shipped_configs_are_there() -> None:
    wanted = {f"{name}_stage{n}" for name in ("vino", "vogue", "tiny", "vogue_tiny") for n in (1, 2, 3)}
    assert {path.stem for path in SHIPPED} == wanted | {
        "tiny_stage0",
        "tiny_stage0_clips",
        "tiny_stage0_fine",
        "tiny_stage3_more",
        "vogue_tiny_stage0",
        "lora_finetune",
        "lora_tiny",
    }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_are_valid(path: Path) -> None:
    run = load_config(path)
    assert sum(task.weight for task in run.data.tasks.values()) == pytest.approx(1)
    before = {} if run.stage in (None, 0, 1) else {"stage": str(run.stage - 1)}
    check_stage(run, before)


@pytest.mark.parametrize("stage", PAPER)
def test_the_stages_are_those_of_the_paper(stage: int) -> None:
    run = load_config(ROOT / "configs" / f"vino_stage{stage}.yaml")
    found = (run.optimizer.learning_rate, run.optimizer.betas, run.steps, run.ema, run.data.area, run.flow.shift)
    assert (*found, set(run.train)) == PAPER[stage]
    assert (run.optimizer.weight_decay, run.optimizer.clip, run.data.dropout, run.data.batch) == (0.01, 1.0, 0.1, 1)
    assert run.parallel.mode == "zero2" and run.parallel.checkpointing


def test_settings_change_from_the_command_line() -> None:
    path = ROOT / "configs" / "vino_stage1.yaml"
    run = load_config(path, ["optimizer.learning_rate=3e-5", "data.tasks.t2i.weight=2", "ema=0.5", "seed=7"])
    assert (run.optimizer.learning_rate, run.data.tasks["t2i"].weight, run.ema, run.seed) == (3e-5, 2.0, 0.5, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.learnig_rate=1", "Did you mean 'learning_rate'"),
        ("optimizer.learning_rate=fast", "learning_rate is 'fast'; it must be of type float"),
        ("steps=1.5", "steps is 1.5; it must be of type int"),
        ("parallel.mode=zero9", "must be one of ddp, zero2"),
        ("optimizer.betas=[0.9]", "a list of 2 values"),
        ("train=[vlm]", "must be one of mmdit, connectors"),
        ("train=[]", "train is empty"),
        ("stage=4", "stage is 4"),
        ("ema=1.5", "ema is 1.5"),
        ("data.dropout=1", "dropout is 1.0"),
        ("data.tasks.t2x={weight: 1, source: toy}", "data.tasks: 't2x' is unknown. .*Known: t2i"),
        ("data.tasks.t2i.source=toy", "toy takes no path"),
        ("data.frames=6", "6 frames"),
        ("files.model=x.safetensors", "starts from one of files.model, files.base, fresh"),
        ("tokens=5", None),
        ("files.tokens=x", None),
        ("lora.rank=4", "lora is a fine-tuning"),
        (
            "optimizer.warmup=99999",
            r"warmup 99999 \+ decay 0 is more than steps, 20000\. Lower optimizer.warmup or optimizer.decay, or",
        ),
        ("optimizer.warmup=-1", r"optimizer.warmup is -1; it must be 0 steps or more"),
        ("optimizer.decay=-2", r"optimizer.decay is -2; it must be 0 steps or more"),
        ("optimizer.weight_decay=-1", r"optimizer.weight_decay is -1.0; it must be 0 or more"),
        ("optimizer.eps=0", r"optimizer.eps is 0.0; it must be above 0"),
        ("flow.shift=0", r"flow.shift is 0.0; it must be above 0"),
        ("save.keep=0", r"save.keep is 0; it must be 1 or more"),
        ("watch={validate: 5, validation_examples: 0}", r"validation_examples is 0; it must be 1 or more. To do with"),
        ("watch.preview=0", None),
        ("watch.previews=[]", "names no prompt"),
        ("nonsense", "write it as name=value"),
        ("train=[a", r"--set train=\[a: the value is not readable as YAML .*Close its brackets, or quote it"),
        ("out=2026-13-45", "--set out=2026-13-45: the value is not readable as YAML"),
        ("flow.mean=2", "flow.mean and flow.std are of flow.time logit_normal, and it is uniform"),
        ("flow={shift: 2, time: logit_normal, std: 2}", None),
        ("flow={shift: 2, shift: 3}", "'shift' is given twice; keep one"),
        ("flow.mean=.nan", "flow.mean is nan; it must be a finite number"),
        ("data.tasks.t2i.weight=.inf", "data.tasks.t2i.weight is inf; it must be a finite number"),
        ("optimizer.learning_rate=nan", "learning_rate is 'nan'; it must be a finite number"),
        ("optimizer.betas=[0.9, .nan]", "betas is nan; it must be a finite number"),
        ("data.tasks.t2i.images=0", "data.tasks.t2i.images is 0; use 1 or more"),
        ("data.max_tokens=0", "data.max_tokens is 0; it must be 1 or more"),
        ("tokens=-1", "tokens is -1; it must be 0 or more"),
        ("watch.validate=-5", "watch.validate is -5; it must be 0"),
        ("watch.peak_tflops=0", "peak_tflops is 0.0; it must be above 0"),
        ("data.tasks.t2i.captions=medium", "must be one of long, short, both"),
        (
            "data.tasks.t2i={weight: 1, source: toy, validation: kept}",
            "t2i: toy holds out examples of its own and takes",
        ),
        ("data.unit=24", "data.unit is 24; sizes of vino are multiples of 16: use 16"),
        ("data.unit=32", None),
        ("data.tasks.t2i.images=3", "data.tasks.t2i.images is 3; t2i takes no reference pictures. Leave it out"),
        ("data.tasks.reconstruct_image.images=2", "images is 2; reconstruct_image takes 1 reference pictures"),
        ("data.tasks.t2i.frames=9", "data.tasks.t2i.frames is 9; t2i makes a picture. Leave it out, or set it to 1"),
        (
            "data.tasks.t2v.frames=89",
            "data.tasks.t2v.frames is 89, and data.frames, the longest clip of all tasks, is 85",
        ),
        (
            "data.tasks.ti2i={weight: 1, source: toy, captions: long}",
            "ti2i.captions is long; the toy world has one kind of prompt for ti2i. Leave it out",
        ),
        ("data.tasks.t2i={weight: 1, source: toy, captions: long}", None),
        ("watch.previews=[{prompt: a fox, width: 33, height: 32}]", r"watch.previews\[0\]: Size 33 x 32: width and"),
        ("watch.previews=[{prompt: a fox, width: 32, height: 32, frames: 93}]", r"watch.previews\[0\]: 93 frames"),
    ],
)
def test_wrong_settings_are_refused(change: str, message: str | None) -> None:
    path = ROOT / "configs" / "vino_stage1.yaml"
    if message is None:
        load_config(path, [change])
        return
    with pytest.raises(InputError, match=message):
        load_config(path, [change])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["optimizer.learning_rate=abc"], "--set optimizer.learning_rate=abc: optimizer.learning_rate is 'abc';"),
        (["data.tasks.foo.path=x"], "--set data.tasks.foo.path=x: data.tasks: 'foo' is unknown. Known: t2i, "),
        (["data.tasks.tv2v.path=x"], "--set data.tasks.tv2v.path=x: data.tasks.tv2v: 'weight' is missing."),
        (["lora.alpha=1", "lora.rank=x"], "--set lora.rank=x: lora.rank is 'x'; it must be of type int."),
        (["watch.previews=[{prompt: 5}]"], "--set watch.previews=[{prompt: 5}]: watch.previews[0]: 'width' is"),
        (["stepz=5"], "--set stepz=5: 'stepz' is unknown. Did you mean 'steps'? Known: out, stage, "),
        (["steps=9"], "{path}: optimizer.clip is 'often'; it must be of type float."),
        (["optimizer=5"], "--set optimizer=5: optimizer: must be a group of settings, not 5."),
    ],
)
def test_a_wrong_setting_is_looked_for_where_it_was_given(tmp_path: Path, changes: list[str], message: str) -> None:
    shipped = (ROOT / "configs" / "vino_stage1.yaml").read_text()
    path = tmp_path / "run.yaml"
    path.write_text(shipped.replace("clip: 1.0", "clip: often") if "{path}" in message else shipped)
    with pytest.raises(InputError) as error:
        load_config(path, changes)
    assert str(error.value).startswith(message.replace("{path}", str(path)))


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """The later one would win, and settings of a group that stands twice would be lost."""
    shipped = (ROOT / "configs" / "vino_stage1.yaml").read_text()
    for more in ("optimizer: {learning_rate: 9.0}\n", "steps: 7\n"):
        (tmp_path / "run.yaml").write_text(shipped + more)
        name = more.split(":")[0]
        with pytest.raises(InputError, match=rf"(?s)run.yaml: not readable as YAML \('{name}' is given twice.*line \d"):
            load_config(tmp_path / "run.yaml")


def test_contradictions_are_refused(tmp_path: Path) -> None:
    for changes, message in [
        ({"files": {"text_encoder": "-", "vae": "-", "tokens": "x"}}, "tokens and files.tokens contradict"),
        ({"stage": 0}, "plain_text belongs to stage 0"),
        ({"files": {"text_encoder": "-", "vae": "-", "plain_text": "x"}}, "files.plain_text belongs beside"),
        ({"stage": 0, "train": ["mmdit", "plain_text"]}, "no learnable tokens"),
        ({"stage": None, "lora": {}, "train": ["mmdit"]}, "lora keeps the MMDiT"),
        ({"data": {"tasks": {}}}, "data.tasks is empty"),
        ({"data": {"tasks": {"t2i": {"weight": 0, "source": "toy"}}}}, "no task has a weight"),
    ]:
        with pytest.raises(InputError, match=message):
            config(tmp_path, **changes)


@pytest.mark.parametrize(
    ("stage", "train", "before", "message"),
    [
        (1, ["connectors", "tokens"], None, None),
        (1, ["connectors", "tokens"], "0", None),
        (1, ["connectors", "tokens"], "2", "starts from the result of stage 0; .* is the result of stage 2"),
        (1, ["connectors", "tokens", "mmdit"], None, "stage 1 trains connectors, tokens"),
        (2, ["connectors", "tokens", "mmdit"], "1", None),
        (2, ["connectors", "tokens", "mmdit"], None, "of no known stage"),
        (3, ["connectors", "tokens", "mmdit"], "1", "starts from the result of stage 2"),
        (3, ["connectors", "tokens"], "2", "stage 3 trains"),
    ],
)
def test_the_order_of_stages(tmp_path: Path, stage: int, train: list, before: str | None, message: str | None) -> None:
    metadata = {} if before is None else {"stage": before}
    start = {"files": {"text_encoder": "-", "vae": "-", "model": "before.safetensors"}, "fresh": None}
    run = config(tmp_path, stage=stage, train=train, any_order=False, **start)
    if message is None:
        check_stage(run, metadata)
        return
    with pytest.raises(InputError, match=message):
        check_stage(run, metadata)
    check_stage(config(tmp_path, stage=stage, train=train, any_order=True), metadata)


def test_stages_that_start_from_no_result_of_a_stage_say_so(tmp_path: Path) -> None:
    parts = ["connectors", "tokens", "mmdit"]
    base = {"text_encoder": "-", "vae": "-", "base": "t2v.safetensors"}
    run = config(tmp_path, stage=2, train=parts, any_order=False, files=base, fresh=None)
    with pytest.raises(InputError, match="result of stage 1; files.base t2v.safetensors has no connectors yet. Give"):
        check_stage(run, {})
    with pytest.raises(InputError, match="result of stage 1; fresh weights are where stage 0 begins"):
        check_stage(config(tmp_path, stage=2, train=parts, any_order=False), {})
    files = {"text_encoder": "-", "vae": "-", "model": "later.safetensors", "plain_text": "x"}
    run = config(tmp_path, stage=0, train=["mmdit", "plain_text"], any_order=False, files=files, fresh=None,
                 tokens=None, data={"tasks": tasks("t2i")})  # fmt: skip
    with pytest.raises(
        InputError, match="stage 0 starts from fresh weights, or .*; later.safetensors is the result of"
    ):
        check_stage(run, {"stage": "1"})


CAPTIONS = {1: "long", 2: "both", 3: "both"}
PROXIES = {1: {"reconstruct_image"}, 2: {"select_image"}, 3: set()}


@pytest.mark.parametrize("stage", CAPTIONS)
def test_captions_and_proxy_tasks_are_those_of_the_paper(stage: int) -> None:
    """VINO paper section 2.3: long captions and reconstruction, then short ones too and selection, then all tasks."""
    found = load_config(ROOT / "configs" / f"vino_stage{stage}.yaml").data.tasks
    assert {found[name].captions for name in ("t2i", "t2v")} == {CAPTIONS[stage]}
    assert set(found) & set(TRAINING_PROXIES) == PROXIES[stage]


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "none.yaml")]) == 1
    assert "there is no such config" in capsys.readouterr().err
    (tmp_path / "bad.yaml").write_text("a: [")
    assert main(["train", str(tmp_path / "bad.yaml")]) == 1
    assert "not readable as YAML" in capsys.readouterr().err
    (tmp_path / "day.yaml").write_text("out: 2026-13-45")
    assert main(["train", str(tmp_path / "day.yaml")]) == 1
    assert "not readable as YAML" in capsys.readouterr().err
    assert main(["train", str(tmp_path)]) == 1
    assert "cannot be read (Is a directory). Give the path of a YAML file" in capsys.readouterr().err
