"""What one node has on its disk, at the level of transactions.

A `Job` is what one `Ready` asks to be made durable: hard state, entries, a snapshot, the
application of committed entries with the applied index, all or nothing, as production does it in
one transaction. The `Disk` holds what is durable and is at the same time what the core reads as
its `LogStorage`. Work that is handed over and not reported back is no part of it yet: a crash
keeps some prefix of that work and loses the rest.

Entries that were appended since the node started are also in its memory, up to a number; others
are read from the disk, and that is where damage shows. Damage is done to the encoding that
production stores (`aspen.raft.storage`), and found, or not, by its decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from raft_sim.machine import Machine

from aspen.errors import StorageError
from aspen.raft import storage as production
from aspen.raft.log import LogCompacted, LogUnavailable, limit_bytes
from aspen.raft.messages import ConfState, Entry, EntryKind, HardState, Message, Snapshot, SnapshotMetadata

CACHED_ENTRIES: Final = 24
"""How many of the newest entries a node has in memory."""

OnApplied = Callable[[Entry, int, int], None]
"""Told of each applied entry: the entry, the request id (0 if it holds none), the value found."""


class DiskError(StorageError):
    """The disk of `node_id` failed, or gave back something else than was stored."""

    def __init__(self, node_id: int, reason: str) -> None:
        super().__init__(f"node {node_id}: {reason}")
        self.node_id = node_id


class Job:
    """One unit of work for the writer."""

    __slots__ = (
        "committed",
        "compact_to",
        "conf_state",
        "entries",
        "hard_state",
        "responses",
        "results",
        "snapshot",
    )

    def __init__(self) -> None:
        self.hard_state: HardState | None = None
        self.entries: Sequence[Entry] = ()
        self.snapshot: Snapshot | None = None
        self.committed: Sequence[Entry] = ()
        self.conf_state: ConfState | None = None
        """The configuration after `committed`, if that changed it."""
        self.compact_to = 0
        self.responses: Sequence[Message] = ()
        self.results: list[tuple[int, int]] = []
        """Filled in when applied: (request id, value found)."""


class Disk:
    """A node's durable state. `on_applied` is told of every entry as it is applied."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
        self.hard_state = HardState()
        self.conf_state = ConfState()
        self.machine = Machine()
        self.applied = 0
        self.applied_term = 0
        self.before = (0, 0)
        """Index and term of the entry before the first."""
        self.log: list[Entry] = []
        self._cached_from = 1
        self._damaged: dict[int, bytes] = {}
        """What is found on the disk in place of some entries."""

    # --- LogStorage ---------------------------------------------------------------------------

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self.hard_state, self.conf_state

    def first_index(self) -> int:
        return self.before[0] + 1

    def last_index(self) -> int:
        return self.before[0] + len(self.log)

    def last_term(self) -> int:
        return self.log[-1].term if self.log else self.before[1]

    def term(self, index: int) -> int:
        position = index - self.before[0]
        if position <= 0:
            if position < 0:
                raise LogCompacted(index)
            return self.before[1]
        if position > len(self.log):
            raise LogUnavailable(index)
        if self._damaged:
            self._read(index, index + 1)
        return self.log[position - 1].term

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        first = self.before[0] + 1
        if low < first:
            raise LogCompacted(low)
        if high > self.last_index() + 1:
            raise LogUnavailable(high - 1)
        if self._damaged:
            self._read(low, high)
        return limit_bytes(self.log[low - first : high - first], max_bytes)

    def snapshot(self) -> Snapshot:
        """The state as it is now: one can be had at any time, once something was applied."""
        if not self.applied:
            raise LogUnavailable(0)
        metadata = SnapshotMetadata(self.conf_state, self.applied, self.applied_term)
        return Snapshot(self.machine.save(), metadata)

    # --- the writer's side --------------------------------------------------------------------

    def commit(self, job: Job, on_applied: OnApplied) -> None:
        """`job` is durable."""
        if job.snapshot is not None:
            self._install(job.snapshot)
        if job.entries:
            self.append(job.entries)
        if job.hard_state is not None:
            self.hard_state = job.hard_state
        if job.committed:
            self._apply(job, on_applied)
        if job.conf_state is not None:
            self.conf_state = job.conf_state
        if job.compact_to:
            self.compact(job.compact_to)

    def append(self, entries: Sequence[Entry]) -> None:
        """Append, first dropping whatever is at these indexes and after."""
        position = entries[0].index - self.before[0] - 1
        if not 0 <= position <= len(self.log):
            raise DiskError(self.node_id, f"an append at {entries[0].index} would leave a gap")
        self.log[position:] = entries
        first = entries[0].index
        if first < self._cached_from:
            self._cached_from = first
        self._cached_from = max(self._cached_from, self.last_index() - CACHED_ENTRIES)
        if self._damaged:
            self._damaged = {index: data for index, data in self._damaged.items() if index < first}

    def _apply(self, job: Job, on_applied: OnApplied) -> None:
        machine = self.machine
        for entry in job.committed:
            request_id = found = 0
            if entry.data and entry.kind is EntryKind.NORMAL:
                request_id, found = machine.apply(entry.data)
                job.results.append((request_id, found))
            on_applied(entry, request_id, found)
        self.applied, self.applied_term = entry.index, entry.term

    def _install(self, snapshot: Snapshot) -> None:
        """Replace everything but the hard state by `snapshot`."""
        metadata = snapshot.metadata
        self.machine.restore(snapshot.data)
        self.conf_state = metadata.conf_state
        self.applied, self.applied_term = metadata.index, metadata.term
        self.before = (metadata.index, metadata.term)
        self.log = []
        self._cached_from = metadata.index + 1
        self._damaged = {}

    def compact(self, index: int) -> None:
        """Drop the log up to and including `index`, which is applied."""
        before = self.before[0]
        if index <= before:
            return
        self.before = (index, self.log[index - before - 1].term)
        del self.log[: index - before]
        if self._damaged:
            self._damaged = {i: data for i, data in self._damaged.items() if i > index}

    # --- faults -------------------------------------------------------------------------------

    def restart(self) -> None:
        """The node starts again: nothing is in its memory. Raises `DiskError` if it can't be trusted."""
        self._cached_from = self.last_index() + 1
        hard_state = self.hard_state
        if not self.applied <= hard_state.commit <= self.last_index():
            raise DiskError(
                self.node_id,
                f"applied {self.applied}, committed {hard_state.commit}, last {self.last_index()}",
            )

    @property
    def damaged(self) -> bool:
        return bool(self._damaged)

    def damage(self, index: int, bit: int) -> None:
        """Flip one bit of what is stored for the entry at `index`."""
        entry = self.log[index - self.before[0] - 1]
        stored = bytearray(production._encode_entry(entry))
        bit %= len(stored) * 8
        stored[bit // 8] ^= 1 << bit % 8
        self._damaged[index] = bytes(stored)

    def repair(self) -> None:
        """It was the cable: what is on the disk is what was written."""
        self._damaged = {}

    def _read(self, low: int, high: int) -> None:
        """Read [low, high): what is not in memory comes from the disk. Raises `DiskError`."""
        for index in range(low, min(high, self._cached_from)):
            if (stored := self._damaged.get(index)) is not None:
                try:
                    found = production._decode_entry(index, stored)
                except StorageError as error:
                    raise DiskError(self.node_id, str(error)) from None
                # Nobody noticed.
                self.log[index - self.before[0] - 1] = found
