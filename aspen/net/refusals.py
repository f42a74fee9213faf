"""Refused peers: counted always, logged at most once a minute for each kind.

A stranger can make a node refuse as often as it likes, so the log must not grow with it. The count of
refusals that went unlogged is in the next line that is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import structlog

from aspen.limits import NET_REFUSAL_LOG_MS

log = structlog.get_logger("aspen.net")


class Refusals:
    """The counter of refusals by code, and their log."""

    def __init__(self, clock: Callable[[], float], *, logged: bool = True) -> None:
        self._logged = logged
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._logged_at: dict[str, float] = {}
        self._logged_count: dict[str, int] = {}

    def note(self, code: str, reason: str, **where: Any) -> None:
        """Count a refusal under `code`; log it unless one of its kind was logged within the minute."""
        self.counts[code] += 1
        now = self._clock()
        last = self._logged_at.get(code)
        if not self._logged or (last is not None and now - last < NET_REFUSAL_LOG_MS / 1000):
            return
        unlogged = self.counts[code] - self._logged_count.get(code, 0) - 1
        self._logged_at[code] = now
        self._logged_count[code] = self.counts[code]
        log.warning("peer refused", code=code, reason=reason, unlogged=unlogged, **where)
