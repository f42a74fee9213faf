"""Linearizable reads without log entries: rounds of heartbeats, and the lease they earn.

A read asked of the leader is given the commit index at that moment. It may be served once a
quorum has answered a heartbeat sent *after* it was asked: then no newer leader can have committed
anything before. Each broadcast of heartbeats is a numbered round; a quorum's answers to round n
confirm every read that was waiting when round n left. The caller's contexts are only labels:
two reads with the same one are still two reads.

The same answers earn the lease: whoever answered round n granted no vote for an election timeout
since, so for a little less than that no one else can lead.

Thesis §6.4 (ReadIndex), §6.4.1 (leases).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final

import msgspec

from aspen.limits import RAFT_PENDING_READS
from aspen.raft.quorum import joint_committed_index

_ROUND_BYTES: Final = 8
_ROUNDS_REMEMBERED: Final = 64


class ReadState(msgspec.Struct, frozen=True, gc=False):
    """A read may be served as soon as `index` is applied here."""

    index: int
    context: bytes


class PendingRead(msgspec.Struct, frozen=True, gc=False):
    """A read that the leader has taken on, for itself or for `sender`."""

    round: int
    index: int
    sender: int
    context: bytes


class ReadQueue:
    """The reads and heartbeat rounds of one leader in one term."""

    __slots__ = ("_answered", "_pending", "_round", "_sent_at", "confirmed_at", "postponed")

    def __init__(self, last_round: int = 0) -> None:
        self._round = last_round
        self._pending: deque[PendingRead] = deque()
        self._answered: dict[int, int] = {}
        self._sent_at: deque[tuple[int, int]] = deque(maxlen=_ROUNDS_REMEMBERED)
        """The first round of each tick in which one left, and that tick."""
        self.confirmed_at: int | None = None
        """The tick at which the newest round that a quorum has answered left."""
        self.postponed: list[tuple[int, bytes]] = []
        """(sender, context) of reads asked before this leader had committed in its term."""

    def renewed(self) -> ReadQueue:
        """An empty queue for a new term. Rounds go on counting: no late answer fits a new one."""
        return ReadQueue(self._round)

    def __len__(self) -> int:
        return len(self._pending) + len(self.postponed)

    @property
    def full(self) -> bool:
        return len(self) >= RAFT_PENDING_READS

    def add(self, index: int, sender: int, context: bytes) -> None:
        """Take on a read; the next round confirms it."""
        self._pending.append(PendingRead(self._round + 1, index, sender, context))

    def begin_round(self, node_id: int, tick: int) -> bytes:
        """Number a round of heartbeats; the leader itself has answered it. Returns their context."""
        self._round += 1
        self._answered[node_id] = self._round
        if not self._sent_at or self._sent_at[-1][1] != tick:
            self._sent_at.append((self._round, tick))
        return self._round.to_bytes(_ROUND_BYTES, "big")

    def answer(self, node_id: int, context: bytes) -> None:
        """A member answered the heartbeat that carried `context`."""
        if len(context) != _ROUND_BYTES:
            return
        answered = int.from_bytes(context, "big")
        if self._answered.get(node_id, 0) < answered <= self._round:
            self._answered[node_id] = answered

    def confirm(self, voters: Collection[int], voters_outgoing: Collection[int]) -> list[PendingRead]:
        """The reads that the answers so far confirm, in order."""
        confirmed = joint_committed_index(voters, voters_outgoing, self._answered)
        sent_at = self._sent_at
        while sent_at and sent_at[0][0] <= confirmed:
            self.confirmed_at = sent_at.popleft()[1]
        pending = self._pending
        ready: list[PendingRead] = []
        while pending and pending[0].round <= confirmed:
            ready.append(pending.popleft())
        return ready
