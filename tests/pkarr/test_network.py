"""The DHT as the relay and DNS see it: memory, bounds, coalescing, publication in turn."""

from __future__ import annotations

import asyncio

import pytest

from aspen.errors import NetworkError, NoLeader
from aspen.identity import Identity
from aspen.limits import (
    DHT_CACHE_ENTRIES,
    DHT_CACHE_MIN_MS,
    DHT_LOOKUPS,
    DHT_NEGATIVE_MS,
    DHT_PUBLISH_WAITING,
    DHT_REPUBLISH_MS,
    DHT_UNREACHABLE_MS,
)
from aspen.pkarr.dht import Found, Stored
from aspen.pkarr.network import DhtNetwork
from aspen.pkarr.packet import SignedPacket
from aspen.pkarr.records import build_message

ALICE = Identity.from_seed(bytes(range(32)))
NOW_US = 1_700_000_000_000_000
NOBODY = Found(None, 8)


def packet(identity: Identity = ALICE, ttl: int = 30, later_us: int = 0, records: str = "") -> SignedPacket:
    message = build_message(identity.endpoint_id, [records or f"@ {ttl} A 192.0.2.1"])
    return SignedPacket.sign(identity, message, NOW_US + later_us)


def somebody(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


class FakeDht:
    def __init__(self) -> None:
        self.found: dict[bytes, Found] = {}
        self.otherwise = NOBODY
        self.gets: list[bytes] = []
        self.puts: list[SignedPacket] = []
        self.stored = Stored(8, None, ())
        self.open = asyncio.Event()
        self.open.set()
        self.put_done = asyncio.Event()

    async def get(self, public_key: bytes) -> Found:
        self.gets.append(public_key)
        await self.open.wait()
        return self.found.get(public_key, self.otherwise)

    async def put(self, packet: SignedPacket) -> Stored:
        self.puts.append(packet)
        self.put_done.set()
        return self.stored


class Clock:
    now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


def made(dht: FakeDht, clock: Clock | None = None, **options: object) -> DhtNetwork:
    return DhtNetwork(dht, clock or Clock(), **options)  # type: ignore[arg-type]


async def test_what_was_found_is_served_from_memory_for_the_life_of_its_records() -> None:
    dht, clock = FakeDht(), Clock()
    network = made(dht, clock)
    dht.found[ALICE.endpoint_id] = Found(packet(ttl=120), 8)
    assert network.known(ALICE.endpoint_id) == (False, None)
    assert await network.resolve(ALICE.endpoint_id) == packet(ttl=120)
    known, answers = network.known(ALICE.endpoint_id)
    assert known
    assert answers is not None
    clock.now_ms += 119_000
    await network.resolve(ALICE.endpoint_id)
    assert len(dht.gets) == 1
    clock.now_ms += 1_000
    assert network.known(ALICE.endpoint_id) == (False, None)
    await network.resolve(ALICE.endpoint_id)
    assert len(dht.gets) == 2


async def test_records_of_no_ttl_are_not_looked_up_for_every_query() -> None:
    dht, clock = FakeDht(), Clock()
    network = made(dht, clock)
    dht.found[ALICE.endpoint_id] = Found(packet(ttl=0), 8)
    await network.resolve(ALICE.endpoint_id)
    clock.now_ms += DHT_CACHE_MIN_MS - 1
    await network.resolve(ALICE.endpoint_id)
    assert len(dht.gets) == 1


async def test_that_nobody_has_a_key_is_remembered_for_a_while() -> None:
    dht, clock = FakeDht(), Clock()
    network = made(dht, clock)
    assert await network.resolve(ALICE.endpoint_id) is None
    assert network.known(ALICE.endpoint_id) == (True, None)
    clock.now_ms += DHT_NEGATIVE_MS - 1
    assert await network.resolve(ALICE.endpoint_id) is None
    assert len(dht.gets) == 1
    clock.now_ms += 1
    dht.found[ALICE.endpoint_id] = Found(packet(), 8)
    assert await network.resolve(ALICE.endpoint_id) == packet()


async def test_only_a_newer_one_counts_if_asked_for() -> None:
    dht = FakeDht()
    network = made(dht)
    dht.found[ALICE.endpoint_id] = Found(packet(), 8)
    assert await network.resolve(ALICE.endpoint_id, newer_than_us=NOW_US) is None
    assert await network.resolve(ALICE.endpoint_id, newer_than_us=NOW_US - 1) == packet()


async def test_a_less_recent_one_does_not_take_the_place_of_what_was_seen() -> None:
    dht, clock = FakeDht(), Clock()
    network = made(dht, clock)
    dht.found[ALICE.endpoint_id] = Found(packet(later_us=5), 8)
    await network.resolve(ALICE.endpoint_id)
    clock.now_ms += DHT_CACHE_MIN_MS
    dht.found[ALICE.endpoint_id] = Found(packet(), 8)
    assert await network.resolve(ALICE.endpoint_id) == packet(later_us=5)
    clock.now_ms += DHT_CACHE_MIN_MS
    dht.found.clear()  # the DHT has forgotten, and so do we
    assert await network.resolve(ALICE.endpoint_id) is None


async def test_lookups_of_one_key_are_one_and_outlive_those_who_gave_up() -> None:
    dht = FakeDht()
    dht.open.clear()
    dht.found[ALICE.endpoint_id] = Found(packet(), 8)
    network = made(dht)
    waiting = [asyncio.create_task(network.resolve(ALICE.endpoint_id)) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    dht.open.set()
    assert await asyncio.gather(*waiting[1:]) == [packet()] * 19
    assert len(dht.gets) == 1


async def test_more_lookups_than_the_bound_are_refused_not_queued() -> None:
    dht = FakeDht()
    dht.open.clear()
    network = made(dht)
    keys = [somebody(i).endpoint_id for i in range(DHT_LOOKUPS + 1)]
    waiting = [asyncio.create_task(network.resolve(key)) for key in keys[:-1]]
    await asyncio.sleep(0)
    with pytest.raises(NetworkError) as refused:
        await network.resolve(keys[-1])
    assert refused.value.code == "network_busy"
    dht.open.set()
    await asyncio.gather(*waiting)
    assert await network.resolve(keys[-1]) is None


async def test_a_dht_that_does_not_answer_is_said_so_and_left_alone_for_a_moment() -> None:
    dht, clock = FakeDht(), Clock()
    dht.otherwise = Found(None, 0)
    network = made(dht, clock)
    for _ in range(3):
        with pytest.raises(NetworkError) as refused:
            await network.resolve(ALICE.endpoint_id)
        assert refused.value.code == "network_unreachable"
    assert len(dht.gets) == 1
    assert network.known(ALICE.endpoint_id) == (False, None)  # that is not to know that there is none
    clock.now_ms += DHT_UNREACHABLE_MS
    dht.otherwise = NOBODY
    assert await network.resolve(ALICE.endpoint_id) is None


async def test_memory_is_bounded() -> None:
    dht = FakeDht()
    network = made(dht)
    for number in range(DHT_CACHE_ENTRIES + 10):
        await network.resolve(number.to_bytes(32, "big"))
    assert len(network._cache) == DHT_CACHE_ENTRIES


async def test_what_was_found_is_proposed_if_so_configured_and_served_even_if_that_fails() -> None:
    dht, told = FakeDht(), []
    dht.found[ALICE.endpoint_id] = Found(packet(), 8)

    async def store(found: SignedPacket) -> None:
        told.append(found)
        raise NoLeader("no leader is known")

    network = made(dht, store=store)
    assert await network.resolve(ALICE.endpoint_id) == packet()
    assert told == [packet()]


# --- publishing -------------------------------------------------------------------------------


async def published(network: DhtNetwork, dht: FakeDht, *packets: SignedPacket) -> list[SignedPacket]:
    for each in packets:
        await network.publish(each)
    network.start()
    async with asyncio.timeout(30):
        while network.waiting:
            dht.put_done.clear()
            await dht.put_done.wait()
        await asyncio.sleep(0)
    await network.close()
    return dht.puts


async def test_of_packets_of_one_key_that_wait_the_most_recent_is_published() -> None:
    dht = FakeDht()
    old, new = packet(), packet(later_us=1)
    network = made(dht)
    assert await published(network, dht, old, new, old) == [new]
    assert network.published == 1


async def test_the_same_packet_is_not_published_again_before_half_the_time() -> None:
    dht, clock = FakeDht(), Clock()
    network = made(dht, clock)
    await published(network, dht, packet())
    await network.publish(packet())
    assert network.waiting == 0
    await network.publish(packet(later_us=1))
    assert network.waiting == 1
    network._to_publish.clear()
    clock.now_ms += DHT_REPUBLISH_MS // 2
    await network.publish(packet())
    assert network.waiting == 1


async def test_no_more_wait_than_the_bound() -> None:
    network, waits = made(FakeDht()), packet()
    for number in range(DHT_PUBLISH_WAITING):
        network._to_publish[number.to_bytes(32, "big")] = waits
    await network.publish(packet())
    assert network.waiting == DHT_PUBLISH_WAITING
    assert network.publish_dropped == 1


async def test_a_packet_too_large_for_the_dht_is_not_tried() -> None:
    network = made(FakeDht())
    rest = 1_000 - len(build_message(ALICE.endpoint_id, ["@ TYPE65280 \\# 0"]))
    await network.publish(packet(records=f"@ TYPE65280 \\# {rest} {'00' * rest}"))
    assert network.waiting == 0


async def test_a_more_recent_packet_in_the_dht_wins_and_is_remembered() -> None:
    dht = FakeDht()
    newer = packet(later_us=9)
    dht.stored = Stored(0, newer, ())
    network = made(dht)
    await published(network, dht, packet())
    assert network.published == 0
    assert await network.resolve(ALICE.endpoint_id) == newer
    assert dht.gets == []
