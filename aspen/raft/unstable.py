"""The newest end of the log: what is not known to be on disk yet.

Entries from `offset` on, or a snapshot that precedes them. They are handed to storage in order
(`offset_in_progress` is the first that was not handed over yet) and dropped from here once
storage has confirmed them. A conflict may replace entries that are being written: a late
confirmation is then recognised by its term and ignored, or it would confirm what was overwritten.
"""

from __future__ import annotations

from aspen.errors import invariant
from aspen.raft.messages import Entry, Snapshot


class Unstable:
    """Entries and snapshot on their way to disk."""

    __slots__ = ("entries", "offset", "offset_in_progress", "snapshot", "snapshot_in_progress")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        """The index of `entries[0]`; one past the durable log when there are none."""
        self.offset_in_progress = offset
        self.entries: list[Entry] = []
        self.snapshot: Snapshot | None = None
        self.snapshot_in_progress = False

    def term(self, index: int) -> int | None:
        """The term of the entry at `index`, `None` if it is not here."""
        if index < self.offset:
            if self.snapshot is not None and self.snapshot.metadata.index == index:
                return self.snapshot.metadata.term
            return None
        position = index - self.offset
        return self.entries[position].term if position < len(self.entries) else None

    def slice(self, low: int, high: int) -> list[Entry]:
        """Entries [low, high), all of which are here."""
        offset = self.offset
        invariant(offset <= low <= high <= offset + len(self.entries), "unstable entries out of range")
        return self.entries[low - offset : high - offset]

    # --- to storage ---------------------------------------------------------------------------

    def next_entries(self) -> list[Entry]:
        return self.entries[self.offset_in_progress - self.offset :]

    def has_next_entries(self) -> bool:
        return self.offset_in_progress - self.offset < len(self.entries)

    def next_snapshot(self) -> Snapshot | None:
        return None if self.snapshot_in_progress else self.snapshot

    def accept_in_progress(self) -> None:
        """All there is has been handed to storage."""
        self.offset_in_progress = self.offset + len(self.entries)
        self.snapshot_in_progress = self.snapshot is not None

    # --- from storage -------------------------------------------------------------------------

    def stable_to(self, index: int, term: int) -> None:
        """The entry (index, term) and all before it are on disk, if they are still what is here."""
        if index < self.offset or self.term(index) != term:
            return
        del self.entries[: index + 1 - self.offset]
        self.offset = index + 1
        self.offset_in_progress = max(self.offset_in_progress, self.offset)

    def stable_snapshot_to(self, index: int) -> None:
        if self.snapshot is not None and self.snapshot.metadata.index == index:
            self.snapshot = None
            self.snapshot_in_progress = False

    # --- from the core ------------------------------------------------------------------------

    def restore(self, snapshot: Snapshot) -> None:
        """Everything before is replaced by `snapshot`."""
        self.offset = self.offset_in_progress = snapshot.metadata.index + 1
        self.entries = []
        self.snapshot = snapshot
        self.snapshot_in_progress = False

    def truncate_and_append(self, entries: list[Entry]) -> None:
        """`entries` follow, replacing whatever was at their indexes and after."""
        first = entries[0].index
        if first == self.offset + len(self.entries):
            self.entries += entries
        elif first <= self.offset:
            self.entries = entries
            self.offset = self.offset_in_progress = first
        else:
            self.entries = self.entries[: first - self.offset] + entries
            self.offset_in_progress = min(self.offset_in_progress, first)
