"""Connections that can't be held open for nothing: what `aiohttp`'s server leaves unbounded.

`Connection` is aiohttp's HTTP/1.1 protocol with the bounds a public server needs: a deadline and
a size for the request head, an end to bodies that are refused or broken off, a half-closed
client that still gets its answer, and JSON for every error, those of the parser among them.
Deadlines are kept by one sweep over all connections, not by a timer for each request.

This file alone touches names that aiohttp keeps to itself (`PRIVATE_NAMES`; a test says when
they move).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from aspen import limits as bounds
from aspen.errors import HttpError
from aspen.http.errors import RETRY_AFTER_SECONDS, problem, raw_problem
from aspen.http.forwarded import Network, parse_address
from aspen.http.http2 import Http2Connection
from aspen.http.routing import Request
from aspen.http.sse import Stream
from aspen.ratelimit import peer_of

log = structlog.get_logger("aspen.http")

PRIVATE_NAMES: Final = (
    "_close",
    "_force_close",
    "_keepalive_handle",
    "_loop",
    "_messages",
    "_process_keepalive",
    "_request_count",
    "_waiter",
)
"""Attributes of `RequestHandler`; beside them `_ErrInfo`, a queued parse error."""

SERVER_NAME: Final = "aspen"
_SWEEPS_PER_DEADLINE: Final = 5
_MALFORMED: Final = "the request is not well-formed HTTP/1.1"


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """The bounds of one listener; tests shorten them."""

    connections: int = bounds.HTTP_CONNECTIONS
    connections_per_client: int = bounds.HTTP_CONNECTIONS_PER_CLIENT
    unlimited_clients: tuple[Network, ...] = ()
    """Networks of proxies, which have as many connections as they like."""
    in_flight: int = bounds.HTTP_IN_FLIGHT
    head_ms: int = bounds.HTTP_HEAD_MS
    head_bytes: int = bounds.HTTP_HEAD_BYTES
    body_ms: int = bounds.HTTP_BODY_MS
    send_ms: int = bounds.HTTP_SEND_MS
    keepalive_ms: int = bounds.HTTP_KEEPALIVE_MS
    discard_ms: int = bounds.HTTP_DISCARD_MS
    discard_bytes: int = bounds.HTTP_DISCARD_BYTES
    streams: int = bounds.HTTP_STREAMS
    heartbeat_ms: int = bounds.HTTP_HEARTBEAT_MS


class Service(web.Server):
    """Makes and counts the connections of one listener."""

    def __init__(
        self, handler: Callable[[Request], Awaitable[web.StreamResponse]], limits: HttpLimits
    ) -> None:
        super().__init__(handler)
        self.limits = limits
        self.in_flight = 0
        """Requests being answered."""
        self.streams = 0
        """Requests whose answer is a stream of events; they don't count as being answered."""
        self.open: set[Connection | Http2Connection] = set()
        self.refused = 0
        """Connections over the limit, since the start."""
        self._clients: Counter[str] = Counter()
        """Connections of each address that is limited."""
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._event_loop = asyncio.get_running_loop()

    def __call__(self) -> RequestHandler:
        return Connection(self, self._event_loop)

    def enter(self, connection: Connection | Http2Connection, transport: asyncio.BaseTransport) -> bool:
        """Take a connection in, unless there are too many, in all or from this client."""
        client = self.client_of(transport)
        limits = self.limits
        many = client is not None and self._clients[client] >= limits.connections_per_client
        if many or len(self.open) >= limits.connections:
            self.refused += 1
            return False
        self.open.add(connection)
        if client is not None:
            self._clients[client] += 1
        return True

    def leave(self, connection: Connection | Http2Connection, client: str | None) -> None:
        if connection not in self.open:
            return
        self.open.discard(connection)
        if client is not None:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    def client_of(self, transport: asyncio.BaseTransport) -> str | None:
        """Whose a connection is; None if it isn't limited: this machine's, and those of trusted proxies."""
        peername = transport.get_extra_info("peername")
        address = parse_address(peername[0]) if isinstance(peername, tuple) else None
        if address is None or address.is_loopback:
            return None
        if any(address in network for network in self.limits.unlimited_clients):
            return None
        return peer_of(str(address))

    @contextmanager
    def waiting_for_body(self) -> Iterator[None]:
        """A request whose body is still under way uses nothing but its connection."""
        self.in_flight -= 1
        try:
            yield
        finally:
            self.in_flight += 1

    def end_streams(self) -> None:
        """Streams of events have no end of their own: end them all."""
        for connection in list(self.open):
            connection.end_streams()

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """A request is answered by a stream from here on. Raises `HttpError` if there are too many."""
        if self.streams >= self.limits.streams:
            raise HttpError(
                503,
                "overloaded",
                f"{self.limits.streams} streams are open; try again",
                headers={"Retry-After": RETRY_AFTER_SECONDS},
            )
        self.streams += 1
        self.in_flight -= 1
        try:
            yield
        finally:
            self.in_flight += 1
            self.streams -= 1

    def start_sweeping(self) -> None:
        self._sweep_timer = self._event_loop.call_later(
            min(self.limits.head_ms, self.limits.send_ms) / 1_000 / _SWEEPS_PER_DEADLINE, self._sweep
        )

    def stop_sweeping(self) -> None:
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()

    def _sweep(self) -> None:
        now = self._event_loop.time()
        for connection in list(self.open):
            connection.sweep(now)
        self.start_sweeping()


