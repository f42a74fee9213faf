"""Streams beside the Raft frames: both ways, in order, with back-pressure, and cut without a doubt."""

from __future__ import annotations

import asyncio
import time

import pytest

from aspen.limits import (
    NET_STREAM_SEND_BYTES,
    NET_STREAM_WINDOW_BYTES,
    NET_STREAMS,
    SNAPSHOT_FRAME_BYTES,
)
from aspen.net.frames import encode_frames

CHUNK = bytes(262_144)
SOON_S = 10


async def raises_soon(awaitable):
    """The stream says that it is cut."""
    with pytest.raises(ConnectionError) as caught:
        async with asyncio.timeout(SOON_S):
            await awaitable
    return str(caught.value)


async def send_until_blocked(stream):
    """Sends until a frame has to wait; how many did not, and the one that does."""
    sent = 0
    while True:
        task = asyncio.ensure_future(stream.send(CHUNK))
        done, _ = await asyncio.wait([task], timeout=0.3)
        if not done:
            return sent, task
        sent += 1
        assert sent < 100, "nothing holds up the sender"


async def until(condition):
    async with asyncio.timeout(SOON_S):
        while not condition():  # noqa: ASYNC110  what other tasks keep can't be awaited
            await asyncio.sleep(0.005)


async def test_frames_go_both_ways_in_order_to_a_clean_end(station):
    a, b = await station(1), await station(2)
    near, far = await a.knows(b).opens(b)
    frames = [b"", b"x", *(bytes([n]) * (n * 997) for n in range(60)), b""]

    async def send_all(stream):
        for frame in frames:
            await stream.send(frame)

    async with asyncio.TaskGroup() as group:
        group.create_task(send_all(near))
        group.create_task(send_all(far))
    for stream in (near, far):
        assert [await stream.receive() for _ in frames] == frames
    near.close()
    near.close()
    assert await far.receive() is None
    assert await far.receive() is None
    far.close()
    await until(lambda: not a.streams() and not b.streams())


async def test_the_largest_frames_arrive(station):
    a, b = await station(1), await station(2)
    near, far = await a.knows(b).opens(b)
    frames = [bytes([n]) * SNAPSHOT_FRAME_BYTES for n in range(6)]

    async def send_all():
        for frame in frames:
            await near.send(frame)
        near.close()

    sending = asyncio.ensure_future(send_all())
    assert [await far.receive() for _ in frames] == frames
    assert await far.receive() is None
    await sending


async def test_who_opened_a_stream_is_known(station):
    a, b = await station(1), await station(2)
    a.knows(b)
    await a.channel.open_stream(b.id)
    peer, _ = await b.opened.get()
    assert (peer.node_id, peer.endpoint_id) == (1, a.id)


async def test_a_slow_reader_holds_up_the_sender_and_memory_is_bounded(station):
    a, b = await station(1), await station(2)
    near, far = await a.knows(b).opens(b)
    sent, blocked = await send_until_blocked(near)
    assert sent * len(CHUNK) <= NET_STREAM_WINDOW_BYTES + NET_STREAM_SEND_BYTES + len(CHUNK)
    assert len(far._unread) <= NET_STREAM_WINDOW_BYTES
    assert near._pending_bytes <= NET_STREAM_SEND_BYTES + len(CHUNK) + 4
    received = 0
    while received <= sent:  # what was blocked, too
        async with asyncio.timeout(SOON_S):
            assert await far.receive() == CHUNK
        assert len(far._unread) <= NET_STREAM_WINDOW_BYTES
        received += 1
    await blocked


async def test_streams_that_nobody_reads_hold_up_no_raft_frames(station):
    a, b = await station(1), await station(2)
    a.knows(b)
    blocked = []
    for _ in range(NET_STREAMS):
        near, _ = await a.opens(b)
        blocked.append((await send_until_blocked(near))[1])
    frames = [bytes([n]) * 500_000 for n in range(50)]
    for frame in frames:
        assert a.send(b, frame)
        assert await b.hears() == frame
    for task in blocked:
        assert not task.done()
        task.cancel()


async def test_raft_frames_do_not_wait_behind_bulk_data(station):
    """Counted is what arrives of it while a frame is under way, which says the same on any machine: no more
    than QUIC had been handed already."""
    a, b = await station(1), await station(2)
    near, far = await a.knows(b).opens(b)
    overtaken = []

    async def fill():
        for _ in range(160):
            await near.send(CHUNK)
        near.close()

    async def beat():
        while True:
            arrived_bytes = far._arrived_bytes
            assert a.send(b, b"a heartbeat" * 5)
            await b.hears()
            overtaken.append(far._arrived_bytes - arrived_bytes)
            await asyncio.sleep(0.005)

    filling, beating = asyncio.ensure_future(fill()), asyncio.ensure_future(beat())
    while await far.receive() is not None:
        assert not beating.done()
    beating.cancel()
    await filling
    assert len(overtaken) > 10
    assert max(overtaken) <= NET_STREAM_SEND_BYTES + 2 * len(CHUNK)


