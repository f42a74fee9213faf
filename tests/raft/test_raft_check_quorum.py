"""CheckQuorum and leader stickiness (thesis §6.2, §4.2.3)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from raft_cluster import ELECTION_TICKS, Cluster, lone_node, make_leader, take

from aspen.raft.messages import Message, MessageType
from aspen.raft.rawnode import Role

T = MessageType
Build = Callable[..., Cluster]


def test_a_leader_that_hears_no_quorum_steps_down() -> None:
    raw = lone_node(check_quorum=True)
    make_leader(raw)
    for _ in range(2 * ELECTION_TICKS):
        raw.tick()
    assert (raw.role, raw.leader_id) == (Role.FOLLOWER, 0)


def test_a_leader_that_hears_a_quorum_stays() -> None:
    raw = lone_node(check_quorum=True)
    make_leader(raw)
    for _ in range(5 * ELECTION_TICKS):
        raw.step(Message(T.HEARTBEAT_RESP, to=1, sender=2, term=1))
        raw.tick()
    assert raw.role is Role.LEADER


def test_learners_do_not_count_for_the_quorum() -> None:
    raw = lone_node(voters=(1, 2), learners=(3,), check_quorum=True)
    make_leader(raw)
    for _ in range(2 * ELECTION_TICKS):
        raw.step(Message(T.HEARTBEAT_RESP, to=1, sender=3, term=1))
        raw.tick()
    assert raw.role is Role.FOLLOWER


def test_without_check_quorum_a_cut_off_leader_stays() -> None:
    raw = lone_node()
    make_leader(raw)
    for _ in range(5 * ELECTION_TICKS):
        raw.tick()
    assert raw.role is Role.LEADER


def test_who_hears_a_leader_ignores_candidates(cluster: Build) -> None:
    """A member that missed the heartbeats can't depose a leader whom the others hear."""
    nodes = cluster(3, check_quorum=True)
    nodes.elect(1)
    nodes[3].campaign()
    nodes.drops = lambda message: message.type is T.VOTE and message.to == 1
    nodes.settle()
    assert nodes[2].term == 1
    assert nodes[3].role is Role.CANDIDATE


def test_a_leader_is_superseded_once_its_followers_have_given_it_up(cluster: Build) -> None:
    nodes = cluster(3, check_quorum=True)
    nodes.elect(1)
    nodes.isolate(1)
    nodes.tick_all(3 * ELECTION_TICKS)
    (leader,) = nodes.leaders()
    assert leader != 1
    assert nodes[1].role is not Role.LEADER
    nodes.heal()
    nodes.tick_all(2)
    assert nodes[1].leader_id == leader


def test_a_stuck_candidate_is_freed(cluster: Build) -> None:
    """A candidate in a term of its own is ignored by all, and itself ignores the leader of an earlier one:
    its answer to that leader brings everybody to its term."""
    nodes = cluster(3, check_quorum=True)
    nodes.elect(1)
    nodes.isolate(3)
    nodes[3].campaign()
    nodes.settle()
    nodes.heal()
    nodes.tick_all(1)
    assert nodes[1].role is not Role.LEADER
    nodes.tick_all(6 * ELECTION_TICKS)
    assert len(nodes.leaders()) == 1
    assert len({raw.term for raw in nodes.raws.values()}) == 1


def test_a_non_promotable_voter_still_votes(cluster: Build) -> None:
    """One that can't lead, because it does not know of its own membership, may be needed for the quorum."""
    raw = lone_node(2, voters=(1,), check_quorum=True)
    raw.step(Message(T.VOTE, to=2, sender=1, term=1))
    (response,) = take(raw)
    assert not response.reject


@pytest.mark.parametrize("pre_vote", [False, True])
def test_a_disruptive_follower(cluster: Build, pre_vote: bool) -> None:
    """Thesis §4.2.3: with PreVote a follower that is slow to hear the leader disturbs nobody."""
    nodes = cluster(3, check_quorum=True, pre_vote=pre_vote)
    nodes.elect(1)
    nodes.tick(3, 2 * ELECTION_TICKS)
    nodes.settle()
    if pre_vote:
        assert (nodes.leaders(), nodes[1].term) == ([1], 1)
    else:
        # It is ignored, but the leader's next heartbeat meets its higher term.
        nodes.tick_all(1)
        assert nodes[1].term == 2


@pytest.mark.parametrize(
    "cut", [{(1, 3)}, {(1, 3), (3, 1)}, {(1, 3), (2, 3)}], ids=["one way", "both ways", "deaf"]
)
def test_one_asymmetric_link_does_not_end_all_leadership(cluster: Build, cut: set[tuple[int, int]]) -> None:
    """A member that does not hear the leader, but is heard, and may hear the others (Cloudflare, 2020),
    does not depose leader after leader."""
    nodes = cluster(3, check_quorum=True, pre_vote=True)
    nodes.elect(1)
    nodes.cut = cut
    nodes.tick_all(10 * ELECTION_TICKS)
    assert (nodes.leaders(), nodes[1].term) == ([1], 1)
    nodes.propose(1, b"x")
    assert nodes.data_of(2) == [b"x"]


def test_a_leader_that_can_send_but_not_hear_steps_down(cluster: Build) -> None:
    nodes = cluster(3, check_quorum=True, pre_vote=True)
    nodes.elect(1)
    nodes.cut = {(2, 1), (3, 1)}
    nodes.tick_all(6 * ELECTION_TICKS)
    assert len(nodes.leaders()) == 1
    assert nodes.leaders() != [1]
