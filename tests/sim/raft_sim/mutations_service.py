"""Seeded bugs in what Raft is good for: reads, membership, snapshots, flow control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raft_sim.mutation import Patch, mutation

from aspen.raft import (
    core,
    follower,
    leader,
    membership,
    reads,
    reconfiguration,
    replication,
    roles,
    state,
)
from aspen.raft.membership import Configuration
from aspen.raft.messages import Entry, Message, MessageType, Snapshot
from aspen.raft.progress import Inflights, Progress
from aspen.raft.rawnode import Role
from aspen.raft.reads import ReadQueue, ReadState
from aspen.raft.state import RaftState

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
