"""What a node is after a crash: what its disk has, all of it and nothing else (figure 2)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from raft_cluster import Cluster, entries, lone_node, raw_node, storage, storage_of, take

from aspen.errors import InvariantViolation
from aspen.raft.messages import Entry, HardState, Message, MessageType
from aspen.raft.progress import ReplicationState
from aspen.raft.storage import LmdbLog
from aspen.state.store import Store

T = MessageType
Build = Callable[..., Cluster]
MAP_BYTES = 16 * 1024**2


def test_what_was_overwritten_does_not_come_back_with_a_restart(tmp_path: Path) -> None:
    """etcd #22442: a log that was cut shorter by a conflict is that short when it is read again."""
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    log = LmdbLog(store)
    for batch in (entries(1, 1, 1, 1, 1), [Entry(2, 3)]):
        with store.write() as txn:
            log.append(txn, batch)
            log.put_hard_state(txn, HardState(batch[-1].term, 0, 0))
        log.durable(batch)
    store.close()
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    again = raw_node(1, LmdbLog(store))  # type: ignore[arg-type]  # any storage will do
    assert (again.last_index, again.raft.log.last_term) == (3, 2)
    store.close()


def test_a_follower_that_was_corrected_restarts_corrected() -> None:
    """The same in the core: what replaces a tail replaces all of it, in storage too (§5.3)."""
    raw = lone_node(log=entries(1, 1, 1, 1, 1), term=1)
    raw.step(Message(T.APP, to=1, sender=2, term=2, index=2, log_term=1, entries=(Entry(2, 3),)))
    take(raw)
    again = raw_node(1, storage(raw))
    assert (again.last_index, again.raft.log.last_term, again.term) == (3, 2, 2)


def test_a_restarted_leader_is_a_follower_of_its_own_term(cluster: Build) -> None:
    """It may have voted, for itself: no other vote, and no leading on, in that term."""
    nodes = cluster(3)
    nodes.elect(1)
    nodes.restart(1)
    assert (nodes[1].term, nodes[1].raft.vote, nodes[1].leader_id) == (1, 1, 0)
    nodes[1].step(Message(T.VOTE, to=1, sender=2, term=1, log_term=9, index=9))
    assert nodes.leaders() == []
    (response,) = [m for m in nodes[1].raft.messages_after_append if m.type is T.VOTE_RESP]
    assert response.reject


def test_what_is_committed_outlives_any_minority_of_crashes(cluster: Build) -> None:
    nodes = cluster(5)
    nodes.elect(1)
    nodes.propose(1, b"a")
    for crashed in ((1, 2), (3, 4), (5, 1)):
        for node_id in crashed:
            nodes.crash(node_id)
        leader = next(i for i in nodes.raws if i not in crashed)
        nodes.elect(leader)
        nodes.propose(leader, b"%d" % leader)
        for node_id in crashed:
            nodes.restart(node_id)
        nodes.tick_all(1)
    assert all(nodes.data_of(i) == [b"a", b"3", b"1", b"2"] for i in nodes.raws)


def comes_back_empty(nodes: Cluster, node_id: int) -> None:
    """Its disk is lost; it knows its name and nothing else. The leader has noticed that it was away."""
    nodes.crash(node_id)
    nodes[1].report_unreachable(node_id)
    nodes.applied[node_id] = []
    nodes.storages[node_id] = storage_of(())
    nodes.start(node_id)
    nodes.tick_all(3)


@pytest.mark.parametrize("compacted", [False, True], ids=["by its log", "by a snapshot"])
def test_a_learner_that_lost_its_log_is_brought_up_to_date_afresh(cluster: Build, compacted: bool) -> None:
    """It has no vote, so nothing was built on what it had acknowledged."""
    nodes = cluster(3, learners=(3,))
    nodes.elect(1)
    nodes.propose(1, b"a", b"b")
    assert nodes[1].raft.progress[3].match == nodes[1].last_index
    if compacted:
        leader = storage(nodes[1])
        leader.create_snapshot(nodes[1].commit_index, leader._snapshot.metadata.conf_state, b"state")
        leader.compact(nodes[1].commit_index)
    comes_back_empty(nodes, 3)
    assert (nodes[3].last_index, nodes[3].commit_index) == (nodes[1].last_index, nodes[1].commit_index)
    nodes.propose(1, b"c")
    assert nodes.applied[3][-1].data == b"c"


def test_a_learner_that_lost_its_log_in_the_middle_of_a_snapshot_is_sent_another(cluster: Build) -> None:
    nodes = cluster(3, learners=(3,))
    nodes.elect(1)
    nodes.propose(1, b"a")
    nodes.isolate(3)
    nodes.propose(1, b"b", b"c")
    leader = storage(nodes[1])
    leader.create_snapshot(nodes[1].commit_index, leader._snapshot.metadata.conf_state, b"state")
    leader.compact(nodes[1].commit_index)
    nodes.heal()
    nodes.drops = lambda message: message.type is T.SNAP
    nodes.tick_all(3)
    progress = nodes[1].raft.progress[3]
    assert (progress.state, progress.match > 0) == (ReplicationState.SNAPSHOT, True)
    comes_back_empty(nodes, 3)
    assert nodes[3].last_index == 0
    nodes.drops = lambda message: False
    nodes[1].report_snapshot(3, failed=True)
    nodes.tick_all(3)
    assert nodes[3].commit_index == nodes[1].commit_index


def test_a_voter_that_lost_its_log_halts(cluster: Build) -> None:
    """What it had acknowledged may be committed by its word (§5.1): it must not go on as if it were new."""
    nodes = cluster(3)
    nodes.elect(1)
    nodes.propose(1, b"a")
    with pytest.raises(InvariantViolation, match="commit index past the log"):
        comes_back_empty(nodes, 3)
