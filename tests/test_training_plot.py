"""The picture of a run's loss: round marks, an honest average, lines where the numbers are."""

from __future__ import annotations

import numpy as np
import pytest

from vino_core.errors import InputError
from vino_core.training.plot import loss_plot, smoothed, ticks

MEAN = (0x1F, 0x5F, 0xC4)


def row_of_the_line(picture: np.ndarray, column: int) -> float:
    """Where the average crosses a column, in pixels from the top."""
    distance = np.abs(picture[76:484, column].astype(int) - MEAN).sum(axis=1)
    return 76 + float(np.flatnonzero(distance < 60).mean())


def test_marks_are_round_and_enclose_the_values() -> None:
    assert ticks(0.0, 1.43, 6) == pytest.approx([0, 0.5, 1, 1.5])
    assert ticks(0.802, 0.8138, 6) == pytest.approx([0.802 + 0.002 * n for n in range(7)])
    for low, high in ((3.0, 3.0), (0.0, 0.0), (-2.0, -1.0), (1e-9, 5e4)):
        marks = ticks(low, high, 6)
        assert marks[0] <= low and marks[-1] >= high and 2 <= len(marks) <= 9


def test_the_average_has_no_pull_of_its_start() -> None:
    assert smoothed([2.0] * 30) == pytest.approx([2.0] * 30)
    assert smoothed([1.0, 3.0], weight=0.5) == pytest.approx([1.0, (0.5 * 1 + 3) / 1.5])
    assert smoothed([4.0]) == [4.0]


def test_lines_are_where_the_numbers_are() -> None:
    falling = np.asarray(loss_plot(range(1, 101), [2.0 - 0.01 * step for step in range(100)]))
    assert falling.shape == (540, 960, 3)
    rows = [row_of_the_line(falling, column) for column in (150, 400, 700, 900)]
    assert rows == sorted(rows) and rows[-1] - rows[0] > 80
    half = np.asarray(loss_plot(range(1, 101), [1.0] * 100, total=200))
    assert np.abs(half[76:484, 800].astype(int) - MEAN).sum(axis=1).min() > 60, "the line ends where the run is"


def test_nothing_finite_is_an_error_and_gaps_are_left_out() -> None:
    with pytest.raises(InputError, match="has not finished a step"):
        loss_plot([], [])
    with pytest.raises(InputError):
        loss_plot([1], [float("nan")])
    assert loss_plot([1, 2, 3], [1.0, float("inf"), 0.5], size=(640, 400)).size == (640, 400)
