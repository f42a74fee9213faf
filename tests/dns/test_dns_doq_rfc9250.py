"""DNS over QUIC: RFC 9250, by kdig, dnspython and a client that breaks every rule."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import dns.edns
import dns.message
import dns.query
import pytest
import uvloop
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamDataReceived, StreamReset

sys.path.insert(0, str(Path(__file__).parent))

from encrypted import SECONDS, V4_AND_V6, ca_file, run, self_signed

from aspen.dns.sockets import bind_udp
from aspen.dns.stream import Answers, Padding
from aspen.identity import Identity
from aspen.limits import DOQ_STREAMS
from aspen.tls.doq import DoqServer
from aspen.tls.doq_connection import DoqConnection, DoqError

RECORDS = "@ 30 A 192.0.2.1\n" + "\n".join(f'big 30 TXT "{number}{"x" * 250}"' for number in range(40))


class Client(QuicConnectionProtocol):
    """Sends what it is told on any stream, and keeps what comes back."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.streams: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.closed_with: int | None = None
        self.changed = asyncio.Event()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            self.streams[event.stream_id] = self.streams.get(event.stream_id, b"") + event.data
            if event.end_stream:
                self.ended.add(event.stream_id)
        elif isinstance(event, StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, ConnectionTerminated):
            self.closed_with = event.error_code
        self.changed.set()

    def send(self, stream_id: int, data: bytes, *, end: bool = True) -> None:
        self._quic.send_stream_data(stream_id, data, end)
        self.transmit()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def reply(self, stream_id: int) -> dns.message.Message:
        await self.until(lambda: stream_id in self.ended or self.closed_with is not None)
        data = self.streams[stream_id]
        assert int.from_bytes(data[:2], "big") == len(data) - 2
        return dns.message.from_wire(data[2:])

    async def ask(self, stream_id: int, name: str, rrtype: str = "A") -> dns.message.Message:
        self.send(stream_id, framed(dns.message.make_query(name, rrtype, id=0).to_wire()))
        return await self.reply(stream_id)

    async def closing_code(self) -> int:
        await self.until(lambda: self.closed_with is not None)
        assert self.closed_with is not None
        return self.closed_with


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


class Doq:
    def __init__(self, server: DoqServer, host: str, port: int, folder: Path) -> None:
        self.server, self.host, self.port, self.folder = server, host, port, folder

    @asynccontextmanager
    async def client(self, alpn: str = "doq") -> AsyncIterator[Client]:
        configuration = QuicConfiguration(
            alpn_protocols=[alpn], server_name="localhost", idle_timeout=SECONDS
        )
        configuration.load_verify_locations(ca_file(self.folder))
        async with connect(
            self.host, self.port, configuration=configuration, create_protocol=Client
        ) as protocol:
            assert isinstance(protocol, Client)
            yield protocol


Start = Callable[..., Awaitable[Doq]]


@asynccontextmanager
async def starting(serve: Any, tmp_path: Path) -> AsyncIterator[Start]:
    view = serve(RECORDS).view
    certificates = self_signed(tmp_path)
    async with AsyncExitStack() as stack:

        async def start_one(host: str = "127.0.0.1", *, defer: Any = None, **limits: int) -> Doq:
            server = DoqServer(
                Answers(view, Padding.EDNS, defer=defer), certificates, Identity.generate(), **limits
            )
            _, port = server.start(bind_udp(host, 0, 1)[0])
            stack.callback(server.close)
            return Doq(server, "::1" if host == "::" else host, port, tmp_path)

        yield start_one


@pytest.fixture
async def start(serve: Any, tmp_path: Path) -> AsyncIterator[Start]:
    async with starting(serve, tmp_path) as start_one:
        yield start_one


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that no event announces."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.005)


@pytest.mark.skipif(shutil.which("kdig") is None, reason="kdig is not installed")
@pytest.mark.parametrize("host", V4_AND_V6)
async def test_kdig_asks_and_verifies(start: Start, z32: str, host: str) -> None:
    doq = await start(host)
    text = await run(
        *("kdig", f"@{host}", "-p", str(doq.port), f"+tls-ca={ca_file(doq.folder)}"),
        *("+tls-hostname=localhost", "+quic", f"{z32}.aspen.local", "A"),
    )
    assert "192.0.2.1" in text
    assert "QUIC session (QUICv1)" in text
    assert "Received 468 B" in text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it forgets a socket
