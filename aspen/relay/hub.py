"""A relay's heart: who is connected, and what waits for whom (core).

A relay promises nothing, like the network below it: what is too much is dropped, and QUIC's congestion
control at both ends finds out. Three things bound what one client can cost the others: a bucket for what
it sends (datagrams, and bytes), a queue for what it has not taken yet, which loses its oldest when it is
full (the newest acknowledgement is worth most), and a place for only one connection with each key.

Pure: time comes in, and bytes that are ready to be sent go out.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aspen.errors import RelayError
from aspen.identity import EndpointId
from aspen.limits import (
    RELAY_BYTES_BURST,
    RELAY_BYTES_PER_S,
    RELAY_CLIENTS,
    RELAY_DATAGRAMS_BURST,
    RELAY_DATAGRAMS_PER_S,
    RELAY_QUEUE_BYTES,
)
from aspen.ratelimit import Rate, RateLimiter
from aspen.relay.frames import Datagram, Gone, encode_datagram, encode_frame

DATAGRAMS: Final = Rate(RELAY_DATAGRAMS_PER_S, RELAY_DATAGRAMS_BURST)
BYTES: Final = Rate(RELAY_BYTES_PER_S, RELAY_BYTES_BURST)
DROPS: Final = ("gone", "queue", "rate")


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What one relay grants; tests and `aspen relay` change it."""

    clients: int = RELAY_CLIENTS
    queue_bytes: int = RELAY_QUEUE_BYTES
    datagrams: Rate = DATAGRAMS
    """Of each client."""
    bytes_: Rate = BYTES
    """Of each client."""


class DroppingQueue:
    """Frames on their way to one place, bounded in bytes: the oldest make room for the newest."""

    __slots__ = ("_bytes", "_frames", "_max_bytes", "dropped")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def size(self) -> int:
        """In bytes."""
        return self._bytes

    def push(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._bytes += len(frame)
        while self._bytes > self._max_bytes and len(self._frames) > 1:
            self._bytes -= len(self._frames.popleft())
            self.dropped += 1

    def pop(self) -> bytes | None:
        if not self._frames:
            return None
        frame = self._frames.popleft()
        self._bytes -= len(frame)
        return frame

    def clear(self) -> None:
        self._frames.clear()
        self._bytes = 0


class Session:
    """One connected client."""

    __slots__ = ("ended", "endpoint_id", "queue", "wake")

    def __init__(self, endpoint_id: EndpointId, queue_bytes: int, wake: Callable[[], None]) -> None:
        self.endpoint_id = endpoint_id
        self.queue = DroppingQueue(queue_bytes)
        self.wake = wake
        """Called when there is something in the queue, or the session has ended."""
        self.ended: RelayError | None = None

    def end(self, why: RelayError) -> None:
        """Have the connection closed."""
        self.ended = why
        self.wake()


class Hub:
    """The clients of one relay."""

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._sessions: dict[EndpointId, Session] = {}
        self._datagrams = RateLimiter(limits.datagrams, limits.clients)
        self._bytes = RateLimiter(limits.bytes_, limits.clients)
        self.entered = 0
        """Clients taken in since the start."""
        self.forwarded = 0
        self.forwarded_bytes = 0
        self.dropped: Counter[str] = Counter()
        """Datagrams that went no further, by cause, of `DROPS`."""

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def sessions(self) -> list[Session]:
        return list(self._sessions.values())

    @property
    def max_clients(self) -> int:
        return self._limits.clients

    @property
    def queued_bytes(self) -> int:
        """What waits for all clients together."""
        return sum(session.queue.size for session in self._sessions.values())

    def enter(self, endpoint_id: EndpointId, wake: Callable[[], None]) -> Session:
        """Take in a client that has proven its id. Its older connection, if there is one, ends.

        Raises `RelayError` (`full`).
        """
        older = self._sessions.get(endpoint_id)
        if older is None and len(self._sessions) >= self._limits.clients:
            raise RelayError("full", f"this relay has {self._limits.clients} clients already")
        session = self._sessions[endpoint_id] = Session(endpoint_id, self._limits.queue_bytes, wake)
        self.entered += 1
        if older is not None:
            older.end(RelayError("replaced", "a newer connection with the same key took this one's place"))
        return session

    def leave(self, session: Session) -> None:
        self.dropped["queue"] += session.queue.dropped
        session.queue.dropped = 0
        session.queue.clear()
        if self._sessions.get(session.endpoint_id) is session:
            del self._sessions[session.endpoint_id]

    def forward(self, session: Session, datagram: Datagram, now_s: float) -> None:
        """Pass a client's datagram on, or drop it."""
        size = len(datagram.payload)
        sender = session.endpoint_id
        if self._datagrams.take(sender, now_s) or self._bytes.take(sender, now_s, size):
            self.dropped["rate"] += 1
            return
        target = self._sessions.get(datagram.peer)
        if target is None or target.ended is not None:
            self.dropped["gone"] += 1
            self.give(session, encode_frame(Gone(datagram.peer)))
            return
        self.give(target, encode_datagram(sender, datagram.payload))
        self.forwarded += 1
        self.forwarded_bytes += size

    def give(self, session: Session, frame: bytes) -> None:
        """Queue an encoded frame for a client."""
        session.queue.push(frame)
        self.dropped["queue"] += session.queue.dropped
        session.queue.dropped = 0
        session.wake()
