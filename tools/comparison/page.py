"""The page itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workflows.shipped import TASKS

from vino_core.systems.base import System
from vino_core.systems.vino import VINO
from vino_core.systems.vogue import VOGUE

from .costs import GIVEN, PROMPT, Cost, Costs
from .jobs import JOBS, TITLES, Job
from .measuring import Race, Reports, shared_tasks

PUBLISHED = (VINO, VOGUE)
PICTURE = "systems/side_by_side.png"
"""Beside the page."""
RATE = 400
"""TFLOP/s of the card by which operations are turned into minutes."""
NOTHING = "–"


def systems_page(miniatures: Sequence[System], reports: Reports, race: Race) -> str:
    """The page's Markdown, for the published systems and their miniatures in the same order."""
    costs = [Costs(system) for system in PUBLISHED]
    parts = [_advice(*costs), _tasks(costs), _facts(costs), _work(costs), _scores(miniatures, reports, race)]
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = False) -> list[str]:
    """`numbers`: whether all cells but the first of a row are such."""
    rule = ["---", *["---:" if numbers else "---"] * (len(head) - 1)]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def _advice(vino: Costs, vogue: Costs) -> str:
    """Which one to take. The tests hold every row against the code."""
    one, other = vino.system, vogue.system
    seconds = {system.name: f"{system.max_frames / system.frame_rate:.1f} seconds" for system in PUBLISHED}
    (slower, faster), edits = ([each.of(Job(task, videos=videos)) for each in (vino, vogue)]
                               for task, videos in (("t2v", 0), ("tv2v", 1)))  # fmt: skip
    rows = [
        ("several subjects, each called by its number: *the hat of Image 2 on the man in Video 1*", "VINO",
         "Labels name every reference in its prompt, and boundary tokens tie each label to its pixels. VOGUE tells "
         "references apart by what they show; labels are an option there (`tags`), which its released code lacks."),
        ("references of several shapes, several clips", "VINO",
         "Each keeps its own shape. VOGUE sets pictures on white canvases of the result's size, and takes one clip."),
        ("the motion or the camera of another clip", "VINO", "VOGUE has no such task."),
        ("a clip that starts with exactly your picture", "VOGUE",
         "The picture itself becomes the first frame. VINO draws one like it."),
        ("arrows, sketches and notes instead of words", "VOGUE",
         "Its thinking mode reads the drawing, writes a plan and a prompt, and shows you both."),
        ("the longest clips", "VOGUE",
         f"{other.max_frames} frames, {seconds['vogue']}; VINO {one.max_frames}, {seconds['vino']}."),
        ("a clip from text, soon", "VOGUE",
         f"{_minutes(faster)} against {_minutes(slower)} by the count below: {faster.steps} steps for {faster.frames} "
         f"frames, not {slower.steps} for {slower.frames}."),
        ("an edited clip, soon", "VINO",
         f"{_minutes(edits[0])} against {_minutes(edits[1])}: {edits[0].branches} passes a step and {edits[0].frames} "
         f"frames, not {edits[1].branches} and {edits[1].frames}."),
        ("the smaller download", "VINO",
         f"{_gigabytes(vino.parameters + vino.text_encoder)} of transformer and text encoder in 16 bits, VOGUE's are "
         f"{_gigabytes(vogue.parameters + vogue.text_encoder)}."),
    ]  # fmt: skip
    lines = [
        "# VINO and VOGUE",
        "",
        "Two systems that draw and edit pictures and clips. Each couples a frozen vision-language model with "
        "HunyuanVideo's transformer of 13 billion weights. Both run through the same nodes and the same core; the "
        "files that are connected decide which one it is. This page helps to choose.",
        "",
        "`python tools/systems_page.py` writes it, from reports of `vino eval toy` (its `--help` has the commands). "
        "What is counted comes from the code; scores, seconds and pictures come from the two miniatures.",
        "",
        "## Which one",
        "",
        *_table(("you want", "take", "because"), rows),
        "",
        "Both answer questions about pictures and clips, and can rewrite a prompt after looking at them.",
        "",
    ]
    return "\n".join(lines)


