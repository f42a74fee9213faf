"""What is measured of a node's part in Raft, for metrics: numbers only, time is an argument."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from aspen.histogram import Histogram
from aspen.limits import RAFT_PENDING_PROPOSALS
from aspen.raft.messages import Entry


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
