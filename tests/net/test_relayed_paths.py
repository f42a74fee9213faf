"""Peers that can't reach each other directly, or not yet, or not any more: the relay, and back."""

from __future__ import annotations

import asyncio
import time

from stations import COOKIE, Carrier, Station

from aspen.limits import NET_DATAGRAM_BYTES, NET_DIAL_MS
from aspen.net.link import Probe
from aspen.net.relayed import RelayAddress, relay_address

NOWHERE = ("192.0.2.1", 7300)  # for documentation (RFC 5737): datagrams go out, and nothing comes back
RELAY = Carrier.URL


def _cut_direct(*stations: Station) -> None:
    """From now on, what doesn't go through the relay is lost."""
    for station in stations:
        transceiver = station.endpoint._transceiver
        wire = transceiver._put_on_wire

        def carry(datagram, address, wire=wire):
            if isinstance(address, RelayAddress):
                wire(datagram, address)

        transceiver._put_on_wire = carry


async def test_two_who_know_no_address_of_each_other_talk_through_the_relay(station):
    relay = Carrier()
    a, b = await station(1, relay=relay), await station(2, relay=relay)
    await a.gets_through(b, b"hello")
    assert await b.hears() == b"hello"
    await b.gets_through(a, bytes(100_000))
    assert await a.hears() == bytes(100_000)
    assert a.paths() == b.paths() == {RELAY}
    assert max(map(len, relay.carried)) <= NET_DATAGRAM_BYTES
    assert not a.book.addresses(b.id), "a way through a relay is no address to tell others"


async def test_with_a_direct_way_the_relay_carries_nothing(station):
    relay = Carrier()
    a, b = await station(1, relay=relay), await station(2, relay=relay)
    a.knows(b).send(b, b"hello")
    await b.hears()
    await a.moves("direct")
    assert relay.carried == []


async def test_an_address_where_nobody_is_costs_a_moment_and_not_the_whole_dial(station):
    relay = Carrier()
    a, b = await station(1, relay=relay), await station(2, relay=relay)
    a.book.add(b.id, NOWHERE, "manual")
    began = time.monotonic()
    a.send(b, b"hello")  # once: it waits for whichever way comes first
    assert await b.hears() == b"hello"
    assert a.paths() == {RELAY}
    assert time.monotonic() - began < NET_DIAL_MS / 1000 or len(a.endpoint._transceiver.connections) == 1


async def test_a_host_name_that_nobody_knows_does_not_hold_up_the_relay(station):
    relay = Carrier()
    a, b = await station(1, relay=relay), await station(2, relay=relay)
    a.book.add(b.id, ("no-such-host.invalid", 7300), "manual")
    await a.gets_through(b, b"hello")
    assert await b.hears() == b"hello"


async def test_a_relay_that_connects_late_is_used_at_once(station):
    relay = Carrier()
    relay.works = False
    a, b = await station(1, relay=relay), await station(2, relay=relay)
    a.book.add(b.id, NOWHERE, "manual")
    a.send(b, b"hello")
    await asyncio.sleep(0.5)  # beyond the head start of the direct dial
    assert b.heard.empty()
    relay.works = True
    a.endpoint.relays_changed()
    assert await b.hears() == b"hello"


async def test_a_direct_way_that_appears_is_taken_and_no_frame_is_lost(station):
    relay = Carrier()
    a, b = await station(1, relay=relay), await station(2, relay=relay)
    await a.gets_through(b, b"first")
    await b.hears()
    near, far = await a.opens(b)
    a.knows(b)
    sent = []

    async def keep_sending() -> None:
        while a.paths() != {"direct"}:
            frame = b"%d" % len(sent)
            assert a.send(b, frame)
            sent.append(frame)
            if len(sent) <= 40:
                await near.send(frame)
            elif len(sent) == 41:
                near.close()  # until it ends, the connection that it is on stays
            await asyncio.sleep(0.02)

    async def read_all() -> list[bytes]:
        frames = [frame async for frame in _frames(far)]
        far.close()
        return frames

    async with asyncio.timeout(40):
        _, streamed = await asyncio.gather(keep_sending(), read_all())
    assert streamed == sent[:40]
    assert {await b.hears() for _ in sent} == set(sent)
    carried = len(relay.carried)
    for _ in range(10):
        assert a.send(b, b"more")
        await b.hears()
    assert len(relay.carried) <= carried + 4  # what the two ends of the old one still had to say


