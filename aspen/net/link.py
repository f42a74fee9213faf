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
    NET_RECONNECT_MAX_MS,
    NET_RECONNECT_MIN_MS,
    NET_SEND_BACKLOG_BYTES,
    NET_UNREACHABLE_MS,
    RAFT_FRAME_BYTES,
)
from aspen.net.connection import Connection, State


class Random(Protocol):
    def random(self) -> float: ...


class Link:
    """What this node knows about reaching one peer. At most one connection at a time."""

    __slots__ = (
        "_reported_at",
        "attempts",
        "connection",
        "endpoint_id",
        "failures",
        "openers",
        "resolving",
        "retry_at",
        "waiting",
        "waiting_bytes",
    )

    def __init__(self, endpoint_id: EndpointId) -> None:
        self.endpoint_id = endpoint_id
        self.connection: Connection | None = None
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
        return self.connection is None and not self.resolving

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
        self.failures = 0
        self.attempts = 0
        self.retry_at = 0.0
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
