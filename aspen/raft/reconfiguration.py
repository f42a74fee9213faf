"""Making a configuration change take effect, and what follows from it.

A change takes effect on each node when it applies the entry, not when it appends it: the leader
therefore takes no second change before the first is applied. A leader that finds itself removed
steps down if so configured; one that is in a joint configuration marked auto-leave proposes to
leave it as soon as the entry that entered it is applied.

Raft paper §6; thesis §4.2.2 (removing the leader), §4.3.
"""

from __future__ import annotations

from collections.abc import Sequence

from aspen.errors import RaftWireError
from aspen.raft import membership
from aspen.raft.membership import Configuration, ConfigurationRefused, ProgressMap
from aspen.raft.messages import NO_NODE, ConfChangeV2, ConfState, Entry, EntryKind, decode_conf_change
from aspen.raft.replication import append_entries, broadcast_append, maybe_commit, maybe_send_entries
from aspen.raft.roles import become_follower
from aspen.raft.settings import Role
from aspen.raft.state import RaftState


def apply_conf_change(raft: RaftState, change: ConfChangeV2) -> ConfState:
    """A committed change takes effect. Raises `ConfigurationRefused` if it can't be made."""
    return switch_configuration(
        raft, *membership.change(raft.configuration, raft.progress, change, raft.progress_defaults())
    )


def switch_configuration(raft: RaftState, configuration: Configuration, progress: ProgressMap) -> ConfState:
    raft.configuration = configuration
    raft.progress = progress
    # The lease was given by a quorum of other members.
    raft.reads.confirmed_at = None
    conf_state = configuration.conf_state()
    if raft.role is not Role.LEADER:
        return conf_state
    own = progress.get(raft.node_id)
    if own is None or own.is_learner:
        if raft.config.step_down_on_removal:
            become_follower(raft, raft.term, NO_NODE)
        return conf_state
    if maybe_commit(raft):
        # A smaller quorum may have more in common.
        broadcast_append(raft)
    else:
        # New members need not wait for a heartbeat or a proposal to be brought up to date.
        for node_id in progress:
            if node_id != raft.node_id:
                maybe_send_entries(raft, node_id)
    if raft.lead_transferee not in configuration.all_voters:
        raft.lead_transferee = NO_NODE
    return conf_state


def admit_conf_changes(raft: RaftState, proposed: Sequence[Entry]) -> Sequence[Entry]:
    """A leader's proposals, with each configuration change that can't be made now voided.

    An empty entry takes its place, so that the proposal's other entries keep theirs.
    """
    if all(entry.kind is EntryKind.NORMAL for entry in proposed):
        return proposed
    admitted = list(proposed)
    for position, entry in enumerate(proposed):
        if entry.kind is EntryKind.NORMAL:
            continue
        if _acceptable(raft, entry):
            raft.pending_conf_index = raft.log.last_index + position + 1
        else:
            admitted[position] = Entry()
    return admitted


def _acceptable(raft: RaftState, entry: Entry) -> bool:
    try:
        change = decode_conf_change(entry)
    except RaftWireError:
        return False
    if raft.config.disable_conf_change_validation:
        return True
    if raft.pending_conf_index > raft.log.applied:
        return False
    if raft.configuration.joint == bool(change.changes):
        return False
    # What could not take effect must not be committed: every member would stumble over it.
    try:
        membership.change(raft.configuration, raft.progress, change, raft.progress_defaults())
    except ConfigurationRefused:
        return False
    return True


def applied_to(raft: RaftState, index: int, size: int) -> None:
    """The state machine has applied up to `index`; leave a joint configuration if it is time."""
    applied = max(index, raft.log.applied)
    raft.log.applied_to(applied, size)
    leaves = raft.configuration.auto_leave and raft.role is Role.LEADER
    # Not while leadership is being transferred: then the next leader does it, or this one later.
    if leaves and applied >= raft.pending_conf_index and raft.lead_transferee == NO_NODE:
        raft.pending_conf_index = raft.log.last_index + 1
        append_entries(raft, (Entry(kind=EntryKind.CONF_CHANGE_V2),))
        broadcast_append(raft)
