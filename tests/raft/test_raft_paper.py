"""The Raft paper, sentence by sentence, on one node whose peers are the test itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from raft_cluster import (
    ELECTION_TICKS,
    Cluster,
    answer,
    entries,
    lone_node,
    make_leader,
    storage,
    take,
)

from aspen.raft.core import ProposalDropped
from aspen.raft.messages import Entry, Message, MessageType
from aspen.raft.progress import NO_LIMIT
from aspen.raft.rawnode import RawNode, Role

T = MessageType
Build = Callable[..., Cluster]


def in_role(role: Role, **settings: object) -> RawNode:
    raw = lone_node(**settings)  # type: ignore[arg-type]  # forwarded as they are
    if role is not Role.FOLLOWER:
        raw.campaign()
        take(raw)
    if role is Role.LEADER:
        raw.step(Message(T.VOTE_RESP, to=1, sender=2, term=raw.term))
        take(raw)
    assert raw.role is role
    return raw


# --- §5.1 terms -------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER])
def test_update_term_from_message(role: Role) -> None:
    """§5.1: "If one server's current term is smaller than the other's, then it updates its current term to
    the larger value. If a candidate or leader discovers that its term is out of date, it immediately reverts
    to follower state." """
    raw = in_role(role)
    raw.step(Message(T.APP, to=1, sender=2, term=raw.term + 1))
    assert (raw.role, raw.leader_id) == (Role.FOLLOWER, 2)
    take(raw)
    assert storage(raw).hard_state.term == raw.term


def test_reject_stale_term_message() -> None:
    """§5.1: "If a server receives a request with a stale term number, it rejects the request." """
    raw = lone_node(term=2)
    raw.step(Message(T.APP, to=1, sender=2, term=1, entries=tuple(entries(1))))
    raw.step(Message(T.VOTE, to=1, sender=2, term=1, index=9, log_term=1))
    assert take(raw) == []
    assert (raw.raft.log.last_index, raw.raft.vote) == (0, 0)


# --- §5.2 elections ---------------------------------------------------------------------------


def test_start_as_follower() -> None:
    """§5.2: "When servers start up, they begin as followers." """
    assert lone_node().role is Role.FOLLOWER


def test_leader_sends_heartbeats_each_interval() -> None:
    """§5.2: "Leaders send periodic heartbeats to all followers in order to maintain their authority." """
    raw = in_role(Role.LEADER, heartbeat_ticks=2)
    for _ in range(3):
        raw.tick()
        assert take(raw) == []
        raw.tick()
        assert [(m.type, m.to) for m in take(raw)] == [(T.HEARTBEAT, 2), (T.HEARTBEAT, 3)]


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE])
def test_a_node_that_hears_nothing_starts_an_election(role: Role) -> None:
    """§5.2: "It then votes for itself and issues RequestVote RPCs in parallel"; "each candidate will time
    out and start a new election by incrementing its term"."""
    raw = in_role(role)
    term = raw.term
    for _ in range(2 * ELECTION_TICKS - 1):
        raw.tick()
    sent = take(raw)
    assert raw.role is Role.CANDIDATE
    assert raw.term == term + 1
    assert raw.raft.vote == 1
    assert [(m.type, m.to, m.term) for m in sent] == [(T.VOTE, 2, term + 1), (T.VOTE, 3, term + 1)]


@pytest.mark.parametrize(
    ("size", "votes", "role"),
    [
        (1, {}, Role.LEADER),
        (3, {2: True, 3: True}, Role.LEADER),
        (3, {2: True}, Role.LEADER),
        (5, {2: True, 3: True, 4: True, 5: True}, Role.LEADER),
        (5, {2: True, 3: True, 4: True}, Role.LEADER),
        (5, {2: True, 3: True}, Role.LEADER),
        (3, {2: False, 3: False}, Role.FOLLOWER),
        (5, {2: False, 3: False, 4: False, 5: False}, Role.FOLLOWER),
        (5, {2: True, 3: False, 4: False, 5: False}, Role.FOLLOWER),
        (3, {}, Role.CANDIDATE),
        (5, {2: True}, Role.CANDIDATE),
        (5, {2: False, 3: False}, Role.CANDIDATE),
        (5, {}, Role.CANDIDATE),
    ],
)
def test_leader_election_in_one_round(size: int, votes: dict[int, bool], role: Role) -> None:
    """§5.2: "A candidate wins an election if it receives votes from a majority of the servers in the full
    cluster for the same term." """
    raw = lone_node(voters=range(1, size + 1))
    raw.campaign()
    take(raw)
    for voter, granted in votes.items():
        raw.step(Message(T.VOTE_RESP, to=1, sender=voter, term=raw.term, reject=not granted))
    assert (raw.role, raw.term) == (role, 1)


