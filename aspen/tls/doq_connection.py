"""One client's DNS over QUIC (RFC 9250), from its first datagram to its end. No socket, no clock.

Each query travels on a bidirectional stream of its own: its length in two octets, the message (id 0),
the end of the stream; the answer goes back alike. Whatever breaks these rules ends the connection
with `DOQ_PROTOCOL_ERROR`, as §4.3.3 wants it. Time is bounded: for the handshake, for a query from its
first octet to its last, and between queries, even if a client keeps the connection alive otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final

from aioquic.quic import events

from aspen.dns.forward import needs_time
from aspen.dns.networks import packed_address
from aspen.dns.padding import TCP_KEEPALIVE, option_codes
from aspen.dns.stream import Answers
from aspen.limits import (
    DNS_TCP_READ_MS,
    DOQ_QUIET_MS,
    DOQ_SEND_BYTES,
    TLS_HANDSHAKE_MS,
)
from aspen.net.quic_internals import QuicPipe
from aspen.net.udp import SocketAddress

AnswerLater = Callable[["DoqConnection", int, bytes], None]
"""Takes a query that can't be answered at once, and its stream; `send` and `end` follow by and by."""

_LENGTH_BYTES: Final = 2


class DoqError(IntEnum):
    """RFC 9250 §8.4."""

    NO_ERROR = 0x0
    INTERNAL_ERROR = 0x1
    PROTOCOL_ERROR = 0x2
    REQUEST_CANCELLED = 0x3
    EXCESSIVE_LOAD = 0x4


