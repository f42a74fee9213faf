"""What clients count: how long each kind of operation took, and what became of those that failed.

An hour has a million operations, so times are kept in buckets 2 % wide. A *failure* is what a client must
expect while nodes are killed (no connection, no answer in time, a refusal that says so); a *problem* is
what must never be: a wrong answer, an acknowledged write that isn't there, a status nobody documents.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Final

_WIDTH: Final = math.log(1.02)
PROBLEMS_KEPT: Final = 50


class Times:
    """Durations of one kind of operation, in seconds."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.slowest_s = 0.0

    def add(self, seconds: float) -> None:
        self._buckets[math.ceil(math.log(max(seconds, 1e-6)) / _WIDTH)] += 1
        self.count += 1
        self.slowest_s = max(self.slowest_s, seconds)

    def quantile_s(self, share: float) -> float:
        """What that share of all took no longer than, at most 2 % too high; 0 if there were none."""
        wanted, seen = share * self.count, 0
        for bucket, count in sorted(self._buckets.items()):
            seen += count
            if seen >= wanted:
                return min(math.exp(bucket * _WIDTH), self.slowest_s)
        return 0.0


class Measures:
    """All that the clients of a run count."""

    def __init__(self) -> None:
        self.times: dict[str, Times] = defaultdict(Times)
        """Of what succeeded, by kind of operation."""
        self.failures: dict[str, Counter[str]] = defaultdict(Counter)
        self.problems: list[str] = []
        self.problem_count = 0

    def done(self, kind: str, seconds: float) -> None:
        self.times[kind].add(seconds)

    def failed(self, kind: str, why: str) -> None:
        self.failures[kind][why] += 1

    def problem(self, what: str) -> None:
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(what)

    def operations(self, prefix: str) -> int:
        return sum(times.count for kind, times in self.times.items() if kind.startswith(prefix))

    def failures_of(self, prefix: str) -> int:
        return sum(counts.total() for kind, counts in list(self.failures.items()) if kind.startswith(prefix))
