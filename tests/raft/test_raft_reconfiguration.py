"""Membership changes and learners among whole nodes (§6; thesis §4)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from raft_cluster import (
    ELECTION_TICKS,
    Cluster,
    add,
    add_learner,
    entries,
    joint,
    lone_node,
    make_leader,
    of_type,
    remove,
    take,
)

from aspen.raft.core import ProposalDropped
from aspen.raft.membership import ConfigurationRefused
from aspen.raft.messages import ConfChangeTransition, ConfChangeV2, Entry, EntryKind, Message, MessageType
from aspen.raft.rawnode import Role

T = MessageType
Build = Callable[..., Cluster]
EXPLICIT = ConfChangeTransition.JOINT_EXPLICIT


def kinds(nodes: Cluster, node_id: int) -> list[EntryKind]:
    return [entry.kind for entry in nodes.applied[node_id]]


# --- one at a time ----------------------------------------------------------------------------


def test_a_member_is_added_and_catches_up(cluster: Build) -> None:
    nodes = cluster(1, joining=(2,))
    nodes.elect(1)
    nodes.propose(1, b"x")
    nodes.change(1, add(2))
    nodes.propose(1, b"y")
    assert nodes.data_of(2) == [b"x", b"y"]
    assert nodes[2].raft.configuration.voters == {1, 2}
    nodes.elect(2)


def test_a_removed_member_is_sent_nothing_more(cluster: Build) -> None:
    nodes = cluster(3)
    nodes.elect(1)
    nodes.change(1, remove(3))
    assert nodes[1].raft.configuration.voters == {1, 2}
    nodes.history.clear()
    nodes.propose(1, b"x")
    nodes.tick_all(3)
    assert not [m for m in nodes.history if m.to == 3 and m.sender == 1]


def test_removal_may_commit_what_waited_for_the_removed(cluster: Build) -> None:
    """§6: the smaller quorum has more in common."""
    nodes = cluster(2)
    nodes.elect(1)
    nodes[1].propose_conf_change(remove(2))
    nodes[1].propose(b"x")
    nodes.drops = lambda message: any(e.data == b"x" for e in message.entries) and message.to == 2
    nodes.settle()
    assert nodes.data_of(1) == [b"x"]


@pytest.mark.parametrize("first", [add(4), add_learner(4), remove(3)])
def test_no_second_change_before_the_first_is_applied(first: object) -> None:
    """Thesis §4.1: two changes under way could make two majorities that don't meet."""
    raw = lone_node()
    make_leader(raw)
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=1))
    take(raw)
    raw.propose_conf_change(first)  # type: ignore[arg-type]  # parametrized
    raw.propose_conf_change(add(5))
    log = raw.raft.log
    assert [entry.kind for entry in log.slice(2, log.last_index + 1, 10**6)] == [
        EntryKind.CONF_CHANGE,
        EntryKind.NORMAL,
    ]


def test_a_new_leader_takes_no_change_before_its_log_is_applied() -> None:
    """It may have inherited one that is not applied yet."""
    raw = lone_node(log=entries(1))
    make_leader(raw)
    raw.propose_conf_change(add(4))
    assert raw.raft.log.unstable.entries[-1].kind is EntryKind.NORMAL
    take(raw)
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=raw.term, index=3))
    take(raw)
    raw.propose_conf_change(add(4))
    assert raw.raft.log.unstable.entries[-1].kind is EntryKind.CONF_CHANGE


@pytest.mark.parametrize(
    "change",
    [joint(remove(1), remove(2), remove(3)), ConfChangeV2()],
    ids=["nobody left", "leave what is not joint"],
)
def test_a_change_that_could_not_take_effect_is_never_committed(cluster: Build, change: ConfChangeV2) -> None:
    nodes = cluster(3)
    nodes.elect(1)
    nodes.change(1, change)
    assert kinds(nodes, 2) == [EntryKind.NORMAL, EntryKind.NORMAL]
    nodes.change(1, add_learner(9))
    assert nodes[2].raft.configuration.learners == {9}


def test_garbage_from_a_follower_is_no_change(cluster: Build) -> None:
    nodes = cluster(3)
    nodes.elect(1)
    garbage = (Entry(kind=EntryKind.CONF_CHANGE, data=b"\xff"), Entry(data=b"kept"))
    nodes[1].step(Message(T.PROP, to=1, sender=2, entries=garbage))
    nodes.settle()
    assert kinds(nodes, 3) == [EntryKind.NORMAL] * 3
    assert nodes.data_of(3) == [b"kept"]


