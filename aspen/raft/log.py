"""The replicated log: what storage has, what is on its way there, and how far it is committed.

    storage: first .. last │ unstable: offset .. last_index
    applied <= applying <= committed <= last_index

`applying` is handed to the state machine, `applied` confirmed by it. Two logs that hold an entry
of the same index and term are equal up to it (Log Matching), which is why appending needs to
check only the entry before.

Raft paper §5.3 (log matching, consistency check), §5.4.1 (up-to-date), §7 (compaction).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from aspen.errors import AspenError, invariant
from aspen.raft.messages import ConfState, Entry, HardState, Snapshot
from aspen.raft.progress import NO_LIMIT
from aspen.raft.unstable import Unstable

ENTRY_OVERHEAD_BYTES: Final = 16
"""Counted for each entry besides its data, so that no limit allows endless empty entries."""


class LogCompacted(AspenError):
    """The entry asked for is older than the log."""

    def __init__(self, index: int) -> None:
        super().__init__(f"entry {index} is no longer in the log")
        self.index = index


class LogUnavailable(AspenError):
    """The entry or snapshot asked for is not there (yet)."""

    def __init__(self, index: int) -> None:
        super().__init__(f"entry {index} is not in the log")
        self.index = index


class LogStorage(Protocol):
    """The durable log, as the core reads it. Methods raise `LogCompacted` or `LogUnavailable`."""

    def initial_state(self) -> tuple[HardState, ConfState]: ...

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        """Entries [low, high), cut short at `max_bytes` but never to nothing."""
        ...

    def term(self, index: int) -> int:
        """The term of an entry from `first_index() - 1` on."""
        ...

    def first_index(self) -> int: ...

    def last_index(self) -> int: ...

    def snapshot(self) -> Snapshot:
        """The newest snapshot; `LogUnavailable` if it can't be had now."""
        ...


def entries_bytes(entries: Sequence[Entry]) -> int:
    """What entries count for against the limits on messages and on application."""
    size = ENTRY_OVERHEAD_BYTES * len(entries)
    for entry in entries:
        size += len(entry.data)
    return size


def limit_bytes(entries: list[Entry], max_bytes: int) -> list[Entry]:
    """The longest prefix within `max_bytes`, but at least one entry."""
    if max_bytes >= NO_LIMIT:
        return entries
    size = 0
    for count, entry in enumerate(entries):
        size += len(entry.data) + ENTRY_OVERHEAD_BYTES
        if size > max_bytes and count:
            return entries[:count]
    return entries


