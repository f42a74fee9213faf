"""What a node believes of what it hears, and what it does about the rest."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any, get_args

import msgspec
import pytest
from gossip_world import START_MS, TOPIC, endpoint_id_of, sign_as, verify

from aspen.discovery.announcement import Announcement, seal
from aspen.discovery.broadcast import message_id
from aspen.discovery.gossip import Behind, GossipCore, GossipPorts, Heard, SelfDescription, Topology
from aspen.discovery.messages import (
    KINDS,
    Disconnect,
    Gossip,
    Join,
    Message,
    Neighbour,
    Peer,
    decode_message,
    encode_message,
)
from aspen.errors import GossipError
from aspen.limits import (
    GOSSIP_ALL_A_MINUTE,
    GOSSIP_FUTURE_MS,
    GOSSIP_INVALID_A_MINUTE,
    GOSSIP_MESSAGE_BYTES,
    GOSSIP_PAST_MS,
    GOSSIP_PEER_A_MINUTE,
)

OWN, SENDER, AUTHOR = endpoint_id_of(1), endpoint_id_of(2), endpoint_id_of(3)
NOW_US = START_MS * 1_000


def announcement(**changes: Any) -> Announcement:
    told = Announcement(TOPIC, AUTHOR, 3, (("10.0.0.3", 7_300),), None, NOW_US, 5, b"h" * 32)
    return msgspec.structs.replace(told, **changes)


class Node:
    """One node with one neighbour, which tells it things."""

    def __init__(self) -> None:
        self.topics = [TOPIC]
        self.core = GossipCore(
            GossipPorts(
                own_id=OWN,
                topics=lambda: self.topics,
                describe=lambda: SelfDescription(1, (("10.0.0.1", 7_300),), None),
                topology=lambda: Topology(5, b"h" * 32),
                sign=lambda message: sign_as(OWN, message),
                verify=verify,
                bound_to=lambda node_id: endpoint_id_of(node_id) if node_id < 10 else None,
                contacts=lambda: (),
            ),
            Random(1),
        )
        for sender in (SENDER, endpoint_id_of(4)):
            self.core.receive(sender, Neighbour(Peer(sender), urgent=True), START_MS)
        self.core.drain()
        self.core.events()

    def hears(self, payload: bytes, at_ms: int = START_MS) -> list[tuple[bytes, Message]]:
        self.core.receive(SENDER, Gossip(message_id(payload), payload), at_ms)
        return self.core.drain()

    def hears_of(self, told: Announcement, at_ms: int = START_MS) -> list[tuple[bytes, Message]]:
        return self.hears(seal(told, lambda message: sign_as(told.endpoint_id, message)), at_ms)


def test_messages_are_counted_by_kind() -> None:
    node = Node()
    sent = node.core.sent.copy()
    passed_on = node.hears_of(announcement())
    assert node.core.received == {Neighbour: 2, Gossip: 1}
    assert node.core.sent - sent == Counter(type(message) for _, message in passed_on)
    assert set(KINDS) == set(get_args(Message))


def test_what_is_believed_is_known_told_and_passed_on() -> None:
    node = Node()
    passed_on = node.hears_of(announcement())
    assert [to for to, message in passed_on if isinstance(message, Gossip)] == [endpoint_id_of(4)]
    assert node.core.known[AUTHOR][0] == announcement()
    assert Heard(announcement()) in node.core.events()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"topic": b"x" * 32}, "topic"),
        ({"endpoint_id": OWN}, "own"),
        ({"timestamp_us": NOW_US - (GOSSIP_PAST_MS + 1) * 1_000}, "stale"),
        ({"timestamp_us": NOW_US + (GOSSIP_FUTURE_MS + 1) * 1_000}, "future"),
        ({"node_id": 4}, "node_id"),
    ],
)
def test_what_is_not_believed_goes_no_further(changes: dict[str, Any], reason: str) -> None:
    node = Node()
    assert not [
        message for _, message in node.hears_of(announcement(**changes)) if isinstance(message, Gossip)
    ]
    assert node.core.refused == {reason: 1}
    assert not node.core.known
    assert not node.core.events()


def test_while_the_cookie_is_changed_announcements_of_both_are_believed() -> None:
    node, to_come = Node(), b"y" * 32
    node.topics = [TOPIC, to_come]
    node.hears_of(announcement(topic=to_come))
    node.hears_of(announcement(timestamp_us=NOW_US + 1))
    assert not node.core.refused
    assert node.core.known[AUTHOR][0].topic == TOPIC
    node.topics = [to_come]
    node.hears_of(announcement(timestamp_us=NOW_US + 2))
    assert node.core.refused == {"topic": 1}


def test_only_its_key_speaks_for_a_node() -> None:
    node = Node()
    forged = seal(announcement(), lambda message: sign_as(SENDER, message))
    assert not [message for _, message in node.hears(forged) if isinstance(message, Gossip)]
    assert node.core.refused == {"signature": 1}


def test_a_replayed_announcement_changes_nothing() -> None:
    node = Node()
    node.hears_of(announcement(timestamp_us=NOW_US + 2))
    for older in (NOW_US + 2, NOW_US + 1):
        node.hears_of(announcement(timestamp_us=older, addresses=(("203.0.113.1", 1),)))
    assert node.core.refused == {"replayed": 2}
    assert node.core.known[AUTHOR][0].addresses == (("10.0.0.3", 7_300),)


def test_a_free_node_id_may_be_anyones() -> None:
    node = Node()
    node.hears_of(announcement(node_id=12))
    node.hears_of(announcement(endpoint_id=endpoint_id_of(8), node_id=0))
    assert set(node.core.known) == {AUTHOR, endpoint_id_of(8)}


def test_a_flooding_author_drains_its_own_budget_first() -> None:
    node = Node()
    for count in range(3 * GOSSIP_PEER_A_MINUTE):
        node.hears_of(announcement(timestamp_us=NOW_US + count))
    assert node.core.refused == {"peer_rate": 2 * GOSSIP_PEER_A_MINUTE}
    node.hears_of(announcement(endpoint_id=endpoint_id_of(8), node_id=8))
    assert endpoint_id_of(8) in node.core.known


def test_all_together_have_a_budget_that_grows_with_the_cluster() -> None:
    node = Node()
    authors = [endpoint_id_of(100 + count) for count in range(GOSSIP_ALL_A_MINUTE * 2)]
    for author in authors:
        node.hears_of(announcement(endpoint_id=author, node_id=0))
    assert node.core.refused == {"rate": GOSSIP_ALL_A_MINUTE}
    # Each author known adds to what all may say: five seconds make up for it, where a minute would have.
    later = NOW_US + 5_000_000
    for author in authors:
        node.hears_of(announcement(endpoint_id=author, node_id=0, timestamp_us=later), START_MS + 5_000)
    assert node.core.refused == {"rate": 2 * GOSSIP_ALL_A_MINUTE}


def test_a_neighbour_that_lies_is_cut_off() -> None:
    node = Node()
    for count in range(GOSSIP_INVALID_A_MINUTE + 1):
        assert SENDER in node.core.overlay.neighbours
        said = node.hears(b"not an announcement %d" % count)
    assert SENDER not in node.core.overlay.neighbours
    assert (SENDER, Disconnect()) in said


def test_a_newer_or_another_topology_is_noticed() -> None:
    node = Node()
    node.hears_of(announcement(topology_version=4))
    node.hears_of(announcement(endpoint_id=endpoint_id_of(5), node_id=5))
    assert not [event for event in node.core.events() if isinstance(event, Behind)]
    node.hears_of(announcement(timestamp_us=NOW_US + 1, topology_version=6))
    node.hears_of(announcement(endpoint_id=endpoint_id_of(6), node_id=6, topology_hash=b"x" * 32))
    behind = [event for event in node.core.events() if isinstance(event, Behind)]
    assert behind == [Behind(AUTHOR, 6), Behind(endpoint_id_of(6), 5)]


def test_a_join_speaks_for_the_sender_only() -> None:
    node = Node()
    node.core.receive(endpoint_id_of(7), Join(Peer(endpoint_id_of(8))), START_MS)
    assert endpoint_id_of(8) not in node.core.overlay.neighbours
    assert not node.core.drain()


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x92\x10\x00", b"\x00" * 10, b"x" * (GOSSIP_MESSAGE_BYTES + 1)]
)
def test_what_is_no_message_says_so(data: bytes) -> None:
    with pytest.raises(GossipError):
        decode_message(data)


def test_messages_survive_the_wire() -> None:
    peer = Peer(AUTHOR, (("node.example", 7_300), ("::1", 1)))
    for message in (Join(peer), Neighbour(peer, urgent=False), Gossip(b"i" * 16, b"payload"), Disconnect()):
        assert decode_message(encode_message(message)) == message
