"""The face of the core: readies in both modes, restarts, founding, and what is ignored."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import msgspec
import pytest
from raft_cluster import (
    Cluster,
    add,
    carry_out,
    entries,
    lone_node,
    make_leader,
    of_type,
    raw_node,
    remove,
    storage,
    storage_of,
    take,
)

from aspen.errors import ConfigError, InvariantViolation
from aspen.raft.memory import MemoryStorage
from aspen.raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    LOCAL_TYPES,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageType,
)
from aspen.raft.rawnode import ProposalDropped, RawNode, Role

T = MessageType
Build = Callable[..., Cluster]


def work(raw: RawNode) -> dict[MessageType, Message]:
    """The storage work of one Ready, by its type."""
    return {m.type: m for m in raw.ready().messages if m.to in (LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD)}


def finish(raw: RawNode, item: Message) -> list[Message]:
    """Do a piece of storage work; tell the node; return what leaves for others."""
    if item.type is T.STORAGE_APPEND:
        if item.term:
            storage(raw).hard_state = HardState(item.term, item.vote, item.commit)
        storage(raw).append(item.entries)
    for response in item.responses:
        if response.to == raw.node_id:
            raw.step(response)
    return [response for response in item.responses if response.to != raw.node_id]


# --- asynchronous storage ---------------------------------------------------------------------


def test_what_promises_durability_waits_for_it() -> None:
    """No answer precedes its persist; what promises nothing leaves at once."""
    raw = lone_node(term=1, async_storage_writes=True)
    raw.step(Message(T.APP, to=1, sender=2, term=1, entries=tuple(entries(1))))
    raw.step(Message(T.HEARTBEAT, to=1, sender=2, term=1))
    ready = raw.ready()
    assert [m.type for m in ready.messages] == [T.HEARTBEAT_RESP, T.STORAGE_APPEND]
    assert ready.messages_after_persist == ()
    append = ready.messages[1]
    assert append.entries == tuple(entries(1))
    assert [(m.type, m.to, m.index) for m in append.responses] == [
        (T.APP_RESP, 2, 1),
        (T.STORAGE_APPEND_RESP, 1, 1),
    ]


def test_the_next_ready_does_not_wait_for_the_disk() -> None:
    raw = lone_node(term=1, async_storage_writes=True)
    handed_out: list[Entry] = []
    for index in (1, 2, 3):
        raw.step(
            Message(
                T.APP,
                to=1,
                sender=2,
                term=1,
                index=index - 1,
                log_term=min(index - 1, 1),
                entries=(Entry(1, index),),
            )
        )
        handed_out += work(raw)[T.STORAGE_APPEND].entries
    assert handed_out == entries(1, 1, 1)
    assert not raw.has_ready()


def test_a_lone_leader_commits_and_applies_only_what_is_on_its_disk() -> None:
    """etcd #14370: one node is a quorum, its memory is not."""
    raw = lone_node(voters=(1,), async_storage_writes=True)
    raw.campaign()
    finish(raw, work(raw)[T.STORAGE_APPEND])
    assert raw.role is Role.LEADER
    raw.propose(b"x")
    append = work(raw)[T.STORAGE_APPEND]
    assert (raw.commit_index, raw.has_ready()) == (0, False)
    finish(raw, append)
    following = work(raw)
    assert [entry.index for entry in following[T.STORAGE_APPLY].entries] == [1, 2]


def test_entries_committed_before_they_are_on_disk_wait_to_be_applied() -> None:
    raw = lone_node(term=1, async_storage_writes=True)
    raw.step(Message(T.APP, to=1, sender=2, term=1, entries=tuple(entries(1, 1)), commit=2))
    first = work(raw)
    assert T.STORAGE_APPLY not in first
    finish(raw, first[T.STORAGE_APPEND])
    assert work(raw)[T.STORAGE_APPLY].entries == tuple(entries(1, 1))


def test_an_entry_that_was_overwritten_and_came_back_is_not_taken_for_the_first() -> None:
    """The same (index, term) may be written twice with something else in between: only an answer of the
    current term counts, and the newest one speaks for all that is under way."""
    raw = lone_node(5, voters=range(1, 8), term=1, async_storage_writes=True)

    def lead(sender: int, term: int, *new: int) -> Message:
        raw.step(Message(T.APP, to=5, sender=sender, term=term, entries=tuple(entries(*new))))
        return work(raw)[T.STORAGE_APPEND]

    first = lead(3, 2, 2)
    second = lead(4, 3, 3)
    third = lead(3, 4, 2)
    late = [m for m in first.responses if m.type is T.STORAGE_APPEND_RESP]
    storage(raw).append(first.entries)
    raw.step(late[0])
    assert len(raw.raft.log.unstable.entries) == 1, "confirmed in term 2, but written over since"
    finish(raw, second)
    assert len(raw.raft.log.unstable.entries) == 1
    finish(raw, third)
    assert raw.raft.log.unstable.entries == []
    assert storage(raw).term(1) == 2


