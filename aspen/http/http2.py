"""HTTP/2 (RFC 9113) on TLS connections that ask for it, by the sans-IO library `h2`.

DNS clients insist on it (kdig, dig: RFC 8484 §5.2 recommends it as the least), and browsers prefer it.
The library knows frames, HPACK and the states of streams; here are the connection's bounds: streams
at one time, resets (a client that opens and resets in a row makes work for nothing), frames that carry
nothing, time without a request, time without taking an answer. Each stream is answered as a request of
HTTP/1.1 is (`http2_stream.py`), by the same handlers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import H2Error, ProtocolError
from h2.settings import SettingCodes, Settings

from aspen.errors import InvariantViolation
from aspen.http.http2_stream import Http2Stream
from aspen.limits import (
    HTTP2_IDLE_FRAMES,
    HTTP2_RESETS,
    HTTP2_STREAMS,
    HTTP_HEAD_BYTES,
    HTTP_HEADERS,
    SHUTDOWN_MS,
)

if TYPE_CHECKING:
    from aspen.http.connection import Service

log = structlog.get_logger("aspen.http")

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEAD_BYTES: Final = 9
_FRAME_BYTES: Final = 16_384  # what a peer may send without being told of more (RFC 9113 §6.5.2)
_HEADERS: Final = 1
_CONTINUATION: Final = 9
_END_HEADERS: Final = 0x4


class FrameSizes:
    """Looks at the lengths of frames as they come in (RFC 9113 §4.1): `h2` refuses what is too long only
    when it is there whole, and would keep up to 16 MiB until then."""

    def __init__(self) -> None:
        self._skip = len(_PREFACE)
        self._head = b""
        self._block = 0

    def are_right(self, data: bytes) -> bool:
        """Whether frames keep to the size announced, and headers to theirs."""
        position = 0
        while position < len(data):
            step = min(self._skip, len(data) - position)
            self._skip -= step
            position += step
            missing = _FRAME_HEAD_BYTES - len(self._head)
            self._head += data[position : position + missing]
            position += missing
            if len(self._head) < _FRAME_HEAD_BYTES:
                return True
            self._skip = int.from_bytes(self._head[:3], "big")
            kind, flags = self._head[3], self._head[4]
            self._head = b""
            if kind in (_HEADERS, _CONTINUATION):
                self._block += self._skip
            if self._skip > _FRAME_BYTES or self._block > HTTP_HEAD_BYTES:
                return False
            if flags & _END_HEADERS:
                self._block = 0
        return True


class Http2Connection(asyncio.Protocol):
    """One client's connection."""

    transport: asyncio.Transport

    def __init__(self, service: Service) -> None:
        self.service = service
        self._loop = asyncio.get_running_loop()
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding=False))
        self._frames = FrameSizes()
        self._streams: dict[int, Http2Stream] = {}
        self._resets = 0
        self._idle_frames = 0
        self._idle_since: float | None = None
        """Since when no request is being answered."""
        self._blocked_since: float | None = None
        """When the client stopped taking in anything."""
        self._writable = asyncio.Event()
        self._writable.set()
        self._ending = False
        self._client: str | None = None
        """Whose it is, if that client's connections are limited."""

    # --- life ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        service = self.service
        if not service.enter(self, transport):
            self.transport.abort()
            return
        self._client = service.client_of(transport)
        self._idle_since = self._loop.time()
        self._h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: HTTP2_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: HTTP_HEAD_BYTES,
            },
        )
        self._h2.initiate_connection()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.service.leave(self, self._client)
        self._ending = True
        self._writable.set()
        for stream in list(self._streams.values()):
            stream.lose("the connection is lost")

    def eof_received(self) -> None:
        """TLS can't be half-closed: the connection ends."""

    def pause_writing(self) -> None:
        self._blocked_since = self._loop.time()
        self._writable.clear()
        self.transport.pause_reading()  # who takes no answers gets to ask no more

    def resume_writing(self) -> None:
        self._blocked_since = None
        self._writable.set()
        self.transport.resume_reading()

    def sweep(self, now: float) -> None:
        """Called now and then: end what takes too long."""
        limits = self.service.limits
        send_due = now - limits.send_ms / 1_000
        if self._blocked_since is not None and self._blocked_since < send_due:
            self.abort()
        elif self._idle_since is not None and self._idle_since < now - limits.keepalive_ms / 1_000:
            self.end()
        else:
            for stream in list(self._streams.values()):
                if stream.stalled_since is not None and stream.stalled_since < send_due:
                    self.reset(stream.stream_id)

    def end(self, error: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """Say goodbye (RFC 9113 §6.8) and close."""
        self._ending = True
        try:
            self._h2.close_connection(error)
            self._flush()
        except H2Error:
            pass  # it is closed already
        self.transport.close()

    def abort(self) -> None:
        """Drop the connection with whatever is unsent."""
        self.transport.abort()

    def end_streams(self) -> None:
        """Streams of events have no end of their own: end them all."""
        for stream in list(self._streams.values()):
            if stream.events is not None:
                stream.events.end()

    async def finish(self) -> None:
        """Let the requests being answered end for a moment, then close."""
        self._ending = True
        tasks = [stream.task for stream in self._streams.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=SHUTDOWN_MS / 1_000)
        for task in tasks:
            task.cancel()
        self.end()

    # --- what comes in ------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if not self._frames.are_right(data):
            self.end(ErrorCodes.FRAME_SIZE_ERROR)
            return
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:
            self._flush()  # GOAWAY, with the reason
            self.transport.close()
            return
        except Exception:
            # h2 must not fail but by its own errors; if it does, this connection pays.
            log.exception("the HTTP/2 parser failed")
            self.abort()
            return
        for event in events:
            self._event(event)
        self._flush()
        if self._resets > HTTP2_RESETS or self._idle_frames > HTTP2_IDLE_FRAMES:
            self.end(ErrorCodes.ENHANCE_YOUR_CALM)

    def _event(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._idle_frames = 0
            self._begin(event.stream_id, cast(Any, event.headers))
        elif isinstance(event, DataReceived):
            self._idle_frames += not event.data
            stream = self._streams.get(event.stream_id)
            if stream is None:  # answered already, or reset
                self.taken(event.stream_id, event.flow_controlled_length)
            else:
                stream.body_arrived(event.data, event.flow_controlled_length)
        elif isinstance(event, StreamEnded):
            if event.stream_id in self._streams:
                self._streams[event.stream_id].end_body()
        elif isinstance(event, StreamReset):
            self._resets += 1
            if event.stream_id in self._streams:
                self._streams[event.stream_id].lose("the client took the request back")
        else:
            self._idle_frames += not isinstance(event, TrailersReceived)
            if isinstance(event, WindowUpdated | RemoteSettingsChanged):
                for stream in self._streams.values():
                    stream.window_open.set()

    def _begin(self, stream_id: int, headers: list[tuple[bytes, bytes]]) -> None:
        if self._ending or len(headers) > HTTP_HEADERS:
            refused = ErrorCodes.REFUSED_STREAM if self._ending else ErrorCodes.ENHANCE_YOUR_CALM
            self._h2.reset_stream(stream_id, refused)
            return
        decoded = [
            (name.decode("ascii", "replace"), value.decode("utf-8", "surrogateescape"))
            for name, value in headers
        ]
        self._idle_since = None
        self._streams[stream_id] = Http2Stream(self, stream_id, decoded)

    async def answer(self, stream: Http2Stream) -> None:
        """Have a request answered, and write the answer. The stream's task."""
        try:
            response = await self.service.request_handler(stream.request)
            await response.prepare(stream.request)
            await response.write_eof()
        except ConnectionError:
            pass  # the client is gone, or took its request back
        except (Exception, InvariantViolation):
            log.exception("a request failed")
            self.reset(stream.stream_id, ErrorCodes.INTERNAL_ERROR)
        finally:
            self._ended(stream)

    def _ended(self, stream: Http2Stream) -> None:
        del self._streams[stream.stream_id]
        if not stream.body_ended and not stream.gone and stream.writer.ended:
            # RFC 9113 §8.1: the answer is whole, and the rest of the request isn't wanted.
            self.reset(stream.stream_id, ErrorCodes.NO_ERROR)
        if not self._streams:
            self._idle_since = self._loop.time()

    # --- what goes out ------------------------------------------------------------------------

    def taken(self, stream_id: int, count: int) -> None:
        """So much of a stream's body has been taken in: the windows may move on."""
        try:
            if count:
                self._h2.acknowledge_received_data(count, stream_id)
        except H2Error:
            return  # the stream, or the connection, is closed
        self._flush()

    def send_headers(self, stream_id: int, fields: Iterable[tuple[str, str]]) -> None:
        self._sent(lambda: self._h2.send_headers(stream_id, fields))

    def room(self, stream_id: int) -> int:
        """How much may be sent on a stream in one frame. Raises `ConnectionError` if it is closed."""
        try:
            window = self._h2.local_flow_control_window(stream_id)
        except H2Error as error:
            raise ConnectionResetError(str(error)) from None
        return min(window, self._h2.max_outbound_frame_size)

    def send_data(self, stream_id: int, data: bytes, *, end: bool) -> None:
        self._idle_frames = 0  # windows that move on are no idle frames
        self._sent(lambda: self._h2.send_data(stream_id, data, end_stream=end))

    def reset(self, stream_id: int, error: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """End a stream, answered or not."""
        if stream_id in self._streams:
            self._streams[stream_id].lose("the stream was reset")
        try:
            self._h2.reset_stream(stream_id, error)
        except H2Error:
            return  # it is closed already
        self._flush()

    def _sent(self, send: Any) -> None:
        try:
            send()
        except H2Error as error:
            raise ConnectionResetError(str(error)) from None
        self._flush()

    async def drain(self) -> None:
        await self._writable.wait()
        if self.transport.is_closing():
            raise ConnectionResetError("the connection is closed")

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)
