"""One request on an HTTP/2 connection (RFC 9113 §8.1), shown to handlers as aiohttp shows one of HTTP/1.1.

A handler reads `request.content` and returns a response that writes itself; neither knows what carries
it. Here is what stands behind the two: the stream plays the part that `Connection` plays for HTTP/1.1,
and `Http2Writer` turns status, headers and body into frames.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import HttpVersion11
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from aspen.http.routing import Request
from aspen.http.sse import Stream
from aspen.limits import HTTP_READ_BUFFER_BYTES

if TYPE_CHECKING:
    from aspen.http.connection import Service
    from aspen.http.http2 import Http2Connection

_OF_HTTP1: Final = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})
"""Headers that mean something to one connection of HTTP/1.1 (RFC 9113 §8.2.2)."""


class Http2Stream:
    """A stream, with the request that is answered on it. `request.protocol` is this."""

    ssl_context = None
    connected = True

    def __init__(
        self, connection: Http2Connection, stream_id: int, headers: Iterable[tuple[str, str]]
    ) -> None:
        self.connection = connection
        self.stream_id = stream_id
        self.service: Service = connection.service
        self.answer_headers: Mapping[str, str] = {}
        self.events: Stream | None = None
        """The stream of events that is being sent, if any."""
        self.window_open = asyncio.Event()
        self.stalled_since: float | None = None
        """When the client stopped taking in the answer."""
        self.body_ended = False
        self.gone = False
        """The stream is reset or its connection lost: nobody reads the answer."""
        self._broken = ""
        self._unread = 0
        self._reading_paused = False
        self.transport: asyncio.Transport | None = connection.transport
        self.peername = connection.transport.get_extra_info("peername")
        self.sockname = connection.transport.get_extra_info("sockname")
        loop = asyncio.get_running_loop()
        self.payload = StreamReader(cast(Any, self), HTTP_READ_BUFFER_BYTES, loop=loop)
        self.writer = Http2Writer(self)
        self.task = loop.create_task(connection.answer(self))
        self.request = _request(self, headers, loop)

    # --- the body -----------------------------------------------------------------------------

    def body_arrived(self, data: bytes, counted: int) -> None:
        """`counted` octets of the window, of which `data` is not padding."""
        if data and not self.body_ended:
            self.payload.feed_data(data)
        if self._reading_paused:
            self._unread += counted
        else:
            self.connection.taken(self.stream_id, counted)

    def end_body(self, broken: str = "") -> None:
        if not self.body_ended:
            self.body_ended = True
            self._broken = broken
            self.payload.feed_eof()

    def pause_reading(self) -> None:
        """The handler doesn't keep up: the window stays as it is."""
        self._reading_paused = True

    def resume_reading(self, resume_parser: bool = True) -> None:
        self._reading_paused = False
        if self._unread:
            unread, self._unread = self._unread, 0
            self.connection.taken(self.stream_id, unread)

    def cut_short(self, _payload: StreamReader) -> str | None:
        """Why a body that has ended is not complete, if it isn't."""
        return self._broken or None

    # --- what a handler and the server ask of a connection ---------------------------------------

    def begin_request(self, answer_headers: Mapping[str, str]) -> None:
        self.answer_headers = answer_headers

    def discard_rest(self) -> None:
        """Nothing to do: when the answer is out, the stream is reset."""

    def abort(self) -> None:
        """Drop the answer, so that the client sees a break."""
        self.connection.reset(self.stream_id)

    @contextmanager
    def streaming(self, events: Stream) -> Iterator[None]:
        """See `Connection.streaming`."""
        with self.service.streaming():
            self.events = events
            try:
                yield
            finally:
                self.events = None

    def lose(self, reason: str) -> None:
        """The client took its request back, or is gone."""
        self.gone = True
        self.end_body(reason)
        self.window_open.set()
        if self.events is not None:
            self.events.end()


class Http2Writer(AbstractStreamWriter):
    """An answer's way out."""

    def __init__(self, stream: Http2Stream) -> None:
        self._stream = stream
        self.output_size = 0
        self.begun = False
        self.ended = False

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        self._check()
        fields = [(":status", status_line.split(" ", 2)[1])]
        fields += [(name.lower(), value) for name, value in headers.items() if name.lower() not in _OF_HTTP1]
        self.begun = True
        self._stream.connection.send_headers(self._stream.stream_id, fields)

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        await self._send(bytes(chunk), end=False)

    async def write_eof(self, chunk: bytes = b"") -> None:
        if not self.ended:
            self.ended = True
            await self._send(bytes(chunk), end=True)

    async def _send(self, data: bytes, *, end: bool) -> None:
        """Send as much as the client has room for, and wait for more room (RFC 9113 §5.2)."""
        stream, connection = self._stream, self._stream.connection
        self.output_size += len(data)
        while True:
            self._check()
            room = connection.room(stream.stream_id)
            if len(data) <= room:
                connection.send_data(stream.stream_id, data, end=end)
                await connection.drain()
                return
            if room > 0:
                connection.send_data(stream.stream_id, data[:room], end=False)
                data = data[room:]
                await connection.drain()
                continue
            stream.window_open.clear()
            stream.stalled_since = asyncio.get_running_loop().time()
            await stream.window_open.wait()
            stream.stalled_since = None

    def _check(self) -> None:
        if self._stream.gone:
            raise ConnectionResetError("the client is gone")

    async def drain(self) -> None:
        await self._stream.connection.drain()

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        raise NotImplementedError("answers are sent as they are")

    def enable_chunking(self) -> None:
        """Frames are chunks already."""


def _request(
    stream: Http2Stream, fields: Iterable[tuple[str, str]], loop: asyncio.AbstractEventLoop
) -> Request:
    """The request that HTTP/1.1 would have had (RFC 9113 §8.3.1)."""
    pseudo: dict[str, str] = {}
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in fields:
        if name.startswith(":"):
            pseudo[name] = value
        elif name != "expect":  # there is no waiting for leave: the window is leave enough
            headers.add(name, value)
    if ":authority" in pseudo:
        headers["Host"] = pseudo[":authority"]
    target = pseudo.get(":path", "")
    path, _, query = target.partition("?")
    message = RawRequestMessage(
        pseudo[":method"],
        target,
        HttpVersion11,
        CIMultiDictProxy(headers),
        tuple((name.encode("utf-8", "surrogateescape"), b"") for name in headers),
        False,
        None,
        False,
        False,
        URL.build(path=path, query_string=query, encoded=True),
    )
    return Request(message, stream.payload, cast(Any, stream), stream.writer, stream.task, loop)
