"""The writer thread: the one place that makes things durable.

The driver hands over jobs in order. The thread takes all that have queued up, puts them into
one LMDB transaction (hard state, appended entries, applied commands, applied index), commits
it, and only then reports the jobs back. While it waits for the disk, more jobs queue up and
share the next commit: group commit without a timer.

A failure to commit is final: what the kernel dropped on a failed fsync can't be known, so the
node must stop rather than retry. Only for want of room it tries again: nothing has happened then,
and nothing is reported until there is room.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from aspen.errors import StorageFull
from aspen.histogram import Histogram
from aspen.limits import RAFT_ROOM_RETRY_MS
from aspen.raft.envelope import HEAD_BYTES, MARKER, open_envelope
from aspen.raft.messages import Entry, EntryKind, HardState, Message
from aspen.raft.ports import SlowOperations
from aspen.raft.roster import Roster
from aspen.raft.storage import Installed, LmdbLog
from aspen.raft.traces import AppliedTraces
from aspen.state.store import Store, Txn, make_current, write_to


class StateMachine(Protocol):
    """What the log drives. Called by the writer thread only, inside its transaction, but for `refuses`."""

    def refuses(self, data: bytes) -> str | None:
        """Why this command may not be proposed; None if it may. It depends on the command alone."""
        ...

    def begin(self, txn: Txn) -> None: ...

    def apply(self, txn: Txn, index: int, proposed_at_ms: int, data: bytes) -> Any:
        """Apply one committed command, deterministically; return what its proposer is told."""
        ...

    @property
    def checkpoint_command(self) -> bytes:
        """A command behind which the transaction ends, for `checkpoint` to look at the state."""
        ...

    def checkpoint(self, index: int) -> None:
        """The state right after the checkpoint at `index` is committed, and nothing later is."""
        ...

    def end(self, txn: Txn) -> bool:
        """Whether what DNS can see has changed in this transaction."""
        ...


@dataclass(frozen=True, slots=True)
class Install:
    """A snapshot, complete in an environment aside, and what this node adds of its own."""

    environment: Any
    tables: dict[str, Any]
    folder: str
    own: Installed


class Retention(NamedTuple):
    """How much of the applied log is kept for members that lag."""

    entries: int
    size_bytes: int
    """On disk; a log that takes more is cut shorter than `entries`."""


@dataclass(slots=True)
class WriteJob:
    """One unit of work from one `Ready`: an append, or an application of committed entries."""

    hard_state: HardState | None = None
    entries: Sequence[Entry] = ()
    committed: Sequence[Entry] = ()
    rosters: list[tuple[int, Roster]] = field(default_factory=list)
    """(index, what the membership is after it) of the changes among `committed`."""
    responses: Sequence[Message] = ()
    install: Install | None = None
    """A received snapshot that replaces everything before this job's entries."""
    compaction: asyncio.Future[bool] | None = None
    """Cut the log short now; resolved by the driver with whether there may be more to cut."""
    changes: list[bytes] = field(default_factory=list)
    """The request ids of the membership changes among `committed`."""
    results: list[tuple[bytes, Any]] = field(default_factory=list)
    """Filled in when applied: (request id, result) of each command, in log order; of a marker, itself."""
    handed_s: float = 0.0
    """When it was handed over, begun, put together and durable."""
    begun_s: float = 0.0
    applied_s: float = 0.0
    durable_s: float = 0.0


_STOP: Final = None

A = TypeVar("A")
R = TypeVar("R")


class _StoppedWaiting(Exception):
    """The node stops before there is room: what is queued was promised to nobody."""


