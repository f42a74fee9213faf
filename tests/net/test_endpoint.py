"""Two nodes on loopback: frames get there, in order and once, and a peer that died is found again."""

from __future__ import annotations

import asyncio
import time

import pytest
from aioquic.tls import Epoch

from aspen.errors import ConfigError
from aspen.limits import NET_DIAL_BACKLOG_BYTES


async def test_frames_arrive_in_order_and_once(station):
    a, b = await station(1), await station(2)
    a.knows(b)
    frames = [str(n).encode() * (1 + n % 50) for n in range(2000)]
    for start in range(0, 2000, 100):
        assert a.send(b, *frames[start : start + 100])
        await asyncio.sleep(0)
    assert [await b.hears() for _ in frames] == frames
    assert b.heard.empty()


async def test_the_receiver_learns_who_sent(station):
    a, b = await station(1), await station(2)
    a.knows(b).send(b, b"hello")
    peer, frame = await b.heard.get()
    assert (peer.endpoint_id, peer.node_id, frame) == (a.id, 1, b"hello")
    assert peer.cluster_id == a.hello.cluster_id
    assert peer.incarnation == a.hello.incarnation


async def test_large_frames_arrive_whole(station):
    a, b = await station(1, max_datagram_bytes=1200), await station(2)
    a.knows(b).send(b, b"first")
    assert await b.hears() == b"first"
    frames = [bytes([n]) * 3_000_000 for n in range(3)]
    for frame in frames:
        assert a.send(b, frame)
    assert [await b.hears() for _ in frames] == frames


async def test_a_frame_sent_to_a_peer_that_dialled_us_needs_no_address_of_our_own(station):
    a, b = await station(1), await station(2)
    a.knows(b).send(b, b"ping")
    assert await b.hears() == b"ping"
    assert b.send(a, b"pong")  # b was never told where a is: it saw where a dialled from
    assert await a.hears() == b"pong"
    assert b.book.known(a.id)[0].address == a.address


async def test_both_sides_may_dial_at_the_same_time(station):
    a, b = await station(1), await station(2)
    a.knows(b)
    b.knows(a)
    for n in range(20):
        assert a.send(b, b"%d" % n)
        assert b.send(a, b"%d" % n)
    assert [await b.hears() for _ in range(20)] == [b"%d" % n for n in range(20)]
    assert [await a.hears() for _ in range(20)] == [b"%d" % n for n in range(20)]
    assert sorted(c.dialled for c in a.endpoint.connections()) == [False, True]


async def test_a_peer_without_an_address_is_unreachable(station):
    a, b = await station(1), await station(2)
    assert not a.send(b, b"lost")
    await a.loses(b)


async def test_a_silent_address_is_given_up_and_the_next_one_tried(station, monkeypatch):
    monkeypatch.setattr("aspen.net.connection.NET_DIAL_MS", 200)
    a, b = await station(1), await station(2)
    dead = await station(3)
    dead.kill()
    a.book.add(b.id, b.address, "gossip")
    a.book.add(b.id, dead.address, "manual")  # more trusted, and wrong
    assert a.send(b, b"lost")
    await a.loses(b)
    await a.gets_through(b, b"found")
    assert await b.hears() == b"found"


async def test_a_host_name_is_resolved(station):
    a, b = await station(1), await station(2)
    a.book.add(b.id, ("localhost", b.address[1]), "manual")
    assert a.send(b, b"by name")
    assert await b.hears() == b"by name"


async def test_a_name_that_does_not_resolve_is_unreachable(station):
    a, b = await station(1), await station(2)
    a.book.add(b.id, ("no such host", 7300), "manual")
    assert a.send(b, b"lost")
    await a.loses(b)
    assert not a.send(b, b"too soon")


async def test_a_killed_peer_is_found_again_as_soon_as_it_dials(station):
    a, b = await station(1), await station(2)
    a.knows(b)
    b.knows(a)
    a.send(b, b"before")
    assert await b.hears() == b"before"
    b.kill()
    assert a.send(b, b"into the void")  # nobody can know yet
    reborn = await station(2, identity=b.identity, port=b.address[1])
    started = time.monotonic()
    reborn.knows(a).channel.dial(a.id)
    await a.loses(b)  # its new incarnation says that the old connection is dead
    await a.gets_through(b, b"after")
    assert await reborn.hears() == b"after"
    assert time.monotonic() - started < 1  # some ten milliseconds on an idle machine


async def test_a_restarted_peer_that_says_nothing_resets_our_connection(station):
    a, b = await station(1), await station(2)
    a.knows(b).send(b, b"before")
    assert await b.hears() == b"before"
    a.endpoint._transceiver.connections.copy().pop().opened_at -= 60  # an old connection
    b.kill()
    reborn = await station(2, identity=b.identity, port=b.address[1])
    started = time.monotonic()
    assert a.send(b, b"to a process that is gone")
    await a.loses(b)
    await a.gets_through(b, b"after")
    assert await reborn.hears() == b"after"
    assert time.monotonic() - started < 1  # some ten milliseconds on an idle machine