def _tasks(costs: Sequence[Costs]) -> str:
    rows = [(job.title, *(_task(each, each.of(job)) for each in costs)) for job in JOBS]
    for kind, title in (("annotated", "a drawn-on picture goes on as a clip"), ("canvas", "a drawn canvas to video")):
        known = [(each.system.thinking or {}).get(kind) for each in costs]
        linked = (
            _linked(each.system, how.task, kind) if how else NOTHING for each, how in zip(costs, known, strict=True)
        )
        rows.append((title, *linked))
    lines = [
        "## What each does",
        "",
        "Names of the tasks, each with its workflow, and the published sizes. Where a reference decides the size, it "
        f"is what a {GIVEN[1]} x {GIVEN[0]} one gives.",
        "",
        *_table(("", *(each.system.published.title for each in costs)), rows),
        "",
    ]
    return "\n".join(lines)


def _task(costs: Costs, cost: Cost | None) -> str:
    if cost is None:
        return NOTHING
    frames = "" if cost.frames == 1 else f", {cost.frames} frames"
    return f"{_linked(costs.system, cost.preset)}: {cost.width} x {cost.height}{frames}"


def _linked(system: System, preset: str, think: str | None = None) -> str:
    """A task's name, with a link to the workflow that does it and nothing besides."""
    (name,) = (
        task.name
        for task in TASKS
        if task.kit.system is system
        and (task.preset, task.think) == (preset, think)
        and not task.understand
        and not task.answer
    )
    return f"[`{preset}`](../workflows/{name}.json)"


def _facts(costs: Sequence[Costs]) -> str:
    columns = [_column(each) for each in costs]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    lines = [
        "## Facts",
        "",
        *_table(("", *(each.system.published.title for each in costs)), rows),
        "",
        "GB are of weights in 16 bits; both also run from fp8 files. The VAE is the same. "
        "Each has [a licence of its own](../README.md#licences-of-the-weights).",
        "",
    ]
    return "\n".join(lines)


def _column(costs: Costs) -> dict[str, str]:
    system = costs.system
    longest = system.prompt.max_text_tokens
    return {
        "vision-language model": system.published.vlm_title,
        "its weights": f"{_billions(costs.text_encoder)}, {_gigabytes(costs.text_encoder)}",
        "transformer with connectors": f"{_billions(costs.parameters)}, {_gigabytes(costs.parameters)}",
        "learnable tokens": _variants(system, lambda one: one.learnable_tokens or "none"),
        "most frames": str(system.max_frames),
        "frames per second": f"{system.frame_rate:g}",
        "frames of a clip that the language model sees": _variants(system, lambda one: one.vision.frames),
        "references": "all of the result's size" if system.one_size else "each of its own shape",
        "longest prompt": f"{longest:,} tokens" if longest else "no limit",
        "text guidance of 1, which saves a pass": "yes" if system.min_text_scale is None else "no",
        "thinking mode": "yes" if system.thinking else "no",
    }


def _variants(system: System, fact: Callable[[System], object]) -> str:
    """What holds for a system, and for its variant with learnable tokens where it has one."""
    variant = system.with_tokens
    return str(fact(system)) if variant is None else f"{fact(system)}; {fact(variant)} in the variant with queries"


def _work(costs: Sequence[Costs]) -> str:
    rows = [(job.title, *(cell for each in costs for cell in _worth(each.of(job)))) for job in JOBS]
    names = [each.system.name.upper() for each in costs]
    head = ["", *(cell for name in names for cell in (f"{name}: steps x passes", "tokens", "PFLOP", "per frame"))]
    lines = [
        "## Work of one generation",
        "",
        f"Counted, not measured: full size, each task's published settings, references of {GIVEN[1]} x {GIVEN[0]}, two "
        f"pictures where there are several, {PROMPT} tokens of prompt. A pass is one run of the transformer; guidance "
        "takes two or three in each step. Tokens: the longest sequence of a pass. PFLOP: 10^15 operations of all "
        f"passes together, then each frame's share of them. On a card that sustains {RATE} TFLOP/s, 100 PFLOP take "
        f"{100e15 / (RATE * 1e12) / 60:.1f} minutes. Text encoder and VAE come on top.",
        "",
        *_table(head, rows, numbers=True),
        "",
    ]
    return "\n".join(lines)


def _worth(cost: Cost | None) -> list[str]:
    if cost is None:
        return [NOTHING] * 4
    share = f"{cost.petaflops / cost.frames:.1f}"
    return [f"{cost.steps} x {cost.branches}", f"{cost.tokens:,}", _round(cost.petaflops), share]


def _round(petaflops: float) -> str:
    return f"{petaflops:,.0f}" if petaflops >= 10 else f"{petaflops:.1f}"


