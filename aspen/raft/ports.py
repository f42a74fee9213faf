"""What the driver is given: a way to the other members, and the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aspen.raft.messages import Message


class Transport(Protocol):
    """Carries messages to other members: ordered per peer, lossy, never blocking."""

    def send(self, messages: Sequence[Message]) -> None: ...


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the driver gets the time."""

    monotonic_ms: Callable[[], int]
    wall_ms: Callable[[], int]
