"""The leader keeps accepted packets in the DHT: round by round, in the order of keys, at a pace."""

from __future__ import annotations

from pathlib import Path

from aspen.identity import Identity
from aspen.limits import DHT_PUBLISH_PER_S, DHT_REPUBLISH_MS
from aspen.pkarr.packet import SignedPacket
from aspen.pkarr.records import build_message
from aspen.pkarr.republish import DhtRepublish
from aspen.state.packet_scan import LmdbPacketScan
from aspen.state.packets import PacketRecord, encode_record
from aspen.state.store import Store

NOW_US = 1_700_000_000_000_000


def packets(count: int) -> list[SignedPacket]:
    """In the order of their keys."""
    people = [Identity.from_seed(number.to_bytes(32, "big")) for number in range(count)]
    made = [
        SignedPacket.sign(each, build_message(each.endpoint_id, ["@ A 192.0.2.1"]), NOW_US) for each in people
    ]
    return sorted(made, key=lambda packet: packet.public_key)


class FakePackets:
    def __init__(self, stored: list[SignedPacket]) -> None:
        self.stored = stored

    def payloads(self, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return [(each.public_key, each.payload) for each in self.stored if each.public_key > after][:limit]


class FakeNetwork:
    def __init__(self) -> None:
        self.published: list[SignedPacket] = []
        self.waiting = 0

    async def publish(self, packet: SignedPacket) -> None:
        self.published.append(packet)

    async def resolve(self, public_key: bytes, newer_than_us: int | None = None) -> SignedPacket | None:
        raise AssertionError("nothing is looked up")


async def test_every_packet_is_published_once_a_round_at_the_pace_of_publication() -> None:
    stored, network = packets(25), FakeNetwork()
    duty = DhtRepublish(network, FakePackets(stored))
    turns = 0
    while len(network.published) < 25:
        await duty.run(turns * 1_000, turns * 1_000)
        turns += 1
    assert network.published == stored
    assert turns == -(-25 // DHT_PUBLISH_PER_S)
    for later in range(turns, turns + 5):  # the round is over
        await duty.run(later * 1_000, later * 1_000)
    assert network.published == stored
    await duty.run(DHT_REPUBLISH_MS, DHT_REPUBLISH_MS)
    assert network.published[25:] == stored[:DHT_PUBLISH_PER_S]


async def test_what_was_accepted_just_now_goes_first() -> None:
    network = FakeNetwork()
    duty = DhtRepublish(network, FakePackets(packets(3)))
    network.waiting = DHT_PUBLISH_PER_S
    await duty.run(0, 0)
    assert network.published == []
    network.waiting = 0
    await duty.run(1_000, 1_000)
    assert len(network.published) == 3


async def test_a_new_reign_begins_a_new_round() -> None:
    network = FakeNetwork()
    duty = DhtRepublish(network, FakePackets(packets(3)))
    await duty.run(0, 60_000)
    await duty.run(1_000, 10)
    assert len(network.published) == 6


async def test_a_packet_that_does_not_verify_is_passed_over() -> None:
    stored, network = packets(3), FakeNetwork()
    source = FakePackets(stored)
    duty = DhtRepublish(network, source)
    damaged = (stored[1].public_key, bytes(64) + stored[1].payload[64:])
    source.payloads = lambda after, limit: [  # type: ignore[method-assign]
        (stored[0].public_key, stored[0].payload),
        damaged,
        (stored[2].public_key, stored[2].payload),
    ]
    await duty.run(0, 0)
    assert network.published == [stored[0], stored[2]]


def test_the_scan_pages_through_live_packets_in_the_order_of_keys(tmp_path: Path) -> None:
    stored = packets(7)
    store = Store.open(tmp_path)
    with store.environment.begin(write=True) as txn:
        for number, each in enumerate(stored):
            record = PacketRecord(each.public_key, NOW_US, 5, number == 3, b"", each.payload)
            txn.put(each.public_key, encode_record(record), db=store.packets_table)
    scan = LmdbPacketScan(store)
    live = [(each.public_key, each.payload) for each in stored[:3] + stored[4:]]
    assert scan.payloads(b"", 100) == live
    assert scan.payloads(b"", 2) == live[:2]
    assert scan.payloads(live[1][0], 2) == live[2:4]
    assert scan.payloads(live[-1][0], 2) == []
    store.close()