# --- readies ----------------------------------------------------------------------------------


def test_synchronous_readies_come_one_at_a_time() -> None:
    raw = lone_node()
    with pytest.raises(InvariantViolation):
        raw.advance()
    raw.campaign()
    raw.ready()
    with pytest.raises(InvariantViolation):
        raw.ready()
    raw.advance()


def test_nothing_to_do_is_not_ready() -> None:
    raw = lone_node(term=1)
    assert not raw.has_ready()
    raw.tick()
    assert not raw.has_ready()


def test_only_terms_votes_and_entries_need_a_sync() -> None:
    raw = lone_node(log=entries(1))
    raw.step(Message(T.HEARTBEAT, to=1, sender=2, term=1, commit=1))
    ready = carry_out(raw)
    assert (ready.must_sync, ready.hard_state) == (False, HardState(1, 0, 1))
    raw.step(Message(T.VOTE, to=1, sender=3, term=2, index=9, log_term=9))
    assert carry_out(raw).must_sync


def test_what_is_handed_out_is_frozen() -> None:
    raw = lone_node(term=1)
    raw.step(Message(T.APP, to=1, sender=2, term=1, entries=tuple(entries(1, 1))))
    ready = raw.ready()
    before = msgspec.json.encode(ready)
    raw.step(Message(T.APP, to=1, sender=3, term=2, entries=tuple(entries(2)), commit=1))
    assert msgspec.json.encode(ready) == before
    with pytest.raises(AttributeError):
        ready.entries[0].term = 7  # type: ignore[misc]  # that is the point


def test_status_is_a_picture() -> None:
    raw = lone_node()
    make_leader(raw)
    status = raw.status()
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=1))
    assert status.progress[2].match == 0
    assert raw.status().progress[2].match == 1
    assert (status.soft_state.role, status.hard_state.term, status.last_index) == (Role.LEADER, 1, 1)


# --- proposals --------------------------------------------------------------------------------


def test_an_empty_batch_is_nothing() -> None:
    raw = lone_node()
    make_leader(raw)
    raw.propose_many([])
    assert not raw.has_ready()
    with pytest.raises(ProposalDropped):
        lone_node().propose_many([b"x"])


def test_proposals_keep_their_order_from_anywhere(cluster: Build) -> None:
    nodes = cluster(3)
    nodes.elect(1)
    nodes[1].propose(b"a")
    nodes[2].propose_many([b"b", b"c"])
    nodes.settle()
    nodes[3].propose(b"d")
    nodes.settle()
    assert all(nodes.data_of(i) == [b"a", b"b", b"c", b"d"] for i in nodes.raws)


# --- restarts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("applied", "again"), [(0, [1, 2, 3]), (2, [3]), (3, [])])
def test_after_a_restart_what_was_committed_and_not_applied_comes_again(
    applied: int, again: list[int]
) -> None:
    store = storage_of((1, 2, 3), log=entries(1, 1, 1, 1), commit=3)
    for is_async in (False, True):
        raw = raw_node(1, store, applied=applied, async_storage_writes=is_async)
        assert raw.has_ready() == bool(again)
        assert [entry.index for entry in raw.ready().committed_entries] == again


def test_a_restart_may_find_more_applied_than_the_commit_index_says() -> None:
    """The commit index need not be synced; what is applied was committed."""
    raw = raw_node(1, storage_of((1, 2, 3), log=entries(1, 1, 1), commit=1), applied=2)
    assert (raw.commit_index, raw.raft.log.applied) == (2, 2)


def test_a_log_that_lost_committed_entries_is_not_started_from() -> None:
    with pytest.raises(InvariantViolation, match="truncated or lost"):
        raw_node(1, storage_of((1, 2, 3), log=entries(1), commit=3))


def test_a_restarted_cluster_goes_on(cluster: Build) -> None:
    nodes = cluster(3)
    nodes.elect(1)
    nodes.propose(1, b"a")
    for node_id in (1, 2, 3):
        nodes.restart(node_id)
    nodes.tick_all(40)
    (leader,) = nodes.leaders()
    nodes.propose(leader, b"b")
    assert all(nodes.data_of(i) == [b"a", b"b"] for i in nodes.raws)


# --- founding ---------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
def test_founders_put_themselves_into_the_log(is_async: bool) -> None:
    raw = raw_node(1, MemoryStorage(), async_storage_writes=is_async)
    raw.bootstrap([(1, b"one"), (2, b"two")])
    ready = raw.ready()
    assert ready.hard_state == HardState(1, 0, 2)
    assert [(e.term, e.index, e.kind) for e in ready.entries] == [
        (1, 1, EntryKind.CONF_CHANGE),
        (1, 2, EntryKind.CONF_CHANGE),
    ]
    assert ready.committed_entries == (() if is_async else ready.entries)
    assert raw.raft.configuration.voters == {1, 2}


