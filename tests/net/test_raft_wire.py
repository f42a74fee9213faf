"""Raft messages as bytes: what goes over comes back, what is local or broken does not pass."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aspen.errors import RaftWireError
from aspen.limits import RAFT_FRAME_BYTES
from aspen.raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    LOCAL_TYPES,
    ConfState,
    Entry,
    EntryKind,
    Message,
    MessageType,
    Snapshot,
    SnapshotMetadata,
)
from aspen.raft.wire import decode_message, encode_message

u64 = st.integers(0, 2**64 - 1)
node_ids = st.integers(1, LOCAL_APPLY_THREAD - 1)
entries = st.builds(Entry, term=u64, index=u64, kind=st.sampled_from(EntryKind), data=st.binary(max_size=20))
conf_states = st.builds(ConfState, voters=st.tuples(node_ids), learners=st.tuples(), auto_leave=st.booleans())
snapshots = st.builds(
    Snapshot,
    data=st.binary(max_size=20),
    metadata=st.builds(SnapshotMetadata, conf_state=conf_states, index=u64, term=u64),
)
messages = st.builds(
    Message,
    type=st.sampled_from([kind for kind in MessageType if kind not in LOCAL_TYPES]),
    to=node_ids,
    sender=node_ids,
    term=u64,
    log_term=u64,
    index=u64,
    entries=st.lists(entries, max_size=4).map(tuple),
    commit=u64,
    vote=u64,
    snapshot=st.none() | snapshots,
    reject=st.booleans(),
    reject_hint=u64,
    context=st.binary(max_size=20),
    responses=st.just(()),
)
A_VOTE = Message(MessageType.VOTE, to=1, sender=2, term=3)


@given(messages)
def test_every_message_comes_back_as_it_was(message):
    assert decode_message(encode_message(message)) == message


@pytest.mark.parametrize("kind", sorted(LOCAL_TYPES))
def test_what_a_node_says_to_itself_neither_leaves_nor_enters(kind):
    message = Message(kind, to=1, sender=2)
    with pytest.raises(RaftWireError):
        encode_message(message)
    with pytest.raises(RaftWireError):
        decode_message(msgspec.msgpack.encode(message))


@pytest.mark.parametrize(
    "changes",
    [
        {"to": 0},
        {"sender": 0},
        {"to": LOCAL_APPEND_THREAD},
        {"sender": LOCAL_APPLY_THREAD},
        {"responses": (A_VOTE,)},
    ],
)
def test_nobody_speaks_for_this_nodes_own_threads(changes):
    forged = msgspec.structs.replace(A_VOTE, **changes)
    with pytest.raises(RaftWireError):
        decode_message(msgspec.msgpack.encode(forged))
    with pytest.raises(RaftWireError):
        encode_message(forged)


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"\xc1",
        b"\x90",
        msgspec.msgpack.encode([5, -1, 2]),
        msgspec.msgpack.encode([5, 1, "2"]),
        msgspec.msgpack.encode([99, 1, 2]),
        msgspec.msgpack.encode(A_VOTE) + b"\x00",
        msgspec.msgpack.encode({"type": 5}),
    ],
)
def test_junk_is_refused(junk):
    with pytest.raises(RaftWireError):
        decode_message(junk)


def test_deep_nesting_is_refused():
    with pytest.raises(RaftWireError):
        decode_message(b"\x9e\x05" + b"\x01" * 4 + b"\x91" * 100_000)
    nested = b"\x9e\x05\x01\x02\x00\x00\x00\x90\x00\x00\xc0\xc2\x00\xc4\x00\x91"
    with pytest.raises(RaftWireError):
        decode_message(nested * 50_000)


def test_the_size_is_bounded_both_ways():
    large = Message(MessageType.APP, to=1, sender=2, entries=(Entry(1, 1, data=bytes(RAFT_FRAME_BYTES)),))
    with pytest.raises(RaftWireError):
        encode_message(large)
    with pytest.raises(RaftWireError):
        decode_message(msgspec.msgpack.encode(large))


@settings(max_examples=300)
@given(messages, st.data())
def test_a_damaged_frame_is_a_message_or_an_error_and_nothing_else(message, data):
    frame = bytearray(encode_message(message))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode_message(bytes(frame)).type not in LOCAL_TYPES
    except RaftWireError:
        pass
