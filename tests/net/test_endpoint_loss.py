"""A bad network: datagrams are lost, doubled and overtake each other; frames do not."""

from __future__ import annotations

import asyncio
import random

import pytest


class BadNetwork:
    """Stands between an endpoint and its socket. Everything it does follows from its seed."""

    def __init__(self, station, monkeypatch, seed, *, loss):
        self.rng = random.Random(seed)
        self.loss = loss
        self.lost = 0
        self.wire = station.endpoint._transceiver._put_on_wire
        self.loop = asyncio.get_running_loop()
        monkeypatch.setattr(station.endpoint._transceiver, "_put_on_wire", self.carry)

    def carry(self, datagram, address):
        if self.rng.random() < self.loss:
            self.lost += 1
            return
        copies = 2 if self.rng.random() < 0.05 else 1
        for _ in range(copies):
            if self.rng.random() < 0.2:
                self.loop.call_later(self.rng.random() * 0.005, self.wire, datagram, address)
            else:
                self.wire(datagram, address)


@pytest.mark.parametrize("seed", range(2))
async def test_frames_arrive_in_order_and_once_over_a_bad_network(station, monkeypatch, seed):
    a, b = await station(1, max_datagram_bytes=1200), await station(2, max_datagram_bytes=1200)
    a.knows(b).send(b, b"hello")
    await b.hears()
    networks = [BadNetwork(each, monkeypatch, seed, loss=0.1) for each in (a, b)]
    rng = random.Random(seed)
    frames = [b"%d:" % n + rng.randbytes(rng.randrange(3000)) for n in range(200)]
    for frame in frames:
        assert a.send(b, frame)
        if rng.random() < 0.3:
            await asyncio.sleep(rng.random() * 0.002)
    assert [await b.hears(within_s=20) for _ in frames] == frames
    assert b.heard.empty()
    assert networks[0].lost > 10


@pytest.mark.parametrize("seed", range(3))
async def test_a_handshake_gets_through_a_bad_network(station, monkeypatch, seed):
    a, b = await station(1), await station(2)
    for each in (a, b):
        BadNetwork(each, monkeypatch, seed, loss=0.2)
    a.knows(b)
    heard = asyncio.ensure_future(b.hears(within_s=20))
    while not heard.done():
        a.send(b, b"anyone?")
        await asyncio.wait([heard], timeout=0.1)
    assert heard.result() == b"anyone?"


async def test_streams_get_through_a_bad_network_beside_raft_frames(station, monkeypatch):
    a, b = await station(1, max_datagram_bytes=1200), await station(2, max_datagram_bytes=1200)
    near, far = await a.knows(b).opens(b)
    networks = [BadNetwork(each, monkeypatch, 7, loss=0.03) for each in (a, b)]
    rng = random.Random(7)
    frames = [rng.randbytes(rng.randrange(60_000)) for _ in range(30)]

    async def send_all():
        for frame in frames:
            await near.send(frame)
            a.send(b, b"beside")
        near.close()

    async with asyncio.timeout(40):
        sending = asyncio.ensure_future(send_all())
        assert [await far.receive() for _ in frames] == frames
        assert await far.receive() is None
        far.close()
        await sending
        assert [await b.hears(within_s=20) for _ in frames] == [b"beside"] * len(frames)
        while a.streams() or b.streams():  # noqa: ASYNC110  every end is heard of at last
            await asyncio.sleep(0.01)
    assert networks[0].lost > 10