class RaftLog:
    """One log over one storage."""

    __slots__ = (
        "_applying_bytes",
        "_applying_paused",
        "_max_applying_bytes",
        "_storage",
        "applied",
        "applying",
        "committed",
        "unstable",
    )

    def __init__(self, storage: LogStorage, max_applying_bytes: int = NO_LIMIT) -> None:
        self._storage = storage
        self._max_applying_bytes = max_applying_bytes
        self._applying_bytes = 0
        self._applying_paused = False
        self.unstable = Unstable(storage.last_index() + 1)
        # Whatever was compacted away had been applied.
        self.committed = self.applying = self.applied = storage.first_index() - 1

    # --- reading ------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        if self.unstable.snapshot is not None:
            return self.unstable.snapshot.metadata.index + 1
        return self._storage.first_index()

    @property
    def last_index(self) -> int:
        unstable = self.unstable
        return unstable.offset + len(unstable.entries) - 1

    def term(self, index: int) -> int:
        """The term of the entry at `index`. Raises `LogCompacted` or `LogUnavailable`."""
        term = self.unstable.term(index)
        if term is not None:
            return term
        # The entry before the first is needed too: the first append is checked against it.
        if index + 1 < self.first_index:
            raise LogCompacted(index)
        if index > self.last_index:
            raise LogUnavailable(index)
        return self._storage.term(index)

    @property
    def last_term(self) -> int:
        return self.term(self.last_index)

    def matches(self, index: int, term: int) -> bool:
        try:
            return self.term(index) == term
        except (LogCompacted, LogUnavailable):
            return False

    def is_up_to_date(self, last_term: int, last_index: int) -> bool:
        """Whether a log ending so is at least as complete as this one (§5.4.1)."""
        own_term = self.last_term
        return last_term > own_term or (last_term == own_term and last_index >= self.last_index)

    def slice(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        """Entries [low, high), cut at `max_bytes` but never to nothing. Raises `LogCompacted`."""
        if low >= high:
            return []
        if low < self.first_index:
            raise LogCompacted(low)
        invariant(high <= self.last_index + 1, "entries past the end of the log were asked for")
        offset = self.unstable.offset
        if low >= offset:
            return limit_bytes(self.unstable.slice(low, high), max_bytes)
        cut = min(high, offset)
        stable = limit_bytes(self._storage.entries(low, cut, max_bytes), max_bytes)
        if high <= offset or len(stable) < cut - low:
            return stable
        room = max_bytes - entries_bytes(stable)
        if room <= 0:
            return stable
        more = limit_bytes(self.unstable.slice(offset, high), room)
        if entries_bytes(more) > room:  # one entry that alone is too large
            return stable
        return stable + more

    def entries_from(self, index: int, max_bytes: int) -> list[Entry]:
        return self.slice(index, self.last_index + 1, max_bytes)

    def snapshot(self) -> Snapshot:
        """Raises `LogUnavailable` if there is none to be had now."""
        return self.unstable.snapshot or self._storage.snapshot()

    # --- appending ----------------------------------------------------------------------------

    def append(self, entries: list[Entry]) -> int:
        """Append, replacing what conflicts; return the last index. Takes `entries` over."""
        if entries:
            invariant(entries[0].index > self.committed, "a committed entry would be overwritten")
            self.unstable.truncate_and_append(entries)
        return self.last_index

    def maybe_append(self, index: int, log_term: int, entries: Sequence[Entry], commit: int) -> int | None:
        """A leader's append after (index, log_term): the last index that now matches the leader's log.

        `None` if the entry before does not match. Only a real conflict truncates: the append may
        be an old one, with fewer entries than have arrived since (§5.3).
        """
        if not self.matches(index, log_term):
            return None
        for position, entry in enumerate(entries):
            if not self.matches(entry.index, entry.term):
                invariant(entry.index > self.committed, "an append conflicts with a committed entry")
                self.append(list(entries[position:]))
                break
        last_new = index + len(entries)
        # No further than what was checked: what lies after it may still conflict.
        self.commit_to(min(commit, last_new))
        return last_new

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """The last entry up to `index` whose term is at most `term`, and its term.

        Entries after it can't match a log whose term there is `term`: all of them are skipped in
        one round (§5.3, last paragraph). A term that can't be known here is 0 and may match.
        """
        if index > self.last_index:
            return index, 0
        # Terms never fall along the log, so bisect: low is the last position known to qualify.
        low, high = self.first_index - 1, index
        if high < low:
            return index, 0
        if (found := self._term_or_zero(low)) > term:
            return (low - 1, 0) if low > 0 else (0, 0)
        while low < high:
            middle = (low + high + 1) // 2
            middle_term = self.term(middle)
            if middle_term <= term:
                low, found = middle, middle_term
            else:
                high = middle - 1
        return low, found

    def _term_or_zero(self, index: int) -> int:
        try:
            return self.term(index)
        except (LogCompacted, LogUnavailable):
            return 0

    def restore(self, snapshot: Snapshot) -> None:
        """The log is now what `snapshot` stands for, and nothing after it."""
        self.committed = snapshot.metadata.index
        self.unstable.restore(snapshot)

    # --- committing ---------------------------------------------------------------------------

    def commit_to(self, index: int) -> None:
        if index > self.committed:
            invariant(index <= self.last_index, "commit index past the log: was it truncated or lost?")
            self.committed = index

    def maybe_commit(self, index: int, term: int) -> bool:
        """Commit up to `index` if its entry is of `term`: a leader counts only its own (§5.4.2)."""
        if index > self.committed and term and self.matches(index, term):
            self.commit_to(index)
            return True
        return False

    # --- to disk ------------------------------------------------------------------------------

    def stable_to(self, index: int, term: int) -> None:
        self.unstable.stable_to(index, term)

    def stable_snapshot_to(self, index: int) -> None:
        self.unstable.stable_snapshot_to(index)

    # --- applying -----------------------------------------------------------------------------

    def _appliable(self, allow_unstable: bool) -> int:
        if allow_unstable:
            return self.committed
        return min(self.committed, self.unstable.offset - 1)

    def has_next_committed(self, allow_unstable: bool) -> bool:
        if self._applying_paused or self.unstable.snapshot is not None:
            # A snapshot must be in place before what comes after it is applied.
            return False
        return self.applying < self._appliable(allow_unstable)

    def next_committed(self, allow_unstable: bool) -> list[Entry]:
        """What to apply next, within what may be outstanding."""
        if not self.has_next_committed(allow_unstable):
            return []
        room = self._max_applying_bytes - self._applying_bytes
        invariant(room > 0, "application goes on although it is paused")
        return self.slice(self.applying + 1, self._appliable(allow_unstable) + 1, room)

    def accept_applying(self, index: int, size: int, allow_unstable: bool) -> None:
        """Entries up to `index`, of `size` bytes, were handed to the state machine.

        Pause when that uses up the room, or when it was the room that cut them short.
        """
        invariant(index <= self.committed, "an uncommitted entry would be applied")
        self.applying = index
        self._applying_bytes += size
        self._applying_paused = self._applying_bytes >= self._max_applying_bytes or index < self._appliable(
            allow_unstable
        )

    def applied_to(self, index: int, size: int) -> None:
        invariant(self.applied <= index <= self.committed, "applied index out of range")
        self.applied = index
        self.applying = max(self.applying, index)
        self._applying_bytes = max(0, self._applying_bytes - size)
        self._applying_paused = self._applying_bytes >= self._max_applying_bytes