@pytest.mark.parametrize(
    ("vote", "candidate", "granted"), [(0, 2, True), (0, 3, True), (2, 2, True), (2, 3, False), (3, 2, False)]
)
def test_follower_votes_once_per_term(vote: int, candidate: int, granted: bool) -> None:
    """§5.2: "each server will vote for at most one candidate in a given term, on a first-come-first-served
    basis"."""
    raw = lone_node(term=1, vote=vote)
    raw.step(Message(T.VOTE, to=1, sender=candidate, term=1))
    (response,) = take(raw)
    assert (response.type, response.to, response.reject) == (T.VOTE_RESP, candidate, not granted)


@pytest.mark.parametrize("newer", [0, 1])
@pytest.mark.parametrize("kind", [T.APP, T.HEARTBEAT])
def test_candidate_falls_back_when_a_leader_speaks(kind: MessageType, newer: int) -> None:
    """§5.2: "If the leader's term is at least as large as the candidate's current term, then the candidate
    recognizes the leader as legitimate and returns to follower state." """
    raw = in_role(Role.CANDIDATE)
    raw.step(Message(kind, to=1, sender=2, term=raw.term + newer))
    assert (raw.role, raw.leader_id) == (Role.FOLLOWER, 2)


def test_election_timeouts_are_randomized() -> None:
    """§5.2: "election timeouts are chosen randomly from a fixed interval"."""
    raw = lone_node()
    seen = set()
    for _ in range(400):
        ticks = 0
        term = raw.term
        while raw.term == term:
            raw.tick()
            ticks += 1
        seen.add(ticks)
    assert seen == set(range(ELECTION_TICKS, 2 * ELECTION_TICKS))


def test_randomized_timeouts_mostly_do_not_conflict() -> None:
    """§5.2: "in most cases only a single server will time out"."""
    raws = [lone_node(i, range(1, 6)) for i in range(1, 6)]
    conflicts = 0
    for _ in range(500):
        timeouts = []
        for raw in raws:
            raw.step(Message(T.APP, to=raw.node_id, sender=9, term=raw.term + 1))
            timeouts.append(raw.raft.randomized_timeout)
        conflicts += timeouts.count(min(timeouts)) > 1
    assert conflicts < 250


# --- §5.3 replication -------------------------------------------------------------------------


def ready_leader() -> RawNode:
    """A leader whose first entry is committed everywhere."""
    raw = in_role(Role.LEADER)
    for peer in (2, 3):
        raw.step(Message(T.APP_RESP, to=1, sender=peer, term=1, index=1))
    take(raw)
    assert raw.commit_index == 1
    return raw


def test_leader_starts_replication() -> None:
    """§5.3: "The leader appends the command to its log as a new entry, then issues AppendEntries RPCs in
    parallel to each of the other servers"."""
    raw = ready_leader()
    raw.propose(b"some data")
    sent = take(raw)
    entry = Entry(1, 2, data=b"some data")
    assert [(m.type, m.to, m.index, m.log_term, m.entries, m.commit) for m in sent] == [
        (T.APP, peer, 1, 1, (entry,), 1) for peer in (2, 3)
    ]
    assert raw.commit_index == 1


def test_leader_commits_what_is_safely_replicated() -> None:
    """§5.3: "When the entry has been safely replicated, the leader applies the entry to its state machine
    and returns the result"; it "keeps track of the highest index it knows to be committed, and it includes
    that index in future AppendEntries RPCs"."""
    raw = ready_leader()
    raw.propose(b"some data")
    take(raw)
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=2))
    ready = raw.ready()
    assert [entry.data for entry in ready.committed_entries] == [b"some data"]
    assert {message.commit for message in ready.messages} == {2}


