"""Which UDP workers do their work: each moves a word of shared memory with every tick.

A worker that has ended is started again by its keeper. One that is there but stuck, or stopped, shows here
only: its pulse stands still. Pure; times are arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from aspen.limits import DNS_WORKER_SILENT_MS


@dataclass
class Pulses:
    """What was seen at each look, which must come more often than the silence that counts."""

    last_restart_ms: int | None = None
    _restarts: int = 0
    _moved: list[tuple[int, int]] = field(default_factory=list)
    """Of each worker: its pulse, and when that was first seen."""

    def look(self, pulses: Sequence[int], restarts: int, now_ms: int) -> None:
        """`restarts` counts all workers that were started again."""
        if restarts != self._restarts:
            self._restarts, self.last_restart_ms = restarts, now_ms
        before = self._moved or [(-1, now_ms)] * len(pulses)
        self._moved = [
            seen if seen[0] == pulse else (pulse, now_ms) for seen, pulse in zip(before, pulses, strict=True)
        ]

    @property
    def workers(self) -> int:
        return len(self._moved)

    def silent(self, now_ms: int) -> list[int]:
        """The workers that stand still."""
        return [
            worker
            for worker, (_, since_ms) in enumerate(self._moved)
            if now_ms - since_ms > DNS_WORKER_SILENT_MS
        ]
