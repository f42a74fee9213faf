"""From what waits to be proposed, and what others forward, to the core's proposals (shell).

All that waits goes to the core as one message: the core takes all of it or none. On the leader,
changes of the membership pass `admission` first, wherever they come from; and a forwarded command that the
state machine can't take is replaced by the reason: once committed, it would stop members or occupy the log.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from aspen.errors import Overloaded
from aspen.raft.admission import Refusal, RefusalCode, admitted, forwarded, sealed
from aspen.raft.core import ProposalDropped
from aspen.raft.envelope import HEAD_BYTES, MARKER, open_envelope, seal
from aspen.raft.messages import Entry, EntryKind, Message, MessageType
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
        refuses: Callable[[bytes], str | None],
    ) -> None:
        """`refuses` tells why the state machine can't take a command; None if it can."""
        self._raw = raw
        self._pending = pending
        self._roster = roster
        self._wall_ms = wall_ms
        self._refuses = refuses

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
        leads = self._raw.leader_id == self._raw.node_id
        log_forwarded(message.entries, message.sender, leads=leads)
        if leads:
            entries = tuple(self._checked(entry, message.sender) for entry in message.entries)
            message = msgspec.structs.replace(message, entries=entries)
        return forwarded(self._raw.raft, self._roster(), message, self._wall_ms())

    def _checked(self, entry: Entry, sender: int) -> Entry:
        """The entry; or a marker in its place, which tells its proposer why not."""
        if entry.kind is not EntryKind.NORMAL:
            return entry
        envelope = open_envelope(entry.data)
        if envelope.command.startswith(MARKER) or (reason := self._refuses(envelope.command)) is None:
            return entry
        log.warning("a forwarded command was refused", sender=sender, reason=reason)
        refusal = Refusal(RefusalCode.INVALID, reason)
        return Entry(data=seal(envelope.request_id, envelope.proposed_at_ms, refusal.marker()))