class Writer:
    """Owns the thread. `on_durable`, `on_installed`, `on_no_room` and `on_failure` are called from it.

    `on_durable` gets the jobs, whether DNS can see a change, and the last (index, term) cut off the
    log, if any. `on_installed` must see to it that the store is switched, then set the event.
    After `on_no_room`, the next `on_durable` says that there is room again.
    """

    def __init__(
        self,
        store: Store,
        log: LmdbLog,
        machine: StateMachine,
        retention: Retention,
        *,
        on_durable: Callable[[Sequence[WriteJob], bool, tuple[int, int] | None], None],
        on_installed: Callable[[Install, threading.Event], None],
        on_no_room: Callable[[StorageFull], None],
        on_failure: Callable[[Exception], None],
        slow: SlowOperations,
    ) -> None:
        self._store = store
        self._log = log
        self._machine = machine
        self._retention = retention
        self._on_durable = on_durable
        self._on_installed = on_installed
        self._on_no_room = on_no_room
        self._on_failure = on_failure
        self._slow = slow
        self._traces = AppliedTraces()
        self._stopping = threading.Event()
        self._jobs: queue.SimpleQueue[WriteJob | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="aspen-writer", daemon=True)
        self._busy_since: float | None = None
        self.apply_seconds = Histogram()
        """What a transaction takes to be put together: entries appended, commands applied."""
        self.commit_seconds = Histogram()
        """What it takes to be on disk then."""

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def busy_ms(self) -> float:
        """For how long the thread has been at one transaction; 0 between two, or while there is no room."""
        since = self._busy_since
        return 0.0 if since is None else (time.monotonic() - since) * 1000

    def submit(self, job: WriteJob) -> None:
        """Queue a job. The driver bounds how many are in flight (RAFT_BATCHES_IN_FLIGHT)."""
        job.handed_s = time.monotonic()
        self._jobs.put(job)

    def stop(self) -> None:
        """Finish what is queued, if there is room for it, then end the thread."""
        self._stopping.set()
        self._jobs.put(_STOP)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._jobs.get()) is not _STOP:
            jobs, stopping = self._take_all(first)
            try:
                for batch in _split_at_installs(jobs):
                    if (install := batch[0].install) is not None:
                        self._when_there_is_room(self._make_current, install)
                        self._switch_to(install)
                    self._on_durable(batch, *self._write(batch))
            except _StoppedWaiting:
                return
            except Exception as error:
                self._on_failure(error)
                return
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

    def _when_there_is_room(self, act: Callable[[A], R], argument: A) -> R:
        """What `act` returns; while the disk is full, try again. Raises `_StoppedWaiting`."""
        told = False
        while True:
            try:
                self._busy_since = time.monotonic()
                return act(argument)
            except StorageFull as error:
                if not told:
                    self._on_no_room(error)
                    told = True
                if self._stopping.wait(RAFT_ROOM_RETRY_MS / 1000):
                    raise _StoppedWaiting from None
            finally:
                self._busy_since = None

    def _make_current(self, install: Install) -> None:
        """Make a received snapshot the state: durable aside, then current by one rename."""
        with write_to(install.environment) as txn:
            self._log.put_installed(txn, install.tables, install.own)
        install.environment.sync(True)
        make_current(self._store.data_dir, install.folder)

    def _switch_to(self, install: Install) -> None:
        install.environment.close()
        switched = threading.Event()
        self._on_installed(install, switched)
        switched.wait()

    def _write(self, batch: Sequence[WriteJob]) -> tuple[bool, tuple[int, int] | None]:
        """Make a batch durable: in one transaction, or several if there are checkpoints in it."""
        dns_changed, cut = False, None
        for parts in _split_at_checkpoints(batch, self._machine.checkpoint_command):
            changed_here, cut_here = self._when_there_is_room(self._commit, parts)
            dns_changed, cut = dns_changed or changed_here, cut_here or cut
            if parts[-1].at_checkpoint:
                self._machine.checkpoint(parts[-1].committed[-1].index)
        return dns_changed, cut

    def _commit(self, parts: Sequence[_Part]) -> tuple[bool, tuple[int, int] | None]:
        machine, log = self._machine, self._log
        keep_entries = self._retention.entries
        results: list[tuple[WriteJob, bytes, Any]] = []
        self._traces.begin()
        began = time.monotonic()
        with self._store.write() as txn:
            machine.begin(txn)
            for part in parts:
                if part.is_first:
                    self._append(txn, part.job)
                for entry in part.committed:
                    if entry.kind is EntryKind.NORMAL and entry.data:
                        request_id, proposed_at_ms, command = open_envelope(entry.data)
                        if command.startswith(MARKER):
                            result: Any = command
                            self._traces.saw_marker(command)
                        else:
                            result = machine.apply(txn, entry.index, proposed_at_ms, command)
                            self._traces.saw_command(entry, request_id, result)
                        results.append((part.job, request_id, result))
                if part.committed:
                    self._put_applied(txn, part)
                if part.job.compaction is not None:
                    keep_entries = 0
            cut = log.compact(txn, keep_entries, self._retention.size_bytes)
            dns_changed = machine.end(txn)
            whole = time.monotonic()
        self._measured(parts, began, whole, time.monotonic())
        for job, request_id, result in results:
            job.results.append((request_id, result))
        return dns_changed, cut

    def _measured(self, parts: Sequence[_Part], began: float, whole: float, durable: float) -> None:
        """A transaction was begun, was whole and is durable now, by `time.monotonic`."""
        self.apply_seconds.note(whole - began)
        self.commit_seconds.note(durable - whole)
        for part in parts:
            part.job.begun_s, part.job.applied_s, part.job.durable_s = began, whole, durable
        self._traces.durable(whole - began, durable - whole)
        if durable - began >= self._slow.threshold_s:
            self._slow.note(
                "commit",
                durable - began,
                apply_ms=round((whole - began) * 1000, 1),
                sync_ms=round((durable - whole) * 1000, 1),
                entries=sum(len(part.job.entries) for part in parts if part.is_first),
                commands=sum(len(part.committed) for part in parts),
            )

    def _append(self, txn: Txn, job: WriteJob) -> None:
        if job.entries:
            self._log.append(txn, job.entries)
        if job.hard_state is not None:
            self._log.put_hard_state(txn, job.hard_state)

    def _put_applied(self, txn: Txn, part: _Part) -> None:
        first, last = part.committed[0], part.committed[-1]
        rosters = [roster for index, roster in part.job.rosters if first.index <= index <= last.index]
        if rosters:
            self._log.put_roster(txn, rosters[-1])
        self._log.put_applied(txn, last.index, last.term)


class _Part(NamedTuple):
    """A job, or what is done of it in one transaction."""

    job: WriteJob
    committed: Sequence[Entry]
    is_first: bool
    at_checkpoint: bool


def _split_at_checkpoints(jobs: Sequence[WriteJob], checkpoint: bytes) -> list[list[_Part]]:
    """What to do in one transaction each: all but the last of them end with a checkpoint's entry."""
    size = HEAD_BYTES + len(checkpoint)
    transactions: list[list[_Part]] = [[]]
    for job in jobs:
        start = 0
        for end, entry in enumerate(job.committed, 1):
            if len(entry.data) == size and entry.data.endswith(checkpoint):
                transactions[-1].append(_Part(job, job.committed[start:end], start == 0, True))
                transactions.append([])
                start = end
        if start == 0 or start < len(job.committed):
            transactions[-1].append(_Part(job, job.committed[start:], start == 0, False))
    return [parts for parts in transactions if parts]


def _split_at_installs(jobs: Sequence[WriteJob]) -> list[list[WriteJob]]:
    """Runs of jobs that may share a transaction: one that installs begins a new run."""
    runs: list[list[WriteJob]] = []
    for job in jobs:
        if not runs or job.install is not None:
            runs.append([])
        runs[-1].append(job)
    return runs