def _minutes(cost: Cost) -> str:
    return f"{cost.petaflops * 1e15 / (RATE * 1e12) / 60:.0f} minutes"


def _billions(weights: int) -> str:
    return f"{weights / 1e9:.1f} billion"


def _gigabytes(weights: int) -> str:
    return f"{2 * weights / 1e9:.0f} GB"


def _how(settings: Mapping[str, Any]) -> str:
    """Steps, scales and shift of an evaluation in words."""
    scales = {"text guidance": "text_scale", "image guidance": "image_scale", "shift": "shift"}
    given = [f"{title} {settings[name]:g}" for title, name in scales.items() if settings[name] is not None]
    preset = " and ".join(title for title, name in scales.items() if settings[name] is None)
    first = ["understanding first"] if settings["understand"] else []
    usual = [f"{preset} of each task's preset"] if preset else []
    return ", ".join([f"{settings['steps']} steps", *first, *given, *usual])


def _scores(miniatures: Sequence[System], reports: Reports, race: Race) -> str:
    names = [system.name for system in miniatures]
    settings = reports[names[0]]["settings"]
    tasks = [task for task in TITLES if any(task in reports[name]["tasks"] for name in names)]
    alone = [TITLES[task] for task in tasks if task not in shared_tasks(miniatures, reports)]
    weights = " and ".join(f"{name}'s transformer has {race.weights[name] / 1e6:.1f} million weights" for name in names)
    head = ("", "examples", *(cell for name in names for cell in (f"{name}: followed", "all of it", "seconds")))
    lines = [
        "## The miniatures, side by side",
        "",
        "[vino-tiny](tiny.md) and vogue-tiny live in the same world of drawn shapes, began from the same base, "
        "whose patches vino-tiny then made finer, and share a VAE. They were asked for the same held-out examples, "
        f"from the same noise: {_how(settings)}.",
        "",
        f"**What this tells, and what not.** It compares two small and short trainings: {weights}, and "
        "[neither learned to its end](../tools/tiny/README.md). It shows what each way of prompting and packing learns "
        "in little time. It does not tell which of the large models draws better.",
        "",
        "*followed*: everything that the words ask for is there, and nothing else, in every frame (thin lines, specks, "
        "holes and gaps: in at least half of them); an edit is nearer to what was asked for than to its input. In "
        "percent of the examples, with its 95% interval. *all of it*: besides, subjects look like their references, "
        "and the rest was left alone. **Bold**: the better one, where the intervals do not overlap. *seconds*: for one "
        "result, made alone, both systems in turn, on "
        f"{race.machine}.",
        "",
        "vogue-tiny was taught to edit pictures, and videos with a reference, but never a video alone: that row tells "
        "what carries over.",
        "",
        *_table(head, [_scored(task, names, reports, race) for task in tasks], numbers=True),
        "",
    ]
    if alone:
        lines += [f"{NOTHING}: of one system only ({', '.join(alone)}).", ""]
    lines += [
        "The first examples of each task that both have: references, both results, the truth; of clips the first, the "
        "middle and the last frame. A green frame: all of it is right.",
        "",
        f"![References, both results and the truth]({PICTURE})",
        "",
    ]
    return "\n".join(lines)


def _scored(task: str, names: Sequence[str], reports: Reports, race: Race) -> list[str]:
    found = [reports[name]["tasks"].get(task) for name in names]
    rates = {key: _percents([row and row[key] for row in found]) for key in ("followed", "passed")}
    cells = [TITLES[task], str(next(row["count"] for row in found if row))]
    for number, name in enumerate(names):
        seconds = race.seconds[name].get(task)
        cells += [rates["followed"][number], rates["passed"][number]]
        cells.append(NOTHING if seconds is None else f"{seconds:.2f}")
    return cells


def _percents(estimates: Sequence[Mapping[str, float] | None]) -> list[str]:
    """The estimates in percent, the highest in bold where its interval lies above all others."""
    cells = []
    for place, one in enumerate(estimates):
        if one is None:
            cells.append(NOTHING)
            continue
        others = [other for number, other in enumerate(estimates) if number != place]
        best = all(other is not None and other["high"] < one["low"] for other in others)
        value = f"{100 * one['value']:.0f}"
        low, high = 100 * one["low"], 100 * one["high"]
        cells.append(f"{f'**{value}**' if best else value} ({low:.0f} to {high:.0f})")
    return cells
