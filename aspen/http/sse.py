"""Server-sent events (HTML Living Standard §9.2): one long answer, an event after the other.

A handler gives `event_stream` a source, an asynchronous generator of batches of events, and this
module does the rest. The source is asked for its next batch only when the one before is written, so
a slow client holds up its own source and fills no queue; one that takes nothing for
`HttpLimits.send_ms` is cut off. A line that is silent gets a heartbeat, so that dead connections
show and proxies don't close living ones. When the server shuts down, streams end at once, each
after a whole event.

A client goes on where it was by the last `id` it saw: `resume_point` reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgspec
import structlog
from aiohttp import web

from aspen.errors import AspenError, HttpError, InvariantViolation
from aspen.http.errors import answer_to
from aspen.http.routing import Request
from aspen.limits import HTTP_PROBE_MS, HTTP_STREAM_RETRY_MS

if TYPE_CHECKING:
    from aspen.http.connection import Connection

log = structlog.get_logger("aspen.http")

EVENT_STREAM: Final = "text/event-stream"
_HEARTBEAT: Final = b":\n\n"
_HEADERS: Final = {
    "Content-Type": EVENT_STREAM,
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would collect events before it passes them on
    "X-Content-Type-Options": "nosniff",
}


class Event(NamedTuple):
    """One event. `data` becomes JSON (bytes in it base64), on one line."""

    data: object
    id: int | None = None
    """Where a client that has seen this event goes on: what it sends as `Last-Event-ID`."""
    name: str | None = None
    """The event's type; `message` for a browser if there is none."""


Batches = AsyncGenerator[Sequence[Event], None]
"""A source. It is closed when the stream ends, for whatever reason; an `AspenError` it raises ends
the stream with an event `end` that says what an error answer would have said."""


class Stream:
    """The connection's side of a stream: who closes the connection or the server tells it here."""

    __slots__ = ("_signal", "ended", "half_closed")

    def __init__(self) -> None:
        self.ended = False
        self.half_closed = False
        self._signal: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        """The client is gone, or the server is going."""
        self.ended = True
        self._tell()

    def half_close(self) -> None:
        """The client sends no more: it may listen, or be gone. Only writes will show, and not the first."""
        self.half_closed = True
        self._tell()

    def _tell(self) -> None:
        if not self._signal.done():
            self._signal.set_result(None)

    async def wait(self, pending: asyncio.Task[Any], timeout_ms: int) -> bool:
        """Return when `pending` is done, when told to, or after the time; whether to go on."""
        both: set[asyncio.Future[Any]] = {pending, self._signal}
        await asyncio.wait(both, timeout=timeout_ms / 1_000, return_when=asyncio.FIRST_COMPLETED)
        if self._signal.done():
            self._signal = asyncio.get_running_loop().create_future()
        return not self.ended


def encode_event(event: Event) -> bytes:
    """The event as it is sent."""
    # JSON escapes line breaks, so data is one line.
    lines = b"data: " + msgspec.json.encode(event.data) + b"\n\n"
    if event.name is not None:
        lines = b"event: " + event.name.encode() + b"\n" + lines
    if event.id is not None:
        lines = b"id: %d\n" % event.id + lines
    return lines


def resume_point(request: Request, given: bytes | None, *, name: str = "from") -> int | None:
    """Where to go on: one after `Last-Event-ID` if the client sends it, else the query's `from`.

    `Last-Event-ID` wins, since a browser that reconnects repeats the URL it was given first.
    Raises `HttpError` 400.
    """
    last = request.headers.get("Last-Event-ID")
    if last is not None and last.strip():
        return _number(last.strip(), "Last-Event-ID") + 1
    return None if given is None else _number(given.decode("ascii", "replace"), name)


def _number(text_untrusted: str, name: str) -> int:
    if not (text_untrusted.isascii() and text_untrusted.isdigit() and len(text_untrusted) <= 19):
        raise HttpError(400, "bad_query", f"{name} is a number, as an event's id is")
    return int(text_untrusted)


async def event_stream(
    request: Request, batches: Batches, *, progress: Callable[[], Event | None] = lambda: None
) -> web.StreamResponse:
    """Answer with the source's events until it ends, the client goes or the server stops.

    `progress` makes the heartbeat of a silent line: an event whose id says how far the client has
    been told, or None for a bare comment. Raises `HttpError` 503 if there are too many streams.
    """
    connection = cast("Connection", request.protocol)
    headers = {**_HEADERS, **connection.answer_headers}
    if request.method == "HEAD":
        await batches.aclose()
        return web.Response(headers=headers)
    stream = Stream()
    try:
        with connection.streaming(stream):
            response = web.StreamResponse(headers=headers)
            try:
                await response.prepare(request)
                await response.write(b"retry: %d\n\n" % HTTP_STREAM_RETRY_MS)
                await _pump(connection, stream, response, batches, progress)
            except ConnectionError:
                pass  # the client is gone
            except Exception:
                log.exception("a stream failed", path=request.path[:200])
                connection.abort()  # without the last chunk, so that the client sees a break
            return response
    finally:
        await batches.aclose()


async def _pump(
    connection: Connection,
    stream: Stream,
    response: web.StreamResponse,
    batches: Batches,
    progress: Callable[[], Event | None],
) -> None:
    heartbeat_ms = connection.service.limits.heartbeat_ms
    pending: asyncio.Task[Sequence[Event] | None] | None = None
    try:
        while not stream.ended:
            if pending is None:
                pending = asyncio.create_task(_next(batches))
            silence_ms = min(heartbeat_ms, HTTP_PROBE_MS) if stream.half_closed else heartbeat_ms
            if not await stream.wait(pending, silence_ms):
                break
            if not pending.done():
                event = progress()
                await response.write(_HEARTBEAT if event is None else encode_event(event))
                continue
            batch, pending = _outcome(pending), None
            if batch is None:
                break
            if batch:
                await response.write(b"".join(map(encode_event, batch)))
            if any(event.name == "end" for event in batch):
                break
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.wait({pending})


async def _next(batches: Batches) -> Sequence[Event] | None:
    """The next batch; None after the last."""
    return await anext(batches, None)


def _outcome(pending: asyncio.Task[Sequence[Event] | None]) -> Sequence[Event] | None:
    try:
        return pending.result()
    except InvariantViolation:
        raise
    except AspenError as error:
        body = answer_to(error).body
        return (Event(msgspec.Raw(body) if isinstance(body, bytes) else None, None, "end"),)
