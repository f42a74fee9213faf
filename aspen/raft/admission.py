"""Proposals as entries, and which configuration changes a leader lets into its log.

A proposal that can't be taken leaves no trace in the log by which its proposer, perhaps another
node, could know. So a change travels with a *marker*: a normal entry with the change's request id,
in the same message and thus right behind it in the log. If the change is applied, it was made; if
the marker is applied without it, it was not, and the leader has written its reason into the marker.

The core takes a change only if none is pending and it can be made at all. The leader's shell is
stricter: node ids and keys must not collide, the membership must still be the one the proposer
saw, a learner must have caught up before it votes (else writes would wait for it; thesis §4.2.1),
and the voters to come must include a quorum that is alive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple

from aspen.errors import RaftWireError
from aspen.limits import RAFT_CATCH_UP_ENTRIES, RAFT_MEMBERS
from aspen.raft import membership
from aspen.raft.envelope import MARKER, open_envelope, restamp, seal
from aspen.raft.membership import Configuration, ConfigurationRefused
from aspen.raft.messages import (
    NO_NODE,
    ConfChangeType,
    ConfChangeV2,
    Entry,
    EntryKind,
    Message,
    MessageType,
    conf_change_kind,
    decode_conf_change,
    encode_conf_change,
)
from aspen.raft.progress import ReplicationState
from aspen.raft.roster import ChangeContext, Roster, decode_context
from aspen.raft.settings import Role
from aspen.raft.state import RaftState


class RefusalCode(Enum):
    INVALID = b"invalid"
    """It can't be made, now or later."""
    BUSY = b"busy"
    """Another change is under way, or leadership is moving."""
    STALE = b"stale"
    """The membership has changed since the proposer looked."""
    BEHIND = b"behind"
    """A voter to be has not caught up."""
    UNSAFE = b"unsafe"
    """The voters to be would have no living quorum."""


class Refusal(NamedTuple):
    """Why a change certainly was not made."""

    code: RefusalCode
    reason: str

    def marker(self) -> bytes:
        return MARKER + self.code.value + b":" + self.reason.encode()


_VOIDED: Final = Refusal(RefusalCode.BUSY, "another membership change is under way")
_ADDS: Final = frozenset({ConfChangeType.ADD_NODE, ConfChangeType.ADD_LEARNER_NODE})


def read_marker(command: bytes) -> Refusal:
    """What a marker tells whose change was not applied before it."""
    code, _, reason = command[len(MARKER) :].partition(b":")
    for known in RefusalCode:
        if known.value == code:
            return Refusal(known, reason.decode("utf-8", "replace"))
    return _VOIDED


# --- proposals as entries ----------------------------------------------------------------------


def sealed(
    batch: Sequence[tuple[bytes, bytes]], changes: Mapping[bytes, ConfChangeV2], now_ms: int
) -> tuple[Entry, ...]:
    """The entries of a batch of (request id, command); those in `changes` follow their change."""
    entries: list[Entry] = []
    for request_id, command in batch:
        if (change := changes.get(request_id)) is not None:
            entries.append(Entry(kind=conf_change_kind(change), data=encode_conf_change(change)))
        entries.append(Entry(data=seal(request_id, now_ms, command)))
    return tuple(entries)


def forwarded(raft: RaftState, roster: Roster, message: Message, now_ms: int) -> Message:
    """A forwarded proposal as this node takes it: if it leads, under its time and by its leave."""
    entries = tuple(
        Entry(e.term, e.index, e.kind, restamp(e.data, now_ms) if e.kind is EntryKind.NORMAL else e.data)
        for e in message.entries
    )
    entries = admitted(raft, roster, entries, now_ms)
    return Message(MessageType.PROP, to=message.to, sender=message.sender, term=message.term, entries=entries)


def admitted(raft: RaftState, roster: Roster, entries: tuple[Entry, ...], now_ms: int) -> tuple[Entry, ...]:
    """A leader's proposals, with the changes that must not be made voided and their markers told why."""
    if raft.role is not Role.LEADER or all(entry.kind is EntryKind.NORMAL for entry in entries):
        return entries
    result = list(entries)
    for position, entry in enumerate(entries):
        if entry.kind is EntryKind.NORMAL:
            continue
        refusal = refusal_of(raft, roster, entry)
        if refusal is None:
            continue
        result[position] = Entry()
        behind = entries[position + 1] if position + 1 < len(entries) else Entry()
        if behind.kind is EntryKind.NORMAL and behind.data:
            envelope = open_envelope(behind.data)
            if envelope.command == MARKER:
                result[position + 1] = Entry(data=seal(envelope.request_id, now_ms, refusal.marker()))
    return tuple(result)


# --- who may take over ------------------------------------------------------------------------


