"""A member whose disk is full: what it still does until there is room again.

It promises nothing. A leader hands over to the voter that lacks least, and steps down when none
takes over within an election timeout. Then the member neither stands nor votes nor takes entries,
as if those messages had been lost, which Raft is built to bear (§5.5). It goes on answering
heartbeats, for they promise nothing durable: so it keeps hearing who leads and how far the log is
committed, and can confirm the leader's reads and its own.
"""

from __future__ import annotations

from typing import Final

from aspen.errors import StorageFull
from aspen.raft.messages import Message, MessageType
from aspen.raft.rawnode import RawNode, Role

_TAKEN: Final = frozenset({MessageType.HEARTBEAT, MessageType.READ_INDEX_RESP})
"""What a follower need write nothing for."""


class Room:
    """Whether there is room, and what follows if there is none."""

    def __init__(self, raw: RawNode, election_seconds: float) -> None:
        self.error: StorageFull | None = None
        """Why nothing can be stored; `None` while there is room."""
        self._raw = raw
        self._election_seconds = election_seconds
        self._lead_until = 0.0

    def ended(self, error: StorageFull, now: float) -> None:
        """Nothing can be made durable for now: have another lead."""
        self.error = error
        self._lead_until = now
        if self._raw.role is Role.LEADER and (successor := self._successor()):
            self._raw.transfer_leader(successor)
            self._lead_until += self._election_seconds

    def again(self) -> None:
        self.error = None

    def _successor(self) -> int:
        """The voter that lacks least of this leader's log; 0 if none was heard from lately."""
        able = [
            (member.match, node_id)
            for node_id, member in self._raw.status().progress.items()
            if node_id != self._raw.node_id and member.recent_active and not member.is_learner
        ]
        return max(able, default=(0, 0))[1]

    def may_tick(self, now: float) -> bool:
        """Whether time is to pass for the core. A leader whose successor is late steps down here."""
        if self.error is None:
            return True
        if self._raw.role is Role.LEADER and now >= self._lead_until:
            self._raw.step_down()
        return self._raw.role is Role.LEADER

    def takes(self, message: Message) -> bool:
        """Whether to hear a message, rather than to be as deaf as if it had been lost."""
        if self.error is None:
            return True
        if self._raw.role is Role.LEADER:
            return message.type is not MessageType.PROP
        return message.type in _TAKEN
