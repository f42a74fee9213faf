"""The way to one peer: the connection this node dialled, the dial in progress, or the wait before the next.

Reconnecting backs off exponentially with full jitter, so that a cluster which comes back does not dial in
step. Pure: time and randomness come in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from aspen.errors import invariant
from aspen.identity import EndpointId
from aspen.limits import (
    NET_DIAL_BACKLOG_BYTES,
    NET_PROBE_MAX_MS,
    NET_PROBE_MIN_MS,
    NET_RECONNECT_MAX_MS,
    NET_RECONNECT_MIN_MS,
    NET_SEND_BACKLOG_BYTES,
    NET_UNREACHABLE_MS,
    RAFT_FRAME_BYTES,
)
from aspen.net.address_book import Address
from aspen.net.connection import Connection, State


class Random(Protocol):
    def random(self) -> float: ...


class Probe:
    """Which address of a peer behind a relay to try directly, and when."""

    __slots__ = ("_addresses", "_at", "_interval_ms", "_tried")

    def __init__(self) -> None:
        self.rest()

    def rest(self) -> None:
        """There is a direct way: begin anew when it is lost."""
        self._addresses: frozenset[Address] = frozenset()
        self._at = 0.0
        self._interval_ms = NET_PROBE_MIN_MS
        self._tried = 0

    def next(self, addresses: Sequence[Address], now: float, rng: Random) -> Address | None:
        """The address to try now, if any: all in turn, then a wait; a new address ends the wait."""
        known = frozenset(addresses)
        if not known <= self._addresses:
            self.rest()
        self._addresses = known
        if not addresses or now < self._at:
            return None
        address = addresses[self._tried % len(addresses)]
        self._tried += 1
        if self._tried >= len(addresses):
            self._tried = 0
            self._at = now + self._interval_ms * (0.5 + rng.random() / 2) / 1000
            self._interval_ms = min(2 * self._interval_ms, NET_PROBE_MAX_MS)
        return address


class Link:
    """What this node knows about reaching one peer. At most one connection at a time."""

    __slots__ = (
        "_reported_at",
        "attempts",
        "connection",
        "endpoint_id",
        "failures",
        "openers",
        "probe",
        "relay_attempts",
        "resolving",
        "retry_at",
        "rival",
        "waiting",
        "waiting_bytes",
    )

    def __init__(self, endpoint_id: EndpointId) -> None:
        self.endpoint_id = endpoint_id
        self.connection: Connection | None = None
        self.rival: Connection | None = None
        """A dial beside `connection`, which becomes that if it is proven first, or is direct."""
        self.probe = Probe()
        self.relay_attempts = 0
        """Dials through relays since the last success: which relay comes next."""
        self.resolving = False
        """A host name is being looked up for the next dial."""
        self.waiting: list[bytes] = []
        """Frames to leave with the next flush."""
        self.waiting_bytes = 0
        self.failures = 0
        self.retry_at = 0.0
        self.attempts = 0
        """Dials since the last success: which address comes next."""
        self.openers: list[asyncio.Future[Connection]] = []
        """Those who wait for a connection to open a stream on it."""
        self._reported_at = float("-inf")

    @property
    def is_idle(self) -> bool:
        """Whether nothing but the wait for the next dial would be forgotten with it."""
        return self.connection is None and self.rival is None and not self.resolving

    def offer(self, frames: Sequence[bytes]) -> bool:
        """Queue frames to leave in order. False if that would be over the bound; nothing is queued then."""
        size = sum(map(len, frames))
        if size > RAFT_FRAME_BYTES:
            invariant(max(map(len, frames)) <= RAFT_FRAME_BYTES, "a frame is larger than any peer accepts")
        connection = self.connection
        if connection is not None and connection.state is State.OPEN:
            over = self.waiting_bytes + size + connection.backlog_bytes() > NET_SEND_BACKLOG_BYTES
        else:
            # A larger frame may wait alone, or it could never be sent first.
            over = self.waiting_bytes > 0 and self.waiting_bytes + size > NET_DIAL_BACKLOG_BYTES
        if over:
            return False
        self.waiting += frames
        self.waiting_bytes += size
        return True

    def flush(self) -> bool:
        """Hand the waiting frames to the connection. Whether there was anything to hand over."""
        if not self.waiting or self.connection is None or self.connection.state is not State.OPEN:
            return False
        self.connection.send(self.waiting)
        self.drop_waiting()
        return True

    def drop_waiting(self) -> None:
        self.waiting = []
        self.waiting_bytes = 0

    def opened(self, connection: Connection) -> None:
        self.forgive()
        self._reported_at = float("-inf")  # it was reached: its loss is news, however soon it comes
        self.relay_attempts = 0
        openers, self.openers = self.openers, []
        for opener in openers:
            if not opener.done():
                opener.set_result(connection)

    def turn_away(self, reason: str) -> None:
        """There will be no connection for those who wait for one."""
        openers, self.openers = self.openers, []
        for opener in openers:
            if not opener.done():
                opener.set_exception(ConnectionError(reason))

    def lost(self, now: float, rng: Random) -> None:
        """The connection or the dial failed: frames that waited are lost; the next dial waits."""
        self.connection = None
        self.drop_waiting()
        self.turn_away("the peer can't be reached")
        ceiling = min(NET_RECONNECT_MAX_MS, NET_RECONNECT_MIN_MS * 2 ** min(self.failures, 16))
        wait_ms = max(NET_RECONNECT_MIN_MS, ceiling * rng.random())
        self.failures += 1
        self.retry_at = now + wait_ms / 1000

    def forgive(self) -> None:
        """The peer shows that it is there: dial without waiting."""
        self.failures = 0
        self.attempts = 0
        self.retry_at = 0.0

    def report_due(self, now: float) -> bool:
        """Whether to tell that the peer is unreachable; says yes once in a while only."""
        if now - self._reported_at < NET_UNREACHABLE_MS / 1000:
            return False
        self._reported_at = now
        return True