class Connection(RequestHandler):
    """One client's connection."""

    __slots__ = (
        "_cut_short",
        "answer_headers",
        "client",
        "discarded",
        "discarding",
        "head_began",
        "head_received",
        "newest_payload",
        "service",
        "stalled_since",
        "stream",
    )

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            service,
            loop=loop,
            keepalive_timeout=service.limits.keepalive_ms / 1_000,
            max_line_size=bounds.HTTP_HEADER_BYTES,
            max_field_size=bounds.HTTP_HEADER_BYTES,
            max_headers=bounds.HTTP_HEADERS,
            lingering_time=service.limits.discard_ms / 1_000,
            read_bufsize=bounds.HTTP_READ_BUFFER_BYTES,
            auto_decompress=False,
            access_log=cast(Any, None),  # declared as a Logger, documented and tested for as None too
        )
        self.service = service
        self.head_began: float | None = None
        """When the client began a request whose head isn't complete; None if it owes none."""
        self.head_received = 0
        self.newest_payload: StreamReader = EMPTY_PAYLOAD
        """The body of the newest request; those before it are complete."""
        self._cut_short: tuple[StreamReader, str] | None = None
        self.discarding = False
        """The request is answered but its body still comes in."""
        self.discarded = 0
        self.stalled_since: float | None = None
        """When the client stopped taking in its answer."""
        self.client: str | None = None
        """Whose it is, if that client's connections are limited."""
        self.stream: Stream | None = None
        """The stream of events that is being sent, if any."""
        self.answer_headers: Mapping[str, str] = {}
        """What every answer to the request being answered carries."""

    # --- life ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        service = self.service
        if not service.enter(self, transport):
            self._force_close = True
            stream = cast(asyncio.Transport, transport)
            stream.write(raw_problem(503, "overloaded", "too many connections"))
            stream.close()
            return
        self.client = service.client_of(transport)
        self.head_began = self._loop.time()
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.head_began = None
        self.service.leave(self, self.client)
        if self.stream is not None:
            self.stream.end()
        super().connection_lost(exc)

    # --- what comes in ------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.discarding:
            self.discarded += len(data)
            if self.discarded > self.service.limits.discard_bytes:
                self.force_close()
                return
        before = self._request_count
        try:
            super().data_received(data)
        except Exception:
            # The parser must not fail but by its own errors; if it does, this connection pays.
            log.exception("the HTTP parser failed")
            self._end_with(400, "bad_request", _MALFORMED)
            return
        if self._request_count != before:
            self._request_arrived()
        elif data and self._idle():  # nothing is being answered: this is a head
            if self.head_began is None:
                self.head_began = self._loop.time()
            self.head_received += len(data)
            if self.head_received > self.service.limits.head_bytes:
                self._end_with(
                    431, "head_too_large", f"more than {self.service.limits.head_bytes} bytes of headers"
                )

    def _idle(self) -> bool:
        """Whether no request is waiting for its answer."""
        if self._waiter is None:  # being answered, unless the connection is brand-new
            return self._request_count == 0
        return not self._waiter.done()

    def _request_arrived(self) -> None:
        """A head is complete (its body may not be), or the parser has given up."""
        self.head_began = None
        self.head_received = 0
        message, payload = self._messages[-1]
        if isinstance(message, _ErrInfo):
            self._end_body("the body's chunks are malformed")
        else:
            self.newest_payload = payload

    def _end_body(self, reason: str) -> None:
        """No more of the body being received will come: let its reader see that."""
        if not self.newest_payload.is_eof():
            self._cut_short = (self.newest_payload, reason)
            self.newest_payload.feed_eof()

    def cut_short(self, payload: StreamReader) -> str | None:
        """Why a body that has ended is not complete, if it isn't."""
        if self._cut_short is None or self._cut_short[0] is not payload:
            return None
        return self._cut_short[1]

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio: true keeps the sending side open
        """The client sends no more. It may still wait for the answer to what it sent."""
        if self._force_close or self._idle():
            return False
        self._end_body("the client closed the connection before the end of the body")
        if self.stream is not None:
            self.stream.half_close()
        self._close = True  # after the answer that is due
        return self.ssl_context is None  # asyncio can't half-close TLS

    def _process_keepalive(self) -> None:
        """Idle for long. But a request that has begun has its own deadline."""
        if self.head_received:
            self._keepalive_handle = None
        else:
            super()._process_keepalive()

    def sweep(self, now: float) -> None:
        """Called now and then: end what takes too long."""
        limits = self.service.limits
        if self.head_began is not None and self.head_began < now - limits.head_ms / 1_000:
            self._head_overdue()
        elif self.stalled_since is not None and self.stalled_since < now - limits.send_ms / 1_000:
            self.abort()

    def _head_overdue(self) -> None:
        if self.head_received:
            seconds = self.service.limits.head_ms / 1_000
            self._end_with(408, "timeout", f"the request's headers did not arrive within {seconds:g} seconds")
        else:
            self.force_close()

    def _end_with(self, status: int, code: str, reason: str) -> None:
        self.head_began = None
        if self.transport is not None:
            self.transport.write(raw_problem(status, code, reason))
        self.force_close()

    # --- what goes out ------------------------------------------------------------------------

    def pause_writing(self) -> None:
        self.stalled_since = self._loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.stalled_since = None
        super().resume_writing()

    def abort(self) -> None:
        """Drop the connection with whatever is unsent."""
        if self.transport is not None:
            self.transport.abort()

    def begin_request(self, answer_headers: Mapping[str, str]) -> None:
        self.discarding = False
        self.answer_headers = answer_headers

    @contextmanager
    def streaming(self, stream: Stream) -> Iterator[None]:
        """The request is answered by a stream from here on. Raises `HttpError` if there are too many."""
        with self.service.streaming():
            self.stream = stream
            try:
                yield
            finally:
                self.stream = None

    def end_streams(self) -> None:
        """Called when the server stops."""
        if self.stream is not None:
            self.stream.end()
            if self.stalled_since is not None:
                self.abort()

    def discard_rest(self) -> None:
        """The answer is there before the body: take in a little more of it, so that the client
        gets to read the answer, but not the gigabyte it may want to send."""
        self.discarding = True
        self.discarded = 0

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The parser's refusals. Errors of handlers are answered before they get here."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        if isinstance(exc, LineTooLong):
            response = problem(431, "head_too_large", f"a line of headers over {self.max_field_size} bytes")
        elif status < 500:
            response = problem(400, "bad_request", _MALFORMED)
        else:
            log.error("a request failed", exc_info=exc)
            response = problem(500, "internal", "an internal error; it is in the log")
        response.force_close()
        response.headers["Connection"] = "close"  # aiohttp answers what it can't parse as HTTP/1.0
        response.headers["Server"] = SERVER_NAME
        return response