class DoqConnection:
    """See the module's docstring. After each call, look at `closed` and `connection_ids`."""

    def __init__(
        self,
        quic: QuicPipe,
        answers: Answers,
        answer_later: AnswerLater,
        *,
        address: SocketAddress,
        now: float,
    ) -> None:
        self.quic = quic
        self.address = address
        self.proven = False
        """Whether the handshake is done."""
        self.closed = False
        self.connection_ids: set[bytes] = {quic.host_cid}
        self.ids_retired: list[bytes] = []
        self.answered = 0
        self.error: DoqError | None = None
        """What it was closed with, if by us."""
        self._answers = answers
        self._answer_later = answer_later
        self._client = packed_address(address)
        self._handshake_by = now + TLS_HANDSHAKE_MS / 1_000
        self._quiet_at = now + DOQ_QUIET_MS / 1_000
        self._queries: dict[int, bytearray] = {}  # streams whose query isn't complete; the oldest first
        self._began: dict[int, float] = {}
        self._received: dict[int, int] = {}  # octets of streams that aren't over
        self._sending: set[int] = set()

    def reset(self) -> None:
        """The client has proven that it forgot this connection."""
        self.closed = True

    def close(self, error: DoqError, reason: str = "") -> None:
        if not self.closed:
            self.closed = True
            self.error = error
            self.quic.close(error_code=error, reason_phrase=reason)

    def receive(self, datagram_untrusted: bytes, address: SocketAddress, now: float) -> None:
        if self.closed:
            return
        try:
            self.quic.receive_datagram(datagram_untrusted, address, now)
        except Exception:
            # aioquic met bytes it was not written for; that is the sender's doing.
            self.close(DoqError.PROTOCOL_ERROR)
            return
        if self.quic.is_unstarted:
            self.closed = True  # the first datagram holds nothing valid: no answer for garbage
            return
        self.address = address
        self._take_events(now)

    def deadline(self) -> float:
        """When `timer_fired` must be called next."""
        own = self._own_deadline()
        at = self.quic.get_timer()
        return own if at is None else min(at, own)

    def _own_deadline(self) -> float:
        if not self.proven:
            return self._handshake_by
        oldest = next(iter(self._began.values()), None)
        return self._quiet_at if oldest is None else min(oldest + DNS_TCP_READ_MS / 1_000, self._quiet_at)

    def timer_fired(self, now: float) -> None:
        if now >= self._own_deadline():
            late = self._began or not self.proven
            self.close(DoqError.EXCESSIVE_LOAD if late else DoqError.NO_ERROR, "too slow" if late else "")
            return
        try:
            self.quic.handle_timer(now)
        except Exception:
            self.close(DoqError.INTERNAL_ERROR)
            return
        self._take_events(now)

    def datagrams(self, now: float) -> list[tuple[bytes, SocketAddress]]:
        """What to put on the wire now."""
        if self.quic.is_unstarted:
            return []
        try:
            return self.quic.datagrams_to_send(now)
        except Exception:
            self.closed = True
            return []
        finally:
            self._take_events(now)  # ids issued in these datagrams may be used by the next to arrive

    # --- what happens on it -------------------------------------------------------------------

    def _take_events(self, now: float) -> None:
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, events.ConnectionIdIssued):
                self.connection_ids.add(event.connection_id)
            elif isinstance(event, events.ConnectionIdRetired):
                self.connection_ids.discard(event.connection_id)
                self.ids_retired.append(event.connection_id)
            elif not self.closed:
                self._event(event, now)
        if self.quic.closing is not None:
            self.closed = True

    def _event(self, event: events.QuicEvent, now: float) -> None:
        if isinstance(event, events.StreamDataReceived):
            self._stream_data(event.stream_id, event.data, event.end_stream, now)
        elif isinstance(event, events.StreamReset):
            self._stream_reset(event.stream_id)
        elif isinstance(event, events.StopSendingReceived):
            self._cancelled(event.stream_id)
        elif isinstance(event, events.HandshakeCompleted):
            self.proven = True
            self._quiet_at = now + DOQ_QUIET_MS / 1_000

    def _stream_data(self, stream_id: int, data_untrusted: bytes, ended: bool, now: float) -> None:
        self.quic.handled(len(data_untrusted))
        if stream_id % 4 != 0:  # RFC 9000 §2.1: not a bidirectional stream of the client's
            self.close(DoqError.PROTOCOL_ERROR, "a unidirectional stream")
            return
        self._received[stream_id] = self._received.get(stream_id, 0) + len(data_untrusted)
        if ended:
            del self._received[stream_id]
        query = self._queries.get(stream_id)
        if query is None:
            if stream_id in self._sending:
                if data_untrusted:
                    self.close(DoqError.PROTOCOL_ERROR, "a second query on a stream")
                return
            query = self._queries[stream_id] = bytearray()
            self._began[stream_id] = now
        query += data_untrusted
        whole = _LENGTH_BYTES + int.from_bytes(query[:_LENGTH_BYTES], "big")
        if len(query) < _LENGTH_BYTES or len(query) < whole:
            if ended:
                self.close(DoqError.PROTOCOL_ERROR, "the stream ended inside a query")
            return
        del self._queries[stream_id], self._began[stream_id]
        if len(query) > whole:
            self.close(DoqError.PROTOCOL_ERROR, "octets after the query")
            return
        self._quiet_at = now + DOQ_QUIET_MS / 1_000
        self._reply(stream_id, bytes(query[_LENGTH_BYTES:]))

    def _reply(self, stream_id: int, query_untrusted: bytes) -> None:
        if query_untrusted[:2] != b"\x00\x00":
            self.close(DoqError.PROTOCOL_ERROR, "the message id is not 0")
            return
        if TCP_KEEPALIVE in (option_codes(query_untrusted) or ()):
            self.close(DoqError.PROTOCOL_ERROR, "edns-tcp-keepalive")
            return
        answers = self._answers
        self._sending = {other for other in self._sending if not self.quic.is_stream_finished(other)}
        self._sending.add(stream_id)
        if answers.defer is not None and needs_time(query_untrusted):
            self._answer_later(self, stream_id, query_untrusted)
            return
        reply = answers.answer(query_untrusted, self._client)
        if answers.must_wait:
            self._answer_later(self, stream_id, query_untrusted)
        elif reply is None:
            self.close(DoqError.PROTOCOL_ERROR, "not a query")
        elif self.unacknowledged_bytes + len(reply) > DOQ_SEND_BYTES:
            self.close(DoqError.EXCESSIVE_LOAD, "too many answers are not taken")
        else:
            self.quic.send_stream_data(stream_id, _framed(reply), end_stream=True)
            self.answered += 1

    @property
    def unacknowledged_bytes(self) -> int:
        """Of answers, on all streams."""
        return sum(self.quic.unacknowledged_bytes(stream_id) for stream_id in self._sending)

    def send(self, stream_id: int, reply: bytes, now: float) -> None:
        """A message of an answer that took its time. Raises `ConnectionError` if nobody wants it."""
        if self.closed or self.quic.is_stream_finished(stream_id):
            raise ConnectionResetError("the client is gone")
        self._quiet_at = now + DOQ_QUIET_MS / 1_000
        try:
            self.quic.send_stream_data(stream_id, _framed(reply), end_stream=False)
        except (ValueError, AssertionError):
            raise ConnectionResetError("the client took its query back") from None

    def end(self, stream_id: int, *, whole: bool) -> None:
        """The answer that took its time is over; unless it is `whole`, the client must see that."""
        if self.closed:
            return
        try:
            if whole:
                self.quic.send_stream_data(stream_id, b"", end_stream=True)
                self.answered += 1
            else:
                self.quic.reset_stream(stream_id, DoqError.INTERNAL_ERROR)
        except (ValueError, AssertionError):
            pass  # the stream is reset already

    def _stream_reset(self, stream_id: int) -> None:
        """The client takes its query back (§4.3.1), or what it sent is lost."""
        taken = self._received.pop(stream_id, 0)
        self.quic.handled(max(0, self.quic.received_end(stream_id) - taken))
        if self._queries.pop(stream_id, None) is not None:
            del self._began[stream_id]
            self._cancelled(stream_id)

    def _cancelled(self, stream_id: int) -> None:
        """The client doesn't want the answer."""
        try:
            self.quic.reset_stream(stream_id, DoqError.REQUEST_CANCELLED)
        except (ValueError, AssertionError):
            pass  # the answer has gone out whole


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(_LENGTH_BYTES, "big") + message
