"""The HTTP side of traces: every request gets an id, says it in its answer, and is logged when it was slow.

`X-Request-Id` is the client's if it sent one that looks like an id, else made here. A client's id is carried
through the log to all members (`aspen.tracing`), and its request is logged when it is answered: of strangers'
ids too, so there is a limit to how many a second.
"""

from __future__ import annotations

import os
import time

import structlog

from aspen.limits import TRACES, TRACES_PER_S
from aspen.ratelimit import Rate, RateLimiter
from aspen.slow import SlowLog
from aspen.tracing import CURRENT, RequestIds, Trace

log = structlog.get_logger("aspen.http")

_PATH_CHARS = 200
_PREFIX_BYTES = 4


class Tracing:
    """One node's, for all its listeners."""

    def __init__(self, slow: SlowLog) -> None:
        self._slow = slow
        self._ids = RequestIds(os.urandom(_PREFIX_BYTES).hex())
        self._carried = RateLimiter(Rate(TRACES_PER_S, TRACES), peers=1)

    def begin(self, given_untrusted: str | None) -> Trace:
        """The trace of a request that has arrived with this id, or with none."""
        request_id, given = self._ids.of(given_untrusted)
        carried = given and self._carried.take(None, time.monotonic()) == 0
        trace = Trace(request_id, carried, time.monotonic())
        CURRENT.set(trace)
        return trace

    def answered(self, trace: Trace, method: str, path: str, status: int) -> None:
        """A whole answer is ready. Streams have no such moment."""
        now_s = time.monotonic()
        elapsed_s = now_s - trace.began_s
        slow = elapsed_s >= self._slow.threshold_s
        if not (slow or trace.carried):
            return
        told = {
            "request_id": trace.request_id,
            "method": method,
            "path": path[:_PATH_CHARS],
            "status": status,
            "stages_ms": trace.stages_ms(now_s),
        }
        if trace.carried:
            log.info("request answered", ms=round(elapsed_s * 1000, 1), **told)
        if slow:
            self._slow.note("http", elapsed_s, **told)
