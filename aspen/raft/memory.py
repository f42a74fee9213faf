"""`LogStorage` in memory: for tests, scripts and the simulator.

Raft paper §7 for what compaction and a snapshot's installation do to a log.
"""

from __future__ import annotations

from collections.abc import Sequence

from aspen.errors import invariant
from aspen.raft.log import LogCompacted, LogUnavailable, limit_bytes
from aspen.raft.messages import ConfState, Entry, HardState, Snapshot, SnapshotMetadata


class MemoryStorage:
    """A log, a hard state and the newest snapshot."""

    def __init__(self, conf_state: ConfState | None = None) -> None:
        """`conf_state` is the membership before the first entry; without it, the log must bring one."""
        self.hard_state = HardState()
        self._snapshot = Snapshot(b"", SnapshotMetadata(conf_state or ConfState()))
        # The position before the first entry: index and term of what was compacted away last.
        self._before = (0, 0)
        self._entries: list[Entry] = []

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self.hard_state, self._snapshot.metadata.conf_state

    def first_index(self) -> int:
        return self._before[0] + 1

    def last_index(self) -> int:
        return self._before[0] + len(self._entries)

    def term(self, index: int) -> int:
        position = index - self._before[0]
        if position < 0:
            raise LogCompacted(index)
        if position == 0:
            return self._before[1]
        if position > len(self._entries):
            raise LogUnavailable(index)
        return self._entries[position - 1].term

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        first = self.first_index()
        if low < first:
            raise LogCompacted(low)
        invariant(high <= self.last_index() + 1, "entries past the end of storage were asked for")
        return limit_bytes(self._entries[low - first : high - first], max_bytes)

    def snapshot(self) -> Snapshot:
        if not self._snapshot.metadata.index:
            raise LogUnavailable(0)
        return self._snapshot

    # --- the storage thread's side ------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        """Append, replacing what was at these indexes and after."""
        if not entries:
            return
        position = entries[0].index - self.first_index()
        if position < 0:  # some of it is compacted already
            entries = entries[-position:]
            position = 0
        invariant(position <= len(self._entries), "an append would leave a gap in storage")
        self._entries[position:] = entries

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Replace everything by `snapshot`, unless there is a newer one. Raises `LogCompacted`."""
        metadata = snapshot.metadata
        if self._snapshot.metadata.index >= metadata.index:
            raise LogCompacted(metadata.index)
        self._snapshot = snapshot
        self._before = (metadata.index, metadata.term)
        self._entries = []

    def create_snapshot(self, index: int, conf_state: ConfState | None, data: bytes) -> Snapshot:
        """Take `data` as the state at `index`. Raises `LogCompacted` if there is a newer snapshot."""
        if index <= self._snapshot.metadata.index:
            raise LogCompacted(index)
        if conf_state is None:
            conf_state = self._snapshot.metadata.conf_state
        self._snapshot = Snapshot(data, SnapshotMetadata(conf_state, index, self.term(index)))
        return self._snapshot

    def compact(self, index: int) -> None:
        """Drop the log up to and including `index`. Raises `LogCompacted` if that is done already."""
        if index <= self._before[0]:
            raise LogCompacted(index)
        term = self.term(index)
        del self._entries[: index - self._before[0]]
        self._before = (index, term)
