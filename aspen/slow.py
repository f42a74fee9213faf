"""The log of slow operations: what took longer than `slow_operation_ms`, and which of its stages did.

A machine that is slow is slow for everybody, so lines are limited; the next one that is written tells how
many were not.
"""

from __future__ import annotations

import time
from typing import Any

import structlog

from aspen.limits import SLOW_LINES, SLOW_LINES_PER_S
from aspen.ratelimit import Rate, RateLimiter

log = structlog.get_logger("aspen.slow")


class SlowLog:
    """One node's. Any thread may note; the count of lines left out may then be one off."""

    def __init__(self, threshold_ms: int = 0) -> None:
        """With 0, nothing is slow."""
        self.threshold_s = threshold_ms / 1000 if threshold_ms else float("inf")
        self._limiter = RateLimiter(Rate(SLOW_LINES_PER_S, SLOW_LINES), peers=1)
        self._unlogged = 0

    def note(self, operation: str, elapsed_s: float, **details: Any) -> None:
        """Log an operation if it was slow."""
        if elapsed_s < self.threshold_s:
            return
        if self._limiter.take(None, time.monotonic()) > 0:
            self._unlogged += 1
            return
        unlogged, self._unlogged = self._unlogged, 0
        told = {"unlogged": unlogged} if unlogged else {}
        log.warning("slow operation", operation=operation, ms=round(elapsed_s * 1000, 1), **details, **told)