@pytest.mark.parametrize("host", [*V4_AND_V6, "::"])
async def test_dnspython_asks_and_verifies(start: Start, z32: str, host: str) -> None:
    doq = await start(host)
    for address in V4_AND_V6 if host == "::" else [host]:
        reply = await asyncio.to_thread(
            dns.query.quic,
            dns.message.make_query(f"big.{z32}.aspen.local", "TXT"),
            address,
            timeout=SECONDS,
            port=doq.port,
            verify=ca_file(doq.folder),
            server_hostname="localhost",
        )
        assert len(reply.answer[0]) == 40  # over 10,000 octets
    del reply
    gc.collect()  # here, where that is forgiven


async def test_4_2_each_query_has_a_stream_and_none_waits_for_another(start: Start, z32: str) -> None:
    doq = await start()
    async with doq.client() as client:
        query = framed(dns.message.make_query(f"{z32}.aspen.local", "A", id=0).to_wire())
        client.send(0, query[:20], end=False)
        for number in range(1, 3 * DOQ_STREAMS):  # more than may be open at one time
            reply = await client.ask(4 * number, f"{z32}.aspen.local")
            assert reply.answer
            assert reply.id == 0
        client.send(0, query[20:])
        assert (await client.reply(0)).answer
        assert doq.server.answered == 3 * DOQ_STREAMS


async def test_many_at_once(start: Start, z32: str) -> None:
    doq = await start()
    async with doq.client() as client:
        query = framed(dns.message.make_query(f"big.{z32}.aspen.local", "TXT", id=0).to_wire())
        for number in range(DOQ_STREAMS):
            client._quic.send_stream_data(4 * number, query, True)
        client.transmit()
        for number in range(DOQ_STREAMS):
            assert len((await client.reply(4 * number)).answer[0]) == 40


async def test_4_2_a_query_may_be_answered_before_its_stream_ends(start: Start, z32: str) -> None:
    doq = await start()
    async with doq.client() as client:
        client.send(0, framed(dns.message.make_query(f"{z32}.aspen.local", "A", id=0).to_wire()), end=False)
        assert (await client.reply(0)).answer
        client.send(0, b"")  # the end, by and by
        assert (await client.ask(4, f"{z32}.aspen.local")).answer


QUERY = dns.message.make_query("a.example", "A", id=0)
KEEPALIVE = dns.message.make_query("a.example", "A", id=0)
KEEPALIVE.use_edns(0, options=[dns.edns.GenericOption(11, b"")])
REPLY = dns.message.make_response(QUERY).to_wire()


@pytest.mark.parametrize(
    ("stream_id", "data"),
    [
        pytest.param(0, framed(b"\x00\x01" + QUERY.to_wire()[2:]), id="a message id that is not 0"),
        pytest.param(0, framed(KEEPALIVE.to_wire()), id="edns-tcp-keepalive"),
        pytest.param(0, framed(QUERY.to_wire()) * 2, id="two queries on a stream"),
        pytest.param(0, framed(QUERY.to_wire()) + b"x", id="octets behind the query"),
        pytest.param(0, framed(QUERY.to_wire())[:-1], id="an end inside the query"),
        pytest.param(0, b"", id="a stream of nothing"),
        pytest.param(0, b"\x00", id="half a length"),
        pytest.param(0, framed(REPLY), id="an answer"),
        pytest.param(0, framed(b""), id="an empty message"),
        pytest.param(2, framed(QUERY.to_wire()), id="a unidirectional stream"),
    ],
)
async def test_4_3_3_whoever_breaks_the_rules_is_told_and_closed(
    start: Start, stream_id: int, data: bytes
) -> None:
    doq = await start()
    async with doq.client() as client:
        client.send(stream_id, data)
        assert await client.closing_code() == DoqError.PROTOCOL_ERROR
    await eventually(lambda: doq.server.connection_count == 0)
    assert doq.server.errors[DoqError.PROTOCOL_ERROR] == 1


async def test_4_3_1_a_query_taken_back_is_no_error(start: Start, z32: str) -> None:
    doq = await start()
    async with doq.client() as client:
        for number in range(20):
            client.send(4 * number, b"\x00\x30" + bytes(20), end=False)
            client._quic.reset_stream(4 * number, DoqError.REQUEST_CANCELLED)
        assert (await client.ask(80, f"{z32}.aspen.local")).answer
        client.send(84, b"\x00", end=False)
        client._quic.stop_stream(84, DoqError.REQUEST_CANCELLED)
        client.transmit()
        await client.until(lambda: 84 in client.resets)
        assert client.resets[84] == DoqError.REQUEST_CANCELLED


