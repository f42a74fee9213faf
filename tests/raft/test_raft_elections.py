"""Elections among whole nodes (§5.2, §5.4; thesis §9.6), without and with PreVote."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from raft_cluster import (
    ELECTION_TICKS,
    Cluster,
    add,
    entries,
    lone_node,
    make_leader,
    of_type,
    raw_node,
    storage,
    take,
)

from aspen.raft.messages import Entry, HardState, Message, MessageType, conf_change_kind, encode_conf_change
from aspen.raft.rawnode import Role

T = MessageType
Build = Callable[..., Cluster]


@pytest.fixture(params=[False, True], ids=["vote", "prevote"])
def build(request: pytest.FixtureRequest, cluster: Build) -> Build:
    return partial(cluster, pre_vote=request.param)


def test_leadership_goes_round(build: Build) -> None:
    """Each node can be elected after each other, and the old leader follows."""
    nodes = build(3)
    for candidate in (1, 2, 3, 1):
        nodes.elect(candidate)
        assert nodes.leaders() == [candidate]
        assert {raw.leader_id for raw in nodes.raws.values()} == {candidate}


def test_a_lone_node_elects_itself(build: Build) -> None:
    nodes = build(1)
    nodes.tick_all(2 * ELECTION_TICKS)
    assert nodes.roles() == {1: Role.LEADER}


def test_a_leader_overwrites_newer_entries_that_were_not_committed(build: Build) -> None:
    """§5.3: entries of a later term than the new leader's own log may have to go, if no quorum has them."""
    nodes = build(
        5,
        logs={1: entries(1), 2: entries(1), 3: entries(2), 4: (), 5: ()},
    )
    # The fourth and fifth voted for the third in term 2; they don't know its entry.
    for voter in (4, 5):
        nodes.storages[voter].hard_state = HardState(2, 3, 0)
        nodes.start(voter)
    nodes[1].campaign()
    nodes.settle()
    nodes[1].campaign()
    nodes.settle()
    assert nodes[1].role is Role.LEADER
    assert len({tuple(nodes.log_of(i)) for i in nodes.raws}) == 1
    assert nodes.log_of(3)[0] == (1, 1)


@pytest.mark.parametrize("size_and_down", [(3, ()), (3, (2,)), (5, (2, 3))])
def test_a_quorum_suffices(build: Build, size_and_down: tuple[int, tuple[int, ...]]) -> None:
    size, down = size_and_down
    nodes = build(size)
    for node_id in down:
        nodes.crash(node_id)
    nodes.elect(1)
    nodes.propose(1, b"x")
    assert nodes.data_of(1) == [b"x"]


@pytest.mark.parametrize("size_and_down", [(2, (2,)), (4, (2, 3)), (5, (2, 3, 4))])
def test_less_than_a_quorum_elects_nobody(build: Build, size_and_down: tuple[int, tuple[int, ...]]) -> None:
    size, down = size_and_down
    nodes = build(size)
    for node_id in down:
        nodes.crash(node_id)
    nodes.tick_all(6 * ELECTION_TICKS)
    assert nodes.leaders() == []


def test_a_split_vote_is_resolved(build: Build) -> None:
    """§5.2: two candidates of one term; the randomized timeouts part them."""
    nodes = build(3)
    nodes.crash(3)
    nodes[1].campaign()
    nodes[2].campaign()
    nodes.settle()
    nodes.tick_all(8 * ELECTION_TICKS)
    assert len(nodes.leaders()) == 1


def test_a_candidate_concedes(build: Build) -> None:
    """§5.2: an isolated candidate comes back, and ends with the leader's log."""
    nodes = build(3)
    nodes.isolate(1)
    nodes[1].campaign()
    nodes.settle()
    nodes.elect(3)
    nodes.propose(3, b"kept")
    nodes.heal()
    nodes.tick_all(4 * ELECTION_TICKS)
    assert len(nodes.leaders()) == 1
    assert all(nodes.data_of(i) == [b"kept"] for i in nodes.raws)


