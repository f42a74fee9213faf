"""Seeded bugs in the Raft core: elections, the log, commitment, reads, membership, flow control."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from raft_sim.mutation import Patch, mutation

from aspen.raft import (
    core,
    elections,
    follower,
    leader,
    log,
    membership,
    progress,
    quorum,
    reads,
    reconfiguration,
    replication,
    roles,
    state,
    unstable,
)
from aspen.raft.membership import Configuration
from aspen.raft.messages import NO_NODE, Entry, Message, MessageType, Snapshot
from aspen.raft.progress import Inflights, Progress
from aspen.raft.rawnode import Role
from aspen.raft.reads import ReadQueue, ReadState
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


@mutation("figure 2: min(leaderCommit, index of last new entry)")
def commits_what_was_not_checked(patch: Patch) -> None:
    """A follower commits as far as the leader has, although its log was compared only in part."""
    original = log.RaftLog.maybe_append

    def maybe_append(
        self: log.RaftLog, index: int, log_term: int, entries: Sequence[Entry], commit: int
    ) -> int | None:
        last_new = original(self, index, log_term, entries, commit)
        if last_new is not None:
            self.commit_to(min(commit, self.last_index))
        return last_new

    patch.attribute(log.RaftLog, "maybe_append", maybe_append)


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


# --- reads ------------------------------------------------------------------------------------


@mutation("etcd #7331")
def reads_before_the_no_op(patch: Patch) -> None:
    """A new leader serves reads at a commit index that may be older than the last leader's."""
    patch.attribute(state.RaftState, "committed_in_term", property(lambda self: True))


@mutation("thesis §6.4: a round of heartbeats")
def reads_without_a_round(patch: Patch) -> None:
    """A leader answers ReadIndex at once, though it may have been deposed unnoticed."""
    original = leader._handle_read_index

    def handle_read_index(raft: RaftState, message: Message) -> None:
        if raft.committed_in_term:
            leader._answer_read(raft, message.sender, raft.log.committed, message.context)
        else:
            original(raft, message)

    patch.function(original, handle_read_index)


@mutation("thesis §6.4: only the leader knows")
def follower_answers_reads(patch: Patch) -> None:
    """A follower serves ReadIndex at its own commit index."""
    original = follower.step_follower

    def step_follower(raft: RaftState, message: Message) -> None:
        if message.type is MessageType.READ_INDEX and message.sender == raft.node_id:
            raft.read_states.append(ReadState(raft.log.committed, message.context))
        else:
            original(raft, message)

    patch.function(original, step_follower)


@mutation("thesis §6.4: a round after the read")
def round_before_the_read(patch: Patch) -> None:
    """Answers to heartbeats that left before a read was asked confirm it."""

    def add(self: ReadQueue, index: int, sender: int, context: bytes) -> None:
        self._pending.append(reads.PendingRead(max(1, self._round - 8), index, sender, context))

    patch.attribute(reads.ReadQueue, "add", add)


@mutation("thesis §6.4.1: the lease ends before anyone votes")
def lease_is_too_long(patch: Patch) -> None:
    """A lease lasts two election timeouts."""

    def holds_lease(self: RaftState) -> bool:
        if self.role is not Role.LEADER or not self.config.keeps_lease or self.timeout_now_sent:
            return False
        confirmed_at = self.reads.confirmed_at
        return confirmed_at is not None and self.ticks - confirmed_at < 2 * self.config.election_ticks

    patch.attribute(state.RaftState, "holds_lease", property(holds_lease))


@mutation("thesis §6.4.1: a transfer ends the lease")
def lease_survives_transfer(patch: Patch) -> None:
    """A leader that has told another to campaign at once still trusts its lease."""

    def send_timeout_now(raft: RaftState, to: int) -> None:
        raft.reply(MessageType.TIMEOUT_NOW, to)

    patch.function(leader._send_timeout_now, send_timeout_now)


@mutation("thesis §6.4.1: a lease outlives a restart of who gave it")
def restarted_voter_breaks_lease(patch: Patch) -> None:
    """A node that has just started votes at once, although it may have promised not to."""
    original = core.start

    def start(config: Any) -> RaftState:
        raft = original(config)
        raft.vote_hold_ticks = 0
        return raft

    patch.function(original, start)


# --- membership and snapshots -----------------------------------------------------------------


@mutation("openraft #1808")
def stale_membership_after_snapshot(patch: Patch) -> None:
    """A node keeps the members it knew when it takes on a snapshot that knows newer ones."""
    original = reconfiguration.switch_configuration

    def switch_configuration(raft: RaftState, configuration: Configuration, members: Any) -> Any:
        if raft.node_id in raft.progress:
            return raft.configuration.conf_state()
        return original(raft, configuration, members)

    patch.attribute(follower, "switch_configuration", switch_configuration)


@mutation("§7: an old snapshot is ignored")
def installs_old_snapshot(patch: Patch) -> None:
    """A snapshot replaces the log even where the log has gone further."""

    def restore(raft: RaftState, snapshot: Snapshot) -> bool:
        metadata = snapshot.metadata
        if not follower._names(metadata, raft.node_id):
            return False
        raft.log.restore(snapshot)
        configuration = membership.restore(metadata.conf_state, raft.progress_defaults())
        reconfiguration.switch_configuration(raft, *configuration)
        return True

    patch.function(follower._restore, restore)


@mutation("thesis §4.1: one change at a time")
def two_changes_at_once(patch: Patch) -> None:
    """A leader takes a change of the configuration while another is not applied."""
    patch.function(reconfiguration._acceptable, lambda raft, entry: True)


@mutation("thesis §4.1: one change at a time, also across leaders")
def new_leader_forgets_pending_change(patch: Patch) -> None:
    """A new leader doesn't consider that there may be a change in its log already."""
    original = roles.become_leader

    def become_leader(raft: RaftState) -> None:
        original(raft)
        raft.pending_conf_index = 0

    patch.function(original, become_leader)


# --- flow control and liveness ----------------------------------------------------------------


@mutation("windows are bounded")
def window_is_never_full(patch: Patch) -> None:
    """A leader sends without regard to what is unacknowledged."""
    patch.attribute(Inflights, "full", property(lambda self: False))


@mutation("uncommitted entries are bounded")
def no_uncommitted_limit(patch: Patch) -> None:
    """A leader that commits nothing takes proposals without end."""
    original = replication.append_entries

    def append_entries(raft: RaftState, proposed: Sequence[Entry]) -> bool:
        raft.uncommitted_bytes = 0
        return original(raft, proposed)

    patch.function(original, append_entries)


@mutation("heartbeats resume paused peers")
def lost_probe_is_final(patch: Patch) -> None:
    """An append that is lost is never sent again."""

    def handle_heartbeat_response(raft: RaftState, message: Message, member: Progress) -> None:
        member.recent_active = True
        if message.context:
            raft.reads.answer(message.sender, message.context)
            leader._serve_confirmed_reads(raft)

    patch.function(leader._handle_heartbeat_response, handle_heartbeat_response)


@mutation("thesis §3.10: a transfer times out")
def transfer_never_ends(patch: Patch) -> None:
    """A leader whose successor doesn't take over refuses proposals for good."""
    original = core._tick_leader

    def tick_leader(raft: RaftState) -> None:
        transferee = raft.lead_transferee
        original(raft)
        if raft.role is Role.LEADER:
            raft.lead_transferee = transferee

    patch.function(original, tick_leader)
