"""Raft messages over an endpoint: to whom, and from whom not."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from aspen.raft.messages import LOCAL_APPEND_THREAD, Message, MessageType
from aspen.raft.transport import RaftTransport
from aspen.raft.wire import decode_message, encode_message

MEMBERS = {1: b"A", 2: b"B", 3: b"C"}


@dataclass
class Peer:
    node_id: int
    incarnation: bytes = b""


class FakeEndpoint:
    def __init__(self):
        self.sent = []
        self.dialled = []
        self.down = set()

    def send(self, endpoint_id, frames):
        if endpoint_id in self.down:
            return False
        self.sent.append((endpoint_id, [decode_message(frame) for frame in frames]))
        return True

    def dial(self, endpoint_id):
        self.dialled.append(endpoint_id)
        return True

    async def open_stream(self, endpoint_id):
        return f"a stream to {endpoint_id}"


class Node:
    def __init__(self):
        self.endpoint = FakeEndpoint()
        self.heard = []
        self.unreachable = []
        self.restarted = []
        self.transport = RaftTransport(
            self.endpoint,
            1,
            MEMBERS.get,
            on_message=self.heard.append,
            on_unreachable=self.unreachable.append,
            on_restarted=self.restarted.append,
        )


@pytest.fixture
def node():
    return Node()


def append(to, sender=1, index=0):
    return Message(MessageType.APP, to=to, sender=sender, term=1, index=index)


def test_messages_for_one_member_leave_together_and_in_order(node):
    node.transport.send([append(2, index=1), append(3, index=2), append(2, index=3)])
    assert node.endpoint.sent == [
        (b"B", [append(2, index=1), append(2, index=3)]),
        (b"C", [append(3, index=2)]),
    ]


def test_what_cannot_leave_is_dropped_and_counted(node):
    node.endpoint.down.add(b"B")
    node.transport.send([append(2), append(9), append(LOCAL_APPEND_THREAD), append(3)])
    assert node.endpoint.sent == [(b"C", [append(3)])]
    assert node.transport.dropped == {"unreachable": 1, "unknown_node": 1, "unencodable": 1}


def test_a_message_is_heard_if_it_is_for_us_from_whom_it_says(node):
    node.transport.frame_received(Peer(2), encode_message(append(1, sender=2)))
    assert node.heard == [append(1, sender=2)]


def test_a_member_cannot_speak_for_another_nor_to_another(node):
    node.transport.frame_received(Peer(2), encode_message(append(1, sender=3)))
    node.transport.frame_received(Peer(2), encode_message(append(3, sender=2)))
    node.transport.frame_received(Peer(2), b"junk")
    assert node.heard == []
    assert node.transport.dropped == {"wrong_sender": 1, "misaddressed": 1, "malformed": 1}


def test_a_forwarded_leadership_transfer_names_the_member_that_is_to_lead(node):
    transfer = Message(MessageType.TRANSFER_LEADER, to=1, sender=3)
    node.transport.frame_received(Peer(2), encode_message(transfer))
    assert node.heard == [transfer]


def test_unreachable_endpoints_are_named_as_members(node):
    node.transport.send([append(2)])
    node.transport.peer_unreachable(b"B")
    node.transport.peer_unreachable(b"Z")
    assert node.unreachable == [2]


def test_a_starting_node_greets_the_others(node):
    node.transport.greet([1, 2, 3, 9])
    assert node.endpoint.dialled == [b"B", b"C"]
    node.transport.peer_unreachable(b"C")
    assert node.unreachable == [3]


async def test_a_stream_is_opened_to_a_member_and_nobody_else(node):
    assert await node.transport.open_stream(2) == f"a stream to {b'B'}"
    with pytest.raises(ConnectionError, match="9 is not a member"):
        await node.transport.open_stream(9)


def test_a_member_with_a_new_incarnation_has_restarted(node):
    for incarnation in (b"first", b"first", b"second", b"second"):
        node.transport.peer_connected(Peer(2, incarnation))
    node.transport.peer_connected(Peer(3, b"first"))
    assert node.restarted == [2]
