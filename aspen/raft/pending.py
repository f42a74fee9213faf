"""What waits on Raft: proposals for their entry to be applied, reads for a confirmed index.

Both are bounded, and every wait ends: by success, by an error that says whether the write may
have happened, or at a deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from aspen.errors import NoLeader, OutcomeUnknown, Overloaded, ProposalError
from aspen.histogram import Histogram
from aspen.limits import (
    RAFT_MAX_PROPOSALS_PER_TURN,
    RAFT_PENDING_PROPOSALS,
    RAFT_PENDING_READS,
    RAFT_PROPOSE_MS,
    RAFT_READ_MS,
    RAFT_READ_RETRY_MS,
)
from aspen.raft.messages import ConfChangeV2
from aspen.raft.roster import decode_context, encode_context
from aspen.raft.traces import announce
from aspen.tracing import CURRENT, Trace, Written

_COUNTER_BYTES: Final = 8


@dataclass(slots=True)
class _Proposal:
    future: asyncio.Future[Any]
    deadline: Timer
    since_s: float
    trace: Trace | None = None
    """Of the request that it is for."""
    announced: bytes = b""
    """The id of the entry before its own that carries the request's id, if there is one."""
    term: int = 0
    """Term it was handed to the core in; 0 while it waits for a leader."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class Timers(Protocol):
    """The part of an event loop that is needed here; simulated time has it too."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: Any) -> Timer: ...

    def create_future(self) -> asyncio.Future[Any]: ...


class PendingProposals:
    """Proposals of this node, by request id: waiting for a leader, then for their application."""

    def __init__(self, loop: Timers, incarnation: bytes) -> None:
        self._loop = loop
        self._incarnation = incarnation
        self._counter = 0
        self._pending: dict[bytes, _Proposal] = {}
        self._waiting: dict[bytes, bytes] = {}
        self.changes: dict[bytes, ConfChangeV2] = {}
        """Configuration changes that wait to be proposed, each in front of its marker."""
        self._oldest_term = 0
        self.seconds = Histogram()
        """From being asked for to being applied here, of those that were."""
        self.failures: Counter[str] = Counter()
        """Of the others, by the code of their error."""

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, command: bytes, change: ConfChangeV2 | None = None) -> asyncio.Future[Any]:
        """Raises `Overloaded` when too many wait already. With a `change`, `command` is its marker."""
        if len(self._pending) >= RAFT_PENDING_PROPOSALS:
            self.failures[Overloaded.code] += 1
            raise Overloaded(f"{RAFT_PENDING_PROPOSALS} writes are waiting on this node; try again")
        self._counter += 1
        request_id = self._incarnation + self._counter.to_bytes(_COUNTER_BYTES, "big")
        future: asyncio.Future[Any] = self._loop.create_future()
        deadline = self._loop.call_later(RAFT_PROPOSE_MS / 1000, self._expire, request_id)
        proposal = self._pending[request_id] = _Proposal(future, deadline, time.perf_counter())
        if change is None and (trace := CURRENT.get()) is not None:
            proposal.trace = trace
            if trace.carried:
                self._counter += 1
                proposal.announced = self._incarnation + self._counter.to_bytes(_COUNTER_BYTES, "big")
                self._waiting[proposal.announced] = announce(request_id, trace.request_id)
        self._waiting[request_id] = command
        if change is not None:
            self.changes[request_id] = _tagged(change, request_id)
        return future

    def take(self) -> list[tuple[bytes, bytes]]:
        """The (request id, command) pairs to propose now, oldest first."""
        if len(self._waiting) <= RAFT_MAX_PROPOSALS_PER_TURN:
            batch = list(self._waiting.items())
            self._waiting.clear()
            return batch
        batch = [
            item for item, _ in zip(self._waiting.items(), range(RAFT_MAX_PROPOSALS_PER_TURN), strict=False)
        ]
        for request_id, _ in batch:
            del self._waiting[request_id]
        return batch

    def take_all(self) -> list[tuple[bytes, bytes]]:
        """Every pair that is not proposed yet."""
        batch = list(self._waiting.items())
        self._waiting.clear()
        return batch

    def proposed(self, batch: Sequence[tuple[bytes, bytes]], term: int) -> None:
        now_s = time.monotonic()
        for request_id, _ in batch:
            if (proposal := self._pending.get(request_id)) is not None:
                proposal.term = term
                if proposal.trace is not None:
                    proposal.trace.queued_s = now_s
            if self.changes:
                self.changes.pop(request_id, None)

    def refuse(self, batch: Sequence[tuple[bytes, bytes]], error: ProposalError) -> None:
        for request_id, _ in batch:
            self._fail(request_id, error)

    def applied(self, request_id: bytes, result: Any, written: Written | None = None) -> None:
        proposal = self._pending.pop(request_id, None)
        if proposal is not None:
            if proposal.trace is not None and written is not None:
                proposal.trace.written = written
            proposal.deadline.cancel()
            self.seconds.note(time.perf_counter() - proposal.since_s)
            if not proposal.future.done():
                proposal.future.set_result(result)

    def term_applied(self, term: int) -> None:
        """An entry of `term` is applied. Proposals of earlier terms that are still open were
        most likely lost with their leader: the new leader's log starts where theirs is not.
        A copy may still be under way to it, so their outcome is unknown, not negative."""
        if term <= self._oldest_term:
            return
        self._oldest_term = term
        lost = [rid for rid, proposal in self._pending.items() if 0 < proposal.term < term]
        for request_id in lost:
            self._fail(request_id, OutcomeUnknown("the leader changed before the write was confirmed"))

    def close(self) -> None:
        for request_id in list(self._pending):
            self._expire(request_id)

    def _expire(self, request_id: bytes) -> None:
        proposal = self._pending.get(request_id)
        if proposal is None:
            return
        if proposal.term == 0:
            self._waiting.pop(request_id, None)
            self._waiting.pop(proposal.announced, None)
            self._fail(request_id, NoLeader("no leader is known; the write was not proposed"))
        else:
            self._fail(request_id, OutcomeUnknown("no quorum confirmed the write in time"))

    def _fail(self, request_id: bytes, error: ProposalError) -> None:
        proposal = self._pending.pop(request_id, None)
        if proposal is None:
            return  # what only announces another
        self.changes.pop(request_id, None)
        proposal.deadline.cancel()
        self.failures[error.code] += 1
        if not proposal.future.done():
            proposal.future.set_exception(error)