async def test_a_dead_peer_is_noticed_within_the_idle_time(station):
    a, b = await station(1, idle_ms=600), await station(2, idle_ms=600)
    a.knows(b).send(b, b"hello")
    await b.hears()
    b.kill()
    started = time.monotonic()
    await a.loses(b)
    assert time.monotonic() - started < 1.2
    assert a.endpoint.connections() == []


async def test_an_idle_connection_lives_on(station):
    a, b = await station(1, idle_ms=500), await station(2, idle_ms=500)
    a.knows(b).send(b, b"hello")
    await b.hears()
    before = a.endpoint.connections()[0]
    await asyncio.sleep(1.2)  # more than two idle times
    after = a.endpoint.connections()[0]
    assert after.age_s > before.age_s + 1.1
    assert a.unreachable.empty()


async def test_a_backlog_over_its_bound_is_refused_at_once(station, monkeypatch):
    monkeypatch.setattr("aspen.net.link.NET_SEND_BACKLOG_BYTES", 1_000_000)
    a, b = await station(1), await station(2)
    a.knows(b).send(b, b"hello")
    await b.hears()
    b.kill()
    chunk = bytes(100_000)
    accepted = 0
    while a.send(b, chunk):
        accepted += 1
        assert accepted <= 10
    assert accepted in (9, 10)  # the hello may still wait for its acknowledgement
    await a.loses(b)


async def test_few_frames_wait_for_a_dial(station):
    a, b = await station(1), await station(2)
    b.kill()
    a.knows(b)
    assert a.send(b, bytes(NET_DIAL_BACKLOG_BYTES))
    assert not a.send(b, b"one more")


async def test_sending_inside_the_backoff_is_refused_cheaply(station, monkeypatch):
    monkeypatch.setattr("aspen.net.connection.NET_DIAL_MS", 50)
    a, b = await station(1), await station(2)
    b.kill()
    a.knows(b).send(b, b"lost")
    await a.loses(b)
    assert not a.send(b, b"too soon")
    assert a.endpoint._transceiver.connections == set()


async def test_keys_are_changed_before_they_wear_out(station, monkeypatch):
    monkeypatch.setattr("aspen.net.connection.NET_KEY_PACKETS", 20)
    a, b = await station(1), await station(2)
    a.knows(b)
    secrets = set()
    for number in range(100):
        assert a.send(b, b"%d" % number)
        assert await b.hears() == b"%d" % number
        (connection,) = a.endpoint._transceiver.connections
        secrets.add(connection.quic._cryptos[Epoch.ONE_RTT].send.secret)
    assert len(secrets) > 2


async def test_links_to_peers_long_gone_make_room_for_others(station, monkeypatch):
    monkeypatch.setattr("aspen.net.channel.NET_CONNECTIONS", 3)
    a, b = await station(1), await station(2)
    for number in range(5):
        assert not a.channel.send(bytes([number]) * 32, [b"nobody"])
    assert a.knows(b).send(b, b"hello")
    assert await b.hears() == b"hello"
    assert len(a.channel._links) == 3


async def test_closing_tells_the_peers(station):
    a, b = await station(1), await station(2)
    a.knows(b).send(b, b"hello")
    await b.hears()
    await b.endpoint.close()
    await a.loses(b, within_s=1)
    assert not a.endpoint.connections()


async def test_after_closing_nothing_is_sent_and_the_port_is_free(station):
    a, b = await station(1), await station(2)
    await a.endpoint.close()
    assert not a.knows(b).send(b, b"late")
    again = await station(1, port=a.address[1])
    assert again.address == a.address


@pytest.mark.parametrize("host", ["::1", "::"])
async def test_ipv6_and_ipv4_on_one_socket(station, host):
    a, b = await station(1, host="::"), await station(2, host=host)
    near = "127.0.0.1" if host == "::" else "::1"
    a.book.add(b.id, (near, b.address[1]), "manual")
    assert a.send(b, b"ping")
    assert await b.hears() == b"ping"
    assert b.send(a, b"pong")
    assert await a.hears() == b"pong"
    assert b.book.addresses(a.id) == [(near, a.address[1])]


@pytest.mark.parametrize("size", [1199, 16_385])
async def test_a_datagram_size_that_cannot_work_is_refused(station, size):
    with pytest.raises(ConfigError):
        await station(1, max_datagram_bytes=size)


async def test_a_receiver_that_fails_disturbs_nobody_else(station):
    a, b = await station(1), await station(2)
    problems = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
    a.knows(b).send(b, b"first")
    await b.hears()
    b.channel._on_frame = lambda peer, frame: 1 / 0
    a.send(b, b"second")
    async with asyncio.timeout(30):
        while not problems:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    b.channel._on_frame = lambda peer, frame: b.heard.put_nowait((peer, frame))
    a.send(b, b"third")
    assert await b.hears() == b"third"
    assert b.send(a, b"and back")
    assert await a.hears() == b"and back"
