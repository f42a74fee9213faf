"""What the driver is given: a way to the other members, the time, and whom to tell what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aspen.raft.messages import Message


class Transport(Protocol):
    """Carries messages to other members: ordered per peer, lossy, never blocking."""

    def send(self, messages: Sequence[Message]) -> None: ...


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the driver gets the time."""

    monotonic_ms: Callable[[], int]
    wall_ms: Callable[[], int]


class SlowOperations(Protocol):
    """Hears of what took long."""

    threshold_s: float

    def note(self, operation: str, elapsed_s: float, **details: Any) -> None: ...


class NothingIsSlow:
    """For who doesn't care."""

    threshold_s = float("inf")

    def note(self, operation: str, elapsed_s: float, **details: Any) -> None: ...


NOTHING_IS_SLOW: Final = NothingIsSlow()


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who hears what from the driver, on the loop unless said otherwise."""

    dns_changed: Callable[[], None]
    """On the writer thread, right after a commit that changed what DNS can see."""
    progressed: Callable[[], None]
    """After anything moved."""
    failed: Callable[[Exception], None]
    """Once, when the node can't go on."""
    replaced: Callable[[], None]
    """A snapshot has replaced the state; the writer thread waits until this returns."""
    slow: SlowOperations = NOTHING_IS_SLOW
    """Of the writer thread's transactions."""
