"""What is measured of a node's part in Raft, for metrics: numbers only, time is an argument."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from aspen.histogram import Histogram
from aspen.limits import RAFT_PENDING_PROPOSALS
from aspen.raft.messages import Entry

_ELECTION_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class LeaderTimes:
    """How often a leader took up, as this node saw it, and how long it knew of none in between."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._leader_id = 0
        self._lost_s: float | None = None
        self.changes = 0
        self.without_seconds = Histogram(_ELECTION_S)
        """From losing a leader to the next one; what was before the first one counts as nothing."""

    def note(self, leader_id: int) -> None:
        """The leader that is known now, 0 for none."""
        if leader_id == self._leader_id:
            return
        if self._leader_id:
            self._lost_s = self._now_s()
        if leader_id:
            self.changes += 1
            if self._lost_s is not None:
                self.without_seconds.note(self._now_s() - self._lost_s)
        self._leader_id = leader_id


class CommitTimes:
    """How long entries take, on the leader, from going to its disk and its followers to being committed."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._open: deque[tuple[int, int, float]] = deque(maxlen=RAFT_PENDING_PROPOSALS)
        """(last index, number of entries, when) of what was appended and is not committed yet."""
        self.seconds = Histogram()

    def note(self, appended: Sequence[Entry], leads: bool, commit_index: int) -> None:
        """With every `Ready`: what it appends, and how far all is committed."""
        if not leads:
            self._open.clear()
        elif appended:
            self._open.append((appended[-1].index, len(appended), self._now_s()))
        while self._open and self._open[0][0] <= commit_index:
            _, count, since_s = self._open.popleft()
            self.seconds.note(self._now_s() - since_s, count)