def test_dueling_candidates(build: Build) -> None:
    """§5.4.1: of two candidates, the one with the less complete log can't win, and disturbs at most once."""
    nodes = build(3)
    nodes.cut = {(1, 3), (3, 1)}
    nodes[1].campaign()
    nodes[3].campaign()
    nodes.settle()
    assert nodes[1].role is Role.LEADER
    nodes.heal()
    nodes[3].campaign()
    nodes.settle()
    assert nodes[3].role is not Role.LEADER
    nodes.tick_all(4 * ELECTION_TICKS)
    assert len(nodes.leaders()) == 1
    assert len({tuple(nodes.log_of(i)) for i in nodes.raws}) == 1


def test_a_smaller_term_can_complete_an_election(build: Build) -> None:
    """Thesis §9.6: a node that came back with a term ahead of all others does not block them for ever."""
    nodes = build(3)
    nodes.isolate(3)
    nodes.elect(1)
    nodes.propose(1, b"x")
    for _ in range(3):
        nodes[3].campaign()
        nodes.settle()
    nodes.crash(1)
    nodes.heal()
    nodes.tick_all(8 * ELECTION_TICKS)
    assert nodes.leaders() == [2]


def test_a_leader_steps_down_for_any_message_of_a_higher_term(build: Build) -> None:
    nodes = build(3)
    nodes.elect(1)
    nodes[1].step(Message(T.HEARTBEAT_RESP, to=1, sender=2, term=9))
    assert (nodes[1].role, nodes[1].term, nodes[1].leader_id) == (Role.FOLLOWER, 9, 0)


def test_heartbeats_and_appends_put_off_the_election() -> None:
    """§5.2: "A server remains in follower state as long as it receives valid RPCs from a leader"."""
    for kind in (T.HEARTBEAT, T.APP, T.SNAP):
        raw = lone_node(term=1)
        for _ in range(5):
            for _ in range(ELECTION_TICKS - 1):
                raw.tick()
            raw.step(Message(kind, to=1, sender=2, term=1))
        assert (raw.role, raw.term) == (Role.FOLLOWER, 1)


@pytest.mark.parametrize(
    ("elapsed", "chance"), [(5, 0.0), (10, 0.1), (13, 0.4), (15, 0.6), (18, 0.9), (20, 1.0)]
)
def test_past_the_election_timeout(elapsed: int, chance: float) -> None:
    """§5.2: never before the shortest timeout, always after the longest, evenly between them."""
    raw = lone_node()
    passed = 0
    for term in range(1, 1001):
        # Each term that a node enters draws anew.
        raw.step(Message(T.HEARTBEAT, to=1, sender=2, term=term))
        passed += elapsed >= raw.raft.randomized_timeout
    assert abs(passed / 1000 - chance) < 0.06


@pytest.mark.parametrize("kind", [T.VOTE, T.APP, T.HEARTBEAT])
@pytest.mark.parametrize("role", list(Role))
def test_all_servers_step_down(role: Role, kind: MessageType) -> None:
    """§5.1: whatever a node is, a message of a higher term makes it a follower in that term, and its
    log stays what it is."""
    raw = lone_node(log=entries(1), pre_vote=role is Role.PRE_CANDIDATE)
    if role is Role.LEADER:
        make_leader(raw)
    elif role is not Role.FOLLOWER:
        raw.campaign()
        take(raw)
    assert raw.role is role
    term, last_index = raw.term + 3, raw.last_index
    raw.step(Message(kind, to=1, sender=2, term=term, log_term=9, index=last_index))
    assert (raw.role, raw.term, raw.last_index) == (Role.FOLLOWER, term, last_index)
    assert raw.leader_id == (0 if kind is T.VOTE else 2)


def test_leading_never_changes_the_term(build: Build) -> None:
    """hashicorp/raft #695: heartbeats, answers, proposals and silence leave a leader's term alone."""
    nodes = build(3)
    nodes.elect(1)
    term = nodes[1].term
    for number in range(5 * ELECTION_TICKS):
        nodes.tick_all(1)
        if number % 3 == 0:
            nodes.propose(1, b"x")
        assert {raw.term for raw in nodes.raws.values()} == {term}
    assert nodes.leaders() == [1]


