"""How a leader's log reaches its followers, and when an entry is committed.

Appends are sent optimistically and answered in order; a follower that falls behind the start of
the log is sent a snapshot. The window (see `progress`) and the message size bound what is on the
way. An entry of the leader's own term is committed once a quorum has it on disk, the leader
counting itself like any other: by an answer it sends itself when its own disk is done.

Raft paper §5.3, §5.4.2 (figure 8); thesis §10.2.1 (writing to the leader's disk in parallel).
"""

from __future__ import annotations

from collections.abc import Sequence

from aspen.errors import invariant
from aspen.raft.log import LogCompacted, LogUnavailable
from aspen.raft.messages import Entry, Message, MessageType
from aspen.raft.progress import Progress, ReplicationState
from aspen.raft.quorum import joint_committed_index
from aspen.raft.state import RaftState

_Batch = tuple[int, tuple[Entry, ...], int]
"""The term of the entry before, the entries, and their data's bytes."""

_Prepared = dict[int, _Batch]
"""Batches by their first index: followers that are level share one."""


def data_bytes(entries: Sequence[Entry]) -> int:
    """What entries count for against the uncommitted limit and the window: their data alone.

    Empty entries are free: by them a new leader opens its term and leaves a joint configuration,
    and neither may ever be refused.
    """
    size = 0
    for entry in entries:
        size += len(entry.data)
    return size


def append_entries(raft: RaftState, proposed: Sequence[Entry]) -> bool:
    """Append to the leader's own log; False if too much is uncommitted already."""
    size = data_bytes(proposed)
    pending = raft.uncommitted_bytes
    # One proposal of any size passes when nothing else is pending, or a large one never would.
    if pending and size and pending + size > raft.config.max_uncommitted_bytes:
        return False
    raft.uncommitted_bytes = pending + size
    term, index = raft.term, raft.log.last_index + 1
    entries = [Entry(term, at, entry.kind, entry.data) for at, entry in enumerate(proposed, index)]
    # The leader acknowledges its entries to itself, once they are on its disk.
    raft.reply(MessageType.APP_RESP, raft.node_id, index=raft.log.append(entries))
    return True


def reduce_uncommitted(raft: RaftState, applied: Sequence[Entry]) -> None:
    """Entries were applied. They may stem from before this leadership, and not have been counted."""
    raft.uncommitted_bytes = max(0, raft.uncommitted_bytes - data_bytes(applied))


def maybe_commit(raft: RaftState) -> bool:
    """Commit what a quorum has acknowledged, if its last entry is of this term (§5.4.2)."""
    configuration = raft.configuration
    acknowledged = {node_id: member.match for node_id, member in raft.progress.items()}
    index = joint_committed_index(configuration.voters, configuration.voters_outgoing, acknowledged)
    return raft.log.maybe_commit(index, raft.term)


def broadcast_append(raft: RaftState) -> None:
    """Send each follower what it lacks, or at least the commit index."""
    prepared: _Prepared = {}
    for node_id, progress in raft.progress.items():
        if node_id != raft.node_id:
            _maybe_send_append(raft, node_id, progress, prepared, send_if_empty=True)


def send_append(raft: RaftState, to: int) -> None:
    """Send a follower what it lacks, or at least the commit index, unless it is paused."""
    _maybe_send_append(raft, to, raft.progress[to], {}, send_if_empty=True)


def maybe_send_entries(raft: RaftState, to: int) -> bool:
    """Send a follower a message of entries; False if there are none to send or it is paused."""
    return _maybe_send_append(raft, to, raft.progress[to], {}, send_if_empty=False)


def _maybe_send_append(
    raft: RaftState, to: int, progress: Progress, prepared: _Prepared, *, send_if_empty: bool
) -> bool:
    if progress.paused:
        return False
    if progress.state is ReplicationState.REPLICATE and progress.inflights.full:
        # Only an empty append goes out: it is answered, and so opens the window again even if
        # all that filled it was lost.
        if not send_if_empty:
            return False
        try:
            previous_term = raft.log.term(progress.next - 1)
            entries: tuple[Entry, ...] = ()
            size = 0
        except (LogCompacted, LogUnavailable):
            return _maybe_send_snapshot(raft, to, progress)
    else:
        if progress.next not in prepared:
            try:
                prepared[progress.next] = _prepare(raft, progress.next)
            except (LogCompacted, LogUnavailable):
                return _maybe_send_snapshot(raft, to, progress)
        previous_term, entries, size = prepared[progress.next]
        if not entries and not send_if_empty:
            return False
    committed = raft.log.committed
    raft.emit(
        Message(
            MessageType.APP,
            to=to,
            sender=raft.node_id,
            term=raft.term,
            log_term=previous_term,
            index=progress.next - 1,
            entries=entries,
            commit=committed,
        )
    )
    progress.sent_entries(len(entries), size)
    progress.sent_commit = committed
    return True


def _prepare(raft: RaftState, index: int) -> _Batch:
    """What a follower whose next entry is `index` is to be sent. Raises `LogCompacted`."""
    previous_term = raft.log.term(index - 1)
    entries = tuple(raft.log.entries_from(index, raft.config.max_message_bytes))
    return previous_term, entries, data_bytes(entries)


def _maybe_send_snapshot(raft: RaftState, to: int, progress: Progress) -> bool:
    """What it needs is compacted away. Not while it is silent: a snapshot is much to send in vain."""
    if not progress.recent_active:
        return False
    try:
        snapshot = raft.log.snapshot()
    except LogUnavailable:
        return False
    invariant(snapshot.metadata.index > 0, "storage offered an empty snapshot")
    progress.become_snapshot(snapshot.metadata.index)
    raft.emit(Message(MessageType.SNAP, to=to, sender=raft.node_id, term=raft.term, snapshot=snapshot))
    return True


def broadcast_heartbeat(raft: RaftState) -> None:
    """A round of heartbeats; the answers confirm the reads that wait, and renew the lease."""
    context = raft.reads.begin_round(raft.node_id, raft.ticks)
    committed = raft.log.committed
    for node_id, progress in raft.progress.items():
        if node_id == raft.node_id:
            continue
        commit = min(progress.committable, committed)
        raft.emit(
            Message(
                MessageType.HEARTBEAT,
                to=node_id,
                sender=raft.node_id,
                term=raft.term,
                commit=commit,
                context=context,
            )
        )
        progress.sent_commit = commit
