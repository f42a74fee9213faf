"""News of the disk that comes late, out of order, or for what is no longer so (thesis §10.2.1)."""

from __future__ import annotations

import itertools

import pytest
from raft_cluster import entries, lone_node, make_leader, storage, take

from aspen.raft.messages import Entry, Message, MessageType
from aspen.raft.rawnode import RawNode, Role

T = MessageType


def append_work(raw: RawNode) -> Message:
    """The write that the core asks for now."""
    (work,) = [m for m in raw.ready().messages if m.type is T.STORAGE_APPEND]
    storage(raw).append(work.entries)
    return work


def lone_leader() -> RawNode:
    """A leader without followers, whose disk has answered all there was."""
    raw = lone_node(voters=(1,), async_storage_writes=True)
    raw.campaign()
    for _ in range(2):
        tell(raw, append_work(raw))
    assert (raw.role, raw.commit_index) == (Role.LEADER, 1)
    raw.ready()
    return raw


def tell(raw: RawNode, work: Message) -> None:
    for response in work.responses:
        if response.to == raw.node_id:
            raw.step(response)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_writes_confirmed_out_of_order_strand_nothing(order: tuple[int, ...]) -> None:
    """openraft #1964: whichever of three writes is heard of last, in the end all are known to be on
    disk, and on the way nothing that was known is unlearned."""
    raw = lone_leader()
    works = []
    for name in (b"a", b"b", b"c"):
        raw.propose(name)
        works.append(append_work(raw))
    highest = 0
    for position in order:
        tell(raw, works[position])
        highest = max(highest, position + 2)
        assert raw.raft.progress[1].match == raw.commit_index == highest
    assert raw.raft.log.unstable.entries == []
    assert raw.raft.log.unstable.offset == 5


def test_a_leaders_word_to_itself_is_of_its_term() -> None:
    """Its own disk answers after it was deposed and elected again: by then the entry is another one."""
    raw = lone_node(async_storage_writes=True)
    raw.campaign()
    take_async(raw)
    raw.step(Message(T.VOTE_RESP, to=1, sender=2, term=1))
    raw.propose(b"overwritten")
    late = append_work(raw)
    raw.step(Message(T.APP, to=1, sender=2, term=2, entries=(Entry(2, 1),)))
    take_async(raw)
    raw.campaign()
    take_async(raw)
    raw.step(Message(T.VOTE_RESP, to=1, sender=3, term=3))
    own = raw.raft.progress[1].match
    work = append_work(raw)
    tell(raw, late)
    assert raw.raft.progress[1].match == own
    assert len(raw.raft.log.unstable.entries) == 1
    tell(raw, work)
    assert raw.raft.progress[1].match == own + 1


def test_a_leader_deposed_before_its_ready_is_done_does_not_count_itself() -> None:
    """The same where core and disk go in step: what comes between a Ready and its `advance` is later."""
    raw = lone_node(log=entries(1), term=1)
    make_leader(raw)
    raw.propose(b"x")
    ready = raw.ready()
    storage(raw).append(ready.entries)
    raw.step(Message(T.HEARTBEAT, to=1, sender=3, term=5))
    raw.advance()
    assert (raw.role, raw.leader_id, raw.raft.progress[1].match) == (Role.FOLLOWER, 3, 3)
    take(raw)
    raw.step(Message(T.APP, to=1, sender=3, term=5, index=1, log_term=1, entries=(Entry(5, 2),), commit=2))
    take(raw)
    assert (storage(raw).last_index(), storage(raw).term(2), raw.commit_index) == (2, 5, 2)


def take_async(raw: RawNode) -> None:
    """Carry out, at once, all that is asked for now."""
    while raw.has_ready():
        for message in raw.ready().messages:
            if message.type is T.STORAGE_APPEND:
                storage(raw).append(message.entries)
                tell(raw, message)