async def test_4_1_1_only_doq_is_spoken(start: Start) -> None:
    doq = await start()
    with pytest.raises(ConnectionError):
        async with doq.client("h3"):
            pass
    await eventually(lambda: doq.server.connection_count == 0)


async def test_4_5_no_ticket_is_issued_so_there_is_no_0_rtt(start: Start, z32: str) -> None:
    doq = await start()
    tickets: list[Any] = []
    configuration = QuicConfiguration(alpn_protocols=["doq"], server_name="localhost")
    configuration.load_verify_locations(ca_file(doq.folder))
    async with connect(
        doq.host,
        doq.port,
        configuration=configuration,
        create_protocol=Client,
        session_ticket_handler=tickets.append,
    ) as client:
        assert isinstance(client, Client)
        assert (await client.ask(0, f"{z32}.aspen.local")).answer
    assert tickets == []


async def test_5_5_1_an_idle_connection_ends(start: Start, z32: str) -> None:
    doq = await start(idle_ms=200)
    async with doq.client() as client:
        assert (await client.ask(0, f"{z32}.aspen.local")).answer
        await eventually(lambda: doq.server.connection_count == 0)


def paused(serve: Any, tmp_path: Path) -> tuple[Any, DoqConnection]:
    """A connection whose time is ours: both ends without sockets, the handshake done at time 0."""
    from aioquic.quic.connection import QuicConnection

    from aspen.net.quic_internals import QueryPipe, ResetTokens, query_configuration

    bundle = self_signed(tmp_path).bundle
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["doq"], server_name="localhost")
    configuration.load_verify_locations(ca_file(tmp_path))
    client = QuicConnection(configuration=configuration)
    client.connect(("192.0.2.1", 853), now=0.0)
    pipe = QueryPipe(
        query_configuration(bundle.chain, bundle.private_key, "doq", 3_600.0),
        reset_tokens=ResetTokens(Identity.generate()),
        original_destination_connection_id=client.original_destination_connection_id,
        retry_source_connection_id=None,
    )
    connection = DoqConnection(
        pipe, Answers(serve(RECORDS).view), lambda *_: None, address=("192.0.2.9", 1), now=0.0
    )
    exchange(client, connection, 0.0)
    assert connection.proven
    return client, connection


def exchange(client: Any, connection: DoqConnection, now: float) -> None:
    for _ in range(5):
        for datagram, _ in client.datagrams_to_send(now):
            connection.receive(datagram, ("192.0.2.9", 1), now)
        for datagram, _ in connection.datagrams(now):
            client.receive_datagram(datagram, ("192.0.2.1", 853), now)


def test_a_query_that_comes_octet_by_octet_runs_out_of_time(serve: Any, tmp_path: Path) -> None:
    client, connection = paused(serve, tmp_path)
    now = 0.0
    for octet in framed(QUERY.to_wire()):
        client.send_stream_data(0, bytes((octet,)))
        exchange(client, connection, now)
        now += 0.3
        if connection.deadline() <= now:
            connection.timer_fired(now)
        if connection.closed:
            break
    assert connection.error is DoqError.EXCESSIVE_LOAD
    assert now < 6.0


def test_keeping_a_connection_alive_without_asking_does_not_help(serve: Any, tmp_path: Path) -> None:
    client, connection = paused(serve, tmp_path)
    now = 0.0
    while not connection.closed and now < 100.0:
        client.send_ping(1)
        exchange(client, connection, now)
        now += 1.0
        if connection.deadline() <= now:
            connection.timer_fired(now)
    assert connection.error is DoqError.NO_ERROR
    assert 29.0 < now < 32.0


def test_windows_do_not_grow(serve: Any, tmp_path: Path) -> None:
    client, connection = paused(serve, tmp_path)
    query = framed(dns.message.make_query("a.example", "A", id=0).to_wire())
    for number in range(400):
        client.send_stream_data(4 * number, query, True)
        exchange(client, connection, number / 100)
    assert not connection.closed
    assert connection.answered == 400
    # Credit moved on with what was used, and never beyond what may be under way at one time.
    assert connection.quic._local_max_streams_bidi.value <= 400 + 2 * DOQ_STREAMS
    assert connection.quic._local_max_data.value <= 400 * len(query) + 262_144