@pytest.mark.parametrize("how", ["closed", "dropped"])
async def test_a_lost_connection_cuts_both_ends(station, how):
    a, b = await station(1), await station(2)
    near, far = await a.knows(b).opens(b)
    _, sending = await send_until_blocked(near)
    receiving = asyncio.ensure_future(near.receive())
    await asyncio.sleep(0)
    if how == "closed":
        await b.endpoint.close()
    else:
        for connection in list(a.endpoint._transceiver.connections):
            a.endpoint._transceiver.drop(connection)
    await raises_soon(sending)
    await raises_soon(receiving)
    await raises_soon(near.send(b"late"))

    async def read_on():
        while True:
            await far.receive()

    await raises_soon(read_on())
    await raises_soon(far.send(b"late"))
    assert not a.streams()


async def test_a_dead_peer_is_noticed_within_the_idle_time(station):
    a, b = await station(1, idle_ms=600), await station(2, idle_ms=600)
    near, _ = await a.knows(b).opens(b)
    b.kill()
    started = time.monotonic()
    await raises_soon(near.receive())
    assert time.monotonic() - started < 5  # the idle time is ten seconds otherwise


async def test_a_new_incarnation_of_the_peer_cuts_at_once(station):
    a, b = await station(1), await station(2)
    near, _ = await a.knows(b).opens(b)
    b.kill()
    reborn = await station(2, identity=b.identity, port=b.address[1])
    started = time.monotonic()
    reborn.knows(a).channel.dial(a.id)
    await raises_soon(near.receive())
    assert time.monotonic() - started < 5  # long before the idle time
    await a.gets_through(reborn, b"found")  # or a stateless reset was first, and the next dial waits
    again, far = await a.opens(reborn)
    await again.send(b"go on")
    assert await far.receive() == b"go on"


async def test_what_arrived_whole_before_the_connection_was_lost_is_still_read(station):
    a, b = await station(1), await station(2)
    near, far = await a.knows(b).opens(b)
    await near.send(b"all of it")
    near.close()
    await until(lambda: far._peer_done)
    await a.endpoint.close()
    await until(lambda: not b.endpoint.connections())
    assert await far.receive() == b"all of it"
    assert await far.receive() is None
    await raises_soon(far.send(b"late"))


async def test_an_aborted_stream_raises_at_the_other_end_and_the_connection_stays(station):
    a, b = await station(1), await station(2)
    near, far = await a.knows(b).opens(b)
    await near.send(CHUNK)
    _, sending = await send_until_blocked(far)
    near.abort()
    await raises_soon(sending)
    await until(lambda: far._receive_cut)
    await raises_soon(far.receive())
    far.close()
    await until(lambda: not a.streams() and not b.streams())
    assert a.send(b, b"still here")
    assert await b.hears() == b"still here"
    assert [c.dialled for c in a.endpoint.connections()] == [True]


async def test_what_a_cut_leaves_behind_does_not_use_up_the_window(station, monkeypatch):
    a, b = await station(1), await station(2)
    near, far = await a.knows(b).opens(b)
    wire = a.endpoint._transceiver._put_on_wire

    def lossy(datagram, address):
        if len(datagram) < 1000:
            wire(datagram, address)

    monkeypatch.setattr(a.endpoint._transceiver, "_put_on_wire", lossy)
    await near.send(CHUNK)
    await asyncio.sleep(0.02)
    near.abort()
    await until(lambda: far._receive_cut)
    (connection,) = b.endpoint._transceiver.connections
    window = connection.quic._receive_window
    assert window.used > far._arrived_bytes + 10_000  # never arrived, and counted by both sides
    assert window._handled == window.used


async def test_closing_with_data_unread_stops_the_sender(station):
    a, b = await station(1), await station(2)
    near, far = await a.knows(b).opens(b)
    _, sending = await send_until_blocked(far)
    await near.send(b"enough")
    near.close()
    assert "no more" in await raises_soon(sending)
    assert await far.receive() == b"enough"  # this direction has a clean end
    assert await far.receive() is None
    await raises_soon(near.receive())
    await raises_soon(near.send(b"late"))
    far.close()
    await until(lambda: not a.streams() and not b.streams())


