"""Snapshots in the core (§7): who gets one, what it replaces, how its sending may fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from raft_cluster import (
    Cluster,
    carry_out,
    entries,
    lone_node,
    make_leader,
    of_type,
    storage,
    take,
)

from aspen.raft.messages import ConfState, Entry, Message, MessageType, Snapshot, SnapshotMetadata
from aspen.raft.progress import ReplicationState
from aspen.raft.rawnode import RawNode

T = MessageType
Build = Callable[..., Cluster]


def snapshot(
    index: int, term: int, voters: tuple[int, ...] = (1, 2, 3), learners: tuple[int, ...] = ()
) -> Snapshot:
    return Snapshot(b"state", SnapshotMetadata(ConfState(voters, learners), index, term))


def snap(raw: RawNode, item: Snapshot, term: int = 5) -> list[Message]:
    raw.step(Message(T.SNAP, to=raw.node_id, sender=2, term=term, snapshot=item))
    return take(raw)


def compacted_leader() -> RawNode:
    """A leader whose log starts after 3, and who hears from a follower that has nothing."""
    raw = lone_node(log=entries(1, 1, 1), compacted=3)
    make_leader(raw)
    raw.step(Message(T.HEARTBEAT_RESP, to=1, sender=2, term=raw.term))
    take(raw)
    return raw


def refuse(raw: RawNode, hint: int = 0) -> list[Message]:
    progress = raw.raft.progress[2]
    raw.step(
        Message(
            T.APP_RESP, to=1, sender=2, term=raw.term, index=progress.next - 1, reject=True, reject_hint=hint
        )
    )
    return take(raw)


# --- taking one -------------------------------------------------------------------------------


def test_a_snapshot_restores_log_commit_and_members() -> None:
    raw = lone_node(term=1)
    (response,) = snap(raw, snapshot(11, 4, (1, 2), learners=(3,)))
    assert (response.type, response.index, raw.leader_id) == (T.APP_RESP, 11, 2)
    log = raw.raft.log
    assert (log.committed, log.applied, log.last_index, log.last_term) == (11, 11, 11, 4)
    assert raw.raft.configuration.conf_state() == ConfState(voters=(1, 2), learners=(3,))
    assert storage(raw).last_index() == 11


def test_a_snapshot_leaves_no_conflicting_log_behind() -> None:
    """hashicorp/raft #697: a log that ends beyond the snapshot, with other entries, is gone."""
    raw = lone_node(log=entries(1, 1, 2, 2, 2, 2), commit=2)
    snap(raw, snapshot(4, 3))
    assert (raw.raft.log.last_index, storage(raw).last_index()) == (4, 4)
    raw.step(
        Message(
            T.APP, to=1, sender=2, term=5, index=4, log_term=3, entries=tuple(entries(5, start=5)), commit=5
        )
    )
    take(raw)
    assert storage(raw).term(5) == 5


def test_a_snapshot_keeps_no_stale_member() -> None:
    """openraft #1808: members are the snapshot's and no others."""
    raw = lone_node(voters=(1, 2, 3, 4), term=1)
    snap(raw, snapshot(11, 4, (1, 5)))
    assert set(raw.raft.progress) == {1, 5}


def test_a_joint_configuration_survives_a_snapshot() -> None:
    raw = lone_node(term=1)
    members = ConfState((1, 2, 4), (5,), (1, 2, 3), (3,), auto_leave=True)
    snap(raw, Snapshot(b"", SnapshotMetadata(members, 11, 4)))
    assert raw.raft.configuration.conf_state() == members


@pytest.mark.parametrize(
    ("members", "promotable"),
    [
        (ConfState((2, 3), (), (1, 2, 3)), True),
        (ConfState((2, 3), (), (1, 2, 3), (1,)), True),
        (ConfState((2, 3), (1,), (2, 3, 4)), False),
    ],
    ids=["being removed", "being demoted", "a learner"],
)
def test_a_snapshot_finds_its_taker_in_any_set_of_a_joint_configuration(
    members: ConfState, promotable: bool
) -> None:
    """§6: until a joint configuration is left, one of the outgoing voters is a member like any other."""
    raw = lone_node(term=1)
    snap(raw, Snapshot(b"", SnapshotMetadata(members, 11, 4)))
    assert raw.raft.configuration.conf_state() == members
    assert raw.raft.promotable is promotable


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (snapshot(2, 1), "older than what is committed"),
        (snapshot(11, 4, (2, 3)), "does not name this node"),
    ],
    ids=["old", "stranger's"],
)
def test_a_snapshot_that_is_ignored(item: Snapshot, why: str) -> None:
    raw = lone_node(log=entries(1, 1, 1), commit=3)
    (response,) = snap(raw, item)
    assert (response.index, raw.raft.log.last_index) == (3, 3), why


def test_a_snapshot_of_what_the_log_has_only_commits() -> None:
    """§7: "If existing log entry has same index and term as snapshot's last included entry, retain log
    entries following it"."""
    raw = lone_node(log=entries(1, 1, 1), commit=1)
    (response,) = snap(raw, snapshot(2, 1))
    assert (raw.commit_index, response.index, raw.raft.log.last_index) == (2, 2, 3)


