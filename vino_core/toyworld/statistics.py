"""Rates and means with their 95% confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

_Z = 1.959964


class Estimate(NamedTuple):
    """A value, its 95% confidence interval and the number of examples behind it."""

    value: float
    low: float
    high: float
    count: int


def rate(outcomes: Sequence[bool]) -> Estimate:
    """Share of true outcomes with Wilson's score interval. Raises ValueError for no outcome."""
    count = len(outcomes)
    if not count:
        raise ValueError("a rate needs at least one outcome")
    share = sum(outcomes) / count
    scale = 1 + _Z**2 / count
    centre = (share + _Z**2 / (2 * count)) / scale
    reach = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2)) / scale
    return Estimate(share, max(0.0, centre - reach), min(1.0, centre + reach), count)


def mean(values: Sequence[float]) -> Estimate:
    """Mean with the interval of the normal distribution. Raises ValueError for no value."""
    count = len(values)
    if not count:
        raise ValueError("a mean needs at least one value")
    centre = sum(values) / count
    variance = sum((value - centre) ** 2 for value in values) / max(1, count - 1)
    reach = _Z * math.sqrt(variance / count)
    return Estimate(centre, centre - reach, centre + reach, count)
