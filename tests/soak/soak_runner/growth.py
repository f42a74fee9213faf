"""Whether what a process holds grows: a line through noisy samples that single outliers don't move.

The slope is Theil and Sen's, the median of the slopes through all pairs of samples: up to 29 % of them may
be anything. Growth is that slope over an hour, in parts of what the process held to begin with.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

MOST_SAMPLES: Final = 240
"""More are thinned out: pairs grow with the square."""
SPAN_S: Final = 1_800.0
"""Growth over less time than this says nothing of an hour: caches fill, and the allocator's arenas settle,
over the first hundred thousand operations or so."""


def slope(times_s: Sequence[float], values: Sequence[float]) -> float:
    """What the values gain a second; 0 for fewer than two samples."""
    step = -(-len(times_s) // MOST_SAMPLES) or 1
    points = list(zip(times_s, values, strict=True))[::step]
    slopes = [
        (later_value - value) / (later_s - at_s)
        for i, (at_s, value) in enumerate(points)
        for later_s, later_value in points[i + 1 :]
        if later_s > at_s
    ]
    return statistics.median(slopes) if slopes else 0.0


def growth_per_hour(times_s: Sequence[float], values: Sequence[float]) -> float | None:
    """As a part of what there was at first (the median of the first tenth); `None` if that can't be said."""
    if len(times_s) < 2 or times_s[-1] - times_s[0] < SPAN_S:
        return None
    first = statistics.median(values[: max(1, len(values) // 10)])
    return slope(times_s, values) * 3_600 / first if first > 0 else None
