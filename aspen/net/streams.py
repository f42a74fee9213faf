"""Streams of frames beside the Raft frames, on the same proven connection.

The dialler opens them: bidirectional QUIC streams (RFC 9000 §2), each begun by a byte that says what it
carries, then frames both ways. What is long goes here, so that no heartbeat waits behind it:

- Sending, a frame waits while too much is on its way unacknowledged; of what may leave, a little goes to
  QUIC in each turn of the loop, which takes packets of all streams in turns.
- Receiving, the peer's window on the stream moves on only as frames are read, so a slow reader slows down
  the sender and nothing piles up. The connection's window moves on as data arrives: Raft frames never
  wait for the reader of a stream.

Either side may end its direction cleanly, or cut; whoever closes without having heard the other's end asks
it to stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from aspen.errors import invariant
from aspen.limits import (
    NET_STREAM_SEND_BYTES,
    NET_STREAM_TURN_BYTES,
    NET_STREAMS,
    SNAPSHOT_FRAME_BYTES,
)
from aspen.net.frames import LENGTH_BYTES
from aspen.net.quic_internals import QuicPipe

KIND_FRAMES: Final = b"\x01"
"""The first byte of a stream of frames."""
_CUT_CODE: Final = 1  # application error code of a reset


class FrameStream:
    """One stream, for one reader and one writer at this end. Close it when done."""

    def __init__(self, quic: QuicPipe, stream_id: int, wake: Callable[[], None]) -> None:
        """`wake` is called when there is something for QUIC to send."""
        self.stream_id = stream_id
        self.is_closed = False
        """Whether this end is done with it."""
        self._quic = quic
        self._wake = wake
        self._outgoing = bytearray()
        self._fin_sent = False
        self._send_cut: str | None = None
        self._writable = asyncio.Event()
        self._unread = bytearray()
        self._arrived_bytes = 0
        self._read_bytes = 0
        self._peer_done = False
        self._receive_cut: str | None = None
        self._readable = asyncio.Event()

    # --- for its user --------------------------------------------------------------------------

    async def send(self, frame: bytes) -> None:
        """Queue a frame; waits first while too much is unacknowledged. `ConnectionError` when cut."""
        invariant(len(frame) <= SNAPSHOT_FRAME_BYTES, "a frame is larger than any peer accepts")
        while True:
            if self._send_cut is not None:
                raise ConnectionError(self._send_cut)
            if self.is_closed:
                raise ConnectionError("the stream is closed")
            if self._pending_bytes <= NET_STREAM_SEND_BYTES:
                break
            self._writable.clear()
            await self._writable.wait()
        self._outgoing += len(frame).to_bytes(LENGTH_BYTES, "big")
        self._outgoing += frame
        self._wake()

    async def receive(self) -> bytes | None:
        """The next frame; None at the peer's clean end. `ConnectionError` when cut."""
        while True:
            if self._receive_cut is not None:
                raise ConnectionError(self._receive_cut)
            if self.is_closed:
                raise ConnectionError("the stream is closed")
            if (frame := self._take()) is not None:
                return frame
            if self._peer_done:
                if self._unread:
                    raise ConnectionError("the stream ended inside a frame")
                return None
            self._readable.clear()
            await self._readable.wait()

    def close(self) -> None:
        """End this side cleanly, after what was sent; take nothing more. Idempotent."""
        if self.is_closed:
            return
        self.is_closed = True
        self._unread.clear()
        if not self._peer_done and self._receive_cut is None:
            self._quic.stop_receiving(self.stream_id)
        self._notify()
        self._wake()

    def abort(self) -> None:
        """Cut the stream: the peer hears that this is not a clean end. Idempotent."""
        if self._send_cut is None and not self._quic.is_stream_finished(self.stream_id):
            self._quic.reset_stream(self.stream_id, _CUT_CODE)
        self._stop_sending("the stream was cut here")
        self.close()

    # --- for the connection --------------------------------------------------------------------

    def arrived(self, data_untrusted: bytes, ended: bool) -> None:
        """In order, from the peer; not more than its window on this stream."""
        self._arrived_bytes += len(data_untrusted)
        self._peer_done = self._peer_done or ended
        if not self.is_closed and self._receive_cut is None:
            self._unread += data_untrusted
            if self._peer_done or self._has_frame():
                self._readable.set()

    def reset(self) -> None:
        """The peer cut its direction."""
        # What it had sent and never arrived counts as handled, too.
        self._quic.handled(self._quic.received_end(self.stream_id) - self._arrived_bytes)
        self._stop_receiving("the peer cut the stream")

    def stopped(self) -> None:
        """The peer takes no more."""
        self._stop_sending("the peer takes no more of the stream")

    def cut(self, reason: str) -> None:
        """The connection is over. What arrived whole can still be read."""
        self._stop_sending(reason)
        if not self._peer_done:
            self._stop_receiving(reason)

    def skip(self, count: int) -> None:
        """The first `count` bytes were read by whoever accepted the stream."""
        del self._unread[:count]
        self._read_bytes += count

    @property
    def has_more(self) -> bool:
        """Whether `feed` would hand something to QUIC."""
        if self._fin_sent or self._send_cut is not None:
            return False
        if self._outgoing:
            return self._unacknowledged_bytes < NET_STREAM_SEND_BYTES
        return self.is_closed

    def feed(self, budget: int) -> None:
        """Hand some of what waits to QUIC."""
        if not self.has_more:
            return
        count = min(budget, NET_STREAM_SEND_BYTES - self._unacknowledged_bytes, len(self._outgoing))
        data = bytes(self._outgoing[:count])
        del self._outgoing[:count]
        self._fin_sent = self.is_closed and not self._outgoing
        self._quic.send_stream_data(self.stream_id, data, end_stream=self._fin_sent)

    def progress(self) -> None:
        """Acknowledgements may have come."""
        if not self._writable.is_set() and self._pending_bytes <= NET_STREAM_SEND_BYTES:
            self._writable.set()

    # --- inside --------------------------------------------------------------------------------

    @property
    def _unacknowledged_bytes(self) -> int:
        return self._quic.unacknowledged_bytes(self.stream_id)

    @property
    def _pending_bytes(self) -> int:
        return len(self._outgoing) + self._unacknowledged_bytes

    def _has_frame(self) -> bool:
        """Whether `receive` has something to say: a whole frame, or that there can be none."""
        if len(self._unread) < LENGTH_BYTES:
            return False
        length = int.from_bytes(self._unread[:LENGTH_BYTES], "big")
        return length > SNAPSHOT_FRAME_BYTES or len(self._unread) >= LENGTH_BYTES + length

    def _take(self) -> bytes | None:
        if not self._has_frame():
            return None
        length = int.from_bytes(self._unread[:LENGTH_BYTES], "big")
        if length > SNAPSHOT_FRAME_BYTES:
            self.abort()
            raise ConnectionError(f"a frame of {length} bytes, over {SNAPSHOT_FRAME_BYTES}")
        end = LENGTH_BYTES + length
        frame = bytes(self._unread[LENGTH_BYTES:end])
        del self._unread[:end]
        self._read_bytes += end
        if self._quic.stream_read(self.stream_id, self._read_bytes):
            self._wake()
        return frame

    def _stop_sending(self, reason: str) -> None:
        if self._send_cut is None:
            self._send_cut = reason
        self._outgoing.clear()
        self._notify()

    def _stop_receiving(self, reason: str) -> None:
        if self._receive_cut is None:
            self._receive_cut = reason
        self._unread.clear()
        self._notify()

    def _notify(self) -> None:
        self._writable.set()
        self._readable.set()


