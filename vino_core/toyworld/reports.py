"""Scores of many results, summed up per task and kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .scorers import Score
from .statistics import Estimate, mean, rate

_RATES = ("followed", "passed", "identity", "confused", "kept", "motion")
_MEANS = ("likeness", "untouched", "place_error", "first_frame")


@dataclass(frozen=True)
class Row:
    """What scores of one task or kind come to: rates (0..1) and means by name, and the rate of every single check."""

    count: int
    values: dict[str, Estimate]
    checks: dict[str, Estimate]

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Row:
        """Sum up at least one score; a quantity that no score has is left out."""
        values: dict[str, Estimate] = {}
        for names, estimate in ((_RATES, rate), (_MEANS, mean)):
            for name in names:
                found = [value for score in scores if (value := getattr(score, name)) is not None]
                if found:
                    values[name] = estimate(found)
        names = sorted({name for score in scores for name in score.checks})
        checks = {name: rate([score.checks[name] for score in scores if name in score.checks]) for name in names}
        return cls(len(scores), values, checks)

    def as_json(self) -> dict[str, Any]:
        return {
            "count": self.count,
            **{name: estimate._asdict() for name, estimate in self.values.items()},
            "checks": {name: estimate._asdict() for name, estimate in self.checks.items()},
        }


@dataclass(frozen=True)
class Report:
    """Rows by task, by task and kind, and of everything together; `settings` say how the results were made."""

    settings: dict[str, Any]
    tasks: dict[str, Row]
    kinds: dict[str, dict[str, Row]]
    overall: Row

    @classmethod
    def of(cls, scores: dict[str, list[tuple[str, Score]]], settings: dict[str, Any]) -> Report:
        """Sum up scores with their kinds, by task."""
        kinds: dict[str, dict[str, Row]] = {}
        for task, entries in scores.items():
            names = sorted({kind for kind, _ in entries})
            kinds[task] = {name: Row.of([score for kind, score in entries if kind == name]) for name in names}
        tasks = {task: Row.of([score for _, score in entries]) for task, entries in scores.items()}
        everything = [score for entries in scores.values() for _, score in entries]
        return cls(settings, tasks, kinds, Row.of(everything))

    def as_json(self) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "overall": self.overall.as_json(),
            "tasks": {
                task: {**row.as_json(), "kinds": {name: kind.as_json() for name, kind in self.kinds[task].items()}}
                for task, row in self.tasks.items()
            },
        }

    def table(self) -> str:
        """Rates in percent with 95% confidence intervals, PSNR in dB; one line per task, kind and for everything."""
        titles = f"{'followed':<22}{'identity':<22}{'motion':<22}{'untouched dB':<21}all of it"
        lines = [f"{'':<24}{'n':>6}  {titles}"]
        for task, row in self.tasks.items():
            lines.append(_line(task, row))
            if len(self.kinds[task]) > 1:
                lines += [_line(f"  {name}", kind) for name, kind in self.kinds[task].items()]
        if len(self.tasks) > 1:
            lines.append(_line("overall", self.overall))
        return "\n".join(lines)


def _line(name: str, row: Row) -> str:
    cells = [_percent(row.values.get(key)).ljust(22) for key in ("followed", "identity", "motion")]
    untouched, passed = row.values.get("untouched"), _percent(row.values["passed"])
    decibels = "-" if untouched is None else f"{untouched.value:.1f} [{untouched.low:.1f}, {untouched.high:.1f}]"
    return f"{name:<24}{row.count:>6}  {''.join(cells)}{decibels:<21}{passed}"


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