async def _frames(stream):
    while (frame := await stream.receive()) is not None:
        yield frame


async def test_a_direct_way_that_dies_is_replaced_by_the_relay(station):
    relay = Carrier()
    a, b = await station(1, relay=relay, idle_ms=900), await station(2, relay=relay, idle_ms=900)
    a.knows(b).send(b, b"hello")
    await b.hears()
    await a.moves("direct")
    _cut_direct(a, b)
    async with asyncio.timeout(30):
        while a.paths() != {RELAY}:
            a.send(b, b"again")
            await asyncio.sleep(0.02)
    while not b.heard.empty():
        b.heard.get_nowait()
    await a.gets_through(b, b"by the relay")
    while await b.hears() != b"by the relay":
        pass


async def test_a_relay_that_restarts_breaks_no_connection(station):
    relay = Carrier()
    a, b = await station(1, relay=relay), await station(2, relay=relay)
    await a.gets_through(b, b"before")
    await b.hears()
    (before,) = a.endpoint._transceiver.connections
    relay.works = False
    a.send(b, b"meanwhile")
    await asyncio.sleep(1)
    relay.works = True
    assert await b.hears() == b"meanwhile"
    assert a.endpoint._transceiver.connections == {before}


async def test_a_peer_killed_and_restarted_is_found_again_through_the_relay(station):
    relay = Carrier()
    a, b = await station(1, relay=relay), await station(2, relay=relay)
    await a.gets_through(b, b"before")
    await b.hears()
    b.kill()
    again = await station(2, relay=relay, identity=b.identity)
    again.channel.dial(a.id)
    async with asyncio.timeout(30):
        while again.heard.empty():  # what is sent to the process that is gone is lost
            a.send(again, b"after")
            await asyncio.sleep(0.02)


async def test_the_relay_carries_ciphertext_only(station):
    relay = Carrier()
    a, b = await station(1, relay=relay), await station(2, relay=relay)
    secret = b"/registry/password=correct horse battery staple"
    for _ in range(20):
        await a.gets_through(b, secret)
        assert await b.hears() == secret
    near, far = await a.opens(b)
    await near.send(secret)
    assert await far.receive() == secret
    everything = b"".join(relay.carried)
    assert len(everything) > 20 * len(secret)
    known = [
        secret,
        COOKIE.encode(),
        a.identity.seed,
        b.identity.seed,
        a.hello.cluster_id,
        a.hello.incarnation,
    ]
    for text in known:
        for at in range(len(text) - 7):
            assert text[at : at + 8] not in everything


async def test_who_lies_about_the_sender_gains_nothing(station):
    """A relay can claim any sender; the key that was dialled must still be proven."""
    relay = Carrier()
    a, b, liar = await station(1, relay=relay), await station(2, relay=relay), await station(3, relay=relay)
    relay._stations[b.id] = liar  # what is for b goes elsewhere,
    liar.endpoint._transceiver._relays._own_id = b.id  # and what comes back is said to be from b
    a.send(b, b"for b only")
    await a.refuses("wrong_key")
    assert liar.heard.empty()


def test_addresses_behind_relays_are_told_apart():
    one, two = b"1" * 32, b"2" * 32
    addresses = {
        relay_address(relay, key) for relay in ("wss://a/relay", "wss://b/relay") for key in (one, two)
    }
    assert len({address[:2] for address in addresses}) == 4
    assert relay_address("wss://a/relay", one) == relay_address("wss://a/relay", one)


class _Half:
    def random(self) -> float:
        return 0.5


def test_probes_try_all_addresses_then_wait_longer_each_round():
    probe, x, y = Probe(), ("x", 1), ("y", 1)
    assert [probe.next([x, y], 0.0, _Half()) for _ in range(3)] == [x, y, None]
    assert probe.next([x, y], 0.7, _Half()) is None
    assert [probe.next([x, y], 0.8, _Half()) for _ in range(3)] == [x, y, None]  # after 0.75 s
    assert probe.next([x, y], 2.2, _Half()) is None  # 1.5 s now
    assert probe.next([x, y], 2.4, _Half()) == x


def test_a_new_address_is_probed_at_once():
    probe, x, y = Probe(), ("x", 1), ("y", 1)
    assert [probe.next([x], 0.0, _Half()) for _ in range(2)] == [x, None]
    assert probe.next([y, x], 0.1, _Half()) == y
    assert probe.next([x], 0.1, _Half()) == x
    assert probe.next([], 9.0, _Half()) is None
