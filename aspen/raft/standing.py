"""Whether this node still is a member: by its own log, or by the word of those who are.

A node learns of its removal by applying it. If it was cut off, its log never tells; then the other
members refuse its connections and say why. Their word is believed if no leader speaks to the node
for an election timeout after it, and until one does: a member that lags behind may not know yet
that the node was added anew.

A removed node doesn't campaign, takes no proposals, and after a while stops voting. Not at once:
a candidate that has the entry of the removal, and doesn't know that it is committed, still counts
the removed node in its quorum and may need that vote (thesis §4.2.2, §4.2.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from aspen.errors import NoLeader
from aspen.limits import RAFT_REMOVED_VOTES_MS
from aspen.raft.messages import Message, MessageType
from aspen.raft.roster import Roster

log = structlog.get_logger("aspen.raft")

_VOTE_REQUESTS: Final = frozenset({MessageType.VOTE, MessageType.PRE_VOTE})


def is_named(message: Message, roster: Roster, leader_id: int) -> bool:
    """Whether to hear a message at all: one of a member, as this node knows the membership.

    A sender that isn't named may be newer than what this node has heard. But it is not believed while
    another leads, who would have told of it, and it never proposes.
    """
    if not roster.members or roster.member(message.sender) is not None:
        return True
    return leader_id in (0, message.sender) and message.type is not MessageType.PROP


class Standing:
    """One node's standing in its cluster; `removed` says it."""

    def __init__(
        self,
        endpoint_id: bytes,
        roster: Roster,
        *,
        patience_ms: float,
        clock_ms: Callable[[], int],
        on_removed: Callable[[], None],
    ) -> None:
        """`patience_ms` is how long a leader may be silent: the longest election timeout."""
        self._endpoint_id = endpoint_id
        self._patience_ms = patience_ms
        self._clock_ms = clock_ms
        self._on_removed = on_removed
        self._by_log = roster.has_removed(endpoint_id)
        self._by_word = False
        self._told_ms: int | None = None
        self._since_ms = clock_ms()

    @property
    def removed(self) -> bool:
        return self._by_log or self._by_word

    def takes(self, message: Message) -> bool:
        """Whether to hear a message: a node removed a while ago is asked for its vote in vain."""
        if not self.removed or message.type not in _VOTE_REQUESTS:
            return True
        return self._clock_ms() - self._since_ms < RAFT_REMOVED_VOTES_MS

    def check(self) -> None:
        """Raises `NoLeader`: a removed node can neither write nor read what is current."""
        if self.removed:
            raise NoLeader("this node was removed from the cluster")

    def applied(self, roster: Roster) -> None:
        """A membership is in effect here."""
        was_removed = self.removed
        self._by_log = roster.has_removed(self._endpoint_id)
        self._note(was_removed, "its own log")

    def told(self) -> None:
        """A member refuses to speak to this node, because it was removed."""
        if self._told_ms is None:
            self._told_ms = self._clock_ms()

    def heard_leader(self) -> None:
        """A leader speaks to this node, as leaders do to members only."""
        self._by_word = False
        self._told_ms = None

    def may_tick(self, *, leads: bool) -> bool:
        """Whether time is to pass for the core. A removed node does not stand for election; a leader
        whom nobody follows any more has to find that out, though."""
        if leads:
            return True
        if self._told_ms is not None and self._clock_ms() - self._told_ms >= self._patience_ms:
            was_removed = self.removed
            self._by_word = True
            self._note(was_removed, "the word of a member")
        return not self.removed

    def _note(self, was_removed: bool, source: str) -> None:
        if self.removed and not was_removed:
            self._since_ms = self._clock_ms()
            log.warning("this node was removed from the cluster", source=source)
            self._on_removed()
