"""The one place where a node changes its role.

    FOLLOWER ──timeout──► PRE_CANDIDATE ──quorum would vote──► CANDIDATE ──quorum voted──► LEADER
        ▲                      │                                  │                           │
        └──────────────────────┴── a leader, a higher term, or the election lost ─────────────┘

Without PreVote a follower becomes a candidate at once. A node's term, vote and everything that
belongs to one term are set here and nowhere else (but for the vote it grants).

Raft paper §5.1, §5.2, figure 4; thesis §9.6 (PreVote).
"""

from __future__ import annotations

from aspen.errors import invariant
from aspen.raft.messages import NO_NODE, Entry
from aspen.raft.progress import Inflights, Progress
from aspen.raft.replication import append_entries
from aspen.raft.settings import Role
from aspen.raft.state import RaftState


def reset(raft: RaftState, term: int) -> None:
    """Forget what belonged to the term, or to the role that was played in it."""
    if raft.term != term:
        invariant(term > raft.term, "a term can't go back")
        raft.term = term
        raft.vote = NO_NODE
        raft.timeout_now_sent = False
    raft.leader_id = NO_NODE
    raft.election_elapsed = 0
    raft.heartbeat_elapsed = 0
    low, high = raft.config.timeout_bounds
    raft.randomized_timeout = raft.config.rng.randrange(low, high)
    raft.lead_transferee = NO_NODE
    raft.votes.clear()
    last_index = raft.log.last_index
    for node_id, member in raft.progress.items():
        raft.progress[node_id] = Progress(
            last_index + 1,
            Inflights(raft.config.max_inflight_messages, raft.config.max_inflight_bytes),
            is_learner=member.is_learner,
            match=last_index if node_id == raft.node_id else 0,
        )
    raft.pending_conf_index = 0
    raft.uncommitted_bytes = 0
    raft.reads = raft.reads.renewed()


def become_follower(raft: RaftState, term: int, leader_id: int) -> None:
    reset(raft, term)
    raft.leader_id = leader_id
    raft.role = Role.FOLLOWER


def become_pre_candidate(raft: RaftState) -> None:
    """Neither term nor vote change: nobody is to notice an election that can't be won."""
    invariant(raft.role is not Role.LEADER, "a leader can't become pre-candidate")
    raft.votes.clear()
    raft.leader_id = NO_NODE
    raft.role = Role.PRE_CANDIDATE


def become_candidate(raft: RaftState) -> None:
    invariant(raft.role is not Role.LEADER, "a leader can't become candidate")
    reset(raft, raft.term + 1)
    raft.vote = raft.node_id
    raft.role = Role.CANDIDATE


def become_leader(raft: RaftState) -> None:
    """Lead, and open the term with an empty entry: by it, what came before gets committed (§8)."""
    invariant(raft.role is Role.CANDIDATE, "only a candidate can become leader")
    reset(raft, raft.term)
    raft.leader_id = raft.node_id
    raft.role = Role.LEADER
    own = raft.progress[raft.node_id]
    own.become_replicate()
    own.recent_active = True
    # There may be a configuration change among the entries not yet committed: take none before
    # all of them are applied.
    raft.pending_conf_index = raft.log.last_index
    invariant(append_entries(raft, (Entry(),)), "the entry that opens a term was refused")
