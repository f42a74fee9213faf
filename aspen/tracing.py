"""Following one request: its id, and when it got how far.

Every HTTP request has a `Trace` while it is answered, which code below finds in `CURRENT`: so no function on
the way has to pass it on. A *carried* trace goes further: its id travels in the log beside what the
request proposes, and every member says when it applies that (`raft.traces`). Only requests whose client
gave them an id are carried, and not many a second.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from itertools import count
from typing import Final, Protocol

from aspen.limits import REQUEST_ID_CHARS

HEADER: Final = "X-Request-Id"
_ID: Final = re.compile(rf"[A-Za-z0-9._:/+=@-]{{1,{REQUEST_ID_CHARS}}}")


class Written(Protocol):
    """When the transaction that applied an entry got how far."""

    handed_s: float
    """To the thread that writes: a majority had the entry, and this node knew."""
    begun_s: float
    applied_s: float
    durable_s: float


class Trace:
    """One request's: times by `time.monotonic`, 0 for what has not happened.

    Every request has one and few are ever looked at, so noting must cost next to nothing.
    """

    __slots__ = ("began_s", "carried", "queued_s", "received_s", "request_id", "verified_s", "written")

    def __init__(self, request_id: str, carried: bool, began_s: float) -> None:
        self.request_id = request_id
        self.carried = carried
        self.began_s = began_s
        self.received_s = self.verified_s = 0.0
        """When the body of a packet was here, and found good."""
        self.queued_s = 0.0
        """When the last write that the request proposed was handed to a leader."""
        self.written: Written | None = None
        """What became of it."""

    def stages_ms(self, ended_s: float) -> dict[str, float]:
        """How long each stage took, of those there were."""
        ends = {"receive": self.received_s, "verify": self.verified_s, "queue": self.queued_s}
        if (written := self.written) is not None:
            ends |= {
                "commit": written.handed_s,
                "writer": written.begun_s,
                "apply": written.applied_s,
                "sync": written.durable_s,
            }
        stages: dict[str, float] = {}
        before_s = self.began_s
        for stage, at_s in (ends | {"answer": ended_s}).items():
            if at_s:
                stages[stage] = round((at_s - before_s) * 1000, 3)
                before_s = at_s
        return stages


CURRENT: Final[ContextVar[Trace | None]] = ContextVar("aspen_trace", default=None)
"""The request that is being answered."""


class RequestIds:
    """The ids of one listener's requests: the client's, or our own."""

    def __init__(self, prefix: str) -> None:
        """`prefix` tells this process's ids from others'."""
        self._prefix = prefix + "-"
        self._count = count(1)

    def of(self, given_untrusted: str | None) -> tuple[str, bool]:
        """A request's id, and whether it is the client's: what could be anything but an id is not taken."""
        if given_untrusted is not None and _ID.fullmatch(given_untrusted):
            return given_untrusted, True
        return f"{self._prefix}{next(self._count):x}", False
