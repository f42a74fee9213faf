"""Leadership transfer (thesis §3.10)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from raft_cluster import ELECTION_TICKS, Cluster, add_learner, lone_node, make_leader, of_type, remove, take

from aspen.raft.core import ProposalDropped
from aspen.raft.messages import Message, MessageType
from aspen.raft.rawnode import Role

T = MessageType
Build = Callable[..., Cluster]


def test_transfer_to_an_up_to_date_node_and_back(cluster: Build) -> None:
    nodes = cluster(3)
    nodes.elect(1)
    for transferee in (2, 1):
        nodes[nodes.leaders()[0]].transfer_leader(transferee)
        nodes.settle()
        assert nodes.leaders() == [transferee]


@pytest.mark.parametrize("settings", [{"check_quorum": True}, {"check_quorum": True, "pre_vote": True}])
def test_transfer_overrides_leases(cluster: Build, settings: dict[str, bool]) -> None:
    """The others hear the old leader, and still vote: it asked for this itself."""
    nodes = cluster(3, **settings)
    nodes.elect(1)
    nodes[1].transfer_leader(3)
    nodes.settle()
    assert nodes.leaders() == [3]


def test_transfer_asked_of_a_follower(cluster: Build) -> None:
    nodes = cluster(3)
    nodes.elect(1)
    nodes[2].transfer_leader(3)
    nodes.settle()
    assert nodes.leaders() == [3]


def test_transfer_to_a_slow_node_brings_it_up_to_date_first(cluster: Build) -> None:
    nodes = cluster(3)
    nodes.elect(1)
    nodes.isolate(3)
    nodes.propose(1, b"a", b"b")
    nodes.heal()
    nodes[1].transfer_leader(3)
    nodes.settle()
    nodes.tick_all(1)
    assert nodes.leaders() == [3]
    assert nodes.data_of(3) == [b"a", b"b"]


def test_transfer_to_a_node_that_needs_a_snapshot(cluster: Build) -> None:
    nodes = cluster(3)
    nodes.elect(1)
    nodes.isolate(3)
    nodes.propose(1, b"a", b"b")
    nodes.compact(1)
    nodes.heal()
    nodes[1].transfer_leader(3)
    nodes.settle()
    nodes.tick_all(2)
    assert nodes.leaders() == [3]


@pytest.mark.parametrize("transferee", [1, 9, 4], ids=["itself", "a stranger", "a learner"])
def test_transfer_to_whom_it_makes_no_sense(cluster: Build, transferee: int) -> None:
    nodes = cluster(4, learners=(4,))
    nodes.elect(1)
    nodes[1].transfer_leader(transferee)
    nodes.settle()
    assert nodes.leaders() == [1]
    nodes.propose(1, b"x")
    assert nodes.data_of(4) == [b"x"]


def test_proposals_are_dropped_during_a_transfer() -> None:
    raw = lone_node()
    make_leader(raw)
    raw.transfer_leader(2)
    with pytest.raises(ProposalDropped):
        raw.propose(b"x")
    assert raw.status().lead_transferee == 2


def test_a_transfer_that_fails_is_given_up(cluster: Build) -> None:
    """§3.10: after an election timeout the leader goes on."""
    nodes = cluster(3, check_quorum=True)
    nodes.elect(1)
    nodes.isolate(3)
    nodes[1].transfer_leader(3)
    nodes.settle()
    nodes.tick_all(ELECTION_TICKS)
    assert nodes.leaders() == [1]
    nodes.propose(1, b"x")
    assert nodes.data_of(2) == [b"x"]


@pytest.mark.parametrize("change", [remove(3), add_learner(3)], ids=["removed", "demoted"])
def test_a_transfer_to_one_who_leaves_is_given_up(change: object) -> None:
    raw = lone_node()
    make_leader(raw)
    raw.transfer_leader(3)
    take(raw)
    raw.apply_conf_change(change)  # type: ignore[arg-type]  # parametrized
    assert raw.status().lead_transferee == 0
    raw.propose(b"x")


def test_a_second_transfer_replaces_the_first(cluster: Build) -> None:
    nodes = cluster(3)
    nodes.elect(1)
    nodes.isolate(3)
    nodes[1].transfer_leader(3)
    nodes.settle()
    nodes[1].transfer_leader(2)
    nodes.settle()
    assert nodes.leaders() == [2]


def test_a_transfer_back_to_the_leader_calls_off_the_first(cluster: Build) -> None:
    """Asked to hand over to itself, a leader whose heir is not there yet goes on at once."""
    nodes = cluster(3)
    nodes.elect(1)
    nodes.isolate(3)
    nodes[1].transfer_leader(3)
    nodes.settle()
    nodes[1].transfer_leader(1)
    nodes.propose(1, b"x")
    assert (nodes.leaders(), nodes.data_of(2)) == ([1], [b"x"])


def test_a_vote_of_a_higher_term_ends_a_transfer() -> None:
    raw = lone_node()
    make_leader(raw)
    raw.transfer_leader(3)
    raw.step(Message(T.VOTE, to=1, sender=2, term=5, log_term=1, index=9))
    assert (raw.role, raw.term, raw.status().lead_transferee) == (Role.FOLLOWER, 5, 0)


def test_a_repeated_transfer_does_not_extend_the_first(cluster: Build) -> None:
    raw = lone_node()
    make_leader(raw)
    raw.transfer_leader(2)
    take(raw)
    for _ in range(ELECTION_TICKS - 1):
        raw.tick()
    raw.transfer_leader(2)
    raw.tick()
    assert raw.status().lead_transferee == 0


def test_timeout_now_makes_even_a_follower_who_hears_a_leader_campaign() -> None:
    raw = lone_node(pre_vote=True, check_quorum=True, term=1)
    raw.step(Message(T.HEARTBEAT, to=1, sender=2, term=1))
    raw.step(Message(T.TIMEOUT_NOW, to=1, sender=2, term=1))
    assert raw.role is Role.CANDIDATE
    assert all(m.context for m in of_type(take(raw), T.VOTE))


def test_timeout_now_means_nothing_to_one_who_can_not_lead() -> None:
    raw = lone_node(3, voters=(1, 2), learners=(3,), term=1)
    raw.step(Message(T.TIMEOUT_NOW, to=3, sender=2, term=1))
    assert raw.role is Role.FOLLOWER
