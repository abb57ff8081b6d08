"""The page itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vino_core.systems.base import System

from .costs import JOBS, Costs

_HEAD = """# VINO and VOGUE

Both couple a frozen vision-language model with HunyuanVideo's 13-billion video transformer, both run through the same
nodes and the same core, and the connected files decide which one it is. This page is for choosing between them.
`python tools/systems_page.py` writes it: facts from the code, scores and pictures from the two miniatures.

## Which one

- **Several things at once, by name** ("the hat of Image 2 on the man in Video 1"): VINO. Every reference is labelled in
  the prompt, and boundary tokens tie that label to its pixels. References keep their own sizes, pictures beside clips.
- **Motion or camera taken from another clip**: VINO. VOGUE has no such task.
- **A picture that goes on as a video, its first frame kept exactly**: VOGUE. That frame stays clean in every step. VINO
  takes it as a reference and draws it again.
- **Drawings and notes on a picture instead of words**: VOGUE, by its thinking mode.
- **Long clips**: VOGUE goes to 129 frames, VINO to 89.
- **Little memory**: VINO. Its text encoder has 4 billion weights, VOGUE's 7 billion.
"""


def systems_page(published: Sequence[System], reports: Mapping[str, Any], seconds: Mapping[str, Any]) -> str:
    """The page's Markdown. `seconds` by system and task; its picture is systems/side_by_side.png."""
    costs = {system.name: Costs(system) for system in published}
    return "\n".join([_HEAD, _facts(published, costs), _work(costs), _scores(reports, seconds)])


def _facts(systems: Sequence[System], costs: Mapping[str, Costs]) -> str:
    rows = {
        "vision-language model": lambda s: s.published.vlm_title,
        "transformer with connectors, billion weights": lambda s: f"{costs[s.name].parameters / 1e9:.2f}",
        "learnable tokens": lambda s: _either(s.learnable_tokens, s),
        "tasks": lambda s: ", ".join(s.presets),
        "most frames": lambda s: str(s.max_frames),
        "frames per second": lambda s: f"{s.frame_rate:g}",
        "frames of a clip that the language model sees": lambda s: str(s.vision.frames),
        "references": lambda s: "all of the result's size" if s.one_size else "each of its own size",
        "text guidance of 1 (one pass a step)": lambda s: "no" if s.min_text_scale else "yes",
    }
    lines = ["## Facts", "", f"| | {' | '.join(system.published.title for system in systems)} |", "|---|---|---|"]
    lines += [f"| {title} | {' | '.join(of(system) for system in systems)} |" for title, of in rows.items()]
    return "\n".join([*lines, ""])


def _either(count: int, system: System) -> str:
    variant = system.with_tokens
    return str(count) if variant is None else f"none, or {variant.learnable_tokens} in its second variant"


def _work(costs: Mapping[str, Costs]) -> str:
    lines = [
        "## Work of one generation",
        "",
        "Counted at full size with each task's published settings, a prompt of 200 tokens and wide references. Tokens: "
        "the longest sequence of a branch. PFLOP: 10^15 operations of the transformer, over all steps and branches; a "
        "card that sustains 400 TFLOP/s needs 2.5 seconds for one. Encoders and VAE are not included.",
        "",
        "| task | system | size, frames | steps x branches | tokens | PFLOP | PFLOP per frame |",
        "|---|---|---|---|---|---|---|",
    ]
    for job in JOBS:
        for name, system in costs.items():
            cost = system.of(job)
            frames = "a picture" if cost.frames == 1 else f"{cost.frames} frames"
            lines.append(
                f"| {job.title} | {name} | {cost.size}, {frames} | {cost.steps} x {cost.branches} | {cost.tokens:,} | "
                f"{cost.petaflops:,.0f} | {cost.petaflops / cost.frames:,.1f} |"
            )
    return "\n".join([*lines, ""])


def _scores(reports: Mapping[str, Any], seconds: Mapping[str, Any]) -> str:
    settings = next(iter(reports.values()))["settings"]
    lines = [
        "## The miniatures, side by side",
        "",
        f"The same {settings['count']} held-out examples of each task, the same seeds, {settings['steps']} steps, text "
        f"guidance {settings['text_scale']:g}, on [vino-tiny](tiny.md) and its sister, which share the base, the "
        "VAE and the toy world; how long each was trained stands in tools/tiny/README.md. What holds between them need "
        "not hold between the large models. Instruction followed, and everything right at once, in percent with 95% "
        "intervals; seconds of one result, made alone, both systems in turn.",
        "",
        f"| task | {' | '.join(f'{name}: followed | all of it | seconds' for name in reports)} |",
        "|---|" + "---|" * 3 * len(reports),
    ]
    names = list(reports)
    for task in [
        task for task in reports[names[0]]["tasks"] if all(task in each["tasks"] for each in reports.values())
    ]:
        cells = []
        for name in names:
            row = reports[name]["tasks"][task]
            cells += [_percent(row["followed"]), _percent(row["passed"]), f"{seconds[name][task]:.2f}"]
        lines.append(f"| {task} | {' | '.join(cells)} |")
    picture = "![References, both results and the truth](systems/side_by_side.png)"
    return "\n".join([*lines, "", picture, ""])


def _percent(estimate: Mapping[str, float]) -> str:
    low, high = 100 * estimate["low"], 100 * estimate["high"]
    return f"{100 * estimate['value']:.0f} ({low:.0f} to {high:.0f})"
