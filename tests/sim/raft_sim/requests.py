"""What waits on one node: writes for their entry to be applied, reads for a confirmed index.

The rules are production's (`aspen.raft.pending`): a write that was handed to the core can only
succeed or end as "outcome unknown"; it is refused only if it certainly was not proposed. Reads
that arrive during a round of ReadIndex share the next one; a round's context is never used twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from raft_sim.history import Operation, Outcome
from raft_sim.kernel import TICK

WRITE_DEADLINE: Final = 40 * TICK
READ_DEADLINE: Final = 40 * TICK
READ_RETRY: Final = 6 * TICK

Finish = Callable[[Operation, Outcome, int], None]


class _Waiting:
    __slots__ = ("data", "deadline", "operation", "term")

    def __init__(self, operation: Operation, data: bytes, deadline: int) -> None:
        self.operation = operation
        self.data = data
        self.deadline = deadline
        self.term = 0
        """The term it was handed to the core in; 0 while it waits for a leader."""


class Writes:
    """Writes of one process of one node, by request id."""

    def __init__(self, finish: Finish) -> None:
        self._finish = finish
        self._pending: dict[int, _Waiting] = {}
        self._queue: list[int] = []
        self._oldest_term = 0

    @property
    def queued(self) -> bool:
        return bool(self._queue)

    def add(self, operation: Operation, data: bytes, now: int) -> None:
        self._pending[operation.request_id] = _Waiting(operation, data, now + WRITE_DEADLINE)
        self._queue.append(operation.request_id)

    def take(self) -> list[int]:
        batch, self._queue = self._queue, []
        return batch

    def data(self, batch: list[int]) -> list[bytes]:
        return [self._pending[request_id].data for request_id in batch]

    def proposed(self, batch: list[int], term: int) -> None:
        for request_id in batch:
            if (waiting := self._pending.get(request_id)) is not None:
                waiting.term = term

    def refuse(self, batch: list[int]) -> None:
        for request_id in batch:
            self._end(request_id, Outcome.REFUSED)

    def applied(self, request_id: int, found: int) -> None:
        if (waiting := self._pending.pop(request_id, None)) is not None:
            self._finish(waiting.operation, Outcome.OK, found)

    def term_applied(self, term: int) -> None:
        """An entry of `term` is applied: earlier terms' writes were most likely lost, or are not."""
        if term <= self._oldest_term:
            return
        self._oldest_term = term
        for request_id in [rid for rid, waiting in self._pending.items() if 0 < waiting.term < term]:
            self._end(request_id, Outcome.UNKNOWN)

    def expire(self, now: int) -> None:
        """End what has waited too long. Deadlines are in the order of arrival."""
        pending = self._pending
        while pending:
            request_id = next(iter(pending))
            waiting = pending[request_id]
            if waiting.deadline > now:
                return
            if waiting.term:
                self._end(request_id, Outcome.UNKNOWN)
            else:
                self._queue.remove(request_id)
                self._end(request_id, Outcome.REFUSED)

    def close(self) -> None:
        """The process ends: those who wait see a broken connection."""
        for request_id in list(self._pending):
            self._end(request_id, Outcome.UNKNOWN)

    def _end(self, request_id: int, outcome: Outcome) -> None:
        self._finish(self._pending.pop(request_id).operation, outcome, 0)


class _Round:
    """One ReadIndex round: the reads that share its confirmation."""

    __slots__ = ("index", "reads", "started")

    def __init__(self, reads: list[tuple[int, Operation]], started: int) -> None:
        self.reads = reads
        self.started = started
        self.index = 0


class Reads:
    """Reads of one process of one node. `serve` reads the local replica."""

    def __init__(self, incarnation: int, serve: Callable[[Operation], None], finish: Finish) -> None:
        self._incarnation = incarnation
        self._serve = serve
        self._finish = finish
        self._counter = 0
        self._queue: list[tuple[int, Operation]] = []
        self._rounds: dict[bytes, _Round] = {}
        self._confirmed: list[_Round] = []

    @property
    def queued(self) -> bool:
        return bool(self._queue) and not self._rounds

    def add(self, operation: Operation, now: int) -> None:
        self._queue.append((now + READ_DEADLINE, operation))

    def next_round(self, now: int) -> bytes:
        """Start a round for the waiting reads; returns its context."""
        context = self.next_context()
        self._rounds[context] = _Round(self._queue, now)
        self._queue = []
        return context

    def next_context(self) -> bytes:
        self._counter += 1
        return self._incarnation.to_bytes(4, "big") + self._counter.to_bytes(4, "big")

    def confirmed(self, context: bytes, index: int, applied: int) -> None:
        if (confirmed := self._rounds.pop(context, None)) is not None:
            self.confirmed_at(confirmed.reads, index, applied)

    def confirmed_at(self, reads: list[tuple[int, Operation]], index: int, applied: int) -> None:
        """These reads may be served at `index`."""
        waits = _Round(reads, 0)
        waits.index = index
        self._confirmed.append(waits)
        self.applied(applied)

    def applied(self, index: int) -> None:
        if not self._confirmed:
            return
        ready = [waits for waits in self._confirmed if waits.index <= index]
        self._confirmed = [waits for waits in self._confirmed if waits.index > index]
        for waits in ready:
            for _, operation in waits.reads:
                self._serve(operation)

    def tick(self, now: int) -> None:
        """Ask again what was probably lost; give up what has waited too long."""
        if any(now - waits.started > READ_RETRY for waits in self._rounds.values()):
            self.retry()
        if self._queue:
            late = [operation for deadline, operation in self._queue if deadline <= now]
            self._queue = [item for item in self._queue if item[0] > now]
            for operation in late:
                self._finish(operation, Outcome.UNKNOWN, 0)

    def retry(self) -> None:
        for waits in self._rounds.values():
            self._queue += waits.reads
        self._rounds.clear()

    def close(self) -> None:
        rounds = [*self._rounds.values(), *self._confirmed]
        waiting = [*self._queue, *(read for waits in rounds for read in waits.reads)]
        self._queue, self._rounds, self._confirmed = [], {}, []
        for _, operation in waiting:
            self._finish(operation, Outcome.UNKNOWN, 0)
