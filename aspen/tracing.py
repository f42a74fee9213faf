"""Following one request: its id, and when it got how far.

Every HTTP request has a `Trace` while it is answered, which code below finds in `CURRENT`: so no function on
the way has to pass it on. A *carried* trace goes further: its id travels in the log beside what the
request proposes, and every member says when it applies that (`raft.traces`). Only requests whose client
gave them an id are carried, and not many a second.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar
from itertools import count
from typing import Final

from aspen.limits import REQUEST_ID_CHARS, TRACE_MARKS

HEADER: Final = "X-Request-Id"
_ID: Final = re.compile(rf"[A-Za-z0-9._:/+=@-]{{1,{REQUEST_ID_CHARS}}}")


class Trace:
    """One request's. A mark ends a stage, which lasted since the mark before it."""

    __slots__ = ("_clock", "_marks", "began_s", "carried", "request_id")

    def __init__(self, request_id: str, carried: bool, clock: Callable[[], float]) -> None:
        self.request_id = request_id
        self.carried = carried
        self.began_s = clock()
        self._clock = clock
        self._marks: list[tuple[str, float]] = []

    def mark(self, stage: str, at_s: float | None = None) -> None:
        """A stage has ended: now, or when it did by the same clock."""
        if len(self._marks) < TRACE_MARKS:
            self._marks.append((stage, self._clock() if at_s is None else at_s))

    def elapsed_s(self) -> float:
        return self._clock() - self.began_s

    def stages_ms(self) -> dict[str, float]:
        """How long each stage took. What was done more than once is added up."""
        stages: dict[str, float] = {}
        before_s = self.began_s
        for stage, at_s in self._marks:
            stages[stage] = round(stages.get(stage, 0.0) + (at_s - before_s) * 1000, 3)
            before_s = at_s
        return stages


CURRENT: Final[ContextVar[Trace | None]] = ContextVar("aspen_trace", default=None)
"""The request that is being answered."""


def mark(stage: str) -> None:
    """A stage of the request that is being answered has ended, if there is one."""
    trace = CURRENT.get()
    if trace is not None:
        trace.mark(stage)


class RequestIds:
    """The ids of one listener's requests: the client's, or our own."""

    def __init__(self, prefix: str) -> None:
        """`prefix` tells this process's ids from others'."""
        self._prefix = prefix
        self._count = count(1)

    def of(self, given_untrusted: str | None) -> tuple[str, bool]:
        """A request's id, and whether it is the client's: what could be anything but an id is not taken."""
        if given_untrusted is not None and _ID.fullmatch(given_untrusted):
            return given_untrusted, True
        return f"{self._prefix}-{next(self._count):x}", False