def test_a_node_does_not_campaign_while_its_snapshot_is_being_written() -> None:
    raw = lone_node(term=1)
    raw.step(Message(T.SNAP, to=1, sender=2, term=5, snapshot=snapshot(11, 4)))
    assert not raw.raft.promotable
    take(raw)
    assert raw.raft.promotable


def test_a_snapshot_written_in_an_earlier_term_still_counts() -> None:
    """Asynchronous writes: entries of an earlier term may be overwritten since, a snapshot never is."""
    raw = lone_node(term=1, async_storage_writes=True)
    raw.step(Message(T.SNAP, to=1, sender=2, term=5, snapshot=snapshot(11, 4)))
    work = raw.ready().messages[0]
    raw.step(Message(T.HEARTBEAT, to=1, sender=3, term=6))
    storage(raw).apply_snapshot(snapshot(11, 4))
    for response in work.responses:
        if response.to == 1:
            raw.step(response)
    assert raw.raft.log.unstable.snapshot is None
    assert raw.raft.log.applied == 11


# --- sending one ------------------------------------------------------------------------------


def test_who_needs_what_is_compacted_gets_a_snapshot_and_then_nothing() -> None:
    raw = compacted_leader()
    (message,) = refuse(raw)
    assert message.type is T.SNAP
    assert message.snapshot is not None
    assert message.snapshot.metadata.index == 3
    progress = raw.raft.progress[2]
    assert (progress.state, progress.pending_snapshot) == (ReplicationState.SNAPSHOT, 3)
    raw.propose(b"x")
    assert [m.to for m in of_type(take(raw), T.APP)] == []


def test_who_is_silent_gets_no_snapshot() -> None:
    """It would be much to send in vain."""
    raw = compacted_leader()
    raw.raft.progress[2].recent_active = False
    raw.raft.progress[2].next = 2
    raw.propose(b"x")
    assert of_type(take(raw), T.SNAP) == []


def test_a_snapshot_that_can_not_be_had_now_is_tried_again() -> None:
    raw = compacted_leader()
    store = storage(raw)
    kept, store._snapshot = store._snapshot, Snapshot()
    assert refuse(raw) == []
    store._snapshot = kept
    raw.step(Message(T.HEARTBEAT_RESP, to=1, sender=2, term=raw.term))
    assert [m.type for m in take(raw)] == [T.SNAP]


@pytest.mark.parametrize(("failed", "next_index"), [(False, 4), (True, 1)])
def test_a_snapshot_reported_is_probed_after_the_next_answer(failed: bool, next_index: int) -> None:
    raw = compacted_leader()
    refuse(raw)
    raw.report_snapshot(2, failed)
    progress = raw.raft.progress[2]
    assert (progress.state, progress.next, progress.paused) == (ReplicationState.PROBE, next_index, True)
    raw.step(Message(T.HEARTBEAT_RESP, to=1, sender=2, term=raw.term))
    assert [m.type for m in take(raw)] == [T.SNAP if failed else T.APP]


@pytest.mark.parametrize(
    ("index", "state"), [(4, ReplicationState.REPLICATE), (3, ReplicationState.SNAPSHOT)]
)
def test_an_answer_ends_it_if_the_log_can_go_on_from_there(index: int, state: ReplicationState) -> None:
    """Whatever snapshot the follower took: the log now starts after 4."""
    raw = compacted_leader()
    refuse(raw)
    raw.step(Message(T.APP_RESP, to=1, sender=3, term=raw.term, index=4))
    take(raw)
    storage(raw).compact(4)
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=raw.term, index=index))
    assert raw.raft.progress[2].state is state


def test_a_slow_node_catches_up_by_snapshot(cluster: Build) -> None:
    nodes = cluster(3)
    nodes.elect(1)
    nodes.isolate(3)
    for _ in range(5):
        nodes.propose(1, b"x")
    nodes.compact(1)
    nodes.heal()
    nodes.tick_all(2)
    nodes.propose(1, b"y")
    assert nodes.storages[3].last_index() == nodes.storages[1].last_index()
    assert any(m.type is T.SNAP and m.to == 3 for m in nodes.history)
    assert nodes.data_of(3) == [b"y"]


def test_a_compaction_to_the_very_tip(cluster: Build) -> None:
    nodes = cluster(3)
    nodes.elect(1)
    nodes.propose(1, b"a")
    for node_id in (1, 2, 3):
        nodes.compact(node_id)
    nodes.elect(2)
    nodes.propose(2, b"b")
    assert all(nodes.data_of(i)[-1] == b"b" for i in nodes.raws)


def test_a_snapshot_and_its_answer_share_one_write() -> None:
    """The answer promises the snapshot, so it leaves with the same persist."""
    raw = lone_node(term=1)
    raw.step(Message(T.SNAP, to=1, sender=2, term=5, snapshot=snapshot(11, 4)))
    ready = carry_out(raw)
    assert ready.snapshot is not None
    assert not of_type(ready.messages, T.APP_RESP)
    assert [m.index for m in of_type(ready.messages_after_persist, T.APP_RESP)] == [11]
    assert ready.entries == ()
    assert Entry not in map(type, ready.committed_entries)
