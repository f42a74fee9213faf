"""The writer thread: the one place that makes things durable.

The driver hands over jobs in order. The thread takes all that have queued up, puts them into
one LMDB transaction (hard state, appended entries, applied commands, applied index), commits
it, and only then reports the jobs back. While it waits for the disk, more jobs queue up and
share the next commit: group commit without a timer.

A failure to commit is final: what the kernel dropped on a failed fsync can't be known, so the
node must stop rather than retry.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from aspen.errors import AspenError
from aspen.raft.envelope import open_envelope
from aspen.raft.messages import Entry, EntryKind, HardState, Message
from aspen.raft.roster import Roster
from aspen.raft.storage import LmdbLog
from aspen.state.store import Store, Txn


class StateMachine(Protocol):
    """What the log drives. Called by the writer thread only, inside its transaction."""

    def begin(self, txn: Txn) -> None: ...

    def apply(self, txn: Txn, index: int, proposed_at_ms: int, data: bytes) -> Any:
        """Apply one committed command, deterministically; return what its proposer is told."""
        ...

    def end(self, txn: Txn) -> bool:
        """Whether what DNS can see has changed in this transaction."""
        ...


@dataclass(slots=True)
class WriteJob:
    """One unit of work from one `Ready`: an append, or an application of committed entries."""

    hard_state: HardState | None = None
    entries: Sequence[Entry] = ()
    committed: Sequence[Entry] = ()
    roster: Roster | None = None
    responses: Sequence[Message] = ()
    results: list[tuple[bytes, Any]] = field(default_factory=list)
    """Filled in when applied: (request id, result) of each command, in log order."""


_STOP: Final = None


class Writer:
    """Owns the thread. `on_durable` and `on_failure` are called from it."""

    def __init__(
        self,
        store: Store,
        log: LmdbLog,
        machine: StateMachine,
        *,
        on_durable: Callable[[Sequence[WriteJob], bool], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._store = store
        self._log = log
        self._machine = machine
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._jobs: queue.SimpleQueue[WriteJob | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="aspen-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: WriteJob) -> None:
        """Queue a job. The driver bounds how many are in flight (RAFT_BATCHES_IN_FLIGHT)."""
        self._jobs.put(job)

    def stop(self) -> None:
        """Finish what is queued, then end the thread."""
        self._jobs.put(_STOP)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._jobs.get()) is not _STOP:
            jobs, stopping = self._take_all(first)
            try:
                dns_changed = self._commit(jobs)
            except (AspenError, OSError, ValueError, TypeError, LookupError) as error:
                self._on_failure(error)
                return
            self._on_durable(jobs, dns_changed)
            if stopping:
                return

    def _take_all(self, first: WriteJob) -> tuple[list[WriteJob], bool]:
        jobs = [first]
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, False
            if job is _STOP:
                return jobs, True
            jobs.append(job)

    def _commit(self, jobs: Sequence[WriteJob]) -> bool:
        machine, log = self._machine, self._log
        with self._store.write() as txn:
            machine.begin(txn)
            for job in jobs:
                if job.entries:
                    log.append(txn, job.entries)
                if job.hard_state is not None:
                    log.put_hard_state(txn, job.hard_state)
                for entry in job.committed:
                    if entry.kind is EntryKind.NORMAL and entry.data:
                        envelope = open_envelope(entry.data)
                        result = machine.apply(txn, entry.index, envelope.proposed_at_ms, envelope.command)
                        job.results.append((envelope.request_id, result))
                if job.roster is not None:
                    log.put_roster(txn, job.roster)
                if job.committed:
                    log.put_applied(txn, job.committed[-1].index, job.committed[-1].term)
            return machine.end(txn)
