"""What a follower does with a leader's messages, and candidates with those that end their candidacy.

An append is taken if it follows an entry that both logs have; else the answer hints at the last
place where they could agree, skipping whole terms. A snapshot replaces the log, the commit
index and the membership in one step.

Raft paper §5.3 (consistency check), §7 (InstallSnapshot); figure 2, "Followers".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aspen.raft import membership
from aspen.raft.elections import Campaign, handle_vote_response, stand
from aspen.raft.messages import NO_NODE, Message, MessageType, Snapshot, SnapshotMetadata
from aspen.raft.reads import ReadState
from aspen.raft.reconfiguration import switch_configuration
from aspen.raft.roles import become_follower
from aspen.raft.settings import Role
from aspen.raft.state import ProposalDropped, RaftState

_FORWARDED: Final = frozenset({MessageType.PROP, MessageType.READ_INDEX, MessageType.TRANSFER_LEADER})


def step_follower(raft: RaftState, message: Message) -> None:
    """A message of this term (or outside terms) to a follower."""
    kind = message.type
    if kind in _FROM_LEADER:
        raft.election_elapsed = 0
        raft.leader_id = message.sender
        _FROM_LEADER[kind](raft, message)
    elif kind in _FORWARDED:
        _forward(raft, message)
    elif kind is MessageType.READ_INDEX_RESP:
        raft.read_states.append(ReadState(message.index, message.context))
    elif kind is MessageType.TIMEOUT_NOW:
        # No PreVote: the leader itself wants to be deposed.
        stand(raft, Campaign.TRANSFER)
    elif kind is MessageType.FORGET_LEADER and not raft.config.keeps_lease:
        # A vote so set free would break the leader's lease, hence not with leases.
        raft.leader_id = NO_NODE


def step_candidate(raft: RaftState, message: Message) -> None:
    """A message of this term (or outside terms) to a candidate or pre-candidate."""
    kind = message.type
    if kind in _FROM_LEADER:
        # There is a leader in this term: the election is lost (§5.2).
        become_follower(raft, message.term, message.sender)
        _FROM_LEADER[kind](raft, message)
    elif kind is MessageType.PROP:
        raise ProposalDropped("an election is under way")
    elif kind is MessageType.PRE_VOTE_RESP:
        # A candidate may still get late answers to its pre-candidacy; those count for nothing.
        if raft.role is Role.PRE_CANDIDATE:
            handle_vote_response(raft, message)
    elif kind is MessageType.VOTE_RESP and raft.role is Role.CANDIDATE:
        handle_vote_response(raft, message)


def _forward(raft: RaftState, message: Message) -> None:
    """Pass a request on to the leader, still in its sender's name."""
    if message.type is MessageType.PROP:
        if raft.leader_id == NO_NODE:
            raise ProposalDropped("there is no leader")
        if raft.config.disable_proposal_forwarding:
            raise ProposalDropped("this node is not the leader")
    elif raft.leader_id == NO_NODE:
        return
    term = raft.term if message.type is MessageType.TRANSFER_LEADER else 0
    raft.emit(
        Message(
            message.type,
            to=raft.leader_id,
            sender=message.sender or raft.node_id,
            term=term,
            entries=message.entries,
            context=message.context,
        )
    )


def _handle_append(raft: RaftState, message: Message) -> None:
    log = raft.log
    entries = message.entries
    if entries and (entries[0].index, entries[-1].index) != (message.index + 1, message.index + len(entries)):
        return  # no leader of ours says this: it would leave a gap
    if message.index < log.committed:
        # An old one. What is committed matches; say so, and the leader goes on from there.
        raft.reply(MessageType.APP_RESP, message.sender, index=log.committed)
        return
    last_new = log.maybe_append(message.index, message.log_term, entries, message.commit)
    if last_new is not None:
        raft.reply(MessageType.APP_RESP, message.sender, index=last_new)
        return
    hint, hint_term = log.find_conflict_by_term(min(message.index, log.last_index), message.log_term)
    raft.emit(
        Message(
            MessageType.APP_RESP,
            to=message.sender,
            sender=raft.node_id,
            term=raft.term,
            log_term=hint_term,
            index=message.index,
            reject=True,
            reject_hint=hint,
        )
    )


def _handle_heartbeat(raft: RaftState, message: Message) -> None:
    raft.log.commit_to(message.commit)
    raft.reply(MessageType.HEARTBEAT_RESP, message.sender, context=message.context)


def _handle_snapshot(raft: RaftState, message: Message) -> None:
    snapshot = message.snapshot
    if snapshot is not None and _restore(raft, snapshot):
        raft.reply(MessageType.APP_RESP, message.sender, index=raft.log.last_index)
    else:
        raft.reply(MessageType.APP_RESP, message.sender, index=raft.log.committed)


def _restore(raft: RaftState, snapshot: Snapshot) -> bool:
    """Replace the log and the members by `snapshot`'s; False if there is no need or no right to."""
    metadata = snapshot.metadata
    if metadata.index <= raft.log.committed or not _names(metadata, raft.node_id):
        return False
    if raft.log.matches(metadata.index, metadata.term):
        # The log has it all; it was only not known to be committed (§7).
        raft.log.commit_to(metadata.index)
        return False
    raft.log.restore(snapshot)
    # Members are those of the snapshot and no others: nothing is carried over.
    switch_configuration(raft, *membership.restore(metadata.conf_state, raft.progress_defaults()))
    own = raft.progress[raft.node_id]
    own.maybe_update(own.next - 1)
    return True


def _names(metadata: SnapshotMetadata, node_id: int) -> bool:
    members = metadata.conf_state
    return node_id in members.voters or node_id in members.learners or node_id in members.voters_outgoing


_FROM_LEADER: Final[dict[MessageType, Callable[[RaftState, Message], None]]] = {
    MessageType.APP: _handle_append,
    MessageType.HEARTBEAT: _handle_heartbeat,
    MessageType.SNAP: _handle_snapshot,
}
