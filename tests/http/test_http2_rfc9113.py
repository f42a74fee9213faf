"""HTTP/2: RFC 9113, the same handlers behind it, and connections that can't be worn out."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from aiohttp import web
from h2.errors import ErrorCodes
from http_fakes import NODE_MS, FakeCluster, within

from aspen.http.cluster import ClusterRoutes
from aspen.http.connection import HttpLimits
from aspen.http.health import HealthRoutes
from aspen.http.request import read_body
from aspen.http.routing import Request
from aspen.http.server import Https, HttpServer
from aspen.http.sse import Event, event_stream
from aspen.limits import HTTP2_IDLE_FRAMES, HTTP2_RESETS, HTTP2_STREAMS
from aspen.tls.certificates import Certificates
from aspen.tls.sources import SelfSigned

SECONDS = 30.0
LARGE = bytes(range(256)) * 2_000


class Answer:
    """What came back on one stream."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""
        self.ended = False
        self.reset: int | None = None

    @property
    def status(self) -> int:
        return int(self.headers[":status"])

    @property
    def error(self) -> tuple[int, str]:
        return self.status, json.loads(self.body)["error"]


class Client:
    """A client that keeps to the protocol only as far as it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.answers: dict[int, Answer] = {}
        self.goodbye: int | None = None
        self.closed = False
        self.takes = True
        """Whether windows move on as answers arrive."""
        self.changed = asyncio.Event()
        self.task = asyncio.create_task(self._read())

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def ask(
        self, method: str, path: str, body: bytes | None = None, *, end: bool = True, **headers: str
    ) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
        fields += [(name.replace("_", "-").lower(), value) for name, value in headers.items()]
        self.answers[stream_id] = Answer()
        self.h2.send_headers(stream_id, fields, end_stream=end and body is None)
        if body is not None:
            for start in range(0, max(len(body), 1), 16_384):
                piece = body[start : start + 16_384]
                self.h2.send_data(stream_id, piece, end_stream=end and start + 16_384 >= len(body))
        self.flush()
        return stream_id

    async def _read(self) -> None:
        try:
            while data := await self.reader.read(65_536):
                for event in self.h2.receive_data(data):
                    self._event(event)
                self.flush()
                self.changed.set()
        except OSError:
            pass
        self.closed = True
        self.changed.set()

    def _event(self, event: Any) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self.answers[event.stream_id].headers = dict(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            self.answers[event.stream_id].body += event.data
            if self.takes:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.answers[event.stream_id].ended = True
        elif isinstance(event, h2.events.StreamReset):
            self.answers[event.stream_id].reset = event.error_code
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goodbye = event.error_code

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                assert not self.closed, "the connection ended"
                self.changed.clear()
                await self.changed.wait()

    async def answer(self, stream_id: int) -> Answer:
        answer = self.answers[stream_id]
        await self.until(lambda: answer.ended or answer.reset is not None)
        return answer

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.answer(self.ask("GET", path, **headers))

    async def ended(self) -> None:
        async with asyncio.timeout(SECONDS):
            await self.task

    async def close(self) -> None:
        self.writer.transport.abort()
        await self.task


Open = Callable[..., Awaitable[Client]]


class Routes:
    """Handlers that large public routes have in kind."""

    def __init__(self) -> None:
        self.closed = 0
        self.held = asyncio.Event()

    async def echo(self, request: Request, _rest: str) -> web.StreamResponse:
        return web.Response(body=await read_body(request, 200_000))

    async def large(self, _request: Request, _rest: str) -> web.StreamResponse:
        return web.Response(body=LARGE)

    async def hold(self, _request: Request, _rest: str) -> web.StreamResponse:
        await self.held.wait()
        return web.Response(text="held")

    async def fail(self, _request: Request, _rest: str) -> web.StreamResponse:
        raise RuntimeError("a bug")

    async def events(self, request: Request, _rest: str) -> web.StreamResponse:
        async def numbers() -> Any:
            try:
                for number in range(3):
                    yield [Event(number, number)]
                await asyncio.Event().wait()
            finally:
                self.closed += 1

        return await event_stream(request, numbers())


@pytest.fixture
def routes() -> Routes:
    return Routes()


@pytest.fixture
async def server_and_open(
    tmp_path: Path, routes: Routes
) -> AsyncIterator[tuple[Callable[..., Awaitable[HttpServer]], Open]]:
    certificates = Certificates(SelfSigned(tmp_path, ["localhost"]), wall_s=time.time)
    context = ssl.create_default_context(cafile=tmp_path / "self-signed.pem")
    context.set_alpn_protocols(["h2", "http/1.1"])
    servers: list[HttpServer] = []
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> HttpServer:
            cluster = FakeCluster()
            server = HttpServer(
                listen=("127.0.0.1", 0), https=Https(("127.0.0.1", 0), certificates.context), **options
            )
            ClusterRoutes(cluster).add_routes(server.admin)
            HealthRoutes(cluster).add_routes(server.public)
            for name in ("large", "hold", "fail", "events"):
                server.public.add(f"/{name}", {"GET": getattr(routes, name)}, public=True)
            server.public.add("/echo", {"POST": routes.echo, "GET": routes.echo}, public=True)
            await server.start()
            stack.push_async_callback(server.close)
            servers.append(server)
            return server

        async def open_one(**options: Any) -> Client:
            server = servers[-1] if servers else await start(**options)
            assert server.https_address is not None
            reader, writer = await asyncio.open_connection(
                *server.https_address, ssl=context, server_hostname="localhost"
            )
            ssl_object = writer.get_extra_info("ssl_object")
            assert ssl_object.selected_alpn_protocol() == "h2"
            client = Client(reader, writer)
            client.h2.initiate_connection()
            client.flush()
            stack.push_async_callback(client.close)
            return client

        yield start, open_one


@pytest.fixture
def open_one(server_and_open: Any) -> Open:
    return server_and_open[1]


async def test_requests_share_a_connection(open_one: Open) -> None:
    client = await open_one()
    asked = [client.ask("GET", "/healthz") for _ in range(50)]
    for stream_id in asked:
        answer = await client.answer(stream_id)
        assert (answer.status, json.loads(answer.body)["status"]) == (200, "healthy")
        assert answer.headers["server"] == "aspen"
        assert answer.headers["access-control-allow-origin"] == "*"
    missing = await client.get("/nothing")
    assert missing.error == (404, "not_found")
    assert NODE_MS  # the fake's clock stands still


async def test_rfc9113_8_2_2_nothing_of_http_1_1_is_said(open_one: Open, routes: Routes) -> None:
    client = await open_one()
    for path in ("/healthz", "/events"):
        stream_id = client.ask("GET", path)
        await client.until(lambda stream_id=stream_id: client.answers[stream_id].headers)
        said = client.answers[stream_id].headers
        assert not {"connection", "transfer-encoding", "keep-alive"} & said.keys()
        assert all(name == name.lower() for name in said)


async def test_admin_routes_ask_for_the_token_here_too(open_one: Open) -> None:
    client = await open_one(admin_token="t" * 20)
    assert (await client.get("/v1/cluster/status")).error == (401, "unauthorized")
    assert (await client.get("/v1/cluster/status", authorization="Bearer " + "t" * 20)).status == 200


async def test_bodies_come_and_go_whole(open_one: Open) -> None:
    client = await open_one()
    body = LARGE[:60_000]
    answer = await client.answer(client.ask("POST", "/echo", body))
    assert (answer.status, answer.body) == (200, body)
    head = await client.answer(client.ask("HEAD", "/large"))
    assert (head.status, head.headers["content-length"], head.body) == (200, str(len(LARGE)), b"")
    # In pieces, others in between.
    first = client.ask("POST", "/echo", b"one ", end=False)
    second = client.ask("POST", "/echo", b"second")
    assert (await client.answer(second)).body == b"second"
    client.h2.send_data(first, b"two", end_stream=True)
    client.flush()
    assert (await client.answer(first)).body == b"one two"


async def test_rfc9113_5_2_an_answer_larger_than_its_window_waits(open_one: Open) -> None:
    client = await open_one()
    assert (await client.get("/large")).body == LARGE  # the client takes as it comes
    client.takes = False
    stream_id = client.ask("GET", "/large")
    await client.until(lambda: len(client.answers[stream_id].body) >= 16_384)
    assert len(client.answers[stream_id].body) <= 65_535
    other = client.answers[client.ask("HEAD", "/healthz")]
    await client.until(lambda: other.ended)  # others aren't held up
    client.takes = True
    client.h2.increment_flow_control_window(2_000_000)
    client.h2.increment_flow_control_window(2_000_000, stream_id)
    client.flush()
    assert (await client.answer(stream_id)).body == LARGE


async def test_who_does_not_take_its_answer_loses_it(open_one: Open) -> None:
    client = await open_one(limits=HttpLimits(send_ms=200))
    client.takes = False
    answer = await client.get("/large")
    assert answer.reset == ErrorCodes.CANCEL


async def test_rfc9113_8_1_a_refused_body_is_not_waited_for(open_one: Open) -> None:
    client = await open_one()
    stream_id = client.ask("POST", "/echo", b"x", end=False, content_length="300000")
    answer = client.answers[stream_id]
    await client.until(lambda: answer.reset is not None)
    assert answer.error == (413, "too_large")
    assert answer.reset == ErrorCodes.NO_ERROR
    assert (await client.get("/healthz")).status == 200


async def test_a_body_that_does_not_come_is_a_timeout(open_one: Open) -> None:
    client = await open_one(limits=HttpLimits(body_ms=100))
    stream_id = client.ask("POST", "/echo", b"x", end=False)
    await client.until(lambda: client.answers[stream_id].ended)
    assert client.answers[stream_id].error == (408, "timeout")


async def test_a_bug_is_500_and_the_connection_lives(open_one: Open) -> None:
    client = await open_one()
    assert (await client.get("/fail")).error == (500, "internal")
    assert (await client.get("/healthz")).status == 200


async def test_events_stream_and_end_with_their_client(open_one: Open, routes: Routes) -> None:
    client = await open_one()
    stream_id = client.ask("GET", "/events")
    await client.until(lambda: b"data: 2" in client.answers[stream_id].body)
    client.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
    client.flush()
    await within(SECONDS, lambda: routes.closed == 1)
    another = client.ask("GET", "/events")
    await client.until(lambda: b"data: 2" in client.answers[another].body)
    await client.close()
    await within(SECONDS, lambda: routes.closed == 2)


async def test_stopping_ends_events_and_lets_requests_finish(server_and_open: Any, routes: Routes) -> None:
    start, open_one = server_and_open
    server = await start()
    client = await open_one()
    events = client.ask("GET", "/events")
    await client.until(lambda: b"data: 2" in client.answers[events].body)
    held = client.ask("GET", "/hold")
    await client.get("/healthz")  # by now the others are being answered
    closing = asyncio.create_task(server.close())
    await client.until(lambda: client.answers[events].ended)
    routes.held.set()
    await client.until(lambda: client.answers[held].ended)
    assert client.answers[held].body == b"held"
    await client.ended()
    assert client.goodbye == ErrorCodes.NO_ERROR
    await closing


async def test_an_idle_connection_is_said_goodbye(open_one: Open) -> None:
    client = await open_one(limits=HttpLimits(keepalive_ms=100, head_ms=100))
    assert (await client.get("/healthz")).status == 200
    await client.ended()
    assert client.goodbye == ErrorCodes.NO_ERROR


async def test_rapid_resets_end_the_connection(open_one: Open) -> None:
    client = await open_one()
    for _ in range(HTTP2_RESETS + 10):
        stream_id = client.ask("GET", "/hold")
        client.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
        client.flush()
    await client.ended()
    assert client.goodbye == ErrorCodes.ENHANCE_YOUR_CALM


async def test_frames_that_carry_nothing_end_the_connection(open_one: Open) -> None:
    client = await open_one()
    for _ in range(HTTP2_IDLE_FRAMES + 10):
        client.h2.ping(b"12345678")
    client.flush()
    await client.ended()
    assert client.goodbye == ErrorCodes.ENHANCE_YOUR_CALM


async def test_more_streams_than_allowed_break_the_protocol(open_one: Open) -> None:
    client = await open_one()
    await client.get("/healthz")  # the server's settings have arrived
    assert client.h2.remote_settings.max_concurrent_streams == HTTP2_STREAMS
    client.h2.remote_settings._settings[3][0] = 1_000  # and are ignored
    for _ in range(HTTP2_STREAMS + 1):
        client.ask("GET", "/hold")
    await client.ended()
    assert client.goodbye == ErrorCodes.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("garbage", "error"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", ErrorCodes.FRAME_SIZE_ERROR, id="HTTP/1.1"),
        pytest.param(b"\xff" * 9, ErrorCodes.FRAME_SIZE_ERROR, id="an overlong frame"),
        pytest.param(bytes(100), ErrorCodes.PROTOCOL_ERROR, id="zeros"),
        pytest.param(
            b"\x00\x40\x00\x01\x00\x00\x00\x00\x01"
            + bytes(16_384)
            + (b"\x00\x40\x00\x09\x00\x00\x00\x00\x01" + bytes(16_384)) * 4,
            ErrorCodes.FRAME_SIZE_ERROR,
            id="headers without end",
        ),
    ],
)
async def test_garbage_ends_the_connection(open_one: Open, garbage: bytes, error: ErrorCodes) -> None:
    client = await open_one()
    client.writer.write(garbage)
    await client.ended()
    assert client.goodbye == error
    again = await open_one()
    assert (await again.get("/healthz")).status == 200


async def test_too_many_headers_are_refused(open_one: Open) -> None:
    client = await open_one()
    many = {f"x_{number}": "y" for number in range(150)}
    assert (await client.get("/healthz", **many)).reset == ErrorCodes.ENHANCE_YOUR_CALM
    assert (await client.get("/healthz")).status == 200


async def test_connections_are_counted_together_with_the_others(server_and_open: Any) -> None:
    start, open_one = server_and_open
    server = await start(limits=HttpLimits(connections=2))
    clients = [await open_one() for _ in range(2)]
    for client in clients:
        assert (await client.get("/healthz")).status == 200
    over = await open_one()
    await over.ended()
    assert server.connections == 2