async def test_an_answer_may_take_its_time_and_many_messages(start: Start, z32: str) -> None:
    """As transfers do (RFC 9250 §5.3.3)."""
    message = dns.message.make_response(dns.message.make_query("a.example", "AXFR", id=0)).to_wire()
    asked: list[Any] = []

    async def defer(query: bytes, peer: Any, send: Callable[[bytes], Awaitable[None]]) -> None:
        asked.append((query, peer[0]))
        for number in range(100):
            await send(message + bytes(10_000) if number else message)

    doq = await start(defer=defer)
    async with doq.client() as client:
        client.send(0, framed(dns.message.make_query("a.example", "AXFR", id=0).to_wire()))
        assert (await client.ask(4, f"{z32}.aspen.local")).answer  # others don't wait
        await client.until(lambda: 0 in client.ended)
        assert len(client.streams[0]) == 100 * (2 + len(message)) + 99 * 10_000
        assert asked[0][1] == "127.0.0.1"


async def test_an_answer_that_breaks_off_is_not_taken_for_whole(start: Start, z32: str) -> None:
    async def defer(query: bytes, peer: Any, send: Callable[[bytes], Awaitable[None]]) -> None:
        await send(query)
        raise RuntimeError("half-way")

    doq = await start(defer=defer)
    async with doq.client() as client:
        client.send(0, framed(dns.message.make_query("a.example", "AXFR", id=0).to_wire()))
        await client.until(lambda: 0 in client.resets)
        assert client.resets[0] == DoqError.INTERNAL_ERROR
        assert (await client.ask(4, f"{z32}.aspen.local")).answer


async def test_who_leaves_before_the_answer_ends_it(start: Start) -> None:
    cancelled = asyncio.Event()
    begun = asyncio.Event()

    async def defer(query: bytes, peer: Any, send: Callable[[bytes], Awaitable[None]]) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    doq = await start(defer=defer)
    async with doq.client() as client:
        client.send(0, framed(dns.message.make_query("a.example", "AXFR", id=0).to_wire()))
        async with asyncio.timeout(SECONDS):
            await begun.wait()
    async with asyncio.timeout(SECONDS):
        await cancelled.wait()


async def test_garbage_costs_nothing(start: Start, z32: str) -> None:
    doq = await start()
    generator = random.Random(9250)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(200):
            garbage = bytearray(generator.randbytes(generator.choice((1, 20, 100, 1_200, 1_400))))
            if generator.random() < 0.7 and len(garbage) > 20:
                garbage[:6] = b"\xc3\x00\x00\x00\x01\x08"  # a long header of QUIC 1
            sock.sendto(garbage, (doq.host, doq.port))
    async with doq.client() as client:
        assert (await client.ask(0, f"{z32}.aspen.local")).answer
        await eventually(lambda: doq.server.connection_count == 1)


async def test_8_1_2_many_newcomers_prove_their_address_first(start: Start, z32: str) -> None:
    doq = await start(retry_above=0)
    async with doq.client() as client:
        assert (await client.ask(0, f"{z32}.aspen.local")).answer
        assert client._quic._retry_source_connection_id is not None


async def test_one_client_has_so_many_connections_and_no_more(start: Start, z32: str) -> None:
    doq = await start(connections_per_client=3)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(doq.client()) for _ in range(3)]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            initial = bytes.fromhex("c300000001") + b"\x08" + os.urandom(8) + b"\x08" + os.urandom(8)
            sock.sendto(initial + b"\x00\x44\x00" + bytes(1_200), (doq.host, doq.port))
            await eventually(lambda: doq.server.refused == 1)
        for client in clients:
            assert (await client.ask(0, f"{z32}.aspen.local")).answer


async def test_closing_says_goodbye(start: Start, z32: str) -> None:
    doq = await start()
    async with doq.client() as client:
        assert (await client.ask(0, f"{z32}.aspen.local")).answer
        doq.server.close()
        assert await client.closing_code() == DoqError.NO_ERROR


@pytest.mark.parametrize(
    "scenario",
    [
        test_4_2_each_query_has_a_stream_and_none_waits_for_another,
        test_many_at_once,
        test_5_5_1_an_idle_connection_ends,
        test_garbage_costs_nothing,
    ],
)
def test_uvloop_is_the_same(serve: Any, z32: str, tmp_path: Path, scenario: Callable[..., Any]) -> None:
    async def go() -> None:
        async with starting(serve, tmp_path) as start_one:
            await scenario(start_one, z32)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(go())
