"""A histogram: how many values were no more than each of some bounds, and what all add up to.

What Prometheus calls one. Noting a value costs a binary search and two additions; whoever shows it makes the
counts cumulative. Only one thread may note; any may read, and sees counts that may be one apart.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

SECONDS: Final = (
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
)
"""Upper bounds for what waits for a disk or another node."""


class Histogram:
    """A value counts in the first bucket whose bound it does not exceed; one more is for what is larger."""

    __slots__ = ("bounds", "buckets", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        """Each by itself, not cumulative."""
        self.sum = 0.0

    def note(self, value: float, times: int = 1) -> None:
        self.buckets[bisect_left(self.bounds, value)] += times
        self.sum += value * times