def test_a_refused_vote_does_not_put_off_the_election() -> None:
    """Only a granted vote counts as hearing from somebody worth waiting for (§5.2, figure 2)."""
    raw = lone_node(log=entries(5))
    for _ in range(ELECTION_TICKS - 1):
        raw.tick()
    raw.step(Message(T.PRE_VOTE, to=1, sender=2, term=9))
    assert raw.raft.election_elapsed == ELECTION_TICKS - 1


@pytest.mark.parametrize("kind", [T.VOTE, T.PRE_VOTE])
@pytest.mark.parametrize("role", list(Role))
def test_a_vote_is_given_in_any_role(role: Role, kind: MessageType) -> None:
    """§5.1: whoever asks in a later term and is up to date gets it; a pre-vote changes nothing here."""
    raw = lone_node(pre_vote=role is Role.PRE_CANDIDATE)
    if role is not Role.FOLLOWER:
        raw.campaign()
        take(raw)
    if role is Role.LEADER:
        raw.step(Message(T.VOTE_RESP, to=1, sender=2, term=1))
        take(raw)
    assert raw.role is role
    term = raw.term
    raw.step(Message(kind, to=1, sender=3, term=term + 5, log_term=9, index=9))
    response = take(raw)[-1]
    assert (response.to, response.reject, response.term) == (3, False, term + 5)
    if kind is T.VOTE:
        assert (raw.role, raw.term, raw.raft.vote) == (Role.FOLLOWER, term + 5, 3)
    else:
        assert (raw.role, raw.term) == (role, term)


def test_a_node_out_of_the_configuration_never_campaigns() -> None:
    raw = lone_node(1, voters=(2, 3))
    for _ in range(5 * ELECTION_TICKS):
        raw.tick()
    raw.campaign()
    assert (raw.role, raw.term) == (Role.FOLLOWER, 0)


def test_a_vote_is_on_disk_before_it_leaves() -> None:
    """§5.1, and TiKV #8381: also on a node that has no log yet."""
    raw = lone_node(async_storage_writes=True)
    raw.step(Message(T.VOTE, to=1, sender=2, term=4, log_term=1, index=1))
    (work,) = raw.ready().messages
    assert (work.type, work.term, work.vote) == (T.STORAGE_APPEND, 4, 2)
    (response,) = work.responses
    assert (response.type, response.to, response.reject) == (T.VOTE_RESP, 2, False)


def test_a_peer_that_knows_of_no_group_keeps_its_vote() -> None:
    """TiKV #8381: one without log and without members votes, too, and only once a term. Its vote must
    be on disk although there is nothing else to write."""
    raw = lone_node(voters=(), pre_vote=True, check_quorum=True)
    raw.step(Message(T.VOTE, to=1, sender=2, term=4, log_term=1, index=1))
    ready = raw.ready()
    assert (ready.hard_state, ready.must_sync) == (HardState(4, 2, 0), True)
    assert [m.type for m in ready.messages_after_persist] == [T.VOTE_RESP]
    assert ready.messages == ()
    storage(raw).hard_state = ready.hard_state or HardState()
    again = raw_node(1, storage(raw), pre_vote=True, check_quorum=True)
    again.step(Message(T.VOTE, to=1, sender=3, term=4, log_term=9, index=9))
    (response,) = take(again)
    assert (response.to, response.reject) == (3, True)


def test_a_restarted_node_does_not_vote_twice() -> None:
    """§5.2 needs the vote of the term to survive."""
    raw = lone_node()
    raw.step(Message(T.VOTE, to=1, sender=2, term=1))
    take(raw)
    again = raw_node(1, storage(raw))
    again.step(Message(T.VOTE, to=1, sender=3, term=1))
    (response,) = take(again)
    assert response.reject


