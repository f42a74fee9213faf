"""How much is sent before an answer (thesis §10.2.1), and how a stalled follower recovers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from raft_cluster import Cluster, answer, lone_node, make_leader, of_type, storage, take

from aspen.raft.core import ProposalDropped
from aspen.raft.log import ENTRY_OVERHEAD_BYTES
from aspen.raft.messages import Entry, Message, MessageType
from aspen.raft.progress import ReplicationState
from aspen.raft.rawnode import RawNode

T = MessageType
Build = Callable[..., Cluster]


def replicating(**settings: object) -> RawNode:
    """A leader of two, whose follower is known to have all there is."""
    raw = lone_node(voters=(1, 2), **settings)  # type: ignore[arg-type]  # forwarded as they are
    make_leader(raw)
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=1))
    take(raw)
    assert raw.raft.progress[2].state is ReplicationState.REPLICATE
    return raw


def appends(raw: RawNode) -> list[Message]:
    return of_type(take(raw), T.APP)


def test_a_batch_of_proposals_is_one_message_to_each_follower() -> None:
    raw = lone_node()
    make_leader(raw)
    for peer in (2, 3):
        raw.step(Message(T.APP_RESP, to=1, sender=peer, term=1, index=1))
    take(raw)
    raw.propose_many([b"%d" % number for number in range(100)])
    sent = appends(raw)
    assert [(m.to, len(m.entries)) for m in sent] == [(2, 100), (3, 100)]
    assert sent[0].entries is sent[1].entries, "prepared once for all that are level"


def test_replication_does_not_wait_for_answers_until_the_window_is_full() -> None:
    raw = replicating(max_inflight_messages=3)
    sent = []
    for number in range(5):
        raw.propose(b"%d" % number)
        sent += appends(raw)
    assert [message.entries[0].index for message in sent] == [2, 3, 4]
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=3))
    # Two have been freed, but what is left goes in one message; then comes the new commit index.
    assert [[entry.index for entry in m.entries] for m in appends(raw) if m.entries] == [[5, 6]]


def test_the_window_counts_bytes() -> None:
    raw = replicating(max_inflight_bytes=1000, max_message_bytes=1000)
    sent = []
    for _ in range(5):
        raw.propose(b"x" * 400)
        sent += appends(raw)
    assert len(sent) == 3


def test_a_full_window_lets_an_empty_append_out_on_a_heartbeat_answer() -> None:
    """All that filled it may have been lost: the answer to the empty one shows from where to resend."""
    raw = replicating(max_inflight_messages=2)
    for _ in range(4):
        raw.propose(b"x")
    assert len(appends(raw)) == 2
    raw.step(Message(T.HEARTBEAT_RESP, to=1, sender=2, term=1))
    (empty,) = appends(raw)
    assert (empty.entries, empty.index) == ((), 3)
    answer(raw, empty, T.APP_RESP, index=3, reject=True, reject_hint=1, log_term=1)
    (resent,) = appends(raw)
    assert [entry.index for entry in resent.entries] == [2, 3, 4, 5]


def test_a_message_is_cut_at_its_size_and_the_rest_follows_at_once() -> None:
    size = 100 + ENTRY_OVERHEAD_BYTES
    raw = replicating(max_message_bytes=2 * size)
    raw.propose_many([b"x" * 100] * 5)
    (first,) = appends(raw)
    assert len(first.entries) == 2
    answer(raw, first, T.APP_RESP, index=3)
    assert [len(m.entries) for m in appends(raw) if m.entries] == [2, 1]


def test_one_entry_goes_even_if_it_is_too_large() -> None:
    raw = replicating(max_message_bytes=100)
    raw.propose(b"x" * 1000)
    assert [len(m.entries) for m in appends(raw)] == [1]


def test_a_probed_follower_is_sent_one_message_a_heartbeat() -> None:
    raw = lone_node(voters=(1, 2))
    make_leader(raw)
    raw.raft.progress[2].become_probe()
    for _ in range(3):
        raw.propose(b"x")
    assert len(appends(raw)) == 1
    for _ in range(2):
        raw.step(Message(T.HEARTBEAT_RESP, to=1, sender=2, term=1))
        raw.propose(b"x")
        assert len(appends(raw)) == 1


def test_an_unreachable_follower_is_probed() -> None:
    raw = replicating()
    raw.propose(b"lost")
    take(raw)
    raw.report_unreachable(2)
    progress = raw.raft.progress[2]
    assert (progress.state, progress.next) == (ReplicationState.PROBE, 2)
    raw.propose(b"more")
    (probe,) = appends(raw)
    assert [entry.data for entry in probe.entries] == [b"lost", b"more"]
    answer(raw, probe, T.APP_RESP, index=3)
    assert progress.state is ReplicationState.REPLICATE


def test_too_much_uncommitted_is_refused_until_it_commits() -> None:
    raw = replicating(max_uncommitted_bytes=3000)
    for _ in range(3):
        raw.propose(b"x" * 1000)
    with pytest.raises(ProposalDropped):
        raw.propose(b"x")
    raw.propose(b"")  # which counts for nothing
    take(raw)
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=raw.raft.log.last_index))
    take(raw)
    assert raw.raft.uncommitted_bytes == 0
    raw.propose(b"x" * 5000)  # a single one of any size, when nothing else waits
    with pytest.raises(ProposalDropped):
        raw.propose_many([b"a", b"b"])


def test_a_batch_is_taken_whole_or_not_at_all() -> None:
    raw = replicating(max_uncommitted_bytes=1000)
    raw.propose(b"x" * 900)
    last = raw.raft.log.last_index
    with pytest.raises(ProposalDropped):
        raw.propose_many([b"x" * 90, b"x" * 90])
    assert raw.raft.log.last_index == last


def test_reordered_messages_never_probe_below_match() -> None:
    raw = replicating()
    raw.propose_many([b"a", b"b"])
    take(raw)
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=3))
    take(raw)
    stale = Message(T.APP_RESP, to=1, sender=2, term=1, index=1, reject=True, reject_hint=0)
    raw.step(stale)
    progress = raw.raft.progress[2]
    assert (progress.match, progress.next) == (3, 4)
    assert appends(raw) == []


def test_a_reject_hint_is_no_match() -> None:
    """CCF #5325: a hint says where logs could agree, not that they do."""
    raw = replicating()
    raw.propose_many([b"a", b"b"])
    take(raw)
    raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=3, reject=True, reject_hint=3, log_term=1))
    take(raw)
    assert raw.raft.progress[2].match == 1
    assert raw.commit_index == 1


def test_old_messages_are_ignored() -> None:
    """An append of an earlier term changes nothing, even where it would fit."""
    raw = lone_node(term=3)
    new = (Entry(3, 1), Entry(3, 2))
    raw.step(Message(T.APP, to=1, sender=2, term=3, entries=new))
    raw.step(Message(T.APP, to=1, sender=3, term=2, entries=(Entry(2, 1),)))
    take(raw)
    assert storage(raw).term(1) == 3


def test_an_append_with_a_gap_is_ignored() -> None:
    raw = lone_node(term=1)
    for gap in ((Entry(1, 5),), (Entry(1, 1), Entry(1, 3))):
        raw.step(Message(T.APP, to=1, sender=2, term=1, entries=gap))
    assert raw.raft.log.last_index == 0


def test_a_single_slow_follower_does_not_hold_up_the_others(cluster: Build) -> None:
    nodes = cluster(3, max_inflight_messages=2)
    nodes.elect(1)
    nodes.isolate(3)
    for number in range(20):
        nodes.propose(1, b"%d" % number)
    assert len(nodes.data_of(2)) == 20
    nodes.heal()
    nodes.tick_all(3)
    assert nodes.data_of(3) == nodes.data_of(2)