def _tagged(change: ConfChangeV2, request_id: bytes) -> ConfChangeV2:
    context = msgspec.structs.replace(decode_context(change.context), request_id=request_id)
    return msgspec.structs.replace(change, context=encode_context(context))


class _Round:
    """One ReadIndex round: the reads that share its confirmation."""

    __slots__ = ("futures", "started", "wait_index")

    def __init__(self, futures: list[asyncio.Future[None]], started: float) -> None:
        self.futures = futures
        self.started = started
        self.wait_index: int | None = None


class PendingReads:
    """Reads waiting for a barrier. Those that arrive while a round is under way share the next."""

    def __init__(self, loop: Timers, incarnation: bytes) -> None:
        self._loop = loop
        self._incarnation = incarnation
        self._counter = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._rounds: dict[bytes, _Round] = {}
        self._confirmed: list[_Round] = []
        self._count = 0

    def add(self) -> asyncio.Future[None]:
        """Raises `Overloaded` when too many wait already."""
        if self._count >= RAFT_PENDING_READS:
            raise Overloaded(f"{RAFT_PENDING_READS} reads are waiting on this node; try again")
        self._count += 1
        future: asyncio.Future[None] = self._loop.create_future()
        deadline = self._loop.call_later(RAFT_READ_MS / 1000, self._expire, future)
        future.add_done_callback(self._finished(deadline))
        self._waiting.append(future)
        return future

    def _finished(self, deadline: Timer) -> Callable[[asyncio.Future[None]], None]:
        def callback(_: asyncio.Future[None]) -> None:
            deadline.cancel()
            self._count -= 1

        return callback

    def next_round(self) -> bytes | None:
        """Start a round for the waiting reads, if there are any and none is under way."""
        if not self._waiting or self._rounds:
            return None
        self._counter += 1
        # A context is never used twice: a late answer to an old round must not confirm a new one.
        context = self._incarnation + self._counter.to_bytes(_COUNTER_BYTES, "big")
        self._rounds[context] = _Round(self._waiting, self._loop.time())
        self._waiting = []
        return context

    def confirmed(self, context: bytes, index: int, applied_index: int) -> None:
        """The leader confirmed that reads of this round may be served at `index`."""
        read_round = self._rounds.pop(context, None)
        if read_round is None:
            return
        read_round.wait_index = index
        self._confirmed.append(read_round)
        self.applied(applied_index)

    def applied(self, index: int) -> None:
        """The local replica has reached `index`."""
        if not self._confirmed:
            return
        still: list[_Round] = []
        for read_round in self._confirmed:
            if read_round.wait_index is not None and read_round.wait_index <= index:
                for future in read_round.futures:
                    if not future.done():
                        future.set_result(None)
            else:
                still.append(read_round)
        self._confirmed = still

    def stale(self, now: float) -> bool:
        """Whether a round has waited so long that its message was probably lost."""
        return any(now - r.started > RAFT_READ_RETRY_MS / 1000 for r in self._rounds.values())

    def retry(self) -> None:
        """Ask again, under a fresh context, for every read not confirmed yet. Reads have no
        effect, so asking twice is harmless."""
        for read_round in self._rounds.values():
            self._waiting += [future for future in read_round.futures if not future.done()]
        self._rounds.clear()

    def close(self) -> None:
        for future in (
            *self._waiting,
            *(f for r in (*self._rounds.values(), *self._confirmed) for f in r.futures),
        ):
            self._expire(future)

    def _expire(self, future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_exception(NoLeader("no leader confirmed the read in time"))
