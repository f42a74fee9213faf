"""Time, order and chance: all that happens in a simulated world happens here, one event at a time.

Events are kept in one heap by (time, sequence number), so that equal times keep the order in
which they were scheduled. Time is a number of units, `TICK` of them to a tick of a Raft clock
that is right. Every source of chance is a substream of the seed, named by what it decides: a
change to how the network draws its delays doesn't change what the clients ask.

Nothing here, or anywhere in this package, looks at a wall clock, at `hash()` of a string or at
the order of a set: a seed and the code determine the run, and `trace_hash` says so.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

TICK: Final = 1_000
"""Units of time to a tick."""

_HASH_MASK: Final = 2**64 - 1
_HASH_PRIME: Final = 1_099_511_628_211

Handler = Callable[[Any, Any], None]


class Violation(Exception):
    """Something that must never happen has happened. `invariant` is its name, for people to look up."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.detail = detail


class Kernel:
    """The event heap of one world."""

    def __init__(self, seed: int) -> None:
        self.now = 0
        self.events = 0
        """How many events have happened."""
        self.trace_hash = 0xCBF29CE484222325
        self._seed = seed
        self._sequence = 0
        self._heap: list[tuple[int, int, Handler, Any, Any]] = []

    def stream(self, name: str) -> random.Random:
        """The substream of randomness with this name."""
        return random.Random(f"{self._seed}/{name}")

    def clock(self) -> int:
        """The time, for whoever wants a clock rather than a kernel."""
        return self.now

    def schedule(self, delay: int, handler: Handler, first: Any = None, second: Any = None) -> None:
        """Have `handler(first, second)` called in `delay` units of time."""
        self._sequence = sequence = self._sequence + 1
        heappush(self._heap, (self.now + delay, sequence, handler, first, second))

    def run(self, until_event: int, until_time: int, finished: Callable[[], bool] | None = None) -> None:
        """Let events happen until one of the limits is reached, or `finished` says so.

        An exception leaves the kernel as it was after the event that raised it: `run` may be
        called again.
        """
        heap = self._heap
        while heap and self.events < until_event and heap[0][0] <= until_time:
            time, sequence, handler, first, second = heappop(heap)
            self.now = time
            self.events += 1
            self.trace_hash = (self.trace_hash * _HASH_PRIME ^ time ^ sequence) & _HASH_MASK
            handler(first, second)
            if finished is not None and finished():
                return

    def note(self, value: int) -> None:
        """Make something that was decided part of the trace."""
        self.trace_hash = (self.trace_hash * _HASH_PRIME ^ value) & _HASH_MASK
