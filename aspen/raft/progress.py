"""What a leader knows of one follower's log, and how fast it may send to it.

A follower is *probed* with one message at a time until it acknowledges one; then the leader
*replicates* optimistically, with a window of unacknowledged messages; a follower that needs what
the log no longer has gets a *snapshot*, and nothing else until it has it. `match` is the highest
index known to be in the follower's log, `next` the next to send; match < next always.

Raft paper §5.3 (nextIndex, matchIndex); thesis §10.2.1 (pipelining).
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final

import msgspec

from aspen.errors import invariant

NO_LIMIT: Final = 2**64 - 1


class ReplicationState(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Inflights:
    """The window: appends sent and not acknowledged, by their last index and their bytes."""

    __slots__ = ("_bytes", "_sent", "max_bytes", "max_messages")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self._sent: deque[tuple[int, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def bytes(self) -> int:
        return self._bytes

    @property
    def full(self) -> bool:
        return len(self._sent) >= self.max_messages or self._bytes >= self.max_bytes

    def add(self, last_index: int, size: int) -> None:
        invariant(not self.full, "an append was sent although the window is full")
        self._sent.append((last_index, size))
        self._bytes += size

    def free_up_to(self, index: int) -> None:
        """The follower has acknowledged `index`: all that ends there or before has arrived."""
        sent = self._sent
        while sent and sent[0][0] <= index:
            self._bytes -= sent.popleft()[1]

    def clear(self) -> None:
        self._sent.clear()
        self._bytes = 0


class ProgressView(msgspec.Struct, frozen=True, gc=False):
    """A picture of one member's progress, for status and transcripts."""

    match: int
    next: int
    state: ReplicationState
    is_learner: bool
    paused: bool
    pending_snapshot: int
    recent_active: bool
    inflight_messages: int
    window_full: bool


class Progress:
    """One follower (or the leader itself) as the leader sees it."""

    __slots__ = (
        "inflights",
        "is_learner",
        "match",
        "next",
        "pending_snapshot",
        "probe_sent",
        "recent_active",
        "sent_commit",
        "state",
    )

    def __init__(self, next_index: int, inflights: Inflights, *, is_learner: bool, match: int = 0) -> None:
        self.match = match
        self.next = next_index
        self.state = ReplicationState.PROBE
        self.pending_snapshot = 0
        """The index of the snapshot it is being sent, 0 outside SNAPSHOT."""
        self.sent_commit = 0
        """The highest commit index sent to it, as far as it can't have been lost."""
        self.recent_active = False
        """Heard from since the last CheckQuorum."""
        self.probe_sent = False
        """Nothing but heartbeats until it answers: a probe is out, or the window is full."""
        self.inflights = inflights
        self.is_learner = is_learner

    def clone(self) -> Progress:
        """A copy for a configuration change being tried out; the window stays shared."""
        copy = Progress(self.next, self.inflights, is_learner=self.is_learner, match=self.match)
        copy.state = self.state
        copy.pending_snapshot = self.pending_snapshot
        copy.sent_commit = self.sent_commit
        copy.recent_active = self.recent_active
        copy.probe_sent = self.probe_sent
        return copy

    @property
    def paused(self) -> bool:
        return self.probe_sent or self.state is ReplicationState.SNAPSHOT

    def view(self) -> ProgressView:
        return ProgressView(
            match=self.match,
            next=self.next,
            state=self.state,
            is_learner=self.is_learner,
            paused=self.paused,
            pending_snapshot=self.pending_snapshot,
            recent_active=self.recent_active,
            inflight_messages=len(self.inflights),
            window_full=self.inflights.full,
        )

    # --- transitions --------------------------------------------------------------------------

    def _enter(self, state: ReplicationState) -> None:
        self.probe_sent = False
        self.pending_snapshot = 0
        self.state = state
        self.inflights.clear()

    def become_probe(self) -> None:
        """Start over from what is known: `match`, or the snapshot that was delivered."""
        known = self.match
        if self.state is ReplicationState.SNAPSHOT:
            known = max(known, self.pending_snapshot)
        self._enter(ReplicationState.PROBE)
        self.next = known + 1
        self.sent_commit = min(self.sent_commit, known)

    def become_replicate(self) -> None:
        self._enter(ReplicationState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, snapshot_index: int) -> None:
        self._enter(ReplicationState.SNAPSHOT)
        self.pending_snapshot = snapshot_index
        self.next = snapshot_index + 1
        self.sent_commit = snapshot_index

    @property
    def committable(self) -> int:
        """How far it may commit by a heartbeat, which it does without a check: no further than its log is
        known to match. A learner that is not answering may have lost it (`maybe_decrease`)."""
        if self.is_learner and self.state is not ReplicationState.REPLICATE:
            return 0
        return self.match

    # --- sending ------------------------------------------------------------------------------

    def sent_entries(self, count: int, size: int) -> None:
        """An append with `count` entries of `size` bytes was sent."""
        if self.state is ReplicationState.REPLICATE:
            if count:
                self.next += count
                self.inflights.add(self.next - 1, size)
            # An append that fills the window, or goes out although it is full, is a probe.
            self.probe_sent = self.inflights.full
        elif count:
            invariant(
                self.state is ReplicationState.PROBE, "sent an append to a follower awaiting a snapshot"
            )
            self.probe_sent = True

    def can_bump_commit(self, commit: int) -> bool:
        """Whether hearing `commit` could move its commit index further than what it was sent."""
        return commit > self.sent_commit and self.sent_commit < self.next - 1

    # --- hearing back -------------------------------------------------------------------------

    def maybe_update(self, index: int) -> bool:
        """It acknowledged `index`. False if that is old news."""
        if index <= self.match:
            return False
        self.match = index
        if self.next <= index:
            self.next = index + 1
        self.probe_sent = False
        return True

    def maybe_decrease(self, rejected: int, hint: int) -> bool:
        """It refused an append after `rejected`, and may agree up to `hint`. False if that is stale.

        Messages may be reordered: never step back to or below `match`, and in PROBE heed only
        the answer to the one probe that is out. But a learner that is probed and refuses what it had
        acknowledged has lost its log: nothing was built on that, since it has no vote, so it is sent all
        again. Of a voter's disk that much must be true (§5.1: its log survives), and it gets nothing.
        """
        if self.state is ReplicationState.REPLICATE:
            if rejected <= self.match:
                return False
            self.next = self.match + 1
        else:
            if self.next - 1 != rejected:
                return False
            if self.is_learner and rejected <= self.match:
                self.match = 0
            self.next = max(min(rejected, hint + 1), self.match + 1)
            self.probe_sent = False
        self.sent_commit = min(self.sent_commit, self.next - 1)
        return True
