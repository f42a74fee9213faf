"""Seeded bugs in what makes Raft safe: elections, the log, commitment."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from raft_sim.mutation import Patch, mutation

from aspen.raft import (
    core,
    elections,
    follower,
    leader,
    log,
    progress,
    quorum,
    replication,
    unstable,
)
from aspen.raft.messages import NO_NODE, Entry, Message, MessageType, Snapshot
from aspen.raft.progress import Progress
from aspen.raft.rawnode import Role
from aspen.raft.state import RaftState

# --- elections --------------------------------------------------------------------------------


@mutation("hashicorp/raft #695")
def heartbeat_bumps_term(patch: Patch) -> None:
    """A leader that hears of a higher term takes it over and goes on leading."""
    original = core._meet_higher_term

    def meet_higher_term(raft: RaftState, message: Message) -> None:
        if raft.role is Role.LEADER and message.type in (MessageType.APP_RESP, MessageType.HEARTBEAT_RESP):
            raft.term = message.term
        else:
            original(raft, message)

    patch.function(original, meet_higher_term)


@mutation("hashicorp/raft #606")
def pre_vote_leaves_no_leader(patch: Patch) -> None:
    """A follower refuses pre-votes as long as it remembers a leader, were it the one that asks, and
    takes the request for a sign of life."""
    original = elections.honours_lease

    def honours_lease(raft: RaftState, message: Message) -> bool:
        if message.type is MessageType.PRE_VOTE and raft.leader_id != NO_NODE:
            raft.election_elapsed = 0
            return True
        return original(raft, message)

    patch.function(original, honours_lease)


@mutation("Cloudflare, 2020")
def deaf_leader_stays(patch: Patch) -> None:
    """A leader that hears from no quorum goes on sending heartbeats (no CheckQuorum)."""
    patch.function(leader._handle_check_quorum, lambda raft, message: None)


@mutation("§5.2: one vote a term")
def votes_twice(patch: Patch) -> None:
    """Every vote request finds a node that has not voted yet."""
    original = elections.handle_vote_request

    def handle_vote_request(raft: RaftState, message: Message) -> None:
        if message.type is MessageType.VOTE and raft.role is Role.FOLLOWER:
            raft.vote = NO_NODE
        original(raft, message)

    patch.function(original, handle_vote_request)


@mutation("§5.4.1: the voter's log is no newer")
def skips_log_check(patch: Patch) -> None:
    """Votes go to candidates whose log lacks entries."""
    patch.attribute(log.RaftLog, "is_up_to_date", lambda self, last_term, last_index: True)


@mutation("§5.2: votes of a majority")
def counts_a_vote_twice(patch: Patch) -> None:
    """A second answer of one voter counts as another voter's."""
    original = elections.handle_vote_response

    def handle_vote_response(raft: RaftState, message: Message) -> None:
        if message.sender in raft.votes and not message.reject:
            for voter in sorted(raft.configuration.voters - raft.votes.keys())[:1]:
                raft.votes[voter] = True
        original(raft, message)

    patch.function(original, handle_vote_response)


@mutation("§5.1: term and vote are persistent")
def leads_before_own_vote_is_durable(patch: Patch) -> None:
    """Others' votes make a leader of a candidate whose own disk hasn't heard of the term yet."""
    original = elections.handle_vote_response

    def handle_vote_response(raft: RaftState, message: Message) -> None:
        if raft.role is Role.CANDIDATE:
            raft.votes[raft.node_id] = True
        original(raft, message)

    patch.function(original, handle_vote_response)


@mutation("§6: both majorities elect")
def joint_election_by_one_half(patch: Patch) -> None:
    """In a joint configuration the incoming voters elect alone."""

    def joint_vote_result(
        incoming: Collection[int], outgoing: Collection[int], votes: Mapping[int, bool]
    ) -> quorum.VoteResult:
        return quorum.vote_result(incoming, votes)

    patch.function(quorum.joint_vote_result, joint_vote_result)


# --- the log ----------------------------------------------------------------------------------


@mutation("hashicorp/raft #697")
def log_kept_after_snapshot(patch: Patch) -> None:
    """Installing a snapshot leaves the entries after it in the log, whatever they are."""
    original = log.RaftLog.restore

    def restore(self: log.RaftLog, snapshot: Snapshot) -> None:
        low = max(snapshot.metadata.index + 1, self.first_index)
        kept = self.slice(low, self.last_index + 1, 1 << 40)
        original(self, snapshot)
        if kept and kept[0].index == snapshot.metadata.index + 1:
            self.unstable.truncate_and_append(kept)

    patch.attribute(log.RaftLog, "restore", restore)


@mutation("§5.3: truncate on conflict only")
def truncates_without_conflict(patch: Patch) -> None:
    """An old append cuts off what has been appended since."""

    def maybe_append(
        self: log.RaftLog, index: int, log_term: int, entries: Sequence[Entry], commit: int
    ) -> int | None:
        if not self.matches(index, log_term):
            return None
        fresh = [entry for entry in entries if entry.index > self.committed]
        if fresh:
            self.append(fresh)
        last_new = index + len(entries)
        self.commit_to(min(commit, last_new))
        return last_new

    patch.attribute(log.RaftLog, "maybe_append", maybe_append)