def may_take_over(raft: RaftState, node_id: int) -> bool:
    """Whether a leader should hand over to a voter: it takes no proposals until that is done, so it must
    not be asked to wait for one that is away or far behind. Who doesn't lead can't tell, and says yes."""
    if raft.role is not Role.LEADER or node_id == raft.node_id:
        return True
    progress = raft.progress.get(node_id)
    return (
        progress is not None
        and not progress.is_learner
        and progress.recent_active
        and progress.match + RAFT_CATCH_UP_ENTRIES >= raft.log.last_index
    )


# --- what may be changed -----------------------------------------------------------------------


def refusal_of(raft: RaftState, roster: Roster, entry: Entry) -> Refusal | None:
    """Why a leader must not take this configuration change now; None if it may."""
    try:
        change = decode_conf_change(entry)
        context = decode_context(change.context)
    except RaftWireError as error:
        return Refusal(RefusalCode.INVALID, str(error))
    if raft.pending_conf_index > raft.log.applied or raft.configuration.joint:
        return _VOIDED
    if raft.lead_transferee != NO_NODE:
        return Refusal(RefusalCode.BUSY, "leadership is being transferred")
    try:
        after, _ = membership.change(raft.configuration, raft.progress, change, raft.progress_defaults())
    except ConfigurationRefused as error:
        return Refusal(RefusalCode.INVALID, str(error))
    return (
        _identity_refusal(roster, change, context)
        or _stale_refusal(after, context)
        or _behind_refusal(raft, after)
        or _quorum_refusal(raft, after)
    )


def _identity_refusal(roster: Roster, change: ConfChangeV2, context: ChangeContext) -> Refusal | None:
    """Node ids and keys belong together, one to one."""
    added = {single.node_id for single in change.changes if single.type in _ADDS}
    brought = {member.node_id: member for member in context.members}
    for node_id in sorted(added):
        if node_id not in brought and roster.member(node_id) is None:
            return Refusal(RefusalCode.INVALID, f"node {node_id} is not a member, and comes without a key")
    for member in context.members:
        holder = roster.member(member.node_id)
        bound = () if holder is None else (holder.endpoint_id, roster.next_key(member.node_id))
        if bound and member.endpoint_id not in bound:
            return Refusal(RefusalCode.INVALID, f"node id {member.node_id} is bound to another key")
        holder = roster.by_endpoint(member.endpoint_id)
        if holder is not None and holder.node_id != member.node_id:
            return Refusal(RefusalCode.INVALID, f"that key is bound to node {holder.node_id}")
        if member.cluster_id != roster.cluster_id:
            return Refusal(RefusalCode.INVALID, "the change was meant for another cluster")
    for key in context.next_keys:
        holder = roster.by_endpoint(key.endpoint_id)
        if holder is not None and holder.node_id != key.node_id:
            return Refusal(RefusalCode.INVALID, f"that key is bound to node {holder.node_id}")
    if len({*brought, *(member.node_id for member in roster.members)}) > RAFT_MEMBERS:
        return Refusal(RefusalCode.INVALID, f"a cluster has at most {RAFT_MEMBERS} members")
    return None


def _stale_refusal(after: Configuration, context: ChangeContext) -> Refusal | None:
    if context.voters and after.voters != frozenset(context.voters):
        return Refusal(RefusalCode.STALE, "the membership has changed meanwhile")
    return None


def _behind_refusal(raft: RaftState, after: Configuration) -> Refusal | None:
    """A new voter counts in the quorum at once: what it lacks, every write would wait for."""
    behind = []
    for node_id in sorted(after.voters - raft.configuration.voters):
        progress = raft.progress.get(node_id)
        if (
            progress is None
            or progress.state is not ReplicationState.REPLICATE
            or progress.match + RAFT_CATCH_UP_ENTRIES < raft.log.last_index
        ):
            behind.append(node_id)
    if not behind:
        return None
    if any(node_id not in raft.progress for node_id in behind):
        return Refusal(RefusalCode.INVALID, "a node must be a learner before it can be a voter")
    nodes = ", ".join(map(str, behind))
    return Refusal(RefusalCode.BEHIND, f"not caught up yet: node {nodes}")


def _quorum_refusal(raft: RaftState, after: Configuration) -> Refusal | None:
    """Whether the new voters could commit anything. (Not asked of those who only lose learners.)"""
    if after.voters == raft.configuration.voters:
        return None
    silent = [
        node_id
        for node_id in sorted(after.voters)
        if node_id != raft.node_id and not raft.progress[node_id].recent_active
    ]
    if len(after.voters) - len(silent) > len(after.voters) // 2:
        return None
    nodes = ", ".join(map(str, silent))
    return Refusal(RefusalCode.UNSAFE, f"the voters to be would have no quorum: no sign of node {nodes}")