async def test_a_receiver_that_returns_closes_its_stream_and_one_that_fails_cuts_it(station):
    async def serve(peer, stream):
        request = await stream.receive()
        await stream.send(b"answer")
        if request == b"fail":
            raise ConnectionError("no luck")

    a, b = await station(1), await station(2, on_stream=serve)
    a.knows(b)
    good = await a.channel.open_stream(b.id)
    await good.send(b"work")
    assert await good.receive() == b"answer"
    assert await good.receive() is None
    good.close()
    bad = await a.channel.open_stream(b.id)
    await bad.send(b"fail")

    async def read_on():
        while await bad.receive() is not None:
            pass

    await raises_soon(read_on())
    bad.close()
    await until(lambda: not a.streams() and not b.streams())


async def test_a_node_that_expects_no_streams_cuts_them(station):
    a, b = await station(1), await station(2)
    b.channel._on_stream = None
    stream = await a.knows(b).channel.open_stream(b.id)
    await raises_soon(stream.receive())


async def test_few_streams_are_open_at_one_time_and_many_after_each_other(station):
    a, b = await station(1), await station(2)
    a.knows(b)
    pairs = [await a.opens(b) for _ in range(NET_STREAMS)]
    assert "open already" in await raises_soon(a.channel.open_stream(b.id))
    for _ in range(5 * NET_STREAMS):
        for stream in pairs.pop(0):
            stream.close()
        await until(lambda: len(b.streams()) < NET_STREAMS)
        pairs.append(await a.opens(b))
        await pairs[-1][0].send(b"hello")
        assert await pairs[-1][1].receive() == b"hello"


async def test_a_member_that_opens_too_many_streams_is_refused_them(station, stranger):
    b = await station(2)
    greedy = await stranger(b)
    await greedy.joins(b)
    for stream_id in range(4, 4 * NET_STREAMS + 8, 4):
        greedy.write(stream_id, b"\x01")
    async with asyncio.timeout(SOON_S):
        assert await greedy.resets.get() == 4 * NET_STREAMS + 4
    assert b.opened.qsize() == NET_STREAMS
    greedy.write(4, encode_frames([b"the others go on"]))
    assert await (await b.opened.get())[1].receive() == b"the others go on"


async def test_an_unknown_kind_of_stream_is_cut_and_the_connection_stays(station, stranger):
    b = await station(2)
    odd = await stranger(b)
    await odd.joins(b)
    odd.write(4, b"\x7fwhat is this?")
    async with asyncio.timeout(SOON_S):
        assert await odd.resets.get() == 4
    odd.write(2, encode_frames([b"a frame"]))
    assert await b.hears() == b"a frame"
    assert b.opened.empty()


async def test_an_oversize_frame_cuts_its_stream(station, stranger):
    b = await station(2)
    rude = await stranger(b)
    await rude.joins(b)
    rude.write(4, b"\x01" + (SNAPSHOT_FRAME_BYTES + 1).to_bytes(4, "big"))
    _, stream = await b.opened.get()
    assert "bytes, over" in await raises_soon(stream.receive())
    async with asyncio.timeout(SOON_S):
        assert await rude.resets.get() == 4


async def test_a_frame_cut_short_by_the_end_is_no_frame(station, stranger):
    b = await station(2)
    rude = await stranger(b)
    await rude.joins(b)
    rude.write(4, b"\x01\x00\x00\x00\x09short")
    rude.protocol._quic.send_stream_data(4, b"", end_stream=True)
    rude.protocol.transmit()
    assert "inside a frame" in await raises_soon((await b.opened.get())[1].receive())


async def test_whoever_is_not_proven_opens_no_stream(station, stranger):
    b = await station(2)
    rude = await stranger(b)
    rude.write(4, b"\x01" + encode_frames([b"obey"]))
    assert await rude.closed_by_peer() == "malformed"
    assert b.opened.empty()
    wrong = await station(1, cookie="a cookie of another cluster")
    await raises_soon(wrong.knows(b).channel.open_stream(b.id))
    assert b.opened.empty()


async def test_a_stream_to_a_peer_that_cannot_be_reached_fails_in_time(station, monkeypatch):
    monkeypatch.setattr("aspen.net.connection.NET_DIAL_MS", 200)
    a, b = await station(1), await station(2)
    assert "no way" in await raises_soon(a.channel.open_stream(b.id))  # no address
    b.kill()
    started = time.monotonic()
    await raises_soon(a.knows(b).channel.open_stream(b.id))
    assert time.monotonic() - started < 2
    await raises_soon(a.channel.open_stream(a.id))
    waiting = asyncio.ensure_future(a.channel.open_stream(b.id))
    await asyncio.sleep(0)
    await a.endpoint.close()
    await raises_soon(waiting)
