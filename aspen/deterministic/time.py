"""Simulated time: events in order of their moment, and of their making within one."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Any, Final

START_MS: Final = 1_700_000_000_000
"""What the wall clock says when a simulation begins."""


class Event:
    """Something that will happen, unless it is cancelled."""

    __slots__ = ("act", "arguments")

    def __init__(self, act: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.act: Callable[..., None] | None = act
        self.arguments = arguments

    def cancel(self) -> None:
        self.act = None


class SimulatedTime:
    """The clock and the queue. Implements `aspen.raft.pending.Timers`."""

    def __init__(self) -> None:
        self._now_us = 0
        self._made = 0
        self._events: list[tuple[int, int, Event]] = []

    def time(self) -> float:
        """Seconds since the beginning."""
        return self._now_us / 1_000_000

    def now_ms(self) -> int:
        return self._now_us // 1_000

    def wall_ms(self) -> int:
        return START_MS + self.now_ms()

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: Any) -> Event:
        event = Event(callback, arguments)
        self._made += 1
        heapq.heappush(self._events, (self._now_us + max(0, round(delay * 1_000_000)), self._made, event))
        return event

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    def run_until(self, condition: Callable[[], bool], deadline_ms: int | None = None) -> bool:
        """Let time pass until `condition` holds, or until `deadline_ms`, if it doesn't; which it was."""
        while not condition():
            if not self._events or (deadline_ms is not None and self._events[0][0] > deadline_ms * 1_000):
                if deadline_ms is not None:
                    self._now_us = max(self._now_us, deadline_ms * 1_000)
                return False
            self._now_us, _, event = heapq.heappop(self._events)
            if event.act is not None:
                event.act(*event.arguments)
        return True

    def run_for(self, duration_ms: int) -> None:
        self.run_until(lambda: False, self.now_ms() + duration_ms)
