"""When the leader may answer from its own state without asking anyone: under its lease.

The core counts the lease in ticks (see `RaftState.holds_lease`): it is safe while no member's clock
runs faster than this one's by a tenth. But this node skips ticks that it missed while it was held
up, and a process that was stopped has lost the time without noticing. So a lease is believed only
by a node whose ticks have come on time for the whole length of an election timeout. The clock is
one that goes on while the machine sleeps.

Thesis §6.4.1.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from aspen.raft.rawnode import RawNode


def seconds_since_boot() -> float:
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lease:
    """One node's lease, if it has one that can be believed."""

    def __init__(
        self, raw: RawNode, clock: Callable[[], float], tick_seconds: float, election_seconds: float
    ) -> None:
        self._raw = raw
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._election_seconds = election_seconds
        self._ticked_at = clock()
        self._held_up_at = self._ticked_at

    def ticked(self) -> None:
        """A tick has reached the core."""
        now = self._clock()
        if now - self._ticked_at > 2 * self._tick_seconds:
            self._held_up_at = now
        self._ticked_at = now

    def read_index(self) -> int | None:
        """The index that a read needs to see; None if there is no lease, or none to be believed."""
        now = self._clock()
        if now - self._ticked_at > 2 * self._tick_seconds:
            return None
        if now - self._held_up_at <= self._election_seconds:
            return None
        return self._raw.lease_read_index()
