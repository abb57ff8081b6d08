"""The page that compares both systems: what it counts, what it shows of scores and pictures, what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import systems_page
import torch
from comparison import measuring
from comparison.costs import Costs
from comparison.jobs import JOBS, TITLES, Job
from comparison.measuring import Race, check_systems, race, read_reports, shared_tasks
from comparison.page import PICTURE
from comparison.page import systems_page as make_page
from paths import ROOT
from PIL import Image
from test_toyworld_evaluation import is_shown
from training_runs import one_thread  # noqa: F401
from vogue_tiny_files import write_vogue_tiny

from vino_core.errors import InputError
from vino_core.systems.base import System
from vino_core.systems.vino import VINO
from vino_core.systems.vino_tiny import VINO_TINY
from vino_core.systems.vogue import VOGUE
from vino_core.systems.vogue_tiny import VOGUE_TINY
from vino_core.toyworld import requests
from vino_core.toyworld.evaluate import Evaluation, Sample, evaluate
from vino_core.toyworld.requests import Settings, from_pipeline
from vino_core.toyworld.scorers import Score
from vino_core.toyworld.sheet import comparison_sheet
from vino_core.toyworld.tasks import ToySource
from vino_core.training.config import load_config
from vino_core.training.example import GENERATION_TASKS
from vino_core.training.flops import ForwardCost

TINY = (VINO_TINY, VOGUE_TINY)
SETTINGS = Settings(steps=1, text_scale=2.0, shift=2.0, seed=3)
WORLD = {"split": "heldout", "seed": 3, "size": 64, "frames": 5, "captions": "short"}
KNOWN = {"count": 40, **WORLD, **vars(SETTINGS)}
RUN = ("t2i", "i2v", "tv2v")


@pytest.fixture(scope="module")
def costs() -> dict[str, Costs]:
    return {system.name: Costs(system) for system in (VINO, VOGUE)}


def estimate(value: float, reach: float, count: int = 40) -> dict[str, float]:
    return {"value": value, "low": value - reach, "high": value + reach, "count": count}


def report(name: str, tasks: dict[str, tuple[float, float]], reach: float = 0.05, **settings: Any) -> dict[str, Any]:
    """A made-up report: the rates of followed and passed by task."""
    count = settings.get("count", KNOWN["count"])
    rows = {
        task: {"count": count, "followed": estimate(followed, reach), "passed": estimate(passed, reach)}
        for task, (followed, passed) in tasks.items()
    }
    return {"settings": {**KNOWN, "system": name, **settings}, "tasks": rows}


def stored(folder: Path, *reports: dict[str, Any]) -> list[Path]:
    paths = [folder / f"report-{number}.json" for number in range(len(reports))]
    for path, content in zip(paths, reports, strict=True):
        path.write_text(json.dumps(content))
    return paths


def row_of(page: str, title: str, section: str) -> list[str]:
    """The cells of a row of a section's table."""
    lines = page.split(f"## {section}")[1].split("\n## ")[0].splitlines()
    (line,) = (line for line in lines if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_every_task_has_a_title_and_a_count() -> None:
    assert sorted(TITLES) == sorted(GENERATION_TASKS)
    assert [job.task for job in JOBS] == list(TITLES)


# A latent frame of 848 x 480 has 30 x 53 tokens, of 832 x 480 30 x 52, of 848 x 464 29 x 53. 129 frames are 33 latent
# ones, 81 are 21, 61 are 16. The text stream is 200 tokens, VINO's 256 learnable ones, and what the VLM makes of each
# reference: VINO a picture of 848 x 480 as 840 x 476 and then 832 x 480 in squares of 32, and four times two frames of
# 1280 x 720 as 1008 x 560 and then 1024 x 576; VOGUE in squares of 28, a clip of two frames, and a reference as a
# square of its own, 1280 reduced to 616.
@pytest.mark.parametrize(
    ("name", "job", "size", "tokens", "passes"),
    [
        ("vino", Job("t2i"), (640, 640, 1), 40 * 40 + 456, (50, 2)),
        ("vino", Job("ti2i", images=1), (848, 480, 1), 30 * 53 * 2 + 2 + 456 + 26 * 15, (50, 2)),
        (
            "vino",
            Job("ti2i_baseimg", images=2, base_image=True),
            (848, 480, 1),
            30 * 53 * 3 + 2 * 2 + 456 + 2 * 26 * 15,
            (50, 3),
        ),
        ("vino", Job("tv2v", videos=1), (848, 464, 81), 29 * 53 * 21 * 2 + 2 + 456 + 4 * 32 * 18, (50, 2)),
        ("vogue", Job("t2v"), (848, 480, 61), 30 * 53 * 16 + 200, (30, 2)),
        ("vogue", Job("i2v", images=1), (848, 480, 129), 30 * 53 * 33 + 200 + 17 * 30, (30, 2)),
        ("vogue", Job("ti2v", images=2), (832, 480, 129), 30 * 52 * (33 + 2) + 200 + 2 * 22 * 22, (50, 3)),
        ("vogue", Job("tv2v", videos=1), (848, 480, 129), 30 * 53 * 33 * 2 + 200 + 17 * 30, (50, 3)),
    ],
    ids=lambda value: value.task if isinstance(value, Job) else None,
)
def test_tokens_are_those_counted_by_hand(
    costs: dict[str, Costs], name: str, job: Job, size: tuple[int, int, int], tokens: int, passes: tuple[int, int]
) -> None:
    cost = costs[name].of(job)
    assert (cost.width, cost.height, cost.frames) == size
    assert (cost.tokens, (cost.steps, cost.branches)) == (tokens, passes)


def operations(tokens: int) -> float:
    """Of the 60 blocks of width 3072: 24 h^2 a token, and 4 h a pair of tokens."""
    return 60 * (24 * 3072**2 * tokens + 4 * 3072 * tokens**2)


@pytest.mark.parametrize(
    ("name", "job", "lengths"),
    [
        ("vino", Job("t2v"), [(456, 30 * 53 * 22)] * 2),
        # Two passes with the clip, and one without it and without what the VLM makes of it.
        ("vogue", Job("tv2v", videos=1), [(200 + 17 * 30, 30 * 53 * 33 * 2)] * 2 + [(200, 30 * 53 * 33)]),
        # VINO's third pass drops the picture, with its two boundaries, and keeps the clip.
        (
            "vino",
            Job("tiv2v", images=1, videos=1),
            [(456 + 26 * 15 + 4 * 32 * 18, 29 * 53 * 21 * 2 + 30 * 53 + 2 * 2)] * 2
            + [(456 + 4 * 32 * 18, 29 * 53 * 21 * 2 + 2)],
        ),
    ],
    ids=["t2v", "tv2v", "tiv2v"],
)
def test_operations_are_those_of_every_pass(
    costs: dict[str, Costs], name: str, job: Job, lengths: list[tuple[int, int]]
) -> None:
    """`lengths`: text and visual tokens of a step's passes."""
    found = costs[name].of(job).petaflops * 1e15
    assert found == pytest.approx(50 * sum(ForwardCost(costs[name].model)(*each) for each in lengths), rel=1e-9)
    assert found == pytest.approx(50 * sum(operations(sum(each)) for each in lengths), rel=0.01)


def test_weights_are_those_of_the_published_models(costs: dict[str, Costs]) -> None:
    """The language models' own pages say 4,437,815,808 and 8,292,166,656; VOGUE adds 514 rows to two tables of its."""
    assert costs["vino"].text_encoder == 4_437_815_808
    assert costs["vogue"].text_encoder == 8_292_166_656 + 2 * 514 * 3584
    assert costs["vogue"].parameters / 1e9 == pytest.approx(12.919, abs=1e-3)
    assert costs["vogue"].of(Job("tiv2v_clone", 1, 1)) is None


def made_up(**changes: Any) -> str:
    """A page from made-up scores, with `changes` to VOGUE's report."""
    vino = report("vino-tiny", {"t2i": (0.9, 0.8), "ti2i": (0.6, 0.3), "tiv2v_clone": (0.2, 0.1)})
    vogue = {**report("vogue-tiny", {"t2i": (0.7, 0.75), "ti2i": (0.65, 0.42)}), **changes}
    seconds = {"vino-tiny": {"t2i": 0.123, "ti2i": 0.2}, "vogue-tiny": {"t2i": 0.1, "ti2i": 12.3456}}
    raced = Race([], seconds, {"vino-tiny": 7_100_000, "vogue-tiny": 5_460_000}, "3 CPU threads")
    return make_page(TINY, {"vino-tiny": vino, "vogue-tiny": vogue}, raced)


@pytest.fixture(scope="module")
def page() -> str:
    return made_up()


def test_scores_stand_in_their_rows(page: str) -> None:
    section = "The miniatures, side by side"
    assert row_of(page, "text to image", section) == [
        "40", "**90** (85 to 95)", "80 (75 to 85)", "0.12", "70 (65 to 75)", "75 (70 to 80)", "0.10",
    ]  # fmt: skip
    # The intervals overlap on the left, not on the right.
    assert row_of(page, "edit an image", section) == [
        "40", "60 (55 to 65)", "30 (25 to 35)", "0.20", "65 (60 to 70)", "**42** (37 to 47)", "12.35",
    ]  # fmt: skip
    assert row_of(page, "clone a motion", section) == ["40", "20 (15 to 25)", "10 (5 to 15)", *["–"] * 4]
    assert "of one system only (clone a motion)" in page
    assert "text to video" not in page.split(section)[1], "not measured"
    assert (
        "1 steps, text guidance 2, shift 2, image guidance of each task's preset." in page
        and "on 3 CPU threads" in page
    )
    assert "vino-tiny's transformer has 7.1 million weights and vogue-tiny's transformer has 5.5 million" in page


def test_counts_stand_in_their_rows(page: str, costs: dict[str, Costs]) -> None:
    assert row_of(page, "edit a video", "Work of one generation") == [
        "50 x 2", "67,316", "426", "5.3", "50 x 3", "105,650", "1,105", "8.6",
    ]  # fmt: skip
    assert row_of(page, "clone a motion", "Work of one generation")[4:] == ["–"] * 4
    assert row_of(page, "its weights", "Facts") == ["4.4 billion, 9 GB", "8.3 billion, 17 GB"]
    assert row_of(page, "most frames", "Facts") == ["89", "129"]
    assert row_of(page, "learnable tokens", "Facts") == ["256", "none; 512 in the variant with queries"]
    assert row_of(page, "text guidance of 1, which saves a pass", "Facts") == ["yes", "no"]
    vino, vogue = row_of(page, "references to video", "What each does")
    assert vino == "[`ti2v`](../workflows/vino_references_to_video.json): 848 x 480, 81 frames"
    assert vogue == "[`multiid`](../workflows/vogue_references_to_video.json): 832 x 480, 129 frames"
    drawn = row_of(page, "a drawn canvas to video", "What each does")
    assert drawn == ["–", "[`multiid`](../workflows/vogue_think_canvas.json)"]
    assert VINO.thinking is None and VOGUE.thinking["canvas"].task == "multiid"


def test_what_a_miniature_was_never_taught_is_said(page: str) -> None:
    assert "never a video alone" in page
    runs = [load_config(path) for path in (ROOT / "configs").glob("vogue_tiny_stage*.yaml")]
    taught = {name for run in runs for name, task in run.data.tasks.items() if task.weight}
    assert len(runs) > 2 and "tv2v" not in taught and {"ti2i", "tiv2v"} <= taught


def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", page)
    assert len(links) > 20 and links.count(PICTURE) == 1
    assert [link for link in links if link != PICTURE and not (ROOT / "docs" / link).is_file()] == []
    assert "### Licences of the weights" in (ROOT / "README.md").read_text()


def test_tables_have_as_many_cells_in_every_row(page: str) -> None:
    for block in page.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1


def test_the_advice_is_what_the_systems_do(page: str, costs: dict[str, Costs]) -> None:
    """Row by row of "Which one"."""
    table = page.split("## Which one")[1].split("##")[0]
    taken = [line.split("|")[2].strip() for line in table.splitlines() if line.startswith("| ")][2:]
    assert taken == ["VINO"] * 3 + ["VOGUE"] * 4 + ["VINO"] * 2
    assert VINO.prompt.image_label and not VOGUE.prompt.image_label and VOGUE.prompt.image_tag
    assert VINO.boundary_connector and not VOGUE.boundary_connector
    assert VINO.arrange("tiv2v", 3, 2).before == (0, 1, 2, 3, 4) and VOGUE.one_size and not VINO.one_size
    with pytest.raises(InputError, match="1 video"):
        VOGUE.arrange("i+v2v_edit", 3, 2)
    assert {"tiv2v_clone", "tiv2v_camclone"} <= set(VINO.training_tasks) - set(VOGUE.training_tasks)
    assert (VINO.arrange("i2v", 1, 0).first_frame, VOGUE.arrange("i2v", 1, 0).first_frame) == (None, 0)
    assert VOGUE.thinking and VOGUE.max_frames > VINO.max_frames
    assert "129 frames, 5.4 seconds; VINO 89, 3.7 seconds" in table
    vino, vogue = ([each.of(job).petaflops for job in (Job("t2v"), Job("tv2v", videos=1))] for each in costs.values())
    assert vogue[0] < vino[0] / 2 and vino[1] < vogue[1] / 2
    # 400 TFLOP/s are 24 PFLOP a minute.
    assert f"{vogue[0] / 24:.0f} minutes against {vino[0] / 24:.0f} minutes" in table
    assert f"{vino[1] / 24:.0f} minutes against {vogue[1] / 24:.0f} minutes: 2 passes a step and 81 frames" in table
    assert "35 GB of transformer and text encoder in 16 bits, VOGUE's are 42 GB" in table


def test_reports_of_other_tasks_are_put_together(tmp_path: Path) -> None:
    pictures, clips = (
        report("vino-tiny", {task: (0.5, 0.5)}, count=count) for task, count in (("t2i", 40), ("t2v", 9))
    )
    found = read_reports(stored(tmp_path, pictures, report("vogue-tiny", {"t2i": (0.1, 0.1)}), clips))
    assert {name: list(each["tasks"]) for name, each in found.items()} == {
        "vino-tiny": ["t2i", "t2v"],
        "vogue-tiny": ["t2i"],
    }
    check_systems(TINY, found)
    assert shared_tasks(TINY, found) == ["t2i"]


ONE, OTHER = report("vino-tiny", {"t2i": (0.5, 0.5)}), report("vogue-tiny", {"t2i": (0.5, 0.5)})
OLD = {**OTHER, "settings": {name: value for name, value in OTHER["settings"].items() if name != "system"}}


@pytest.mark.parametrize(
    ("reports", "message"),
    [
        ([ONE, report("vogue-tiny", {"t2i": (0.5, 0.5)}, steps=9, seed=4)], r"settings than .*\(seed, steps\)"),
        ([ONE, report("vogue-tiny", {"t2i": (0.5, 0.5)}, captions="long")], r"\(captions\)"),
        ([ONE, report("vogue-tiny", {"t2i": (0.5, 0.5)}, negative="blurred")], r"\(negative\)"),
        ([ONE, OTHER, ONE], "t2i of vino-tiny in a second report"),
        ([ONE, OLD], "is no report.json of `vino eval toy`, or an old one"),
        ([ONE, []], "is no report.json"),
        ([ONE], "the models are vino-tiny and vogue-tiny, the reports of vino-tiny"),
        ([ONE, report("vogue", {"t2i": (0.5, 0.5)})], "the reports of vino-tiny and vogue"),
        ([ONE, report("vogue-tiny", {"t2i": (0.5, 0.5)}, count=7)], "t2i: measured on more examples of one system"),
        ([ONE, report("vogue-tiny", {"ti2i": (0.5, 0.5)})], "no task in common"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, reports: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_systems(TINY, read_reports(stored(tmp_path, *reports)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reports", "nowhere.json"], "nowhere.json: cannot be read (No such file or directory). `vino eval toy`"),
        (["--reports", "broken.json"], "broken.json: is not JSON"),
        (["--reports", "report-0.json", "--models", "empty", "empty"], "--models empty: holds no model.safetensors"),
        (["--reports", "report-0.json", "--shown", "0"], "--shown 0: at least one"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    stored(tmp_path, ONE)
    Path("broken.json").write_text("{")
    Path("empty").mkdir()
    assert systems_page.main([*words, "--docs", "docs"]) == 1
    said = capsys.readouterr().err
    assert message in said and said.startswith("error: ") and said.count("\n") == 1
    assert not Path("docs").exists()


class Recorder:
    """Stands in for generating: keeps what each system is asked, and answers with grey."""

    def __init__(self) -> None:
        self.asked: dict[str, list[requests.Request]] = {}

    def __call__(self, pipeline: Any, given: list[requests.Request]) -> list[torch.Tensor]:
        (request,) = given
        self.asked.setdefault(pipeline.system.name, []).append(request)
        return [torch.full((request.frames, request.height, request.width, 3), 128, dtype=torch.uint8)]


def stand_in(system: System) -> Any:
    return SimpleNamespace(system=system, model=torch.nn.Linear(2, 1), device="cpu")


def test_both_are_asked_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(requests, "generate_batch", recorder)
    rates = {task: (0.5, 0.5) for task in GENERATION_TASKS if task in VOGUE_TINY.training_tasks}
    reports = {system.name: report(system.name, rates) for system in TINY}
    found = race([stand_in(system) for system in TINY], reports, shown=2, timed=1)
    one, other = recorder.asked.values()
    assert len(one) == len(other) == 2 * len(rates) == 16
    examples = [ToySource(task, **WORLD).example(number) for task in TITLES if task in rates for number in range(2)]
    for example, vino, vogue in zip(examples, one, other, strict=True):
        assert vino.prompt == vogue.prompt == example.prompt and vino.seed == vogue.seed
        for name in ("width", "height", "frames", "steps", "text_scale", "shift", "negative"):
            assert getattr(vino, name) == getattr(vogue, name)
        scales = [VINO_TINY.presets[example.task].image_scale, VOGUE_TINY.presets[vogue.task].image_scale]
        assert [vino.image_scale, vogue.image_scale] == scales
        for request in (vino, vogue):
            assert len(request.references.videos) == len(example.videos)
            pictures = [image.pixels for image in request.references.images]
            assert len(pictures) == len(example.images) and all(map(torch.equal, pictures, example.images))
    assert len({request.seed for request in one}) == 16
    assert {request.steps for request in one} == {SETTINGS.steps}
    assert [list(card) for card in found.cards] == [["vino-tiny", "vogue-tiny"]] * 16
    assert {name: list(each) for name, each in found.seconds.items()} == {
        system.name: [task for task in TITLES if task in rates] for system in TINY
    }
    assert found.weights == {"vino-tiny": 3, "vogue-tiny": 3} and "CPU thread" in found.machine


def test_the_first_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.cumsum([0, 50, 0, 60, 0, 1, 0, 4, 0, 3, 0, 5, 0, 2, 0, 9]).tolist())
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(requests, "generate_batch", Recorder())
    reports = {system.name: report(system.name, {"t2i": (0.5, 0.5)}) for system in TINY}
    found = race([stand_in(system) for system in TINY], reports, shown=1, timed=3)
    assert found.seconds == {"vino-tiny": {"t2i": 2}, "vogue-tiny": {"t2i": 5}}
    assert len(found.cards) == 1


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The shipped vino-tiny, and a random vogue-tiny beside it."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "vino-tiny").symlink_to(ROOT / "models" / "vino-tiny", target_is_directory=True)
    return [folder / "vino-tiny", write_vogue_tiny(folder)]


@pytest.fixture(scope="module")
def evaluations(models: list[Path]) -> list[Evaluation]:
    world = {name: value for name, value in WORLD.items() if name not in ("split", "seed")}
    made = []
    for folder in models:
        pipeline = measuring.load(folder, "cpu")
        settings = {**vars(SETTINGS), "system": pipeline.system.name}
        generate: Callable[..., Any] = from_pipeline(pipeline, SETTINGS)
        made.append(evaluate(generate, RUN, 1, WORLD["split"], WORLD["seed"], **world, settings=settings))
    return made


def test_pictures_are_the_results_that_were_scored(
    models: list[Path], evaluations: list[Evaluation], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole command, on files: references, both results and truths of the very examples behind the scores."""
    paths = stored(tmp_path, *(each.report.as_json() for each in evaluations))
    words = ["--models", *models, "--reports", *paths, "--shown", "1", "--device", "cpu", "--docs", tmp_path / "docs"]
    assert systems_page.main([str(word) for word in words]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "docs" / name) for name in ("systems.md", PICTURE)]
    sheet = torch.from_numpy(np.array(Image.open(tmp_path / "docs" / PICTURE)))
    for evaluation in evaluations:
        for sample in evaluation.samples:
            example = sample.toy.example
            clips = [sample.result, example.target, *example.videos, *(image[None] for image in example.images)]
            for pixels in (clip[place] for clip in clips for place in (0, -1)):
                assert is_shown(sheet, pixels.repeat_interleave(2, 0).repeat_interleave(2, 1)), example.id
    vino, vogue = (each.samples[0].result for each in evaluations)
    assert not torch.equal(vino, vogue)
    page = (tmp_path / "docs" / "systems.md").read_text()
    for task in RUN:
        cells = row_of(page, TITLES[task], "The miniatures, side by side")
        values = [f"{100 * each.report.tasks[task].values['followed'].value:.0f}" for each in evaluations]
        assert [re.match(r"\**(\d+)", cell)[1] for cell in (cells[1], cells[4])] == values
        assert cells[0] == "1" and float(cells[3]) > 0 < float(cells[6])


def wrong(task: str, **changes: Any) -> Sample:
    """A result that missed a lot."""
    toy = ToySource(task, **WORLD).toy(0)
    checks = dict.fromkeys("background style count camera found shape size colour texture place".split(), False)
    return Sample(toy, torch.zeros_like(toy.example.target), Score(**{"checks": checks, "untouched": 12.3, **changes}))


def test_no_word_leaves_its_card() -> None:
    cards = [{"vino-tiny": wrong("ti2i"), "a system with a long name": wrong("ti2i")}] * 2
    sheet = comparison_sheet(cards, TITLES).int()
    gaps = [column for column in range(sheet.shape[1]) if (sheet[60:, column] == 255).all()]
    middle = [column for column in gaps if 900 < column < 1100]
    assert len(middle) >= 10 and gaps[-1] == sheet.shape[1] - 1 and sheet.shape[1] - 12 in gaps


@pytest.mark.parametrize(
    ("changes", "is_right"),
    [
        ({}, False),
        ({"checks": {"found": True}, "kept": False}, False),
        ({"checks": {"found": True}, "identity": False}, False),
        ({"checks": {"found": True}, "kept": True, "identity": True}, True),
    ],
)
def test_green_is_all_of_it(changes: dict[str, Any], is_right: bool) -> None:
    """As the table's column of that name."""
    sample = wrong("ti2i", **changes)
    assert sample.score.passed is is_right
    sheet = comparison_sheet([{"result": sample}])
    found = [
        bool((sheet == torch.tensor(colour, dtype=torch.uint8)).all(-1).any())
        for colour in ((0x1F, 0x9D, 0x55), (0xD6, 0x45, 0x45))
    ]
    assert found == [is_right, not is_right]
