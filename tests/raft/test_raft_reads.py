"""Linearizable reads (thesis §6.4): by a round of heartbeats, and by lease."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from raft_cluster import (
    ELECTION_TICKS,
    Cluster,
    add,
    answer,
    carry_out,
    lone_node,
    make_leader,
    of_type,
    take,
)

from aspen.errors import ConfigError
from aspen.limits import RAFT_PENDING_READS
from aspen.raft.messages import Message, MessageType
from aspen.raft.rawnode import RawNode, ReadOnlyOption, Role

T = MessageType
Build = Callable[..., Cluster]
LEASE = {"check_quorum": True, "read_only_option": ReadOnlyOption.LEASE_BASED}


def leader(**settings: object) -> RawNode:
    """A leader of three that has committed in its term."""
    raw = lone_node(**settings)  # type: ignore[arg-type]  # forwarded as they are
    make_leader(raw)
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=raw.term, index=raw.raft.log.last_index))
    take(raw)
    return raw


@pytest.mark.parametrize("settings", [{}, LEASE], ids=["safe", "lease"])
@pytest.mark.parametrize("reader", [1, 2, 3, 4])
def test_a_read_sees_all_that_was_committed_before(
    cluster: Build, settings: dict[str, object], reader: int
) -> None:
    """On the leader, a follower and a learner alike."""
    nodes = cluster(4, learners=(4,), **settings)
    nodes.elect(1)
    for count in range(1, 6):
        nodes.propose(1, b"x")
        nodes[reader].read_index(b"ask %d" % count)
        nodes.settle()
        nodes.tick_all(1)
        read = nodes.reads[reader][-1]
        assert read.context == b"ask %d" % count
        assert read.index == nodes[1].commit_index == 1 + count
    assert len(nodes.reads[reader]) == 5


def test_a_read_waits_for_a_quorum() -> None:
    raw = leader()
    raw.read_index(b"ask")
    round_one = of_type(take(raw), T.HEARTBEAT)
    assert not raw.raft.read_states
    answer(raw, round_one[0], T.HEARTBEAT_RESP, context=round_one[0].context)
    assert raw.ready().read_states[0].context == b"ask"


def test_an_answer_to_an_earlier_round_confirms_nothing() -> None:
    """What was answered before the read was asked says nothing about who leads now."""
    raw = leader()
    raw.tick()
    before = of_type(take(raw), T.HEARTBEAT)
    raw.read_index(b"ask")
    take(raw)
    for heartbeat in before:
        answer(raw, heartbeat, T.HEARTBEAT_RESP, context=heartbeat.context)
    assert not raw.raft.read_states


def test_a_later_round_confirms_earlier_reads_in_their_order() -> None:
    raw = leader()
    for name in (b"a", b"b", b"c"):
        raw.read_index(name)
    rounds = [m for m in take(raw) if m.type is T.HEARTBEAT and m.to == 2]
    answer(raw, rounds[1], T.HEARTBEAT_RESP, context=rounds[1].context)
    assert [read.context for read in raw.raft.read_states] == [b"a", b"b"]
    answer(raw, rounds[2], T.HEARTBEAT_RESP, context=rounds[2].context)
    assert [read.context for read in raw.raft.read_states] == [b"a", b"b", b"c"]


def test_a_reused_context_is_another_read() -> None:
    """etcd #20418: answers to the first ask must not serve the second, which may be of a later index."""
    raw = leader()
    raw.read_index(b"same")
    first = of_type(take(raw), T.HEARTBEAT)
    raw.propose(b"x")
    take(raw)
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=2))
    raw.read_index(b"same")
    second = of_type(take(raw), T.HEARTBEAT)
    for heartbeat in first:
        answer(raw, heartbeat, T.HEARTBEAT_RESP, context=heartbeat.context)
    assert [(read.index, read.context) for read in raw.raft.read_states] == [(1, b"same")]
    answer(raw, second[-1], T.HEARTBEAT_RESP, context=second[-1].context)
    assert [read.index for read in raw.raft.read_states] == [1, 2]


@pytest.mark.parametrize("size", [1, 3])
def test_a_new_leader_serves_no_read_before_its_first_commit(size: int) -> None:
    """§6.4 step 1, etcd #7331: until then it may not know of all that was committed. One round then
    serves all that waited. A lone node is no exception: its commit index may lag behind what it applied."""
    raw = lone_node(voters=range(1, size + 1))
    raw.campaign()
    carry_out(raw)
    if size > 1:
        raw.step(Message(T.VOTE_RESP, to=1, sender=2, term=1))
    assert raw.role is Role.LEADER
    raw.read_index(b"a")
    raw.read_index(b"b")
    raw.step(Message(T.READ_INDEX, to=1, sender=3, context=b"c"))
    assert not raw.raft.read_states
    ready = carry_out(raw)  # which puts the entry that opens the term on its own disk
    assert not ready.read_states
    assert not of_type(ready.messages, T.HEARTBEAT)
    if size > 1:
        raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=1))
        asked = [m for m in carry_out(raw).messages if m.type is T.HEARTBEAT and m.to == 2]
        assert len(asked) == 1
        answer(raw, asked[0], T.HEARTBEAT_RESP, context=asked[0].context)
    ready = raw.ready()
    assert [(read.context, read.index) for read in ready.read_states] == [(b"a", 1), (b"b", 1)]
    assert [(m.to, m.context, m.index) for m in of_type(ready.messages, T.READ_INDEX_RESP)] == [(3, b"c", 1)]