def test_applying_what_can_not_be_applied_says_so() -> None:
    raw = lone_node(voters=(1,))
    with pytest.raises(ConfigurationRefused, match="removed all voters"):
        raw.apply_conf_change(remove(1))
    assert raw.raft.configuration.voters == {1}


# --- the leader leaves ------------------------------------------------------------------------


def test_a_removed_leader_steps_down_and_falls_silent(cluster: Build) -> None:
    """etcd #11038: it must not go on heartbeating those it no longer leads."""
    nodes = cluster(3, step_down_on_removal=True)
    nodes.elect(1)
    nodes.change(1, remove(1))
    assert nodes[1].role is Role.FOLLOWER
    nodes.history.clear()
    nodes.tick_all(4 * ELECTION_TICKS)
    assert not [m for m in nodes.history if m.sender == 1 and m.type in (T.HEARTBEAT, T.APP, T.VOTE)]
    (leader,) = nodes.leaders()
    assert leader in (2, 3)


def test_without_step_down_a_removed_leader_leads_on_but_takes_nothing(cluster: Build) -> None:
    """Thesis §4.2.2: it manages a cluster that it is no part of, and does not count itself."""
    nodes = cluster(3)
    nodes.elect(1)
    nodes.change(1, remove(1))
    assert nodes[1].role is Role.LEADER
    with pytest.raises(ProposalDropped):
        nodes[1].propose(b"x")


def test_a_removed_member_never_campaigns(cluster: Build) -> None:
    nodes = cluster(3, step_down_on_removal=True)
    nodes.elect(1)
    nodes.change(1, remove(3))
    nodes[3].raft.configuration = nodes[1].raft.configuration
    nodes[3].raft.progress.pop(3, None)
    nodes[3].campaign()
    assert nodes[3].role is Role.FOLLOWER


# --- joint consensus --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transition", [ConfChangeTransition.AUTO, ConfChangeTransition.JOINT_IMPLICIT], ids=["auto", "implicit"]
)
def test_a_joint_change_leaves_by_itself(cluster: Build, transition: ConfChangeTransition) -> None:
    nodes = cluster(3, joining=(4, 5))
    nodes.elect(1)
    nodes.change(1, joint(add(4), add(5), remove(2), remove(3), transition=transition))
    configuration = nodes[1].raft.configuration
    assert (configuration.voters, configuration.joint) == ({1, 4, 5}, False)
    nodes.propose(1, b"x")
    assert nodes.data_of(4) == nodes.data_of(5) == [b"x"]


def test_an_explicit_joint_change_waits_to_be_left(cluster: Build) -> None:
    nodes = cluster(3, joining=(4,))
    nodes.elect(1)
    nodes.change(1, joint(add(4), transition=EXPLICIT))
    assert nodes[1].raft.configuration.joint
    nodes.change(1, add(5))
    assert nodes[1].raft.configuration.all_voters == {1, 2, 3, 4}
    nodes.change(1, ConfChangeV2())
    assert not nodes[1].raft.configuration.joint
    assert nodes[2].raft.configuration.voters == {1, 2, 3, 4}


def test_a_joint_configuration_needs_both_majorities(cluster: Build) -> None:
    nodes = cluster(3, joining=(4, 5))
    nodes.elect(1)
    nodes.change(1, joint(add(4), add(5), remove(2), remove(3), transition=EXPLICIT))
    nodes.isolate(2, 3)
    nodes.propose(1, b"x")
    assert nodes.data_of(1) == []
    nodes.heal()
    nodes.tick_all(2)
    assert nodes.data_of(1) == [b"x"]
    # And so does an election.
    nodes.isolate(1, 4, 5)
    nodes[4].campaign()
    nodes.settle()
    assert nodes[4].role is Role.CANDIDATE


def test_a_demoted_voter_votes_until_the_joint_configuration_is_left(cluster: Build) -> None:
    """`learners_next`: it is still needed for the outgoing majority."""
    nodes = cluster(3)
    nodes.elect(1)
    nodes.change(1, joint(add_learner(3), transition=EXPLICIT))
    configuration = nodes[1].raft.configuration
    assert (configuration.learners_next, configuration.learners) == ({3}, set())
    assert nodes[3].raft.promotable
    nodes.change(1, ConfChangeV2())
    assert nodes[1].raft.configuration.learners == {3}
    assert not nodes[3].raft.promotable


