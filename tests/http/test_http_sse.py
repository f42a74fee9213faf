"""Streams of server-sent events: order, heartbeats, bounds, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import pytest
from aiohttp import web
from http_fakes import Client, EventLine, Line, Told, within

from aspen.errors import CommandError, HttpError
from aspen.http.connection import HttpLimits
from aspen.http.request import query_of
from aspen.http.routing import Request
from aspen.http.server import HttpServer
from aspen.http.sse import Event, encode_event, event_stream, resume_point


class Ticker:
    """A source that says what is put into its queue; None ends it, an error is raised."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Sequence[Event] | Exception | None] = asyncio.Queue()
        self.asked = 0
        self.closed = 0
        self.progress: Event | None = None

    async def batches(self) -> AsyncIterator[Sequence[Event]]:
        try:
            while True:
                self.asked += 1
                item = await self.queue.get()
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed += 1

    async def handle(self, request: Request, _rest: str) -> web.StreamResponse:
        point = resume_point(request, query_of(request, frozenset({"from"})).get("from"))
        if point is not None:
            self.queue.put_nowait([Event({"from": point})])
        return await event_stream(request, self.batches(), progress=lambda: self.progress)  # type: ignore[arg-type]


Start = Callable[..., Awaitable[HttpServer]]


@pytest.fixture
def ticker() -> Ticker:
    return Ticker()


@pytest.fixture
async def start(ticker: Ticker) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def begin(**limits: int) -> HttpServer:
            server = HttpServer(listen=("127.0.0.1", 0), limits=HttpLimits(**limits))
            server.public.add("/stream", {"GET": ticker.handle}, public=True)
            await server.start()
            stack.push_async_callback(server.close)
            return server

        yield begin
        for line in Line.opened:
            await line.close()
        Line.opened.clear()


def test_an_event_is_lines_and_its_data_one_of_them() -> None:
    assert encode_event(Event({"a": "b\nc\r"})) == b'data: {"a":"b\\nc\\r"}\n\n'
    assert encode_event(Event(1, 7, "change")) == b"id: 7\nevent: change\ndata: 1\n\n"


async def test_events_come_in_order_and_the_stream_ends(start: Start, ticker: Ticker) -> None:
    server = await start()
    line = await EventLine.open(server.address, "/stream")
    assert line.head.status == 200
    assert line.head.headers["content-type"] == "text/event-stream"
    assert line.head.headers["access-control-allow-origin"] == "*"
    assert line.head.headers["cache-control"] == "no-store"
    ticker.queue.put_nowait([Event({"n": 1}, 1), Event({"n": 2}, 2, "special")])
    assert await line.event() == Told("message", {"n": 1}, 1)
    assert await line.event() == Told("special", {"n": 2}, 2)
    ticker.queue.put_nowait([Event({"n": 3}, 3)])
    assert await line.event() == Told("message", {"n": 3}, 3)
    ticker.queue.put_nowait(None)
    assert await line.event() is None
    assert ticker.closed == 1
    # The connection serves on.
    await line.line.send(b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await line.line.answer()).error == (404, "not_found")


async def test_a_silent_line_has_heartbeats(start: Start, ticker: Ticker) -> None:
    server = await start(heartbeat_ms=20)
    line = await EventLine.open(server.address, "/stream")
    assert await line.block() == b"retry: 1000"
    assert await line.block() == b":"
    ticker.progress = Event({}, 9, "progress")
    assert await line.event() == Told("progress", {}, 9)
    assert ticker.asked == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [(HttpError(410, "compacted", "too old"), "compacted"), (CommandError("odd"), "bad_request")],
)
async def test_an_error_of_the_source_ends_the_stream_and_is_told(
    start: Start, ticker: Ticker, error: Exception, code: str
) -> None:
    server = await start()
    line = await EventLine.open(server.address, "/stream")
    ticker.queue.put_nowait(error)
    event = await line.event()
    assert event is not None
    assert (event.name, event.data["error"]) == ("end", code)
    assert event.data["reason"]
    assert await line.event() is None


async def test_a_bug_breaks_the_stream_off(start: Start, ticker: Ticker) -> None:
    server = await start()
    line = await EventLine.open(server.address, "/stream")
    ticker.queue.put_nowait(ZeroDivisionError("a secret"))
    rest = await line.line.reader.read()
    assert not rest.endswith(b"0\r\n\r\n")
    assert b"secret" not in rest
    await within(30, lambda: server.connections == 0)


async def test_streams_end_when_the_server_does(start: Start, ticker: Ticker) -> None:
    server = await start()
    lines = [await EventLine.open(server.address, "/stream") for _ in range(5)]
    async with asyncio.timeout(3):  # less than what requests are given to finish
        await server.close()
    for line in lines:
        assert await line.event() is None
    assert ticker.closed == 5