def test_a_group_is_founded_once() -> None:
    raw = lone_node(log=entries(1))
    with pytest.raises(InvariantViolation):
        raw.bootstrap([(1, b"")])
    with pytest.raises(InvariantViolation):
        raw_node(1, MemoryStorage()).bootstrap([])


def test_founders_elect_a_leader_and_newcomers_learn_of_them(cluster: Build) -> None:
    nodes = cluster(3, joining=(4,))
    nodes.tick_all(40)
    (leader,) = nodes.leaders()
    nodes.change(leader, add(4))
    nodes.propose(leader, b"x")
    assert nodes[4].raft.configuration.voters == {1, 2, 3, 4}
    assert nodes.data_of(4) == [b"x"]


# --- what is ignored --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(LOCAL_TYPES))
def test_local_messages_from_elsewhere_are_ignored(kind: MessageType) -> None:
    raw = lone_node()
    make_leader(raw)
    message = Message(kind, to=1, sender=2, term=1)
    assert not raw.knows(message)
    raw.step(message)
    assert not raw.has_ready()


@pytest.mark.parametrize(
    "message",
    [
        Message(T.APP_RESP, to=1, sender=9, term=7, index=1),
        Message(T.APP, to=1, sender=2, term=0),
        Message(T.PROP, to=1, sender=2, term=7, entries=(Entry(),)),
        Message(T.READ_INDEX, to=1, sender=2, term=7),
    ],
    ids=["a stranger's answer", "no term", "a term where none belongs", "nor here"],
)
def test_messages_that_no_member_sends_are_ignored(message: Message) -> None:
    raw = lone_node(term=1)
    raw.step(message)
    assert (raw.term, raw.has_ready()) == (1, False)


def test_a_removed_leaders_refusal_says_what_is_committed(cluster: Build) -> None:
    """Two members, the leader removes itself, and the news is lost with it: the other still counts on its
    vote, which its longer log forbids. Knowing of the removal, it needs none."""
    nodes = cluster(2, step_down_on_removal=True)
    nodes.elect(1)
    nodes[1].propose_conf_change(remove(1))
    nodes[1].propose(b"never sent")
    nodes.drops = lambda message: message.commit >= 2 or any(e.data == b"never sent" for e in message.entries)
    nodes.settle()
    assert nodes[1].role is Role.FOLLOWER
    assert nodes[2].commit_index == 1
    nodes.heal()
    nodes[2].campaign()
    nodes.settle()
    assert nodes[2].raft.configuration.voters == {2}
    nodes.elect(2)
    nodes.propose(2, b"goes on")
    assert nodes.data_of(2) == [b"goes on"]


def test_an_ordinary_refusal_says_nothing_of_it() -> None:
    raw = lone_node(log=entries(1, 1), commit=1)
    raw.step(Message(T.VOTE, to=1, sender=2, term=2))
    (refusal,) = take(raw)
    assert (refusal.reject, refusal.commit, refusal.log_term) == (True, 0, 0)


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"heartbeat_ticks": 0},
        {"election_ticks": 1},
        {"election_ticks_max": 5},
        {"max_inflight_messages": 0},
        {"max_inflight_bytes": 10, "max_message_bytes": 100},
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        lone_node(**settings)  # type: ignore[arg-type]  # forwarded as they are


@pytest.mark.parametrize("node_id", [0, -1, LOCAL_APPLY_THREAD])
def test_a_node_id_is_none_of_the_reserved(node_id: int) -> None:
    with pytest.raises(ConfigError):
        lone_node(node_id)


def test_the_same_seed_is_the_same_cluster() -> None:
    """No clock, no global randomness, no order of sets: a run is its inputs."""

    def run() -> list[Message]:
        nodes = Cluster(5)
        for _ in range(30):
            nodes.tick_all(1)
            for leader in nodes.leaders():
                nodes[leader].propose(b"x")
        nodes.settle()
        return nodes.history

    first, second = run(), run()
    assert first == second
    assert len(first) > 100


def test_terms_and_commits_never_go_back(cluster: Build) -> None:
    nodes = cluster(3, check_quorum=True, pre_vote=True)
    seen: dict[int, list[tuple[int, int]]] = {1: [], 2: [], 3: []}
    for number in range(60):
        if number % 20 == 7:
            nodes.isolate(1 + number % 3)
        if number % 20 == 17:
            nodes.heal()
        nodes.tick_all(1)
        for leader in nodes.leaders():
            nodes.propose(leader, b"%d" % number)
        for node_id, raw in nodes.raws.items():
            seen[node_id].append((raw.term, raw.commit_index))
    for states in seen.values():
        assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(states))
    assert of_type(nodes.history, T.APP)


def test_a_storage_with_a_snapshot_starts_after_it() -> None:
    store = storage_of((1, 2), log=entries(1, 1, 2), compacted=2)
    raw = raw_node(1, store, applied=2)
    log = raw.raft.log
    assert (log.first_index, log.last_index, log.committed, log.last_term) == (3, 3, 2, 2)
    assert raw.raft.configuration.conf_state() == ConfState(voters=(1, 2))
