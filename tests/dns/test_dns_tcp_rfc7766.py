"""DNS over TCP: RFC 1035 §4.2.2 (framing), RFC 7766 §6 (pipelining, limits, closing)."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import dns.message
import dns.rcode
import pytest
import uvloop

from aspen.dns.lookup import DnsSettings, View
from aspen.dns.sockets import bind_udp_and_tcp
from aspen.dns.stream import TcpServer, client_of
from aspen.limits import DNS_TCP_PIPELINE

SECONDS = 30.0  # until a test gives up

Connect = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@asynccontextmanager
async def starting(serve: Any) -> AsyncIterator[Callable[..., Awaitable[tuple[TcpServer, Connect]]]]:
    """Start a server with limits of one's choice; connect to it at will."""
    servers: list[TcpServer] = []
    writers: list[asyncio.StreamWriter] = []
    served = serve(
        '@ 30 A 192.0.2.1\n_iroh 30 TXT "x"\n' + "\n".join(f'big 30 TXT "{i}{"x" * 200}"' for i in range(4))
    )

    async def start_one(**limits: int) -> tuple[TcpServer, Connect]:
        server = TcpServer(served.view, **limits)
        servers.append(server)
        address = await server.start("127.0.0.1", 0)

        async def connect(**options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(*address, **options)
            writers.append(writer)
            return reader, writer

        return server, connect

    yield start_one
    for writer in writers:
        writer.close()
    for server in servers:
        await server.close()


@pytest.fixture
async def start(serve: Any) -> AsyncIterator[Callable[..., Awaitable[tuple[TcpServer, Connect]]]]:
    async with starting(serve) as start_one:
        yield start_one


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


async def receive(reader: asyncio.StreamReader) -> dns.message.Message:
    async with asyncio.timeout(SECONDS):
        size = int.from_bytes(await reader.readexactly(2), "big")
        return dns.message.from_wire(await reader.readexactly(size))


async def assert_closed(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(SECONDS):
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass


async def test_rfc1035_4_2_2_a_query_behind_its_length(start: Any, z32: str) -> None:
    _, connect = await start()
    reader, writer = await connect()
    query = dns.message.make_query(f"big.{z32}.aspen.local", "TXT")
    writer.write(framed(query.to_wire()))
    reply = await receive(reader)
    assert query.is_response(reply)
    assert len(reply.answer[0]) == 4  # more than a plain datagram holds


async def test_rfc7766_6_2_1_1_pipelined_queries_are_all_answered(start: Any, z32: str) -> None:
    server, connect = await start()
    reader, writer = await connect()
    queries = [dns.message.make_query(f"{z32}.aspen.local", "A", id=number) for number in range(1_000)]
    writer.write(b"".join(framed(query.to_wire()) for query in queries))
    assert len(queries) > 2 * DNS_TCP_PIPELINE
    ids = {(await receive(reader)).id for _ in queries}
    assert ids == set(range(1_000))
    assert server.answered == 1_000


async def test_rfc7766_8_a_message_may_come_in_any_pieces(start: Any, z32: str) -> None:
    _, connect = await start()
    reader, writer = await connect()
    data = framed(dns.message.make_query(f"{z32}.aspen.local", "A").to_wire()) * 2
    writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for start_, end in ((0, 1), (1, 2), (2, 5), (5, 70), (70, len(data))):
        writer.write(data[start_:end])
        await writer.drain()
        await asyncio.sleep(0)
    assert (await receive(reader)).answer
    assert (await receive(reader)).answer


async def test_rfc7766_6_2_4_a_half_closed_client_gets_its_answers(start: Any, z32: str) -> None:
    server, connect = await start()
    reader, writer = await connect()
    query = framed(dns.message.make_query(f"{z32}.aspen.local", "A").to_wire())
    writer.write(query * 300 + query[:20])  # and an unfinished one
    writer.write_eof()
    for _ in range(300):
        assert (await receive(reader)).answer
    await assert_closed(reader)
    assert server.connection_count == 0


async def test_rfc7766_6_2_3_an_idle_connection_is_closed(start: Any, z32: str) -> None:
    server, connect = await start(idle_ms=100)
    reader, writer = await connect()
    await assert_closed(reader)
    reader, writer = await connect()
    writer.write(framed(dns.message.make_query(f"{z32}.aspen.local", "A").to_wire()))
    assert (await receive(reader)).answer
    await assert_closed(reader)
    assert server.connection_count == 0


async def test_an_octet_at_a_time_is_not_activity(start: Any, z32: str) -> None:
    _, connect = await start(idle_ms=60_000, read_ms=200)
    reader, writer = await connect()
    query = framed(dns.message.make_query(f"{z32}.aspen.local", "A").to_wire())
    loop = asyncio.get_running_loop()
    started = loop.time()
    sent = 0
    while not reader.at_eof() and sent < len(query):
        writer.write(query[sent : sent + 1])
        sent += 1
        try:
            await asyncio.wait_for(reader.read(1), 0.02)
            break
        except TimeoutError:
            continue
        except ConnectionResetError:
            break
    assert sent < len(query)
    assert 0.15 < loop.time() - started < SECONDS


async def test_a_client_that_takes_no_answers_is_cut_off(start: Any, z32: str) -> None:
    server, connect = await start(write_ms=200)
    _, writer = await connect(limit=1_024)
    sock = writer.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    writer.transport.pause_reading()
    query = framed(dns.message.make_query(f"big.{z32}.aspen.local", "TXT").to_wire())
    try:
        async with asyncio.timeout(SECONDS):
            while server.connection_count:
                writer.write(query * 100)
                await asyncio.wait_for(writer.drain(), SECONDS)
                await asyncio.sleep(0.01)
    except (ConnectionError, TimeoutError):
        pass
    async with asyncio.timeout(SECONDS):
        while server.connection_count:  # noqa: ASYNC110 -- the server tells nobody
            await asyncio.sleep(0.01)


async def test_connections_are_limited_in_all_and_for_each_client(start: Any, z32: str) -> None:
    for limits in ({"connections_max": 2}, {"connections_per_client": 2}):
        server, connect = await start(**limits)
        query = framed(dns.message.make_query(f"{z32}.aspen.local", "A").to_wire())
        kept = [await connect() for _ in range(2)]
        for reader, writer in kept:
            writer.write(query)
            assert (await receive(reader)).answer
        reader, _ = await connect()
        await assert_closed(reader)
        assert server.refused == 1
        kept[0][1].close()
        async with asyncio.timeout(SECONDS):
            while server.connection_count == 2:  # noqa: ASYNC110 -- the server tells nobody
                await asyncio.sleep(0.01)
        reader, writer = await connect()
        writer.write(query)
        assert (await receive(reader)).answer


@pytest.mark.parametrize(
    "scenario",
    [
        test_rfc7766_6_2_1_1_pipelined_queries_are_all_answered,
        test_rfc7766_6_2_4_a_half_closed_client_gets_its_answers,
        test_rfc7766_6_2_3_an_idle_connection_is_closed,
        test_an_octet_at_a_time_is_not_activity,
        test_a_client_that_takes_no_answers_is_cut_off,
        test_connections_are_limited_in_all_and_for_each_client,
    ],
)
def test_uvloop_is_the_same(serve: Any, z32: str, scenario: Callable[[Any, str], Awaitable[None]]) -> None:
    async def run() -> None:
        async with starting(serve) as start_one:
            await scenario(start_one, z32)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("junk", [framed(b""), framed(b"abc"), framed(b"\x00\x01\x80" + bytes(9))])
async def test_who_does_not_ask_is_closed_after_the_answers_due(start: Any, z32: str, junk: bytes) -> None:
    _, connect = await start()
    reader, writer = await connect()
    writer.write(framed(dns.message.make_query(f"{z32}.aspen.local", "A").to_wire()) + junk)
    assert (await receive(reader)).answer
    await assert_closed(reader)


async def test_malformed_queries_get_formerr_and_may_go_on(start: Any, z32: str) -> None:
    _, connect = await start()
    reader, writer = await connect()
    good = dns.message.make_query(f"{z32}.aspen.local", "A").to_wire()
    writer.write(framed(good + b"x") + framed(good[:-1]) + framed(good + bytes(60_000)) + framed(good))
    for _ in range(3):
        assert (await receive(reader)).rcode() == dns.rcode.FORMERR
    assert (await receive(reader)).answer


async def test_garbage_breaks_nothing(start: Any, z32: str) -> None:
    _, connect = await start()
    rng = random.Random(3)
    for _ in range(40):
        reader, writer = await connect()
        writer.write(rng.randbytes(rng.randrange(1, 3_000)))
        writer.write_eof()
        try:
            await asyncio.wait_for(reader.read(), SECONDS)
        except ConnectionResetError:
            pass
        writer.close()
    reader, writer = await connect()
    writer.write(framed(dns.message.make_query(f"{z32}.aspen.local", "A").to_wire()))
    assert (await receive(reader)).answer


async def test_a_replica_that_can_not_be_read_is_servfail(z32: str) -> None:
    class Broken:
        def packet_answers(self, public_key: bytes) -> bytes | None:
            raise OSError("disk on fire")

    server = TcpServer(View.build(Broken(), DnsSettings()))
    udp, tcp = bind_udp_and_tcp("127.0.0.1", 0, 1)
    udp[0].close()
    address = await server.start_on(tcp)
    try:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(framed(dns.message.make_query(f"{z32}.aspen.local", "A").to_wire()))
        assert (await receive(reader)).rcode() == dns.rcode.SERVFAIL
        writer.close()
    finally:
        await server.close()


def test_a_client_is_an_address_or_an_ipv6_network() -> None:
    assert client_of(("192.0.2.1", 5)) == "192.0.2.1"
    assert client_of(("2001:db8:0:1:2::3", 5, 0, 0)) == client_of(("2001:db8:0:1:9::", 5, 0, 0))
    assert client_of(("2001:db8:0:2::", 5, 0, 0)) != client_of(("2001:db8:0:1::", 5, 0, 0))
    assert client_of(("::ffff:192.0.2.1", 5, 0, 0)) == "192.0.2.1"
    assert client_of(("fe80::1%eth0", 5, 0, 2)) == "fe80::/64"
    assert client_of(None) == "unknown"