async def test_a_client_that_leaves_is_noticed_at_once(start: Start, ticker: Ticker) -> None:
    server = await start()
    line = await EventLine.open(server.address, "/stream")
    await line.line.close()
    await within(30, lambda: ticker.closed == 1)
    assert server.connections == 0


async def test_a_half_closed_client_goes_on_listening(start: Start, ticker: Ticker) -> None:
    server = await start()
    line = await EventLine.open(server.address, "/stream")
    line.line.writer.write_eof()
    assert await line.block() == b"retry: 1000"
    assert await line.block() == b":"
    ticker.queue.put_nowait([Event(1)])
    assert await line.event() == Told("message", 1, None)


async def test_a_slow_client_is_cut_off_and_its_source_waits(start: Start, ticker: Ticker) -> None:
    server = await start(send_ms=150)
    line = await EventLine.open(server.address, "/stream")
    line.line.writer.transport.pause_reading()  # type: ignore[attr-defined]  # every stream transport can
    big = [Event("x" * 2**20)]
    for _ in range(50):
        ticker.queue.put_nowait(big)
    await within(30, lambda: ticker.closed == 1)
    assert ticker.asked < 50
    assert server.connections == 0


async def test_a_stalled_stream_does_not_hold_up_the_shutdown(start: Start, ticker: Ticker) -> None:
    server = await start()
    line = await EventLine.open(server.address, "/stream")
    line.line.writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(50):
        ticker.queue.put_nowait([Event("x" * 2**20)])
    asked = 0
    while asked != ticker.asked:  # until it no longer moves
        asked = ticker.asked
        await asyncio.sleep(0.05)
    async with asyncio.timeout(3):
        await server.close()


async def test_streams_have_a_bound_of_their_own(start: Start, ticker: Ticker) -> None:
    server = await start(streams=2, in_flight=1)
    lines = [await EventLine.open(server.address, "/stream") for _ in range(2)]
    refused = await EventLine.open(server.address, "/stream")
    assert refused.head.error == (503, "overloaded")
    assert refused.head.headers["retry-after"] == "1"
    assert refused.head.headers["access-control-allow-origin"] == "*"
    ticker.queue.put_nowait(None)
    ticker.queue.put_nowait(None)
    for line in lines:
        assert await line.event() is None
    assert (await EventLine.open(server.address, "/stream")).head.status == 200


async def test_requests_behind_a_stream_are_answered_after_it(start: Start, ticker: Ticker) -> None:
    server = await start()
    line = await EventLine.open(server.address, "/stream")
    await line.line.send(b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n" * 100)
    ticker.queue.put_nowait([Event(1)])
    ticker.queue.put_nowait(None)
    assert await line.event() == Told("message", 1, None)
    assert await line.event() is None
    for _ in range(100):
        assert (await line.line.answer()).status == 404


async def test_where_to_go_on(start: Start, ticker: Ticker) -> None:
    server = await start()
    cases: list[tuple[str, dict[str, str], int]] = [
        ("/stream?from=7", {}, 7),
        ("/stream?from=7", {"Last-Event-ID": "41"}, 42),
        ("/stream", {"Last-Event-ID": "41"}, 42),
        ("/stream?from=7", {"Last-Event-ID": ""}, 7),
    ]
    for number, (target, headers, point) in enumerate(cases, 1):
        line = await EventLine.open(server.address, target, **headers)
        assert await line.event() == Told("message", {"from": point}, None)
        await line.close()
        await within(30, lambda number=number: ticker.closed == number)  # type: ignore[misc]
    for target, headers in (
        ("/stream?from=", {}),
        ("/stream?from=-1", {}),
        ("/stream?from=1e3", {}),
        ("/stream?from=" + "9" * 20, {}),
        ("/stream", {"Last-Event-ID": "x"}),
    ):
        line = await EventLine.open(server.address, target, **headers)
        assert line.head.error == (400, "bad_query")


async def test_head_tells_of_a_stream_and_has_none(start: Start) -> None:
    client = Client((await start()).address)
    answer = await client.request("HEAD", "/stream")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
    await client.close()


async def test_http_1_0_gets_its_events_without_chunks(start: Start, ticker: Ticker) -> None:
    server = await start()
    line = await Line.open(server.address)
    await line.send(b"GET /stream HTTP/1.0\r\n\r\n")
    ticker.queue.put_nowait([Event(5, 5)])
    ticker.queue.put_nowait(None)
    text = await line.reader.read()
    assert text.endswith(b"retry: 1000\n\nid: 5\ndata: 5\n\n")