@mutation("§5.3: the consistency check")
def skips_consistency_check(patch: Patch) -> None:
    """An append is taken if there is any entry before it."""
    original = log.RaftLog.maybe_append

    def maybe_append(
        self: log.RaftLog, index: int, log_term: int, entries: Sequence[Entry], commit: int
    ) -> int | None:
        if self.first_index - 1 <= index <= self.last_index:
            log_term = self.term(index)
        return original(self, index, log_term, entries, commit)

    patch.attribute(log.RaftLog, "maybe_append", maybe_append)


@mutation("async storage: an answer names its entry")
def stale_write_confirms_newer(patch: Patch) -> None:
    """The answer to the write of an entry that was overwritten confirms the one that replaced it."""

    def stable_to(self: unstable.Unstable, index: int, term: int) -> None:
        if self.offset <= index < self.offset + len(self.entries):
            del self.entries[: index + 1 - self.offset]
            self.offset = index + 1
            self.offset_in_progress = max(self.offset_in_progress, self.offset)

    patch.attribute(unstable.Unstable, "stable_to", stable_to)


@mutation("CCF #5325")
def reject_hint_is_match(patch: Patch) -> None:
    """Where a follower might agree is taken for what it has acknowledged."""
    original = leader._step_back

    def step_back(raft: RaftState, message: Message, member: Progress) -> None:
        original(raft, message, member)
        member.maybe_update(message.reject_hint)

    patch.function(original, step_back)


@mutation("reordered messages never probe below match")
def steps_back_below_match(patch: Patch) -> None:
    """A late refusal makes the leader start over from before what was acknowledged."""

    def maybe_decrease(self: Progress, rejected: int, hint: int) -> bool:
        self.next = max(min(rejected, hint + 1), 1)
        self.probe_sent = False
        self.sent_commit = min(self.sent_commit, self.next - 1)
        return True

    patch.attribute(progress.Progress, "maybe_decrease", maybe_decrease)


# --- commitment -------------------------------------------------------------------------------


@mutation("openraft #1802")
def quorum_of_unsorted_progress(patch: Patch) -> None:
    """The commit index is taken from the middle of a list that nobody sorted."""

    def committed_index(voters: Collection[int], acknowledged: Mapping[int, int]) -> int:
        indexes = [acknowledged.get(voter, 0) for voter in sorted(voters)]
        return indexes[(len(indexes) - 1) // 2] if indexes else quorum.INFINITE_INDEX

    patch.function(quorum.committed_index, committed_index)


@mutation("etcd #14370")
def leader_acknowledges_before_persist(patch: Patch) -> None:
    """A leader counts itself as soon as it has appended; alone, it needs nobody else."""
    original = replication.append_entries

    def append_entries(raft: RaftState, proposed: Sequence[Entry]) -> bool:
        if not original(raft, proposed):
            return False
        raft.progress[raft.node_id].maybe_update(raft.log.last_index)
        replication.maybe_commit(raft)
        return True

    patch.function(original, append_entries)


@mutation("§5.4.2: figure 8")
def commits_earlier_terms(patch: Patch) -> None:
    """A leader commits entries of earlier terms by counting who has them."""

    def maybe_commit(self: log.RaftLog, index: int, term: int) -> bool:
        if self.committed < index <= self.last_index:
            self.commit_to(index)
            return True
        return False

    patch.attribute(log.RaftLog, "maybe_commit", maybe_commit)


@mutation("heartbeats commit what is known to match")
def heartbeat_commits_unmatched(patch: Patch) -> None:
    """A heartbeat has a follower commit as far as its log goes, matching or not."""
    original = follower._handle_heartbeat
    original_broadcast = replication.broadcast_heartbeat

    def broadcast_heartbeat(raft: RaftState) -> None:
        original_broadcast(raft)
        raft.messages = [
            Message(
                m.type, to=m.to, sender=m.sender, term=m.term, commit=raft.log.committed, context=m.context
            )
            if m.type is MessageType.HEARTBEAT
            else m
            for m in raft.messages
        ]

    def handle_heartbeat(raft: RaftState, message: Message) -> None:
        raft.log.commit_to(min(message.commit, raft.log.last_index))
        raft.reply(MessageType.HEARTBEAT_RESP, message.sender, context=message.context)

    patch.function(original_broadcast, broadcast_heartbeat)
    patch.function(original, handle_heartbeat)


@mutation("§6: both majorities commit")
def joint_commit_by_one_half(patch: Patch) -> None:
    """In a joint configuration the incoming voters commit alone."""

    def joint_committed_index(
        incoming: Collection[int], outgoing: Collection[int], acknowledged: Mapping[int, int]
    ) -> int:
        return quorum.committed_index(incoming, acknowledged)

    patch.function(quorum.joint_committed_index, joint_committed_index)


@mutation("thesis §4.2.1: learners don't vote")
def learners_count(patch: Patch) -> None:
    """What learners have on disk counts towards a quorum."""

    def maybe_commit(raft: RaftState) -> bool:
        configuration = raft.configuration
        acknowledged = {node_id: member.match for node_id, member in raft.progress.items()}
        voters = configuration.voters | configuration.learners
        index = quorum.joint_committed_index(voters, configuration.voters_outgoing, acknowledged)
        return raft.log.maybe_commit(index, raft.term)

    patch.function(replication.maybe_commit, maybe_commit)


@mutation("async storage: apply what is on disk")
def applies_before_persist(patch: Patch) -> None:
    """Committed entries are applied although this node's own disk doesn't have them yet."""
    patch.attribute(log.RaftLog, "_appliable", lambda self, allow_unstable: self.committed)
