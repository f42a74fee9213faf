"""Connections: slow, broken, greedy and malformed ones, byte by byte."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from http_fakes import Answer, Client, FakeCluster, Line, Serve, within
from test_relay import PACKET, PATH

from aspen.http import connection
from aspen.http.connection import Connection, HttpLimits, Service
from aspen.http.forwarded import parse_networks
from aspen.http.server import HttpServer

BRIEF = HttpLimits(head_ms=150, body_ms=150, keepalive_ms=150, send_ms=300, discard_ms=150)
PUT_HEAD = f"PUT {PATH} HTTP/1.1\r\nHost: localhost\r\n".encode()


async def exchange(server: HttpServer, data: bytes, *, end: bool = False) -> Answer:
    line = await Line.open(server.address)
    await line.send(data)
    if end:
        line.writer.write_eof()
    try:
        async with asyncio.timeout(30):
            return await line.answer()
    finally:
        await line.close()


def test_the_names_that_aiohttp_keeps_to_itself_are_where_they_were() -> None:
    for name in connection.PRIVATE_NAMES:
        assert name in RequestHandler.__slots__ or hasattr(RequestHandler, name), (
            f"aiohttp {aiohttp.__version__} moved RequestHandler.{name}: look at aspen/http/connection.py"
        )


# --- malformed --------------------------------------------------------------------------------

MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(64) + b"\r\n\r\n",
    "an unknown method": b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    "a header with a space": b"GET / HTTP/1.1\r\nHost: a\r\nA b: c\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    "a NUL": b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
    "a length that is no number": PUT_HEAD + b"Content-Length: many\r\n\r\n",
    "a negative length": PUT_HEAD + b"Content-Length: -1\r\n\r\n",
    "two lengths": PUT_HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "length and chunks": PUT_HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown transfer coding": PUT_HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    "a bad chunk size": PUT_HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a target that is no URL": b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
    "101 headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_requests_get_400_as_json_and_the_connection_ends(serve: Serve, data: bytes) -> None:
    server = await serve()
    line = await Line.open(server.address)
    await line.send(data)
    answer = await line.answer()
    assert answer.error == (400, "bad_request")
    assert answer.headers["connection"] == "close"
    assert await line.ended()
    await line.close()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", id="target"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9_000 + b"\r\n\r\n", id="value"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a" * 9_000 + b": x\r\n\r\n", id="name"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"X: " + b"a" * 2_000 + b"\r\n") * 99, id="all"),
    ],
)
async def test_a_head_too_large_gets_431(serve: Serve, data: bytes) -> None:
    server = await serve()
    line = await Line.open(server.address)
    for start in range(0, len(data), 1_000):
        line.writer.write(data[start : start + 1_000])
    assert (await line.answer()).error == (431, "head_too_large")
    await line.close()


async def test_chunks_that_turn_out_malformed_end_the_request(serve: Serve) -> None:
    server = await serve()
    line = await Line.open(server.address)
    await line.send(PUT_HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await within(30, lambda: server.connections == 1)
    await asyncio.sleep(0.02)  # so that the handler waits for more of the body
    await line.send(b"zzz\r\n")
    assert (await line.answer()).error == (400, "bad_body")
    await line.close()


# --- bodies -----------------------------------------------------------------------------------


async def test_a_gigabyte_is_refused_by_its_length_unread(serve: Serve) -> None:
    server = await serve()
    answer = await exchange(server, PUT_HEAD + b"Content-Length: 1073741824\r\n\r\n")
    assert answer.error == (413, "size")
    assert answer.headers["connection"] == "close"


async def test_a_gigabyte_sent_regardless_is_cut_off_soon(serve: Serve) -> None:
    server = await serve()
    line = await Line.open(server.address)
    await line.send(PUT_HEAD + b"Content-Length: 1073741824\r\n\r\n")
    sent = 0
    try:
        while sent < 2**30:
            await line.send(bytes(65_536))
            sent += 65_536
    except ConnectionError:
        pass
    assert sent < 32 * 2**20  # what sockets buffer, not what was announced
    await within(30, lambda: server.connections == 0)
    await line.close()


async def test_chunks_over_the_limit_are_refused_at_the_first_byte_over_it(serve: Serve) -> None:
    server = await serve()
    chunk = b"100\r\n" + bytes(256) + b"\r\n"
    answer = await exchange(server, PUT_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 5)
    assert answer.error == (413, "size")
    answer = await exchange(
        server, PUT_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 5 + b"0\r\n\r\n"
    )
    assert answer.error == (413, "size")


async def test_a_chunked_body_is_a_body(serve: Serve, cluster: FakeCluster) -> None:
    server = await serve()
    line = await Line.open(server.address)
    await line.send(PUT_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    for start in range(0, len(PACKET.payload), 50):
        part = PACKET.payload[start : start + 50]
        await line.send(b"%x\r\n%b\r\n" % (len(part), part))
    await line.send(b"0\r\n\r\n")
    assert (await line.answer()).status == 204
    assert len(cluster.packets) == 1
    await line.close()


async def test_a_client_may_wait_for_leave_to_send(serve: Serve) -> None:
    server = await serve()
    length = b"Content-Length: %d\r\n" % len(PACKET.payload)
    line = await Line.open(server.address)
    await line.send(PUT_HEAD + length + b"Expect: 100-continue\r\n\r\n")
    assert (await line.answer()).status == 100
    await line.send(PACKET.payload)
    assert (await line.answer()).status == 204
    await line.close()
    answer = await exchange(server, PUT_HEAD + length + b"Expect: miracles\r\n\r\n")
    assert answer.error == (417, "expectation")
    answer = await exchange(server, PUT_HEAD + b"Content-Length: 5000\r\nExpect: 100-continue\r\n\r\n")
    assert answer.error == (413, "size")  # no leave


async def test_a_coded_body_is_not_decoded(serve: Serve) -> None:
    server = await serve()
    head = PUT_HEAD + b"Content-Encoding: gzip\r\nContent-Length: 10\r\n\r\n"
    assert (await exchange(server, head + bytes(10))).error == (415, "content_encoding")


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"Content-Length: 300\r\n\r\nonly this", id="length"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n", id="chunks"),
        pytest.param(b"Content-Length: 300\r\n\r\n", id="nothing"),
    ],
)
async def test_a_half_closed_client_hears_that_its_body_is_incomplete(serve: Serve, sent: bytes) -> None:
    server = await serve()
    answer = await exchange(server, PUT_HEAD + sent, end=True)
    assert answer.error == (400, "bad_body")
    await within(30, lambda: server.connections == 0)


async def test_a_half_closed_client_gets_its_answer(serve: Serve, cluster: FakeCluster) -> None:
    server = await serve()
    cluster.held = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, cluster.held.set)
    body = PACKET.payload
    answer = await exchange(server, PUT_HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body, end=True)
    assert answer.status == 204
    await within(30, lambda: server.connections == 0)


async def test_a_half_closed_client_without_a_request_is_let_go(serve: Serve) -> None:
    server = await serve()
    for data in (b"", b"GET / HT"):
        line = await Line.open(server.address)
        await line.send(data)
        line.writer.write_eof()
        assert await line.ended()
        await line.close()
    await within(30, lambda: server.connections == 0)


async def test_a_client_that_vanishes_leaves_nothing_behind(serve: Serve, cluster: FakeCluster) -> None:
    server = await serve()
    cluster.held = asyncio.Event()
    for sent in (
        b"Content-Length: 300\r\n\r\nonly this",
        b"Content-Length: %d\r\n\r\n" % len(PACKET.payload) + PACKET.payload,
    ):
        line = await Line.open(server.address)
        await line.send(PUT_HEAD + sent)
        await within(30, lambda: server.connections == 1)
        await asyncio.sleep(0.02)
        raw = line.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, not FIN
        line.writer.transport.abort()
        await within(30, lambda: server.connections == 0)
    cluster.held.set()
    assert (await exchange(server, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200


# --- slowness ---------------------------------------------------------------------------------


async def test_a_byte_at_a_time_is_too_slow_for_a_head(serve: Serve) -> None:
    server = await serve(limits=BRIEF)
    line = await Line.open(server.address)

    async def dribble() -> None:
        for octet in b"GET / HTTP/1.1\r\nHost: localhost\r\n" * 100:
            await line.send(bytes([octet]))
            await asyncio.sleep(0.02)

    dribbling = asyncio.create_task(dribble())
    answer = await line.answer()
    assert answer.error == (408, "timeout")
    assert await line.ended()
    dribbling.cancel()
    await asyncio.wait({dribbling})
    await line.close()


async def test_a_byte_at_a_time_is_too_slow_for_a_body(serve: Serve) -> None:
    server = await serve(limits=BRIEF)
    line = await Line.open(server.address)
    await line.send(PUT_HEAD + b"Content-Length: 1000\r\n\r\n")

    async def dribble() -> None:
        while True:
            await line.send(b"x")
            await asyncio.sleep(0.02)

    dribbling = asyncio.create_task(dribble())
    answer = await line.answer()
    assert answer.error == (408, "timeout")
    assert await line.ended()
    dribbling.cancel()
    await asyncio.wait({dribbling})
    await line.close()


async def test_who_says_nothing_is_let_go(serve: Serve) -> None:
    server = await serve(limits=BRIEF)
    silent = await Line.open(server.address)
    assert await silent.ended()
    after_one = await Line.open(server.address)
    await after_one.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await after_one.answer()).status == 200
    assert await after_one.ended()
    await silent.close()
    await after_one.close()


async def test_a_second_request_on_a_connection_has_the_deadline_too(serve: Serve) -> None:
    server = await serve(limits=HttpLimits(head_ms=150))
    line = await Line.open(server.address)
    await line.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await line.answer()).status == 200
    await line.send(b"GET /healthz HTT")
    assert (await line.answer()).error == (408, "timeout")
    await line.close()


async def test_who_does_not_take_its_answers_is_cut_off(serve: Serve, cluster: FakeCluster) -> None:
    server = await serve(limits=BRIEF)
    cluster.set(large=bytes(2**20))
    line = await Line.open(server.address)
    line.writer.transport.pause_reading()  # type: ignore[attr-defined]  # every stream transport can
    for _ in range(30):  # more than the buffers on the way hold
        await line.send(
            b"GET /v1/kv/large HTTP/1.1\r\nHost: localhost\r\nAccept: application/octet-stream\r\n\r\n"
        )
    await asyncio.sleep(0.2)
    assert server.connections == 1
    await within(30, lambda: server.connections == 0)


# --- many -------------------------------------------------------------------------------------


async def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    server = await serve()
    line = await Line.open(server.address)
    await line.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /nothing HTTP/1.1\r\nHost: a\r\n\r\n" * 50)
    for _ in range(50):
        assert (await line.answer()).status == 200
        assert (await line.answer()).status == 404
    await line.close()


async def test_an_unread_body_does_not_become_the_next_request(serve: Serve) -> None:
    server = await serve()
    line = await Line.open(server.address)
    smuggled = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    await line.send(b"PUT /pkarr/bad HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(smuggled))
    assert (await line.answer()).error == (400, "key")
    await line.send(smuggled + b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await line.answer()).error == (404, "not_found")
    await line.close()


async def test_connections_beyond_the_bound_are_told_so(serve: Serve) -> None:
    server = await serve(limits=HttpLimits(connections=2))
    clients = [Client(server.address) for _ in range(2)]
    for one in clients:
        assert (await one.get("/healthz")).status == 200
    extra = await Line.open(server.address)
    assert (await extra.answer()).error == (503, "overloaded")
    assert await extra.ended()
    await clients[0].close()
    await within(30, lambda: server.connections == 1)
    assert (await exchange(server, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
    await clients[1].close()
    await extra.close()


class Wire(asyncio.Transport):
    """A connection from somewhere."""

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 4_711)})


async def test_one_client_cannot_have_all_connections() -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        raise NotImplementedError

    proxies = parse_networks(["10.0.0.0/8"], "")
    service = Service(handler, HttpLimits(connections_per_client=2, unlimited_clients=proxies))
    loop = asyncio.get_running_loop()

    def enter(address: str) -> Connection | None:
        one, wire = Connection(service, loop), Wire(address)
        if not service.enter(one, wire):
            return None
        one.client = service.client_of(wire)
        return one

    first = enter("2001:db8::1")
    assert first is not None
    assert enter("2001:db8::2")
    assert enter("2001:db8::3") is None  # the same network
    assert enter("2001:db8:0:1::1")
    for exempt in ("127.0.0.1", "::1", "10.1.2.3", "::ffff:10.1.2.3"):
        assert all(enter(exempt) for _ in range(5))
    service.leave(first, first.client)
    service.leave(first, first.client)  # once is enough
    assert enter("2001:db8::3")
    assert enter("2001:db8::3") is None
    assert service.refused == 2


async def test_requests_beyond_the_bound_are_told_so(serve: Serve, cluster: FakeCluster) -> None:
    server = await serve(limits=HttpLimits(in_flight=2))
    cluster.held = asyncio.Event()
    clients = [Client(server.address) for _ in range(3)]
    waiting = [asyncio.create_task(one.put(PATH, PACKET.payload)) for one in clients[:2]]
    await within(30, lambda: len(cluster.commands) == 2)
    answer = await clients[2].get(PATH)
    assert answer.error == (503, "overloaded")
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["access-control-allow-origin"] == "*"
    cluster.held.set()
    assert [answer.status for answer in await asyncio.gather(*waiting)] == [204, 204]
    assert (await clients[2].get(PATH)).status == 200
    for one in clients:
        await one.close()


async def test_slow_bodies_take_no_room_from_others(serve: Serve) -> None:
    server = await serve(limits=HttpLimits(in_flight=1))
    slow = [await Line.open(server.address) for _ in range(5)]
    for line in slow:
        await line.send(PUT_HEAD + b"Content-Length: 300\r\n\r\nx")
    await within(30, lambda: server.connections == 5)
    await asyncio.sleep(0.02)
    assert (await exchange(server, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
    for line in slow:
        await line.close()


async def test_closing_lets_what_is_under_way_finish(serve: Serve, cluster: FakeCluster) -> None:
    server = await serve()
    cluster.held = asyncio.Event()
    busy, idle = Client(server.address), Client(server.address)
    assert (await idle.get("/healthz")).status == 200
    putting = asyncio.create_task(busy.put(PATH, PACKET.payload))
    await within(30, lambda: len(cluster.commands) == 1)
    address = server.address
    closing = asyncio.create_task(server.close())
    asyncio.get_running_loop().call_later(0.05, cluster.held.set)
    assert (await putting).status == 204
    async with asyncio.timeout(30):
        await closing
    with pytest.raises(OSError):  # noqa: PT011  (refused or reset: nobody listens)
        await Line.open(address)
    await busy.close()
    await idle.close()


async def test_absolute_targets_are_understood(serve: Serve) -> None:
    server = await serve()
    for target in (b"http://example.org/healthz", b"http://example.org/healthz?x=1#y"):
        answer = await exchange(server, b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.status == 200
    for target in (b"http://example.org", b"http://example.org?x"):
        answer = await exchange(server, b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.error == (404, "not_found")
    answer = await exchange(server, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.error == (404, "not_found")
    answer = await exchange(server, b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.status in (404, 405)


async def test_an_upgrade_is_not_taken_up(serve: Serve) -> None:
    server = await serve()
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n"
    answer = await exchange(server, b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + upgrade + b"\r\n")
    assert answer.status == 200


async def test_http_1_0_is_served_and_ends(serve: Serve) -> None:
    server = await serve()
    line = await Line.open(server.address)
    await line.send(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert (await line.answer()).status == 200
    assert await line.ended()
    await line.close()
