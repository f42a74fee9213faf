"""How fast frames cross the QUIC endpoint between two processes on loopback, beside plain TCP.

    python bench/net.py [--seconds 3] [--datagram-bytes 0]

- `net_round_trips`: one frame of 100 bytes there and one back at a time, a second.
- `net_pipelined_round_trips`: the same with 64 of them under way, as Raft has under load.
- `net_throughput_mb`: megabytes a second of 1 KB frames, 64 handed over at a time.
TCP has neither encryption nor authentication; it says what the loop and the kernel cost alone.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import structlog
import uvloop

from aspen.identity import Cookie, Cookies, Identity
from aspen.net.endpoint import ALPN_RAFT, AddressBook, Endpoint, Hello, Service
from aspen.net.frames import FrameReader, encode_frames

ALICE, BOB = Identity.from_seed(b"a" * 32), Identity.from_seed(b"b" * 32)
SMALL, LARGE = bytes(100), b"\x01" + bytes(1023)
Send = Callable[[list[bytes]], object]


class Quic:
    """A node of the real thing."""

    def __init__(self, mine: Identity, other: Identity, datagram_bytes: int | None) -> None:
        self.other = other.endpoint_id
        self.on_frame: Callable[[bytes], None] = lambda frame: None
        self.book = AddressBook()
        incarnation = os.urandom(8)
        self.endpoint = Endpoint(
            identity=mine,
            cookies=Cookies(Cookie("a cookie for the bench")),
            services=[
                Service(
                    alpn=ALPN_RAFT,
                    hello=lambda: Hello(1, bytes(16), 1, incarnation),
                    admit=lambda peer: None,
                    on_frame=lambda peer, frame: self.on_frame(frame),
                )
            ],
            address_book=self.book,
            max_datagram_bytes=datagram_bytes,
        )

    def send(self, frames: list[bytes]) -> bool:
        return self.endpoint.channel(ALPN_RAFT).send(self.other, frames)


class Tcp(asyncio.Protocol):
    """The same frames over a plain TCP connection."""

    def __init__(self) -> None:
        self.on_frame: Callable[[bytes], None] = lambda frame: None
        self.reader = FrameReader(1 << 24)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for frame in self.reader.feed(data):
            self.on_frame(frame)

    def send(self, frames: list[bytes]) -> bool:
        self.transport.write(encode_frames(frames))  # type: ignore[attr-defined]
        return True


def answer(send: Send) -> Callable[[bytes], None]:
    """Small frames go back; of the large ones every 64th is acknowledged."""
    large = 0

    def on_frame(frame: bytes) -> None:
        nonlocal large
        if frame[0]:
            large += 1
            if large % 64 == 0:
                send([SMALL])
        else:
            send([frame])

    return on_frame


def far_side(pipe: Connection, datagram_bytes: int | None) -> None:
    async def main() -> None:
        quic = Quic(BOB, ALICE, datagram_bytes)
        quic.on_frame = answer(quic.send)
        address = await quic.endpoint.start("127.0.0.1", 0)

        def make() -> Tcp:
            tcp = Tcp()
            tcp.on_frame = answer(tcp.send)
            return tcp

        server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        pipe.send((address, server.sockets[0].getsockname()))
        before = time.process_time()
        while not await asyncio.to_thread(pipe.poll, 0.1):
            pass
        pipe.send(time.process_time() - before)

    silence()
    uvloop.run(main())


async def round_trips(side: Quic | Tcp, seconds: float, under_way: int) -> float:
    done = asyncio.get_running_loop().create_future()
    count, ends_at = 0, time.perf_counter() + seconds

    def on_frame(frame: bytes) -> None:
        nonlocal count
        count += 1
        if time.perf_counter() < ends_at:
            side.send([frame])
        elif not done.done():
            done.set_result(None)

    side.on_frame = on_frame
    for _ in range(under_way):
        side.send([SMALL])
    started = time.perf_counter()
    await done
    return count / (time.perf_counter() - started)


async def throughput(side: Quic | Tcp, seconds: float) -> float:
    """Batches of 64 frames, at most eight batches beyond the last acknowledged one."""
    done = asyncio.get_running_loop().create_future()
    batches, ends_at = 0, time.perf_counter() + seconds

    def on_frame(frame: bytes) -> None:
        nonlocal batches
        batches += 1
        if time.perf_counter() < ends_at:
            side.send([LARGE] * 64)
        elif not done.done():
            done.set_result(None)

    side.on_frame = on_frame
    started = time.perf_counter()
    for _ in range(8):
        side.send([LARGE] * 64)
    await done
    return batches * 64 * len(LARGE) / (time.perf_counter() - started) / 1e6


async def near_side(pipe: Connection, seconds: float, datagram_bytes: int | None) -> None:
    address, tcp_address = pipe.recv()
    quic = Quic(ALICE, BOB, datagram_bytes)
    await quic.endpoint.start("127.0.0.1", 0)
    quic.book.add(BOB.endpoint_id, address, "manual")
    _, tcp = await asyncio.get_running_loop().create_connection(Tcp, *tcp_address)
    await round_trips(quic, 0.3, 1)  # connect, and warm up
    for name, measure in (
        ("net_round_trips", lambda side: round_trips(side, seconds, 1)),
        ("net_pipelined_round_trips", lambda side: round_trips(side, seconds, 64)),
        ("net_throughput_mb", lambda side: throughput(side, seconds)),
    ):
        ours = await measure(quic)
        await asyncio.sleep(0.1)
        theirs = await measure(tcp)
        await asyncio.sleep(0.1)
        print(f"bench: {name} aspen={ours:.0f} peer={theirs:.0f} (TCP) ratio={ours / theirs:.2f}", flush=True)
    tcp.transport.close()
    await quic.endpoint.close()


def silence() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--datagram-bytes", type=int, default=0, help="0: as production chooses")
    options = parser.parse_args()
    silence()
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    datagram_bytes = options.datagram_bytes or None
    process = spawn.Process(target=far_side, args=(there, datagram_bytes), daemon=True)
    process.start()
    uvloop.run(near_side(here, options.seconds, datagram_bytes))
    here.send("done")
    here.recv()
    process.join(5)
    return 0


if __name__ == "__main__":
    sys.exit(main())
