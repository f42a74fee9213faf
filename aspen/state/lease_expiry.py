"""Which leases have run out: the leader's count of time, by its monotonic clock.

A renewal starts the time of its lease when the leader sees it applied, which is after it was made; so
the leader's count is never ahead. Who has just become leader sees every lease for the first time
and gives it its full time. Wall clocks are not asked, on any node.

The command that ends a lease names the renewal it means, and the state machine ends the lease only if
that is still the last one: a renewal that comes before it in the log wins.
"""

from __future__ import annotations

import heapq
from typing import Final

from aspen.limits import LEASE_BATCH, LEASE_CHECK_MS, LEASE_READ, LEASE_RETRY_MS
from aspen.state.kv_commands import LeaseExpire
from aspen.state.leases import LmdbLeases
from aspen.state.ports import Proposer


class LeaseClock:
    """Counts the time of leases, in a leadership that began at 0 ms. Sans-IO but for reading the replica."""

    def __init__(self, leases: LmdbLeases) -> None:
        self._leases = leases
        self._seen_index = 0
        self._now_ms = 0
        self._renewals: dict[int, tuple[int, int]] = {}
        """Lease → (when it runs out, log index of the renewal)."""
        self._queue: list[tuple[int, int]] = []
        """(no later than when it runs out, lease); twice only for one that ends sooner than it was to."""

    def due(self, now_ms: int) -> tuple[LeaseExpire | None, bool]:
        """What to propose `now_ms` into this leadership, and whether to ask again at once.

        A time before that of the last call begins another leadership.
        """
        if now_ms < self._now_ms or not now_ms:
            self._seen_index = 0
            self._renewals.clear()
            self._queue.clear()
        self._now_ms = now_ms
        more = self._take_in(now_ms)
        expired = self._run_out(now_ms)
        return (LeaseExpire(tuple(expired)) if expired else None), more or len(expired) == LEASE_BATCH

    def _take_in(self, now_ms: int) -> bool:
        """See what was renewed since; whether there is more of it."""
        renewed = self._leases.renewed_after(self._seen_index, LEASE_READ)
        for lease in renewed:
            ends_ms = now_ms + (0 if lease.ending else lease.ttl_ms)
            known = self._renewals.get(lease.lease)
            self._renewals[lease.lease] = ends_ms, lease.renewed_index
            if known is None or ends_ms < known[0]:
                heapq.heappush(self._queue, (ends_ms, lease.lease))
        if renewed:
            self._seen_index = renewed[-1].renewed_index
        return len(renewed) >= LEASE_READ

    def _run_out(self, now_ms: int) -> list[tuple[int, int]]:
        expired: list[tuple[int, int]] = []
        while self._queue and self._queue[0][0] <= now_ms and len(expired) < LEASE_BATCH:
            _, number = heapq.heappop(self._queue)
            known = self._renewals.get(number)
            if known is None:
                continue
            ends_ms, index = known
            if ends_ms > now_ms:
                heapq.heappush(self._queue, (ends_ms, number))
                continue
            lease = self._leases.get(number)
            if lease is None:
                del self._renewals[number]
            elif lease.renewed_index != index:
                # Renewed, and not seen yet: its time will be counted when it is.
                del self._renewals[number]
            else:
                expired.append((number, index))
                # Should the proposal fail, it is made again.
                self._renewals[number] = now_ms + LEASE_RETRY_MS, index
                heapq.heappush(self._queue, (now_ms + LEASE_RETRY_MS, number))
        return expired


class LeaseExpiry:
    """The housekeeper's duty."""

    name: Final = "lease expiry"
    interval_ms: Final = LEASE_CHECK_MS

    def __init__(self, leases: LmdbLeases, proposer: Proposer) -> None:
        self._clock = LeaseClock(leases)
        self._proposer = proposer

    async def run(self, now_ms: int, led_for_ms: int) -> bool:
        command, more = self._clock.due(led_for_ms)
        if command is not None:
            await self._proposer.propose(command)
        return more
