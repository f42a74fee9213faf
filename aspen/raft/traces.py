"""Request ids in the log: every member can say when it applied what a client has asked for.

A carried id (`aspen.tracing`) stands in a normal entry of its own, right before the one it is about, and
begins with `MARKER`: state machines never see it, and a member of an earlier version passes over it like over
any marker. So commands and their entries are what they were, and cost nothing more where nobody asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import structlog

from aspen.limits import TRACES_WAITING
from aspen.raft.envelope import HEAD_BYTES, MARKER
from aspen.raft.messages import Entry, EntryKind

log = structlog.get_logger("aspen.raft")

_TAG: Final = MARKER + b"trace:"
_ID_BYTES: Final = 16


class Announced(NamedTuple):
    """A client's id for a request, and the id that its entry has in the log."""

    entry_id: bytes
    request_id: str


def announce(entry_id: bytes, request_id: str) -> bytes:
    """What stands in the log before the entry."""
    return _TAG + entry_id + request_id.encode("ascii", "replace")


def announced(command: bytes) -> Announced | None:
    """What `announce` has made; None if it is something else."""
    if not command.startswith(_TAG):
        return None
    told = command[len(_TAG) :]
    return Announced(told[:_ID_BYTES], told[_ID_BYTES:].decode("ascii", "replace"))


def log_proposed(batch: Iterable[tuple[bytes, bytes]], leader_id: int, term: int) -> None:
    """On the node that took the requests: (entry id, command) were handed on."""
    for _, command in batch:
        if (told := announced(command)) is not None:
            log.info("write proposed", request_id=told.request_id, leader=leader_id, term=term)


def log_forwarded(entries: Iterable[Entry], sender: int, *, leads: bool) -> None:
    """On the leader: another node has forwarded entries."""
    for entry in entries:
        if entry.kind is EntryKind.NORMAL and entry.data.startswith(_TAG, HEAD_BYTES):
            told = announced(entry.data[HEAD_BYTES:])
            if told is not None:
                log.info("write forwarded", request_id=told.request_id, sender=sender, leads=leads)


class AppliedTraces:
    """On every member, the writer thread's: ids whose entry is next, and what to say once that is durable."""

    def __init__(self) -> None:
        self._coming: dict[bytes, str] = {}
        self._applied: list[tuple[bytes, Entry, str]] = []

    def begin(self) -> None:
        """A transaction begins, perhaps again."""
        self._applied.clear()

    def saw_marker(self, command: bytes) -> None:
        if (told := announced(command)) is not None:
            self._coming[told.entry_id] = told.request_id
            while len(self._coming) > TRACES_WAITING:  # what was announced and never came
                del self._coming[next(iter(self._coming))]

    def saw_command(self, entry: Entry, entry_id: bytes, result: Any) -> None:
        if self._coming and entry_id in self._coming:
            self._applied.append((entry_id, entry, type(result).__name__))

    def durable(self, apply_s: float, sync_s: float) -> None:
        """The transaction is on disk."""
        for entry_id, entry, result in self._applied:
            log.info(
                "write applied",
                request_id=self._coming.pop(entry_id, ""),
                index=entry.index,
                term=entry.term,
                result=result,
                apply_ms=round(apply_s * 1000, 2),
                sync_ms=round(sync_s * 1000, 2),
            )
        self._applied.clear()