@pytest.mark.parametrize(
    ("size", "acknowledging", "committed"),
    [(1, (), True), (3, (), False), (3, (2,), True), (3, (2, 3), True), (5, (2,), False), (5, (2, 3), True)],
)
def test_leader_acknowledges_only_with_a_majority(
    size: int, acknowledging: tuple[int, ...], committed: bool
) -> None:
    """§5.3: "A log entry is committed once the leader that created the entry has replicated it on a majority
    of the servers"."""
    raw = lone_node(voters=range(1, size + 1))
    make_leader(raw)
    raw.propose(b"x")
    take(raw)
    for peer in acknowledging:
        raw.step(Message(T.APP_RESP, to=1, sender=peer, term=1, index=2))
    assert (raw.commit_index >= 2) is committed


@pytest.mark.parametrize("before", [(), (2,), (1, 2), (1,)])
def test_leader_commits_preceding_entries(before: tuple[int, ...]) -> None:
    """§5.3: "This also commits all preceding entries in the leader's log, including entries created by
    previous leaders." """
    raw = lone_node(log=entries(*before), term=2)
    make_leader(raw)
    raw.propose(b"x")
    sent = take(raw)
    applied = []
    for message in sent:
        answer(raw, message, T.APP_RESP, index=message.index + len(message.entries))
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=3, index=len(before) + 2))
    while raw.has_ready():
        ready = raw.ready()
        applied += [(entry.term, entry.data) for entry in ready.committed_entries]
        raw.advance()
    assert applied == [*((term, b"") for term in before), (3, b""), (3, b"x")]


@pytest.mark.parametrize("commit", [1, 2, 3])
def test_follower_commits_what_the_leader_says(commit: int) -> None:
    """§5.3: "Once a follower learns that a log entry is committed, it applies the entry to its local state
    machine (in log order)." """
    raw = lone_node(term=1)
    new = tuple(entries(1, 1, 1))
    raw.step(Message(T.APP, to=1, sender=2, term=1, entries=new, commit=commit))
    assert raw.ready().committed_entries == new[:commit]


@pytest.mark.parametrize(
    ("log_term", "index", "refused", "hint"),
    [(0, 0, False, 0), (1, 1, False, 0), (2, 2, False, 0), (1, 2, True, 1), (3, 3, True, 2)],
)
def test_follower_checks_the_entry_before(log_term: int, index: int, refused: bool, hint: int) -> None:
    """§5.3: "If the follower does not find an entry in its log with the same index and term, then it refuses
    the new entries." """
    raw = lone_node(log=entries(1, 2), commit=1)
    raw.step(Message(T.APP, to=1, sender=2, term=2, log_term=log_term, index=index))
    (response,) = take(raw)
    assert (response.type, response.reject, response.reject_hint) == (T.APP_RESP, refused, hint)


@pytest.mark.parametrize(
    ("index", "log_term", "new", "result"),
    [
        (2, 2, (3,), [1, 2, 3]),
        (1, 1, (3, 4), [1, 3, 4]),
        (0, 0, (1,), [1, 2]),
        (0, 0, (3,), [3]),
        (1, 1, (2,), [1, 2]),
    ],
)
def test_follower_append_entries_truncates_only_on_conflict(
    index: int, log_term: int, new: tuple[int, ...], result: list[int]
) -> None:
    """§5.3: "if an existing entry conflicts with a new one, delete the existing entry and all that follow
    it"; and figure 2: only then."""
    raw = lone_node(log=entries(1, 2), term=2)
    sent = tuple(entries(*new, start=index + 1))
    raw.step(Message(T.APP, to=1, sender=2, term=4, log_term=log_term, index=index, entries=sent))
    take(raw)
    store = storage(raw)
    assert [entry.term for entry in store.entries(1, store.last_index() + 1, NO_LIMIT)] == result


