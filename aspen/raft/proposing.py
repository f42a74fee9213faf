"""From what waits to be proposed, and what others forward, to the core's proposals (shell).

All that waits goes to the core as one message: the core takes all of it or none. On the leader,
changes of the membership pass `admission` first, wherever they come from.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from aspen.errors import Overloaded
from aspen.raft.admission import admitted, forwarded, sealed
from aspen.raft.core import ProposalDropped
from aspen.raft.envelope import HEAD_BYTES, seal
from aspen.raft.messages import EntryKind, Message, MessageType
from aspen.raft.pending import PendingProposals
from aspen.raft.rawnode import RawNode
from aspen.raft.roster import Roster
from aspen.raft.traces import log_forwarded, log_proposed

log = structlog.get_logger("aspen.raft")


class Proposing:
    """One node's way of proposing. Called on the loop's thread."""

    def __init__(
        self,
        raw: RawNode,
        pending: PendingProposals,
        roster: Callable[[], Roster],
        wall_ms: Callable[[], int],
    ) -> None:
        self._raw = raw
        self._pending = pending
        self._roster = roster
        self._wall_ms = wall_ms

    def propose_waiting(self) -> None:
        """Hand what waits to the core, or refuse it all. There must be a leader."""
        if self._raw.raft.lead_transferee:
            return  # the next leader gets it
        batch = self._pending.take()
        if not batch:
            return
        now_ms = self._wall_ms()
        try:
            if self._pending.changes:
                entries = sealed(batch, self._pending.changes, now_ms)
                entries = admitted(self._raw.raft, self._roster(), entries, now_ms)
                self._raw.step(Message(MessageType.PROP, sender=self._raw.node_id, entries=entries))
            else:
                self._raw.propose_many([seal(request_id, now_ms, command) for request_id, command in batch])
        except ProposalDropped as error:
            self._pending.refuse(batch, Overloaded(f"not proposed: {error}; try again"))
            return
        self._pending.proposed(batch, self._raw.term)
        log_proposed(batch, self._raw.leader_id, self._raw.term)

    def received(self, message: Message) -> Message | None:
        """A proposal that another node forwards, as it goes to the core; None if it must not."""
        if any(e.kind is EntryKind.NORMAL and len(e.data) < HEAD_BYTES for e in message.entries):
            log.warning("a forwarded proposal without its envelope was dropped", sender=message.sender)
            return None
        log_forwarded(message.entries, message.sender, leads=self._raw.leader_id == self._raw.node_id)
        return forwarded(self._raw.raft, self._roster(), message, self._wall_ms())
