"""docs/ablations.md and its plots, from what the runs left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from vino_core.errors import InputError
from vino_core.media.output import write_aside, write_text
from vino_core.training.metrics import read_record

from .courses import COURSES
from .definition import Course, Measure, Study, Sweep
from .measures import LAST_STAGE, exam_file, read_report, value_of
from .plots import Series, band, curves, dot_plot, line_plot

if TYPE_CHECKING:
    from PIL.Image import Image

Found = dict[str, dict[str, dict[int, float]]]
"""Values by measure, variant and seed."""
_SWEPT = {"identity": "own surface", "motion": "motion followed", "followed": "prompt followed"}
_HEAD = """# Ablations

The papers' claims on the miniatures: short trainings from a common start, scored by exact scorers on held-out examples
of the toy world. They are far from finished models, which is why graded measures stand beside the rates: the held-out
loss (examples and noise are the same for all variants), decibels, likeness. Numbers are means over seeds with the
standard deviation between them; n is the number of seeds. A difference smaller than the deviations says nothing, one
seed alone says little about small differences, and what holds in this world need not hold for the large model.
`python tools/ablations.py run` makes the runs, `python tools/ablations.py plot` this page.
"""


def finished(out: Path, name: str) -> dict[int, Path]:
    """The folders of a variant by seed."""
    return {int(path.name.removeprefix("seed")): path for path in sorted((out / name).glob("seed*"))}


def collect(out: Path, course: Course, study: Study) -> Found:
    """Every measure of a study that all variants which take its exam have; only seeds that all of these have done."""
    found: Found = {}
    for measure in study.measures:
        values: dict[str, dict[int, float]] = {}
        for name in study.variants:
            if measure.exam is not None and measure.exam not in course.variant(name).exams:
                continue
            folders = finished(out, name)
            seen = {seed: measure.of(path) for seed, path in folders.items() if _is_trained(path)}
            values[name] = {seed: value for seed, value in seen.items() if value is not None}
        common = set.intersection(*(set(seeds) for seeds in values.values())) if values else set()
        if common:
            found[measure.title] = {
                name: {seed: seeds[seed] for seed in sorted(common)} for name, seeds in values.items()
            }
    return found


def collect_sweep(out: Path, sweep: Sweep) -> dict[str, dict[float, dict[int, float]]]:
    """Values of the sweep by quantity, scale and seed; only scales that all seeds have done."""
    folders = finished(out, sweep.name)
    reports = {
        scale: {seed: report for seed, path in folders.items() if (report := read_report(exam_file(path, str(scale))))}
        for scale in sweep.scales
    }
    found: dict[str, dict[float, dict[int, float]]] = {}
    for quantity in (*_SWEPT, "likeness", "confused"):
        for scale, seeds in reports.items():
            values = {seed: value_of(report, quantity) for seed, report in seeds.items()}
            if values and len(values) == len(folders) and None not in values.values():
                found.setdefault(quantity, {})[scale] = values
    return found


def write_report(out: Path, docs: Path) -> list[Path]:
    """Write ablations.md, its plots and OUT/results.json. Studies without results in OUT keep their place on the page.

    Raises InputError while no study has a result.
    """
    page = docs / "ablations.md"
    before = _sections(page.read_text(encoding="utf-8")) if page.is_file() else {}
    text, pictures, results = [_HEAD], {}, {}
    for course in COURSES:
        made = _course(out / course.system.name, course, pictures, results)
        sections = [made.get(title) or before.get((course.system.name, title)) for title in _titles(course)]
        if any(sections):
            text += [f"## {course.system.name}\n\n{course.about}\n", *filter(None, sections)]
    if not results:
        raise InputError(f"{out}: no study has a result for all its variants yet. Run them first.")
    written = []
    for name, picture in pictures.items():
        written.append(docs / "ablations" / f"{name}.png")
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        with write_aside(written[-1]) as file:
            picture.save(file, format="PNG", optimize=True)
    write_text(out / "results.json", json.dumps(results, indent=1))
    write_text(page, "\n".join(text))
    return [page, *written, out / "results.json"]


def _titles(course: Course) -> list[str]:
    return [study.title for study in course.studies] + ([course.sweep.title] if course.sweep else [])


def _sections(page: str) -> dict[tuple[str, str], str]:
    """The sections of a page by the names of their systems and their titles."""
    found = {}
    for part in page.split("\n## ")[1:]:
        system, *sections = part.split("\n### ")
        for section in sections:
            found[system.partition("\n")[0], section.partition("\n")[0]] = f"### {section.rstrip()}\n"
    return found


def _course(out: Path, course: Course, pictures: dict[str, Image], results: dict[str, Any]) -> dict[str, str]:
    """The sections of the studies of one system that have results, by their titles; adds to `pictures`, `results`."""
    text: dict[str, str] = {}
    for study in course.studies:
        found = collect(out, course, study)
        if found:
            results[study.name] = found
            text[study.title] = _section(out, course, study, found, pictures)
    swept = collect_sweep(out, course.sweep) if course.sweep else {}
    if swept:
        results[course.sweep.name] = swept
        text[course.sweep.title] = _sweep_section(course.sweep, swept, pictures)
    return text


def _section(out: Path, course: Course, study: Study, found: Found, pictures: dict[str, Image]) -> str:
    titles = {name: course.variant(name).title for name in study.variants}
    lines = [f"### {study.title}", "", study.about, ""]
    lines += _table(study.measures, titles, found)
    if study.reading:
        lines += ["", study.reading]
    panels = {
        measure.title: {
            titles[name]: [measure.scale * value for value in seeds.values()]
            for name, seeds in found[measure.title].items()
        }
        for measure in study.measures
        if measure.title in found
    }
    pictures[study.name] = dot_plot(study.title, panels, list(titles.values()))
    lines += ["", f"![{study.title}](ablations/{study.name}.png)", ""]
    if study.curves and all(_trained(out, name) for name in study.variants):
        pictures[f"{study.name}_loss"] = line_plot("Loss in stage 3", _losses(out, study, titles), "step of stage 3")
        lines += [f"![Loss in stage 3](ablations/{study.name}_loss.png)", ""]
    lines += [*_runs(out, course, study), ""]
    return "\n".join(lines)


def _losses(out: Path, study: Study, titles: Mapping[str, str]) -> list[Series]:
    """Tasks differ in the level of their loss, but at each step all variants of a seed train the same task."""
    found = []
    for name in study.variants:
        seeds = [read_record(path / LAST_STAGE) for path in _trained(out, name)]
        found.append(curves([[row["loss"] for row in rows] for rows in seeds], titles[name]))
    return found


def _table(measures: Sequence[Measure], titles: Mapping[str, str], found: Found) -> list[str]:
    shown = [measure for measure in measures if measure.title in found]
    arrows = {True: " ↑", False: " ↓", None: ""}
    lines = [
        "| | " + " | ".join(measure.title + arrows[measure.higher] for measure in shown) + " |",
        "|---|" + "---|" * len(shown),
    ]
    for name, title in titles.items():
        cells = [
            _cell(list(found[one.title][name].values()), one.scale, one.digits) if name in found[one.title] else "-"
            for one in shown
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _cell(values: Sequence[float], scale: float, digits: int) -> str:
    mean = f"{scale * fmean(values):.{digits}f}"
    spread = f" ± {scale * stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean}{spread} (n={len(values)})"


def _sweep_section(
    sweep: Sweep, swept: Mapping[str, Mapping[float, Mapping[int, float]]], pictures: dict[str, Image]
) -> str:
    names = {**_SWEPT, "likeness": "likeness", "confused": "confused"}
    scales = sorted({scale for values in swept.values() for scale in values})
    lines = [
        f"### {sweep.title}", "",
        "The trained model is asked for the same clips of one to four subjects (`ti2v`) with several scales of image "
        f"guidance, text guidance {sweep.text_scale:g}; seeds are those of the noise. Own surface: every subject shows "
        "its own reference's pattern and no other. Likeness: correlation with the right pattern, 0 to 1. Confused: a "
        "subject shows another reference's pattern. Motion followed: every subject moves as the prompt says. Prompt "
        "followed: all of it.", "",
        "| scale | " + " | ".join(name if key == "likeness" else f"{name}, %" for key, name in names.items()) + " |",
        "|---|" + "---|" * len(names),
    ]  # fmt: skip
    for scale in scales:
        cells = []
        for quantity in names:
            values = swept.get(quantity, {}).get(scale)
            share = quantity != "likeness"
            cells.append(_cell(list(values.values()), 100 if share else 1, 1 if share else 3) if values else "-")
        lines.append(f"| {scale:g} | " + " | ".join(cells) + " |")
    series = [
        Series(title, [(scale, band([100 * one for one in seeds.values()])) for scale, seeds in swept[name].items()])
        for name, title in _SWEPT.items()
        if name in swept
    ]
    pictures[sweep.name] = line_plot(f"{sweep.title}, %", series, "scale", percent=True, marks=scales)
    lines += ["", sweep.reading] if sweep.reading else []
    return "\n".join([*lines, "", f"![{sweep.title}](ablations/{sweep.name}.png)", ""])


def _is_trained(folder: Path) -> bool:
    return (folder / LAST_STAGE / "export" / "model.safetensors").is_file()


def _trained(out: Path, name: str) -> list[Path]:
    """The folders of a variant's seeds that are trained."""
    return [path for path in finished(out, name).values() if _is_trained(path)]


def _runs(out: Path, course: Course, study: Study) -> list[str]:
    """How the runs were made, from what they wrote down themselves."""
    lines = [f"Runs: shipped configs (`configs/{course.config.format('*')}`) with the changes in `tools/studies/`.", "",
             "| variant | steps of its stages | learning rates | examples tested |", "|---|---|---|---|"]  # fmt: skip
    for name in study.variants:
        trained, variant = _trained(out, name), course.variant(name)
        if not trained:
            continue
        folder = trained[0]
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("stage*/run.json"))]
        steps = ", ".join(f"{run['steps']:,} (stage {run['stage']})" for run in runs)
        if variant.after is not None:
            shared = course.variant(variant.after)
            first = " and ".join(str(one.number) for one in shared.stages if one.number < variant.stages[0].number)
            steps = f"stage {first} of *{shared.title}*, then {steps}"
        rates = ", ".join(f"{run['optimizer']['learning_rate']:g}" for run in runs)
        reports = {path.stem: read_report(path) for path in sorted((folder / "exams").glob("*.json"))}
        exams = ", ".join(f"{report['settings']['count']} {exam}" for exam, report in reports.items())
        lines.append(f"| {variant.title} | {steps} | {rates} | {exams or '-'} |")
    return lines