@pytest.mark.parametrize(
    "follower",
    [
        (1, 1, 1, 4, 4, 5, 5, 6, 6),
        (1, 1, 1, 4),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
        (1, 1, 1, 4, 4, 4, 4),
        (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
    ],
    ids="abcdef",
)
def test_leader_syncs_the_logs_of_figure_7(cluster: Build, follower: tuple[int, ...]) -> None:
    """§5.3, figure 7: "the leader's log ... forces followers' logs to duplicate its own". With term hints
    it takes a handful of rounds, not one an entry."""
    leader = entries(1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
    nodes = cluster(3, logs={1: leader, 2: entries(*follower)})
    nodes.storages[1].hard_state = nodes.storages[1].hard_state.__class__(8, 0, 0)
    nodes.start(1)
    # The third has nothing and only lends its vote: the second may have the longer log.
    nodes.elect(1)
    assert nodes.log_of(1) == nodes.log_of(2) == nodes.log_of(3)
    refused = [m for m in nodes.history if m.type is T.APP_RESP and m.sender == 2 and m.reject]
    assert len(refused) <= 3


# --- §5.4 safety ------------------------------------------------------------------------------


def test_a_vote_request_names_the_last_entry() -> None:
    """§5.4.1: "the RPC includes information about the candidate's log"."""
    raw = lone_node(log=entries(1, 2), term=2)
    raw.campaign()
    sent = take(raw)
    assert [(m.type, m.to, m.term, m.log_term, m.index) for m in sent] == [
        (T.VOTE, peer, 3, 2, 2) for peer in (2, 3)
    ]


@pytest.mark.parametrize(
    ("own", "log_term", "index", "granted"),
    [
        ((1,), 1, 1, True),
        ((1,), 1, 2, True),
        ((1, 1), 1, 1, False),
        ((1,), 2, 1, True),
        ((1, 1), 2, 1, True),
        ((2,), 1, 1, False),
        ((2,), 1, 2, False),
        ((1, 2), 1, 1, False),
    ],
)
def test_a_voter_compares_logs(own: tuple[int, ...], log_term: int, index: int, granted: bool) -> None:
    """§5.4.1: "the voter denies its vote if its own log is more up-to-date than that of the candidate"."""
    raw = lone_node(log=entries(*own), term=2)
    raw.step(Message(T.VOTE, to=1, sender=2, term=3, log_term=log_term, index=index))
    (response,) = take(raw)
    assert response.reject is not granted
    assert (storage(raw).hard_state.vote == 2) is granted


@pytest.mark.parametrize(("index", "commit"), [(1, 0), (2, 0), (3, 3)])
def test_leader_only_commits_entries_of_its_own_term(index: int, commit: int) -> None:
    """§5.4.2, figure 8: "only log entries from the leader's current term are committed by counting
    replicas"."""
    raw = lone_node(log=entries(1, 2), term=2)
    make_leader(raw)
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=3, index=index))
    assert raw.commit_index == commit


def test_figure_8(cluster: Build) -> None:
    """§5.4.2, figure 8: an entry on a majority may still be overwritten, so it is not committed until one
    of the leader's own term is."""
    nodes = cluster(5, max_message_bytes=1)  # one entry a message
    # (a) The first leader's entry reaches only one follower.
    nodes.elect(1)
    nodes.isolate(1, 2)
    nodes.propose(1, b"two")
    # (b) The fifth is elected by the rest, and takes entries that reach nobody.
    nodes.crash(1)
    nodes.heal()
    nodes.isolate(3, 4, 5)
    nodes.drops = lambda message: message.type is T.APP
    nodes.elect(5)
    nodes.propose(5, b"three")
    assert [len(nodes.log_of(i)) for i in range(1, 6)] == [2, 2, 1, 1, 3]
    # (c) The first returns and replicates its old entry to a majority: no reason to commit it, until
    # an entry of its new term follows.
    nodes.crash(5)
    nodes.heal()
    nodes.restart(1)
    nodes[1].campaign()  # in a term that the others know already
    nodes.settle()
    nodes.drops = lambda message: message.index == 2 and len(nodes.log_of(message.to)) == 2
    nodes.elect(1)
    assert [len(nodes.log_of(i)) for i in range(1, 6)] == [3, 2, 2, 2, 3]
    assert nodes[1].commit_index == 1
    # (e) With it both are committed, and the fifth has lost.
    nodes.heal()
    nodes.propose(1, b"four")
    nodes.restart(5)
    nodes[5].campaign()
    nodes.settle()
    assert nodes[5].role is not Role.LEADER
    nodes.tick_all(6 * ELECTION_TICKS)
    assert all(nodes.data_of(i) == [b"two", b"four"] for i in nodes.raws)


def test_a_proposal_without_leader_is_dropped() -> None:
    """§8: clients go to the leader; without one there is nowhere to go."""
    for raw in (in_role(Role.FOLLOWER), in_role(Role.CANDIDATE)):
        with pytest.raises(ProposalDropped):
            raw.propose(b"x")
