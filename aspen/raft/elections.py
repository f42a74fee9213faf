"""Elections: when to stand, whom to vote for, and when one is won.

A node that has heard from no leader for its randomized timeout stands. With PreVote it first
asks whether it would get the votes, in a term that it does not enter yet. A voter grants one
vote a term, to a candidate whose log is at least as complete as its own; a vote counts, the
candidate's own included, once it is on disk.

Raft paper §5.2, §5.4.1; thesis §9.6 (PreVote), §3.10 (transfer), §6.2 (leader stickiness).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from aspen.raft.messages import NO_NODE, EntryKind, Message, MessageType
from aspen.raft.quorum import VoteResult, joint_vote_result
from aspen.raft.replication import broadcast_append
from aspen.raft.roles import become_candidate, become_follower, become_leader, become_pre_candidate
from aspen.raft.settings import Role
from aspen.raft.state import RaftState

TRANSFER_CONTEXT: Final = b"CampaignTransfer"
"""In a vote request: the leader itself asked for this election, its lease is no reason to refuse."""

_SCAN_BYTES: Final = 1_048_576


class Campaign(Enum):
    PRE_ELECTION = "pre"
    ELECTION = "election"
    TRANSFER = "transfer"


def stand(raft: RaftState, campaign: Campaign) -> None:
    """Start an election, if this node may."""
    if raft.role is Role.LEADER or not raft.promotable or _unapplied_conf_change(raft):
        return
    _campaign(raft, campaign)


def _unapplied_conf_change(raft: RaftState) -> bool:
    """Whether a committed configuration change is not applied yet: who votes is not known then."""
    low, end = raft.log.applied + 1, raft.log.committed + 1
    while low < end:
        page = raft.log.slice(low, end, _SCAN_BYTES)
        if any(entry.kind is not EntryKind.NORMAL for entry in page):
            return True
        low += len(page)
    return False


def _campaign(raft: RaftState, campaign: Campaign) -> None:
    if campaign is Campaign.PRE_ELECTION:
        become_pre_candidate(raft)
        request, response, term = MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESP, raft.term + 1
    else:
        become_candidate(raft)
        raft.campaigns += 1
        request, response, term = MessageType.VOTE, MessageType.VOTE_RESP, raft.term
    last_index, last_term = raft.log.last_index, raft.log.last_term
    context = TRANSFER_CONTEXT if campaign is Campaign.TRANSFER else b""
    for node_id in sorted(raft.configuration.all_voters):
        if node_id == raft.node_id:
            # Its own vote is a message too, and counts once the vote is on disk.
            raft.emit(Message(response, to=node_id, sender=raft.node_id, term=term))
        else:
            raft.emit(
                Message(
                    request,
                    to=node_id,
                    sender=raft.node_id,
                    term=term,
                    log_term=last_term,
                    index=last_index,
                    context=context,
                )
            )


def honours_lease(raft: RaftState, message: Message) -> bool:
    """Whether a vote request of a higher term is to be ignored: there is a leader, it is alive.

    Else a member that is cut off, or was removed, could depose a leader whom everyone else hears.
    """
    if message.context == TRANSFER_CONTEXT:
        return False
    if raft.vote_hold_ticks:
        return True
    heard_lately = raft.election_elapsed < raft.config.election_ticks
    return raft.check_quorum and raft.leader_id != NO_NODE and heard_lately


def handle_vote_request(raft: RaftState, message: Message) -> None:
    """VOTE and PRE_VOTE, in any role, of this term or a later one."""
    pre_vote = message.type is MessageType.PRE_VOTE
    can_vote = (
        raft.vote == message.sender
        or (raft.vote == NO_NODE and raft.leader_id == NO_NODE)
        or (pre_vote and message.term > raft.term)
    )
    response = MessageType.PRE_VOTE_RESP if pre_vote else MessageType.VOTE_RESP
    if can_vote and raft.log.is_up_to_date(message.log_term, message.index):
        # The answer bears the request's term: a pre-candidate's is one that nobody is in yet.
        raft.emit(Message(response, to=message.sender, sender=raft.node_id, term=message.term))
        if not pre_vote:
            raft.election_elapsed = 0
            raft.vote = message.sender
    else:
        _refuse_vote(raft, response, message.sender)


def _refuse_vote(raft: RaftState, response: MessageType, to: int) -> None:
    """Refuse; one who is no member (any more) also says what it knows to be committed.

    A removed leader may be the only one who knows that its removal is committed, and have a
    longer log than those who still count on its vote. It can't stand, they can't win: unless
    they learn it from here.
    """
    commit = raft.log.committed if raft.node_id not in raft.progress else 0
    raft.emit(
        Message(
            response,
            to=to,
            sender=raft.node_id,
            term=raft.term,
            log_term=raft.log.term(commit) if commit else 0,
            commit=commit,
            reject=True,
        )
    )


def learn_commit(raft: RaftState, refusal: Message) -> None:
    """Commit what a refusal says is committed, if our log has that very entry (Log Matching)."""
    if refusal.commit and refusal.log_term:
        raft.log.maybe_commit(refusal.commit, refusal.log_term)


def handle_vote_response(raft: RaftState, message: Message) -> None:
    """A candidate's or pre-candidate's answer. The first answer of each voter counts."""
    raft.votes.setdefault(message.sender, not message.reject)
    configuration = raft.configuration
    result = joint_vote_result(configuration.voters, configuration.voters_outgoing, raft.votes)
    if result is VoteResult.WON:
        if raft.role is Role.PRE_CANDIDATE:
            _campaign(raft, Campaign.ELECTION)
        elif raft.node_id in raft.votes:
            # Not by the others' votes alone: a leader whose own disk has not heard of its term could
            # crash, win the same term again, and put other entries where its first ones are.
            become_leader(raft)
            broadcast_append(raft)
    elif result is VoteResult.LOST:
        # A refusal of a pre-vote may bear a later term; that is dealt with before it comes here.
        become_follower(raft, raft.term, NO_NODE)
