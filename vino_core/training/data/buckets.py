"""What sizes a set of examples is trained at. Every aspect has its bucket; none is left out for being small."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Buckets:
    """Counts of (frames, height, width), the sizes that targets are fitted to."""

    counts: Counter[tuple[int, int, int]] = field(default_factory=Counter)

    def add(self, size: tuple[int, int, int]) -> None:
        self.counts[size] += 1

    def table(self) -> str:
        """Lines of width x height, frames and count, the fullest bucket first."""
        lines = [f"{'width x height':>16} {'frames':>7} {'examples':>9}"]
        ordered = sorted(self.counts.items(), key=lambda entry: (-entry[1], entry[0]))
        for (frames, height, width), count in ordered:
            lines.append(f"{f'{width} x {height}':>16} {frames:>7} {count:>9}")
        return "\n".join(lines)
