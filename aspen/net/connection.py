"""One QUIC connection to one peer, from its first datagram to its end. No socket, no clock: `now` comes in.

::

    TLS ──► PROVING ──► OPEN ──► CLOSED        (CLOSED from anywhere)

TLS and PROVING end in refusal when their time is up. In PROVING the `Handshake` runs on the dialler's
first bidirectional stream. Only OPEN carries frames: Raft's on the dialler's first unidirectional stream,
from the dialler to the listener; and both ways on further bidirectional streams, which the dialler opens
(`Streams`). Data anywhere else, or earlier, closes the connection. A stranger, of whom nothing but its key
is proven, gets no window wider than before, and has streams only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final

from aioquic.quic import events
from aioquic.tls import AlertDescription

from aspen.errors import HandshakeError
from aspen.identity import EndpointId
from aspen.limits import (
    NET_DIAL_MS,
    NET_HANDSHAKE_MS,
    NET_KEY_PACKETS,
    NET_UNAUTHENTICATED_BYTES,
    RAFT_FRAME_BYTES,
)
from aspen.net.frames import FrameReader, encode_frames
from aspen.net.handshake import (
    NONCE_BYTES,
    REFUSAL_CODES,
    Credentials,
    DiallerHandshake,
    Handshake,
    ListenerHandshake,
    Peer,
)
from aspen.net.quic_internals import QuicPipe
from aspen.net.relayed import relay_of
from aspen.net.streams import Streams
from aspen.net.udp import SocketAddress

HANDSHAKE_STREAM: Final = 0  # the dialler's first bidirectional stream (RFC 9000 §2.1)
FRAME_STREAM: Final = 2  # the dialler's first unidirectional stream
# Application error codes of a close (RFC 9000 §20.2).
CLOSE_DONE: Final = 0
CLOSE_REFUSED: Final = 1
# What a close inside the handshake says of itself, whatever its reason (RFC 9000 §10.2.3).
_APPLICATION_ERROR: Final = 0x0C
_NO_COMMON_ALPN: Final = 0x100 + AlertDescription.no_application_protocol  # RFC 9001 §4.8


class State(Enum):
    TLS = "tls"
    PROVING = "proving"
    OPEN = "open"
    CLOSED = "closed"


class Connection:
    """A connection this node dialled (`listener_id` is whom) or accepted (`listener_id` is None)."""

    def __init__(
        self,
        quic: QuicPipe,
        credentials: Mapping[str, Credentials],
        *,
        address: SocketAddress,
        now: float,
        alpn: str = "",
        listener_id: EndpointId | None = None,
        mark: Callable[[Connection], None] = lambda connection: None,
    ) -> None:
        """`credentials` are by ALPN; `alpn` is what a dialler wants. `mark` is called when someone outside
        has queued something for `datagrams`."""
        self.quic = quic
        self.address = address
        self.listener_id = listener_id
        self.state = State.TLS
        self.alpn = alpn
        """The protocol spoken; empty on a connection that hasn't said."""
        self.opened_at = now
        self.heard_at = now
        self.refusal: tuple[str, str] | None = None
        """Why it was refused: code and reason. None if it ended otherwise, or has not ended."""
        self.refused_by: EndpointId | None = None
        """Who refused this node, if it was the other side, and it has proven its key."""
        self.connection_ids: set[bytes] = {quic.host_cid}
        """What the peer may address this connection by."""
        self.ids_retired: list[bytes] = []
        """Ids that were in use and no longer are (the owner takes them)."""
        self.was_reset = False
        """Whether it ended because the peer does not remember it."""
        self.announced = False
        """Whether the owner knows that it is open (kept by the owner)."""
        self.moved = False
        """Whether the peer has another address than before, and nobody has taken note (the owner does)."""
        self.frames_received: list[bytes] = []
        self.streams = Streams(quic, lambda: mark(self))
        self._credentials = credentials
        self._prove_by = now + (NET_HANDSHAKE_MS if listener_id is None else NET_DIAL_MS) / 1000
        self._unproven_bytes = 0
        self._key_packets = 0
        self._handshake: Handshake | None = None
        self._reader = FrameReader(RAFT_FRAME_BYTES)

    @property
    def dialled(self) -> bool:
        return self.listener_id is not None

    @property
    def relay(self) -> str:
        """The relay it goes through; empty on a direct one."""
        return relay_of(self.address)

    @property
    def is_relayed(self) -> bool:
        return bool(self.relay)

    @property
    def peer(self) -> Peer | None:
        """Who is at the other end, once proven."""
        return None if self._handshake is None else self._handshake.peer

    def dial(self, now: float) -> None:
        self.quic.connect(self.address, now)

    def send(self, frames: list[bytes]) -> None:
        """Queue frames on an open connection this node dialled; `datagrams` then has them."""
        self.quic.send_stream_data(FRAME_STREAM, encode_frames(frames))

    def backlog_bytes(self) -> int:
        return self.quic.unacknowledged_bytes(FRAME_STREAM)

    @property
    def is_idle(self) -> bool:
        """Whether all that was sent on it has arrived, and no stream is open."""
        return self.backlog_bytes() == 0 and self.streams.is_empty

    def is_quiet(self, now: float) -> bool:
        """Whether asking for `datagrams` may wait until the `deadline`."""
        return (
            self.state is State.OPEN
            and self.announced
            and not self.streams.has_more
            and self.quic.is_quiet(now)
        )

    def refuse(self, code: str, reason: str) -> None:
        """End the connection and tell the peer the code."""
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self.refusal = (code, reason)
            self.quic.close(error_code=CLOSE_REFUSED, reason_phrase=code)

    def close(self) -> None:
        """End the connection in peace."""
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self.quic.close(error_code=CLOSE_DONE)

    def reset(self) -> None:
        """The peer has proven that it forgot this connection: there is nobody to say goodbye to."""
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self.was_reset = True

    def receive(self, datagram_untrusted: bytes, address: SocketAddress, now: float) -> None:
        """Take a datagram. Look at `state`, `frames_received` and `connection_ids` afterwards."""
        if self.state is State.CLOSED:
            return
        if self.state is not State.OPEN:
            self._unproven_bytes += len(datagram_untrusted)
            if self._unproven_bytes > NET_UNAUTHENTICATED_BYTES:
                self.refuse("malformed", "more bytes than a handshake has")
                return
        try:
            self.quic.receive_datagram(datagram_untrusted, address, now)
        except Exception as error:
            # aioquic met bytes it was not written for; that is the sender's doing.
            self.refuse("malformed", f"QUIC: {type(error).__name__}")
            return
        if self.quic.is_unstarted and not self.dialled:
            self.refuse("malformed", "the first datagram holds no valid packet")
            return
        self.heard_at = now
        self._take_events()
        if self.state is State.OPEN:
            self.quic.pace_acknowledgements(now)
            if address != self.address and self.quic.validated_address == address and not self.is_relayed:
                self.address, self.moved = address, True

    def deadline(self) -> float | None:
        """When `timer_fired` must be called next."""
        if self.state is State.CLOSED:
            return None
        at = self.quic.get_timer()
        if self.state is not State.OPEN and (at is None or at > self._prove_by):
            return self._prove_by
        return at

    def timer_fired(self, now: float) -> None:
        if self.state is not State.OPEN and now >= self._prove_by:
            if self.dialled:
                self.close()  # nobody there, or nobody with time for us: not a refusal
            else:
                self.refuse("timeout", "the handshake was not finished in time")
            return
        try:
            self.quic.handle_timer(now)
        except Exception as error:
            self.refuse("malformed", f"QUIC: {type(error).__name__}")
            return
        self._take_events()

    def datagrams(self, now: float) -> list[tuple[bytes, SocketAddress]]:
        """What to put on the wire now."""
        if self.was_reset or (self.quic.is_unstarted and not self.dialled):
            return []
        if self.state is State.OPEN:
            self.streams.feed()
        try:
            datagrams = self.quic.datagrams_to_send(now)
        except Exception as error:
            self.refuse("malformed", f"QUIC: {type(error).__name__}")
            return []
        self._take_events()  # ids issued in these datagrams may be used by the very next one to arrive
        self._key_packets += len(datagrams)
        if self._key_packets >= NET_KEY_PACKETS:
            self._key_packets = 0
            self.quic.request_key_update()
        return datagrams

    def _take_events(self) -> None:
        try:
            while (event := self.quic.next_event()) is not None:
                self._event(event)
        except HandshakeError as error:
            self.refuse(error.code, str(error))
        self.streams.settle()
        closing = self.quic.closing
        if closing is not None and self.state is not State.CLOSED:
            self._ended(closing)

    def _event(self, event: events.QuicEvent) -> None:
        if self.state is State.CLOSED:
            return  # refused or ended: nothing it says counts any more
        if isinstance(event, events.StreamDataReceived):
            self._stream_data(event.stream_id, event.data, event.end_stream)
        elif isinstance(event, events.HandshakeCompleted):
            self._tls_done(event.alpn_protocol or "")
        elif isinstance(event, events.ConnectionIdIssued):
            self.connection_ids.add(event.connection_id)
        elif isinstance(event, events.ConnectionIdRetired):
            self.connection_ids.discard(event.connection_id)
            self.ids_retired.append(event.connection_id)
        elif isinstance(event, events.StreamReset | events.StopSendingReceived):
            if not self._carries_stream(event.stream_id):
                raise HandshakeError("malformed", "a stream was cut off")
            if isinstance(event, events.StreamReset):
                self.streams.reset(event.stream_id)
            else:
                self.streams.stopped(event.stream_id)

    def _tls_done(self, alpn: str) -> None:
        self.alpn = alpn
        self.state = State.PROVING
        nonce = os.urandom(NONCE_BYTES)
        credentials = self._credentials.get(alpn)
        if credentials is None:
            raise HandshakeError("version", "no application protocol in common")
        if self.listener_id is None:
            self._handshake = ListenerHandshake(credentials, alpn, nonce)
            return
        if self.quic.certified_key != self.listener_id:
            raise HandshakeError("wrong_key", "another key answers at the address of the dialled peer")
        handshake = DiallerHandshake(credentials, alpn, nonce, self.listener_id)
        self._handshake = handshake
        self.quic.send_stream_data(HANDSHAKE_STREAM, handshake.start())

    def _carries_stream(self, stream_id: int) -> bool:
        """Whether this is one of the dialler's bidirectional streams (RFC 9000 §2.1) beside the first."""
        return self.state is State.OPEN and stream_id % 4 == 0 and stream_id != HANDSHAKE_STREAM

    @property
    def _of_strangers(self) -> bool:
        return self._credentials[self.alpn].strangers

    def _carries_frames(self, stream_id: int) -> bool:
        open_here = self.state is State.OPEN and not self.dialled
        return stream_id == FRAME_STREAM and open_here and not self._of_strangers

    def _stream_data(self, stream_id: int, data_untrusted: bytes, ended: bool) -> None:
        if self._carries_stream(stream_id):
            self.streams.arrived(stream_id, data_untrusted, ended)
            return
        if ended:
            raise HandshakeError("malformed", "a stream ended")
        if stream_id == HANDSHAKE_STREAM and self._handshake is not None:
            reply = self._handshake.receive(data_untrusted)
            if reply:
                self.quic.send_stream_data(HANDSHAKE_STREAM, reply)
            if self._handshake.peer is not None:
                self.state = State.OPEN
                if not self._of_strangers:
                    self.quic.trust()
        elif self._carries_frames(stream_id):
            self.frames_received += self._reader.feed(data_untrusted)
        else:
            raise HandshakeError("malformed", "data on a stream that should have none")
        self.quic.handled(len(data_untrusted))

    def _ended(self, closing: events.ConnectionTerminated) -> None:
        """QUIC itself ends the connection: the peer closed it, it timed out, or the peer broke the rules."""
        proven = self.state is State.OPEN
        self.state = State.CLOSED
        if closing.error_code == _NO_COMMON_ALPN:
            self.refusal = ("version", "no application protocol in common")
        elif self.quic.closed_here:
            self.refusal = ("malformed", "the peer broke the rules of QUIC")
        elif closing.frame_type is None and closing.reason_phrase in REFUSAL_CODES:
            self.refusal = (closing.reason_phrase, "the peer refused this node")
            if self.dialled:
                self.refused_by = None if self._handshake is None else self.listener_id  # TLS has proven it
            elif self.peer is not None:
                self.refused_by = self.peer.endpoint_id
        elif not proven and not self.dialled and closing.error_code not in (CLOSE_DONE, _APPLICATION_ERROR):
            self.refusal = ("timeout", "the connection ended inside the handshake")