class Streams:
    """The streams of one connection."""

    def __init__(self, quic: QuicPipe, wake: Callable[[], None]) -> None:
        self.accepted: list[FrameStream] = []
        """Opened by the peer and not handed to anyone yet (the owner takes them)."""
        self._quic = quic
        self._wake = wake
        self._streams: dict[int, FrameStream] = {}

    def open(self) -> FrameStream:
        """Open a stream on a proven connection this node dialled. Raises `ConnectionError`."""
        if self._in_use >= NET_STREAMS:
            raise ConnectionError(f"{NET_STREAMS} streams to the peer are open already")
        stream = self._new(self._quic.get_next_available_stream_id())
        self._quic.send_stream_data(stream.stream_id, KIND_FRAMES)
        self._wake()
        return stream

    @property
    def _in_use(self) -> int:
        return sum(not stream.is_closed for stream in self._streams.values())

    def _new(self, stream_id: int) -> FrameStream:
        stream = self._streams[stream_id] = FrameStream(self._quic, stream_id, self._wake)
        return stream

    # --- what QUIC tells ------------------------------------------------------------------------

    def arrived(self, stream_id: int, data_untrusted: bytes, ended: bool) -> None:
        # The connection's window: what is kept of this is bounded by the stream's.
        self._quic.handled(len(data_untrusted))
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.arrived(data_untrusted, ended)
            return
        is_full = self._in_use >= NET_STREAMS
        stream = self._new(stream_id)
        stream.arrived(data_untrusted, ended)
        if is_full or not data_untrusted.startswith(KIND_FRAMES):
            stream.abort()
        else:
            stream.skip(len(KIND_FRAMES))
            self.accepted.append(stream)

    def reset(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = self._new(stream_id)  # cut before anything of it arrived
            stream.close()
        stream.reset()

    def stopped(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.stopped()

    def settle(self) -> None:
        """Something may have been acknowledged, or have ended for good."""
        if not self._streams:
            return
        for stream in list(self._streams.values()):
            stream.progress()
            if stream.is_closed and self._quic.is_stream_finished(stream.stream_id):
                del self._streams[stream.stream_id]

    def cut(self, reason: str) -> None:
        for stream in self._streams.values():
            stream.cut(reason)
        self._streams.clear()

    # --- what goes to QUIC ----------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """Whether there are none, not even one that is over and still has something to arrive."""
        return not self._streams

    @property
    def has_more(self) -> bool:
        return any(stream.has_more for stream in self._streams.values())

    def feed(self) -> None:
        """Hand QUIC a turn's worth, in equal shares."""
        waiting = [stream for stream in self._streams.values() if stream.has_more]
        for stream in waiting:
            stream.feed(NET_STREAM_TURN_BYTES // len(waiting))
