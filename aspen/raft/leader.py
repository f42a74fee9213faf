"""What a leader does with proposals, answers, reads and requests to hand over.

Each kind of message has its handler in the table at the end; those that speak of one member find
its progress looked up, and are ignored when it is not a member.

Raft paper §5.3, figure 2 "Leaders", §8; thesis §3.10 (transfer), §6.2 (CheckQuorum), §6.4 (reads).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aspen.errors import invariant
from aspen.raft.messages import NO_NODE, Message, MessageType
from aspen.raft.progress import Progress, ReplicationState
from aspen.raft.quorum import VoteResult, joint_vote_result
from aspen.raft.reads import ReadState
from aspen.raft.reconfiguration import admit_conf_changes
from aspen.raft.replication import (
    append_entries,
    broadcast_append,
    broadcast_heartbeat,
    maybe_commit,
    maybe_send_entries,
    send_append,
)
from aspen.raft.roles import become_follower
from aspen.raft.settings import ReadOnlyOption
from aspen.raft.state import ProposalDropped, RaftState


def step_leader(raft: RaftState, message: Message) -> None:
    """A message of this term (or outside terms) to the leader."""
    if (about_member := _ABOUT_MEMBER.get(message.type)) is not None:
        progress = raft.progress.get(message.sender)
        if progress is not None:
            about_member(raft, message, progress)
    elif (handler := _HANDLERS.get(message.type)) is not None:
        handler(raft, message)


# --- proposals --------------------------------------------------------------------------------


def _handle_proposal(raft: RaftState, message: Message) -> None:
    invariant(message.entries, "a proposal without entries")
    if raft.node_id not in raft.progress:
        raise ProposalDropped("this leader was removed")
    if raft.lead_transferee != NO_NODE:
        raise ProposalDropped("leadership is being transferred")
    pending_conf_index = raft.pending_conf_index
    if not append_entries(raft, admit_conf_changes(raft, message.entries)):
        raft.pending_conf_index = pending_conf_index
        raise ProposalDropped("too much is uncommitted")
    broadcast_append(raft)


# --- replication ------------------------------------------------------------------------------


def _handle_append_response(raft: RaftState, message: Message, progress: Progress) -> None:
    progress.recent_active = True
    if message.reject:
        _step_back(raft, message, progress)
        return
    # A repeated answer matters to a probed follower: it shows that it is there.
    answers_probe = progress.state is ReplicationState.PROBE and progress.match == message.index
    if not progress.maybe_update(message.index) and not answers_probe:
        return
    if progress.state is ReplicationState.PROBE:
        progress.become_replicate()
    elif progress.state is ReplicationState.REPLICATE:
        progress.inflights.free_up_to(message.index)
    elif progress.match + 1 >= raft.log.first_index:
        # Whatever snapshot it took, from where it stands now the log can go on.
        progress.become_replicate()

    peer = message.sender
    if maybe_commit(raft):
        _release_postponed_reads(raft)
        broadcast_append(raft)
    elif peer != raft.node_id and progress.can_bump_commit(raft.log.committed):
        send_append(raft, peer)
    if peer != raft.node_id:
        while maybe_send_entries(raft, peer):
            pass
    if peer == raft.lead_transferee and progress.match == raft.log.last_index:
        _send_timeout_now(raft, peer)


def _step_back(raft: RaftState, message: Message, progress: Progress) -> None:
    """It refused an append: try again from the last place where both logs could agree.

    The follower's hint is the last entry of its log not newer than the one it was asked about;
    all entries of ours that are newer than its hint can't match either (§5.3, last paragraph).
    """
    hint = message.reject_hint
    if message.log_term:
        hint, _ = raft.log.find_conflict_by_term(hint, message.log_term)
    if progress.maybe_decrease(message.index, hint):
        if progress.state is ReplicationState.REPLICATE:
            progress.become_probe()
        send_append(raft, message.sender)


def _handle_heartbeat_response(raft: RaftState, message: Message, progress: Progress) -> None:
    progress.recent_active = True
    progress.probe_sent = False
    # A full window gets an empty append here, a probed follower its next probe: by the answer,
    # both recover from messages that were lost.
    if progress.match < raft.log.last_index or progress.state is ReplicationState.PROBE:
        send_append(raft, message.sender)
    if message.context:
        raft.reads.answer(message.sender, message.context)
        _serve_confirmed_reads(raft)


def _handle_snapshot_status(raft: RaftState, message: Message, progress: Progress) -> None:
    """Whether a snapshot reached it. Not that it took it: for that, its next answer is awaited."""
    if progress.state is not ReplicationState.SNAPSHOT:
        return
    if message.reject:
        progress.pending_snapshot = 0
    progress.become_probe()
    progress.probe_sent = True


def _handle_unreachable(_raft: RaftState, _message: Message, progress: Progress) -> None:
    # What was sent ahead is probably lost.
    if progress.state is ReplicationState.REPLICATE:
        progress.become_probe()


# --- keeping and giving up leadership ---------------------------------------------------------


def _handle_beat(raft: RaftState, _message: Message) -> None:
    broadcast_heartbeat(raft)
    _serve_confirmed_reads(raft)


def _handle_check_quorum(raft: RaftState, _message: Message) -> None:
    """Step down if no quorum was heard from since the last check (§6.2)."""
    heard = {
        node_id: node_id == raft.node_id or member.recent_active
        for node_id, member in raft.progress.items()
        if not member.is_learner
    }
    configuration = raft.configuration
    result = joint_vote_result(configuration.voters, configuration.voters_outgoing, heard)
    if result is not VoteResult.WON:
        become_follower(raft, raft.term, NO_NODE)
    for node_id, member in raft.progress.items():
        if node_id != raft.node_id:
            member.recent_active = False


def _handle_transfer(raft: RaftState, message: Message, progress: Progress) -> None:
    """Hand over to `message.sender`: bring it up to date, then have it campaign at once (§3.10)."""
    transferee = message.sender
    if progress.is_learner or raft.lead_transferee == transferee:
        return
    raft.lead_transferee = NO_NODE
    if transferee == raft.node_id:
        return
    # It has one election timeout to succeed in; then this leader goes on.
    raft.election_elapsed = 0
    raft.lead_transferee = transferee
    if progress.match == raft.log.last_index:
        _send_timeout_now(raft, transferee)
    else:
        send_append(raft, transferee)


def _send_timeout_now(raft: RaftState, to: int) -> None:
    raft.timeout_now_sent = True
    raft.reply(MessageType.TIMEOUT_NOW, to)


# --- reads ------------------------------------------------------------------------------------


def _handle_read_index(raft: RaftState, message: Message) -> None:
    if raft.reads.full:
        return  # its asker asks again
    if not raft.committed_in_term:
        # An earlier leader may have committed more than is known here (§6.4, step 1).
        raft.reads.postponed.append((message.sender, message.context))
    elif raft.config.read_only_option is ReadOnlyOption.LEASE_BASED and raft.holds_lease:
        _answer_read(raft, message.sender, raft.log.committed, message.context)
    else:
        raft.reads.add(raft.log.committed, message.sender, message.context)
        broadcast_heartbeat(raft)
        _serve_confirmed_reads(raft)


def _release_postponed_reads(raft: RaftState) -> None:
    """The leader has committed in its term: one round serves all the reads that waited for it."""
    postponed = raft.reads.postponed
    if not postponed or not raft.committed_in_term:
        return
    raft.reads.postponed = []
    for sender, context in postponed:
        raft.reads.add(raft.log.committed, sender, context)
    broadcast_heartbeat(raft)
    _serve_confirmed_reads(raft)


def _serve_confirmed_reads(raft: RaftState) -> None:
    configuration = raft.configuration
    for read in raft.reads.confirm(configuration.voters, configuration.voters_outgoing):
        _answer_read(raft, read.sender, read.index, read.context)


def _answer_read(raft: RaftState, sender: int, index: int, context: bytes) -> None:
    if sender in (NO_NODE, raft.node_id):
        raft.read_states.append(ReadState(index, context))
    else:
        raft.reply(MessageType.READ_INDEX_RESP, sender, index=index, context=context)


_HANDLERS: Final[dict[MessageType, Callable[[RaftState, Message], None]]] = {
    MessageType.BEAT: _handle_beat,
    MessageType.CHECK_QUORUM: _handle_check_quorum,
    MessageType.PROP: _handle_proposal,
    MessageType.READ_INDEX: _handle_read_index,
}

_ABOUT_MEMBER: Final[dict[MessageType, Callable[[RaftState, Message, Progress], None]]] = {
    MessageType.APP_RESP: _handle_append_response,
    MessageType.HEARTBEAT_RESP: _handle_heartbeat_response,
    MessageType.SNAP_STATUS: _handle_snapshot_status,
    MessageType.UNREACHABLE: _handle_unreachable,
    MessageType.TRANSFER_LEADER: _handle_transfer,
}
