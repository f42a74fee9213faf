"""The Raft state machine: messages and ticks in, state and messages out. No IO, no clock.

Everything that happens is a message, ticks included. The order here is the heart of the safety
argument: first a message's term is settled against our own (§5.1), then votes, which any role
answers, then what the role does with it.

Raft paper §5.1, figure 2 "All Servers".
"""

from __future__ import annotations

from typing import Final

from aspen.raft import membership
from aspen.raft.elections import Campaign, handle_vote_request, honours_lease, learn_commit, stand
from aspen.raft.follower import step_candidate, step_follower
from aspen.raft.leader import step_leader
from aspen.raft.log import entries_bytes
from aspen.raft.messages import NO_NODE, Message, MessageType, Snapshot
from aspen.raft.reconfiguration import applied_to, switch_configuration
from aspen.raft.replication import reduce_uncommitted
from aspen.raft.roles import become_follower
from aspen.raft.settings import RaftConfig, Role
from aspen.raft.state import ProposalDropped as ProposalDropped
from aspen.raft.state import RaftState

_FROM_LEADER: Final = frozenset({MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP})
_VOTE_REQUESTS: Final = frozenset({MessageType.VOTE, MessageType.PRE_VOTE})
_VOTE_RESPONSES: Final = frozenset({MessageType.VOTE_RESP, MessageType.PRE_VOTE_RESP})

_STEP: Final = {
    Role.FOLLOWER: step_follower,
    Role.PRE_CANDIDATE: step_candidate,
    Role.CANDIDATE: step_candidate,
    Role.LEADER: step_leader,
}


def start(config: RaftConfig) -> RaftState:
    """A node as it was when it last wrote to its storage: a follower without a leader."""
    raft = RaftState(config)
    hard_state, conf_state = config.storage.initial_state()
    switch_configuration(raft, *membership.restore(conf_state, raft.progress_defaults()))
    # What was applied, or compacted after that, was committed, even if the crash came before the
    # commit index itself was written.
    commit = max(hard_state.commit, config.applied, raft.log.committed)
    raft.log.commit_to(commit)
    raft.term, raft.vote = hard_state.term, hard_state.vote
    if hard_state.term and config.keeps_lease:
        raft.vote_hold_ticks = config.election_ticks
    if config.applied:
        raft.log.applied_to(config.applied, 0)
    become_follower(raft, raft.term, NO_NODE)
    return raft


# --- time -------------------------------------------------------------------------------------


def tick(raft: RaftState) -> None:
    """One tick has passed."""
    raft.ticks += 1
    raft.election_elapsed += 1
    if raft.role is Role.LEADER:
        _tick_leader(raft)
        return
    if raft.vote_hold_ticks:
        raft.vote_hold_ticks -= 1
    if raft.promotable and raft.election_elapsed >= raft.randomized_timeout:
        raft.election_elapsed = 0
        step(raft, Message(MessageType.HUP, sender=raft.node_id))


def _tick_leader(raft: RaftState) -> None:
    raft.heartbeat_elapsed += 1
    if raft.election_elapsed >= raft.config.election_ticks:
        raft.election_elapsed = 0
        if raft.check_quorum:
            step(raft, Message(MessageType.CHECK_QUORUM, sender=raft.node_id))
        # A transfer that took this long has failed.
        raft.lead_transferee = NO_NODE
    if raft.role is Role.LEADER and raft.heartbeat_elapsed >= raft.config.heartbeat_ticks:
        raft.heartbeat_elapsed = 0
        step(raft, Message(MessageType.BEAT, sender=raft.node_id))


# --- messages ---------------------------------------------------------------------------------


def step(raft: RaftState, message: Message) -> None:
    """Take a message. Raises `ProposalDropped` for a proposal that can't be taken."""
    if message.term:
        if message.term > raft.term:
            if message.type in _VOTE_REQUESTS and honours_lease(raft, message):
                return
            _meet_higher_term(raft, message)
        elif message.term < raft.term:
            _answer_lower_term(raft, message)
            return
    kind = message.type
    if kind in _VOTE_REQUESTS:
        handle_vote_request(raft, message)
    elif kind is MessageType.HUP:
        stand(raft, Campaign.PRE_ELECTION if raft.config.pre_vote else Campaign.ELECTION)
    elif kind is MessageType.STORAGE_APPEND_RESP:
        if message.index:
            raft.log.stable_to(message.index, message.log_term)
        if message.snapshot is not None:
            _snapshot_stored(raft, message.snapshot)
    elif kind is MessageType.STORAGE_APPLY_RESP:
        if message.entries:
            applied_to(raft, message.entries[-1].index, entries_bytes(message.entries))
            reduce_uncommitted(raft, message.entries)
    else:
        if message.reject and kind in _VOTE_RESPONSES:
            learn_commit(raft, message)
        _STEP[raft.role](raft, message)


def _meet_higher_term(raft: RaftState, message: Message) -> None:
    """Enter the term we hear of, except for one that nobody may be in (thesis §9.6)."""
    kind = message.type
    if kind is MessageType.PRE_VOTE:
        return
    if kind is MessageType.PRE_VOTE_RESP and not message.reject:
        # Our own request's term: we enter it when a quorum has said yes.
        return
    become_follower(raft, message.term, message.sender if kind in _FROM_LEADER else NO_NODE)


def _answer_lower_term(raft: RaftState, message: Message) -> None:
    """Who is behind gets to know it where that is needed to get it out; the rest is ignored."""
    kind = message.type
    if kind in (MessageType.HEARTBEAT, MessageType.APP) and (raft.check_quorum or raft.config.pre_vote):
        # A leader of an earlier term. We may be stuck in a term of our own that no vote request
        # of ours can tell it of, since others ignore those: this answer deposes it.
        raft.reply(MessageType.APP_RESP, message.sender)
    elif kind is MessageType.PRE_VOTE:
        raft.emit(
            Message(
                MessageType.PRE_VOTE_RESP,
                to=message.sender,
                sender=raft.node_id,
                term=raft.term,
                reject=True,
            )
        )
    elif kind is MessageType.STORAGE_APPEND_RESP and message.snapshot is not None:
        # Entries may have been overwritten since; a snapshot is committed whatever the term.
        _snapshot_stored(raft, message.snapshot)


def _snapshot_stored(raft: RaftState, snapshot: Snapshot) -> None:
    index = snapshot.metadata.index
    raft.log.stable_snapshot_to(index)
    applied_to(raft, index, 0)
