"""Ten thousand datagrams of garbage: nothing crashes, nothing leaks, members go on talking."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import socket
import tracemalloc
from itertools import pairwise

import pytest
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder

from aspen.net.endpoint import ALPN_RAFT

VERSION = 1
PER_TURN = 50


def random_datagram(rng):
    """Bytes of any length, often with a header that looks like QUIC."""
    data = bytearray(rng.randbytes(rng.choice([0, 1, 8, 20, 21, 22, 43, 100, 1199, 1200, 1500, 9000])))
    if len(data) > 20 and rng.random() < 0.7:
        data[0] = rng.choice([0x40, 0x5F, 0x80, 0xC0, 0xC3, 0xD0, 0xE0, 0xF0, 0xFF])
        if data[0] & 0x80:
            data[1:5] = rng.choice([0, VERSION, VERSION, VERSION, 2, 0x6B3343CF]).to_bytes(4, "big")
            data[5] = rng.choice([0, 8, 20, 21, 255])
    return bytes(data)


def mutated(rng, datagrams):
    """A real datagram, replayed or with a few bytes changed, cut or grown."""
    data = bytearray(rng.choice(datagrams))
    for _ in range(rng.randint(0, 6)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    cut = rng.random()
    if cut < 0.1:
        del data[rng.randrange(len(data)) :]
    elif cut < 0.2:
        data += rng.randbytes(rng.randrange(200))
    return bytes(data)


def sealed_nonsense(rng):
    """An Initial packet under the keys anyone can derive, full of frames that make no sense."""
    their_id = rng.randbytes(8)
    crypto = CryptoPair()
    crypto.setup_initial(cid=their_id, is_client=True, version=VERSION)
    builder = QuicPacketBuilder(
        host_cid=rng.randbytes(8), peer_cid=their_id, version=VERSION, is_client=True, max_datagram_size=1200
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    payload = rng.randbytes(rng.randint(1, 300))
    if rng.random() < 0.7:
        buffer = builder.start_frame(QuicFrameType.CRYPTO, capacity=400)
        buffer.push_uint_var(rng.choice([0, 0, 0, 1, 70_000, 2**40]))
        if rng.random() < 0.7:  # the head of a ClientHello
            payload = b"\x01\x00" + len(payload).to_bytes(2, "big") + b"\x03\x03" + payload
        buffer.push_uint_var(len(payload))
        buffer.push_bytes(payload)
    else:
        builder.start_frame(rng.choice(list(QuicFrameType)), capacity=400).push_bytes(payload)
    return builder.flush()[0][0]


async def idle_again(station, connections):
    """Returns once every connection that garbage had opened is gone."""
    async with asyncio.timeout(30):
        while len(station.endpoint._transceiver.connections) > connections:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def bombard(target, rng, real, count):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gun:
        for number in range(count):
            kind = rng.random()
            if kind < 0.5:
                data = random_datagram(rng)
            elif kind < 0.95:
                data = mutated(rng, real)
            else:
                data = sealed_nonsense(rng)
            gun.sendto(data, target.address)
            if number % PER_TURN == 0:
                await asyncio.sleep(0)


@pytest.mark.parametrize(("doors", "count"), [("as they are", 10_000), ("wide open", 3_000)])
async def test_garbage_neither_crashes_nor_leaks_nor_disturbs(station, monkeypatch, doors, count):
    monkeypatch.setattr("aspen.net.connection.NET_HANDSHAKE_MS", 300)
    if doors == "wide open":  # so that everything reaches the parsers
        for bound in ("NET_RETRY_ABOVE", "NET_UNAUTHENTICATED", "NET_CONNECTIONS"):
            monkeypatch.setattr(f"aspen.net.transceiver.{bound}", 100_000)
    monkeypatch.setattr(logging.getLogger("quic"), "disabled", True)  # records that pytest keeps are no leak
    rng = random.Random(doors)
    problems = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
    a, b = await station(1, max_datagram_bytes=1200), await station(2)
    real = []
    put_on_wire = a.endpoint._transceiver._put_on_wire

    def tapped(datagram, address):
        real.append(datagram)
        put_on_wire(datagram, address)

    monkeypatch.setattr(a.endpoint._transceiver, "_put_on_wire", tapped)
    a.knows(b)
    for number in range(20):
        assert a.send(b, b"%d" % number)
        assert await b.hears() == b"%d" % number
    assert len(real) > 20
    used = []
    tracemalloc.start()
    try:
        for round_number in range(4):
            await bombard(b, rng, list(real[:60]), count // 4)
            await idle_again(b, 1)
            assert a.send(b, b"still here")
            assert await b.hears() == b"still here"
            gc.collect()
            used.append(tracemalloc.get_traced_memory()[0])
            assert len(b.endpoint._transceiver._demultiplexer) < 20, round_number
    finally:
        tracemalloc.stop()
    assert problems == []
    assert b.heard.empty()
    assert len(b.endpoint.connections()) == 1
    assert b.endpoint.refusals["malformed"] > 0
    growth = [later - earlier for earlier, later in pairwise(used[1:])]
    assert min(growth) < 50_000, used  # a leak grows in every round; a table may once


async def test_a_flood_of_half_handshakes_leaves_room_and_no_trace(station, monkeypatch):
    """Initial packets that make sense, from nobody who goes on."""
    monkeypatch.setattr("aspen.net.connection.NET_HANDSHAKE_MS", 300)
    a, b = await station(1), await station(2)
    captured = []
    monkeypatch.setattr(a.endpoint._transceiver, "_put_on_wire", lambda data, address: captured.append(data))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gun:
        for _ in range(100):
            a.knows(b).endpoint._transceiver.dial(b.id, b.address, ALPN_RAFT)
            await asyncio.sleep(0)
            while captured:
                gun.sendto(captured.pop(), b.address)
            await asyncio.sleep(0)
    assert 0 < len(b.endpoint._transceiver.connections) <= 64
    c = await station(3)
    assert c.knows(b).send(b, b"through the crowd")
    assert await b.hears() == b"through the crowd"
    await idle_again(b, 1)
