"""DNS over TLS: RFC 7858, RFC 7766 inside it, and a listener that can't be worn out by handshakes."""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import pytest
import uvloop

sys.path.insert(0, str(Path(__file__).parent))

from encrypted import SECONDS, V4_AND_V6, ca_file, client_context, run, self_signed

from aspen.dns.sockets import bind_tcp
from aspen.dns.stream import TcpServer
from aspen.tls.listener import TlsListener


class Dot:
    """A listening server."""

    def __init__(self, server: TcpServer, listener: TlsListener, host: str, port: int, folder: Path) -> None:
        self.server, self.listener, self.host, self.port, self.folder = server, listener, host, port, folder

    async def connect(self, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = client_context(self.folder, "dot")
        return await asyncio.open_connection(self.host, self.port, ssl=context, **options)

    async def plain(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port)


Start = Callable[..., Awaitable[Dot]]


@asynccontextmanager
async def starting(serve: Any, tmp_path: Path) -> AsyncIterator[Start]:
    served = serve("@ 30 A 192.0.2.1\n" + "\n".join(f'big 30 TXT "{i}{"x" * 200}"' for i in range(9)))
    certificates = self_signed(tmp_path)
    async with AsyncExitStack() as stack:

        async def start_one(
            host: str = "127.0.0.1", *, tls: dict[str, int] | None = None, **limits: int
        ) -> Dot:
            server = TcpServer(served.view, encrypted=True, **limits)
            listener = TlsListener(
                lambda: certificates.context("dot"), lambda _: server.new_connection(), **(tls or {})
            )
            _, port = listener.start(bind_tcp(host, 0))
            stack.push_async_callback(server.close)
            stack.push_async_callback(listener.close)
            return Dot(server, listener, host, port, tmp_path)

        yield start_one


@pytest.fixture
async def start(serve: Any, tmp_path: Path) -> AsyncIterator[Start]:
    async with starting(serve, tmp_path) as start_one:
        yield start_one


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


async def receive(reader: asyncio.StreamReader) -> dns.message.Message:
    async with asyncio.timeout(SECONDS):
        size = int.from_bytes(await reader.readexactly(2), "big")
        return dns.message.from_wire(await reader.readexactly(size))


async def assert_ended(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(SECONDS):
        try:
            await reader.read()
        except OSError:
            pass


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that no event announces."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("host", V4_AND_V6)
async def test_rfc7858_3_dnspython_asks_and_verifies(start: Start, z32: str, host: str) -> None:
    dot = await start(host)
    query = dns.message.make_query(f"big.{z32}.aspen.local", "TXT", use_edns=0, pad=128)
    reply = await asyncio.to_thread(
        dns.query.tls,
        query,
        host,
        timeout=SECONDS,
        port=dot.port,
        ssl_context=client_context(dot.folder, "dot"),
        server_hostname="localhost",
    )
    assert len(reply.answer[0]) == 9  # never cut to a datagram's size
    assert reply.wire is not None
    assert len(reply.wire) % 468 == 0
    await eventually(lambda: dot.listener.handshakes == 0)


@pytest.mark.skipif(shutil.which("kdig") is None, reason="kdig is not installed")
@pytest.mark.parametrize("host", V4_AND_V6)
async def test_rfc7858_kdig_asks_and_verifies(start: Start, z32: str, host: str) -> None:
    dot = await start(host)
    text = await run(
        "kdig",
        f"@{host}",
        "-p",
        str(dot.port),
        f"+tls-ca={ca_file(dot.folder)}",
        "+tls-hostname=localhost",
        "+padding",
        f"{z32}.aspen.local",
        "A",
    )
    assert "192.0.2.1" in text
    assert "PADDING" in text
    assert "Received 468 B" in text


async def test_rfc7858_3_3_many_queries_over_one_connection(start: Start, z32: str) -> None:
    dot = await start()
    reader, writer = await dot.connect()
    queries = [dns.message.make_query(f"{z32}.aspen.local", "A", id=number) for number in range(500)]
    writer.write(b"".join(framed(query.to_wire()) for query in queries))
    assert {(await receive(reader)).id for _ in queries} == set(range(500))
    writer.close()


async def test_who_ends_its_side_still_gets_the_answers(start: Start, z32: str) -> None:
    """TLS can't be half-closed here, but a client that sends and leaves a goodbye is answered first."""
    dot = await start()
    reader, writer = await dot.connect()
    writer.write(framed(dns.message.make_query(f"{z32}.aspen.local", "A").to_wire()) * 3)
    for _ in range(3):
        assert (await receive(reader)).answer
    writer.close()
    await eventually(lambda: dot.server.connection_count == 0)


async def test_no_alpn_is_needed_and_a_foreign_one_does_no_harm(start: Start, z32: str) -> None:
    dot = await start()
    for alpn in ((), ("h2",)):
        reader, writer = await asyncio.open_connection(
            dot.host, dot.port, ssl=client_context(dot.folder, *alpn)
        )
        writer.write(framed(dns.message.make_query(f"{z32}.aspen.local", "A").to_wire()))
        assert (await receive(reader)).answer
        writer.close()


async def test_a_silent_or_slow_handshake_ends_in_time(start: Start) -> None:
    dot = await start(tls={"handshake_ms": 200})
    silent, silent_writer = await dot.plain()
    slow, slow_writer = await dot.plain()
    async with asyncio.timeout(SECONDS):
        try:
            for octet in b"\x16\x03\x01\x02\x00\x01\x00" * 1_000:
                slow_writer.write(bytes((octet,)))
                await slow_writer.drain()
                await asyncio.sleep(0.02)
        except (OSError, RuntimeError):  # the latter is uvloop's, of a connection that was lost meanwhile
            pass
    await assert_ended(silent)
    await assert_ended(slow)
    await eventually(lambda: dot.listener.handshakes == 0)
    assert dot.listener.failed == 2
    silent_writer.close()
    slow_writer.close()


async def test_garbage_is_no_handshake(start: Start, z32: str) -> None:
    dot = await start()
    generator = random.Random(7)
    for _ in range(30):
        reader, writer = await dot.plain()
        writer.write(generator.randbytes(generator.randrange(1, 4_000)))
        writer.write_eof()
        await assert_ended(reader)
        writer.close()
    await eventually(lambda: dot.listener.handshakes == 0)
    reader, writer = await dot.connect()
    writer.write(framed(dns.message.make_query(f"{z32}.aspen.local", "A").to_wire()))
    assert (await receive(reader)).answer
    writer.close()


async def test_too_many_handshakes_cost_the_one_that_takes_longest(start: Start, z32: str) -> None:
    dot = await start(tls={"handshakes_max": 4, "handshakes_per_client": 100})
    waiting = [await dot.plain() for _ in range(4)]
    await eventually(lambda: dot.listener.handshakes == 4)
    reader, writer = await dot.connect()  # an honest one gets through
    await assert_ended(waiting[0][0])
    writer.write(framed(dns.message.make_query(f"{z32}.aspen.local", "A").to_wire()))
    assert (await receive(reader)).answer
    assert dot.listener.refused == 1
    for _, other in [*waiting, (reader, writer)]:
        other.close()


async def test_one_client_has_so_many_handshakes_and_no_more(start: Start) -> None:
    dot = await start(tls={"handshakes_per_client": 3})
    waiting = [await dot.plain() for _ in range(5)]
    await eventually(lambda: dot.listener.refused == 2)
    assert dot.listener.handshakes == 3
    for _, writer in waiting:
        writer.close()
    await eventually(lambda: dot.listener.handshakes == 0)


async def test_the_limits_of_tcp_hold_inside(start: Start) -> None:
    dot = await start(idle_ms=100, connections_per_client=2)
    open_ones = [await dot.connect() for _ in range(2)]
    over, writer = await dot.connect()
    await assert_ended(over)
    assert dot.server.refused == 1
    for reader, _ in open_ones:
        await assert_ended(reader)  # idle
    await eventually(lambda: dot.server.connection_count == 0)
    for _, other in [*open_ones, (over, writer)]:
        other.close()


async def test_closing_ends_handshakes_and_connections(start: Start) -> None:
    dot = await start()
    silent, silent_writer = await dot.plain()
    reader, writer = await dot.connect()
    await eventually(lambda: dot.listener.handshakes == 1 and dot.server.connection_count == 1)
    await dot.listener.close()
    await dot.server.close()
    await assert_ended(silent)
    await assert_ended(reader)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(dot.host, dot.port)
    silent_writer.close()
    writer.close()


@pytest.mark.parametrize(
    "scenario",
    [
        test_rfc7858_3_3_many_queries_over_one_connection,
        test_who_ends_its_side_still_gets_the_answers,
        test_garbage_is_no_handshake,
        test_a_silent_or_slow_handshake_ends_in_time,
        test_the_limits_of_tcp_hold_inside,
        test_too_many_handshakes_cost_the_one_that_takes_longest,
        test_one_client_has_so_many_handshakes_and_no_more,
        test_closing_ends_handshakes_and_connections,
    ],
)
def test_uvloop_is_the_same(serve: Any, z32: str, tmp_path: Path, scenario: Callable[..., Any]) -> None:
    async def go() -> None:
        async with starting(serve, tmp_path) as start_one:
            arguments = {"start": start_one, "z32": z32}
            await scenario(**{name: arguments[name] for name in scenario.__annotations__ if name != "return"})

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(go())


def test_a_wildcard_takes_both_families() -> None:
    with bind_tcp("::", 0) as sock:
        sock.listen()
        for host in V4_AND_V6:
            socket.create_connection((host, sock.getsockname()[1]), timeout=SECONDS).close()