def test_a_new_leader_leaves_the_joint_configuration(cluster: Build) -> None:
    """Auto-leave is in the configuration, so whoever leads carries it out."""
    nodes = cluster(3, joining=(4,))
    nodes.elect(1)
    # The entry that leaves is the first after the change is applied: lose it with the leader.
    nodes.drops = lambda message: any(
        entry.kind is EntryKind.CONF_CHANGE_V2 and not entry.data for entry in message.entries
    )
    nodes.change(1, joint(add(4), transition=ConfChangeTransition.JOINT_IMPLICIT))
    assert nodes[2].raft.configuration.joint
    nodes.crash(1)
    nodes.heal()
    nodes.elect(2)
    nodes.tick_all(2)
    assert not nodes[2].raft.configuration.joint
    assert nodes[3].raft.configuration.voters == {1, 2, 3, 4}


def test_auto_leave_waits_for_a_transfer_and_is_not_forgotten() -> None:
    raw = lone_node(voters=(1, 2))
    make_leader(raw)
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=1))
    take(raw)
    raw.propose_conf_change(joint(add_learner(2), transition=ConfChangeTransition.JOINT_IMPLICIT))
    take(raw)
    raw.transfer_leader(2)
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=2))
    take(raw)
    assert (raw.raft.configuration.joint, raw.raft.log.last_index) == (True, 2)
    for _ in range(ELECTION_TICKS):
        raw.tick()
    raw.propose(b"the next entry that is applied")
    take(raw)
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=3))
    take(raw)
    assert raw.raft.log.last_index == 4
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=4))
    take(raw)
    assert raw.raft.configuration.conf_state().learners == (2,)


# --- learners ---------------------------------------------------------------------------------


def test_a_learner_replicates_but_neither_votes_nor_campaigns(cluster: Build) -> None:
    nodes = cluster(3, learners=(3,))
    nodes.tick(3, 5 * ELECTION_TICKS)
    nodes[3].campaign()
    nodes.settle()
    assert (nodes[3].role, nodes[3].term) == (Role.FOLLOWER, 0)
    nodes.elect(1)
    nodes.propose(1, b"x")
    assert nodes.data_of(3) == [b"x"]
    nodes.crash(2)
    nodes.propose(1, b"y")
    assert nodes.data_of(1) == [b"x"], "a learner's copy does not count"


def test_a_learner_that_is_asked_votes(cluster: Build) -> None:
    """Its own configuration may be behind: the candidate may rightly count it as a voter."""
    raw = lone_node(3, voters=(1, 2), learners=(3,))
    raw.step(Message(T.VOTE, to=3, sender=2, term=2, log_term=11, index=11))
    assert not take(raw)[0].reject


def test_a_learner_is_promoted(cluster: Build) -> None:
    nodes = cluster(3, learners=(3,))
    nodes.elect(1)
    nodes.change(1, add(3))
    assert nodes[3].raft.promotable
    nodes.crash(2)
    nodes.propose(1, b"x")
    assert nodes.data_of(1) == [b"x"]
    nodes.restart(2)
    nodes.elect(3)


def test_a_learner_catches_up_by_snapshot(cluster: Build) -> None:
    nodes = cluster(1, joining=(2,))
    nodes.elect(1)
    nodes.propose(1, b"a", b"b")
    nodes.isolate(2)
    nodes.change(1, add_learner(2))
    nodes.compact(1)
    nodes.heal()
    nodes.tick_all(1)
    nodes.propose(1, b"c")
    assert nodes.data_of(2) == [b"c"]
    assert nodes[2].raft.configuration.learners == {2}
    assert of_type(nodes.history, T.SNAP)


def test_proposals_are_forwarded_from_learners_and_followers(cluster: Build) -> None:
    nodes = cluster(3, learners=(3,))
    nodes.elect(1)
    nodes.propose(2, b"a")
    nodes.propose(3, b"b", b"c")
    assert nodes.data_of(1) == [b"a", b"b", b"c"]


def test_forwarding_can_be_refused(cluster: Build) -> None:
    nodes = cluster(3, disable_proposal_forwarding=True)
    nodes.elect(1)
    with pytest.raises(ProposalDropped):
        nodes[2].propose(b"x")