@pytest.mark.parametrize("again", [True, False])
def test_a_voter_counts_once(again: bool) -> None:
    """§5.2: votes of a majority, not a majority of answers; the first of each voter counts."""
    raw = lone_node(voters=range(1, 6))
    raw.campaign()
    take(raw)
    raw.step(Message(T.VOTE_RESP, to=1, sender=2, term=1))
    for _ in range(3):
        raw.step(Message(T.VOTE_RESP, to=1, sender=2, term=1, reject=not again))
    assert raw.role is Role.CANDIDATE
    raw.step(Message(T.VOTE_RESP, to=1, sender=3, term=1))
    assert raw.role is Role.LEADER


def test_votes_of_a_pre_candidacy_do_not_count_for_the_candidacy() -> None:
    """Thesis §9.6: a late pre-vote is no vote."""
    raw = lone_node(voters=range(1, 6), pre_vote=True)
    raw.campaign()
    take(raw)
    for voter in (2, 3):
        raw.step(Message(T.PRE_VOTE_RESP, to=1, sender=voter, term=1))
    take(raw)
    assert raw.role is Role.CANDIDATE
    for voter in (4, 5):
        raw.step(Message(T.PRE_VOTE_RESP, to=1, sender=voter, term=1))
    assert raw.role is Role.CANDIDATE


def test_a_pre_vote_leaves_no_trace(cluster: Build) -> None:
    """Thesis §9.6: a node that is cut off does not raise its term, and disturbs no one on its return."""
    nodes = cluster(3, pre_vote=True, check_quorum=True)
    nodes.elect(1)
    nodes.isolate(3)
    nodes.tick_all(10 * ELECTION_TICKS)
    assert nodes[3].term == nodes[1].term
    nodes.heal()
    nodes.tick_all(2 * ELECTION_TICKS)
    assert (nodes.leaders(), nodes[1].term) == ([1], 1)


def test_pre_vote_never_leaves_a_quorum_leaderless(cluster: Build) -> None:
    """hashicorp/raft #606: with the leader gone, two who both know of its term still elect one."""
    nodes = cluster(3, pre_vote=True, check_quorum=True)
    nodes.elect(1)
    nodes.crash(1)
    nodes.tick_all(6 * ELECTION_TICKS)
    assert len(nodes.leaders()) == 1


def test_a_pre_candidate_of_a_lower_term_is_told_the_term(cluster: Build) -> None:
    """hashicorp/raft #606, the other way round: of two who are left, only the one whose term is lower
    can win. It learns the term from the refusal of its pre-vote, or there would be no leader for ever."""
    nodes = cluster(3, pre_vote=True, check_quorum=True, logs={1: entries(1), 2: entries(1), 3: ()})
    nodes.storages[3].hard_state = HardState(5, 0, 0)
    nodes.start(3)
    nodes.crash(1)
    nodes.tick_all(8 * ELECTION_TICKS)
    assert nodes.leaders() == [2]


def test_pre_vote_migration(cluster: Build) -> None:
    """Nodes without PreVote and with a term ahead do not lock those out that have it."""
    nodes = cluster(3)
    nodes.elect(1)
    nodes.isolate(3)
    nodes[3].campaign()
    nodes.settle()
    nodes.propose(1, b"x")
    for node_id in (1, 2, 3):
        nodes.restart(node_id, pre_vote=True)
    nodes.heal()
    assert nodes[3].term > nodes[1].term
    nodes.tick_all(10 * ELECTION_TICKS)
    assert len(nodes.leaders()) == 1
    assert 3 not in nodes.leaders()
    nodes.propose(nodes.leaders()[0], b"y")
    assert nodes.data_of(3) == [b"x", b"y"]


def test_a_node_with_unapplied_membership_does_not_campaign() -> None:
    """§6: who votes is not known until the committed change is applied."""
    raw = lone_node(term=1)
    change = add(4)
    entry = Entry(1, 1, conf_change_kind(change), encode_conf_change(change))
    raw.step(Message(T.APP, to=1, sender=2, term=1, entries=(entry,), commit=1))
    ready = raw.ready()
    assert ready.committed_entries == (entry,)
    raw.campaign()
    assert raw.role is Role.FOLLOWER
    storage(raw).append(ready.entries)
    raw.apply_conf_change(change)
    raw.advance()
    raw.campaign()
    assert raw.role is Role.CANDIDATE
    assert of_type(take(raw), T.VOTE)
