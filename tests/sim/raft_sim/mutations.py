"""All seeded bugs, by name. The fifteen real bugs of other systems are among them:

| real bug | mutation |
|---|---|
| hashicorp/raft #695: the heartbeat path bumps the term mid-leadership | heartbeat_bumps_term |
| hashicorp/raft #697: a conflicting log is kept after a snapshot | log_kept_after_snapshot |
| openraft #1802: commit on a sub-quorum from mis-sorted progress | quorum_of_unsorted_progress |
| openraft #1808: a snapshot keeps stale membership | stale_membership_after_snapshot |
| openraft #1964: fsyncs that complete out of order | fsyncs_complete_out_of_order |
| etcd #20418: a reused ReadIndex context gives a stale read | read_context_is_reused |
| etcd #7331: a read before the new leader's no-op commits | reads_before_the_no_op |
| etcd #14370: a single node acknowledges before it persists | leader_acknowledges_before_persist |
| etcd #22442: replay resurrects truncated entries | replay_resurrects_truncated_entries |
| etcd #11038: a removed leader keeps heartbeating | removed_leader_goes_on |
| hashicorp/raft #606: PreVote leaves a quorum leaderless | pre_vote_leaves_no_leader |
| CCF #5325: a reject hint is stored as match | reject_hint_is_match |
| TiKV #8381: the vote of an uninitialised peer is not persisted | uninitialised_peer_forgets_vote |
| redisraft #23: failure is reported for a write that commits later | unknown_outcome_is_failure |
| Cloudflare 2020: one asymmetric link | deaf_leader_stays |

The others break one rule of the paper, of the thesis or of our own each; the rule is named beside
each of them.
"""

from __future__ import annotations

from raft_sim import mutations_consensus, mutations_service, mutations_shell
from raft_sim.mutation import MUTATIONS, Mutation, mutated

__all__ = [
    "MUTATIONS",
    "Mutation",
    "mutated",
    "mutations_consensus",
    "mutations_service",
    "mutations_shell",
]