def test_what_a_leader_took_on_dies_with_its_leadership() -> None:
    """Memory is freed, and no late answer revives a read."""
    raw = leader()
    raw.read_index(b"ask")
    heartbeat = of_type(take(raw), T.HEARTBEAT)[0]
    raw.step(Message(T.APP, to=1, sender=2, term=2, log_term=1, index=1))
    assert len(raw.raft.reads) == 0
    make_leader(raw)
    answer(raw, heartbeat, T.HEARTBEAT_RESP, context=heartbeat.context)
    assert not raw.raft.read_states


def test_the_queue_of_reads_is_bounded() -> None:
    raw = leader()
    for number in range(RAFT_PENDING_READS + 10):
        raw.raft.messages.clear()
        raw.read_index(b"%d" % number)
    assert len(raw.raft.reads) == RAFT_PENDING_READS


def test_an_old_leader_serves_no_read(cluster: Build) -> None:
    nodes = cluster(3)
    nodes.elect(1)
    nodes.isolate(1)
    nodes.elect(2)
    nodes.propose(2, b"new")
    nodes[1].read_index(b"stale?")
    nodes.settle()
    nodes.tick_all(3)
    assert nodes.reads[1] == []
    assert nodes[1].role is Role.LEADER


def test_a_follower_without_leader_asks_nobody() -> None:
    raw = lone_node()
    raw.read_index(b"ask")
    assert take(raw) == []


# --- leases (§6.4.1) --------------------------------------------------------------------------


def confirm_round(raw: RawNode) -> None:
    raw.tick()
    heartbeat = of_type(take(raw), T.HEARTBEAT)[0]
    answer(raw, heartbeat, T.HEARTBEAT_RESP, context=heartbeat.context)


def test_a_lease_saves_the_round_and_runs_out() -> None:
    raw = leader(**LEASE)
    assert raw.lease_read_index() is None
    confirm_round(raw)
    raw.read_index(b"ask")
    assert [read.context for read in raw.raft.read_states] == [b"ask"]
    for _ in range(ELECTION_TICKS * 3 // 4):
        assert raw.lease_read_index() == 1
        raw.tick()
    assert raw.lease_read_index() is None
    raw.read_index(b"again")
    assert [read.context for read in raw.raft.read_states] == [b"ask"]
    assert of_type(take(raw), T.HEARTBEAT)


def test_the_lease_counts_from_when_the_round_left_not_from_its_answer() -> None:
    raw = leader(**LEASE)
    raw.tick()
    heartbeat = of_type(take(raw), T.HEARTBEAT)[0]
    for _ in range(ELECTION_TICKS - 2):
        raw.tick()
    answer(raw, heartbeat, T.HEARTBEAT_RESP, context=heartbeat.context)
    assert raw.lease_read_index() is None


def test_a_lease_grows_older_while_its_holder_is_held_up() -> None:
    """A process that was paused makes no ticks up; what it slept through still counts against the lease."""
    raw = leader(**LEASE)
    confirm_round(raw)
    assert raw.lease_read_index() == 1
    raw.skip_ticks(ELECTION_TICKS)
    assert raw.lease_read_index() is None
    assert raw.role is Role.LEADER
    confirm_round(raw)
    assert raw.lease_read_index() == 1


def test_a_leader_that_asks_to_be_deposed_has_no_lease() -> None:
    """§3.10: TIMEOUT_NOW overrides the followers' promise, whenever it arrives."""
    raw = leader(**LEASE)
    confirm_round(raw)
    raw.transfer_leader(2)
    assert of_type(take(raw), T.TIMEOUT_NOW)
    assert raw.lease_read_index() is None
    for _ in range(2 * ELECTION_TICKS):
        raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=1))
        confirm_round(raw)
    assert raw.role is Role.LEADER
    assert raw.lease_read_index() is None


def test_a_lease_is_of_one_configuration() -> None:
    raw = leader(**LEASE)
    confirm_round(raw)
    raw.apply_conf_change(add(4))
    assert raw.lease_read_index() is None


def test_a_lone_leader_always_holds_its_lease() -> None:
    raw = lone_node(voters=(1,), check_quorum=True, leader_lease=True)
    make_leader(raw)
    take(raw)
    raw.tick()
    assert raw.lease_read_index() == 1


def test_no_lease_without_asking_for_one() -> None:
    raw = leader(check_quorum=True)
    confirm_round(raw)
    assert raw.lease_read_index() is None


def test_a_restarted_node_keeps_the_promise_it_may_have_given() -> None:
    """It can't know whether it answered a heartbeat just before: no vote for an election timeout."""
    raw = lone_node(term=1, check_quorum=True, leader_lease=True)
    request = Message(T.VOTE, to=1, sender=3, term=2, log_term=9, index=9)
    raw.step(request)
    assert (take(raw), raw.term) == ([], 1)
    for _ in range(ELECTION_TICKS):
        raw.tick()
    raw.step(request)
    assert not take(raw)[0].reject


def test_a_follower_does_not_forget_a_leader_that_may_hold_a_lease() -> None:
    for settings, forgotten in (
        ({}, True),
        (LEASE, False),
        ({"check_quorum": True, "leader_lease": True}, False),
    ):
        raw = lone_node(term=1, **settings)
        raw.step(Message(T.HEARTBEAT, to=1, sender=2, term=1))
        raw.forget_leader()
        assert (raw.leader_id == 0) is forgotten


def test_a_lease_needs_check_quorum() -> None:
    for settings in ({"leader_lease": True}, {"read_only_option": ReadOnlyOption.LEASE_BASED}):
        with pytest.raises(ConfigError, match="check_quorum"):
            lone_node(**settings)
