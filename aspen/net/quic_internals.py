"""The one place that touches aioquic's private attributes, and why each is needed.

aioquic is a sans-IO QUIC (RFC 9000) with a small public interface. What Aspen needs beyond it:
- the certificate TLS verified, to pin the dialled key (there is no public accessor);
- to see that a connection is closing at once, not three probe timeouts later;
- receive windows that do not double for ever, so that no peer decides how much memory we spend: one of
  the connection, and one of each bidirectional stream, which moves on as the stream is read;
- few bidirectional streams, and to know when both ends are done with one;
- acknowledgements that wait for company, since each costs a packet of about 150 µs of Python;
- to be told now and then that acknowledgements arrived, or they are remembered for ever;
- how much of a stream is not acknowledged yet, to bound the backlog;
- the address a peer has moved to;
- a stateless reset token that this node can compute again after a restart.

`tests/net/test_quic_internals.py` says which of these moved when an aioquic release moves one.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from typing import Final

import blake3
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    MAX_STREAM_DATA_FRAME_CAPACITY,
    Limit,
    QuicConnection,
    QuicConnectionState,
    stream_is_unidirectional,
)
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import STATELESS_RESET_TOKEN_SIZE, QuicFrameType, QuicProtocolVersion
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import CipherSuite, Epoch
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from aspen.identity import EndpointId, Identity
from aspen.limits import (
    DOQ_STREAM_BYTES,
    DOQ_STREAMS,
    DOQ_WINDOW_BYTES,
    NET_ACK_DELAY_MS,
    NET_ACK_EVERY,
    NET_BARE_ACKS,
    NET_DATAGRAM_BYTES,
    NET_RECEIVE_WINDOW_BYTES,
    NET_STREAM_WINDOW_BYTES,
    NET_STREAMS,
    NET_UNAUTHENTICATED_BYTES,
)
from aspen.net.certificate import certified_key, make_certificate
from aspen.net.udp import SocketAddress

CONNECTION_ID_BYTES: Final = 8
# The handshake's stream, and room for streams whose last acknowledgement is on its way.
_ACCEPTED_STREAMS: Final = 1 + 2 * NET_STREAMS
_RESET_CONTEXT: Final = "aspen 2026 quic stateless reset v1"

# Strangers can provoke what aioquic logs here; Aspen counts refusals and logs them itself, rarely.
logging.getLogger("quic").setLevel(logging.CRITICAL)


def listener_configuration(
    identity: Identity, alpn: list[str], idle_s: float, max_datagram_bytes: int
) -> QuicConfiguration:
    """For connections that others dial."""
    certificate, private_key = make_certificate(identity)
    configuration = _configuration(alpn, idle_s, max_datagram_bytes, is_client=False)
    configuration.certificate = certificate
    configuration.private_key = private_key
    return configuration


def query_configuration(
    chain: Sequence[x509.Certificate], private_key: PrivateKeyTypes, alpn: str, idle_s: float
) -> QuicConfiguration:
    """For connections of strangers who ask, under a certificate that they can verify."""
    configuration = _configuration([alpn], idle_s, NET_DATAGRAM_BYTES, is_client=False)
    configuration.max_data = DOQ_WINDOW_BYTES
    configuration.certificate = chain[0]
    configuration.certificate_chain = list(chain[1:])
    configuration.private_key = private_key
    return configuration


def dialler_configuration(alpn: str, idle_s: float, max_datagram_bytes: int) -> QuicConfiguration:
    """For connections this node dials. No authority vouches for a peer: its key is compared instead."""
    configuration = _configuration([alpn], idle_s, max_datagram_bytes, is_client=True)
    configuration.verify_mode = ssl.CERT_NONE
    return configuration


def _configuration(
    alpn: list[str], idle_s: float, max_datagram_bytes: int, *, is_client: bool
) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=alpn,
        cipher_suites=[CipherSuite.AES_128_GCM_SHA256, CipherSuite.CHACHA20_POLY1305_SHA256],
        connection_id_length=CONNECTION_ID_BYTES,
        idle_timeout=idle_s,
        max_data=NET_UNAUTHENTICATED_BYTES,
        # Of a unidirectional stream, which is bounded by the connection's window, below.
        max_stream_data=NET_RECEIVE_WINDOW_BYTES,
        max_datagram_size=max_datagram_bytes,
        supported_versions=[QuicProtocolVersion.VERSION_1],
    )


class ReceiveWindow(Limit):
    """How much a peer may send beyond what has been handled (RFC 9000 §4.1).

    aioquic doubles its limit whenever half of it is used, so that it grows with the connection's
    life, gaps in streams counted as data. This one slides: `value` never exceeds what was handled
    plus the window, whatever is assigned to it.
    """

    def __init__(self, window_bytes: int) -> None:
        self._window = window_bytes
        self._handled = 0
        self._value = window_bytes
        super().__init__(QuicFrameType.MAX_DATA, "max_data", window_bytes)

    @property
    def value(self) -> int:
        return self._value

    @value.setter
    def value(self, _doubled: int) -> None:
        ceiling = self._handled + self._window
        if ceiling - self._value >= self._window // 2:  # seldom, as each raise costs a frame
            self._value = ceiling

    def handled(self, count: int) -> None:
        self._handled += count

    def widen(self, window_bytes: int) -> None:
        self._window = window_bytes
        self._value = max(self._value, self._handled + window_bytes)


class ResetTokens:
    """Stateless reset tokens (RFC 9000 §10.3.2), computed from the identity key and the connection id.

    A process that was killed forgets its connections, but after its restart it can still say so.
    """

    def __init__(self, identity: Identity) -> None:
        self._key = blake3.blake3(identity.seed, derive_key_context=_RESET_CONTEXT).digest()

    def token(self, connection_id: bytes) -> bytes:
        return blake3.blake3(connection_id, key=self._key).digest(length=STATELESS_RESET_TOKEN_SIZE)


class QuicPipe(QuicConnection):
    """aioquic's connection with the few additions named on top of this module."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        *,
        reset_tokens: ResetTokens,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self._receive_window = ReceiveWindow(NET_UNAUTHENTICATED_BYTES)
        self._local_max_data = self._receive_window
        self._local_max_stream_data_bidi_local = NET_STREAM_WINDOW_BYTES
        self._local_max_stream_data_bidi_remote = NET_STREAM_WINDOW_BYTES
        # Only the dialler opens streams.
        accepted = 0 if configuration.is_client else _ACCEPTED_STREAMS
        self._local_max_streams_bidi = Limit(QuicFrameType.MAX_STREAMS_BIDI, "max_streams_bidi", accepted)
        self._unacknowledged_datagrams = 0
        self._reset_tokens = reset_tokens
        self._name_reset_tokens()

    def _name_reset_tokens(self) -> None:
        for issued in self._host_cids:
            if issued.stateless_reset_token is not None:  # a client's first id has none
                issued.stateless_reset_token = self._reset_tokens.token(issued.cid)

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        self._name_reset_tokens()

    @property
    def peer_reset_token(self) -> bytes:
        """What the peer will send if it has forgotten this connection; empty if it never told."""
        return self._peer_cid.stateless_reset_token or b""

    @property
    def certified_key(self) -> EndpointId | None:
        """The Ed25519 key that the other side proved to hold in the TLS handshake (dialler only)."""
        certificate = self.tls._peer_certificate
        return None if certificate is None else certified_key(certificate)

    @property
    def closing(self) -> ConnectionTerminated | None:
        """Set from the moment the connection starts to close, by either side or by a timeout."""
        return self._close_event

    @property
    def closed_here(self) -> bool:
        """Whether it is this side that closes and still has to say so."""
        return self._close_pending

    @property
    def is_unstarted(self) -> bool:
        """Whether nothing valid has been received yet."""
        return self._state is QuicConnectionState.FIRSTFLIGHT

    @property
    def validated_address(self) -> SocketAddress | None:
        """Where the peer is, once that is proven: a dialler may move (RFC 9000 §9)."""
        path = self._network_paths[0]
        return path.addr if path.is_validated else None

    @property
    def rtt_s(self) -> float:
        return self._loss._rtt_smoothed

    def unacknowledged_bytes(self, stream_id: int) -> int:
        """Bytes written to a stream that the peer has not acknowledged."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else len(stream.sender._buffer)

    def received_end(self, stream_id: int) -> int:
        """How far a stream has been heard of: the end of what arrived, or what its reset named."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.receiver.highest_offset

    def is_stream_finished(self, stream_id: int) -> bool:
        """Whether both directions of a stream are over, and both sides know."""
        stream = self._streams.get(stream_id)
        return stream is None or stream.is_finished

    def stop_receiving(self, stream_id: int) -> None:
        """Ask the peer to send no more on a stream, unless it has ended anyway."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.receiver.is_finished:
            self.stop_stream(stream_id, 0)

    def stream_read(self, stream_id: int, total_bytes: int) -> bool:
        """So much of a bidirectional stream has been read. Whether the peer must be told of it."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.receiver.is_finished:
            return False
        ceiling = total_bytes + NET_STREAM_WINDOW_BYTES
        if ceiling - stream.max_stream_data_local < NET_STREAM_WINDOW_BYTES // 4:
            return False  # seldom, as each raise costs a frame
        stream.max_stream_data_local = ceiling
        return True

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        """Of a bidirectional stream, announce the limit as `stream_read` set it. aioquic's doubles."""
        assert stream.stream_id is not None
        if stream_is_unidirectional(stream.stream_id):
            super()._write_stream_limits(builder, space, stream)
        elif stream.max_stream_data_local_sent != stream.max_stream_data_local:
            if not stream.receiver.is_finished:
                frame = builder.start_frame(
                    QuicFrameType.MAX_STREAM_DATA,
                    capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
                    handler=self._on_max_stream_data_delivery,
                    handler_args=(stream,),
                )
                frame.push_uint_var(stream.stream_id)
                frame.push_uint_var(stream.max_stream_data_local)
            stream.max_stream_data_local_sent = stream.max_stream_data_local

    def trust(self) -> None:
        """The peer is authenticated: let it send more at a time, and acknowledge less often."""
        self._receive_window.widen(NET_RECEIVE_WINDOW_BYTES)
        self._ack_delay = NET_ACK_DELAY_MS / 1000

    def handled(self, count: int) -> None:
        """`count` bytes of stream data have been taken; the window may move on."""
        self._receive_window.handled(count)

    def pace_acknowledgements(self, now: float) -> None:
        """Called for each datagram received: every few of them are acknowledged without delay."""
        self._unacknowledged_datagrams += 1
        if self._unacknowledged_datagrams >= NET_ACK_EVERY:
            self.acknowledge(now)

    def is_quiet(self, now: float) -> bool:
        """Whether an open connection has nothing to send yet: no data, no due acknowledgement, no new limit.

        Asking this is far cheaper than finding that there is no datagram to build.
        """
        ack_at = self._spaces[Epoch.ONE_RTT].ack_at
        if ack_at is not None and ack_at <= now:
            return False
        if self._probe_pending or self._handshake_done_pending or self._retire_connection_ids:
            return False
        if self._receive_window.sent != self._receive_window.value:
            return False
        for stream in self._streams.values():
            if not stream.sender.buffer_is_empty or stream.sender.reset_pending:
                return False
            if stream.receiver.stop_pending or stream.is_finished:
                return False  # one that is finished is discarded, which lets the peer open another
            if stream.max_stream_data_local_sent != stream.max_stream_data_local:
                return False
        return True

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, SocketAddress]]:
        """As aioquic's, with a PING among acknowledgements that nothing else makes the peer acknowledge.

        Who only receives sends nothing but acknowledgements, to which there is no reply, and each is kept
        until one covers it (RFC 9000 §13.2.4).
        """
        space = self._spaces.get(Epoch.ONE_RTT)
        remembered = 0 if space is None or space.ack_eliciting_in_flight else len(space.sent_packets)
        if remembered >= NET_BARE_ACKS and not self._ping_pending:
            self.send_ping(0)
        return super().datagrams_to_send(now)

    def acknowledge(self, now: float) -> None:
        """Let a pending acknowledgement leave with the next datagram."""
        space = self._spaces[Epoch.ONE_RTT]
        if space.ack_at is not None:
            space.ack_at = now
        self._unacknowledged_datagrams = 0


class QueryPipe(QuicPipe):
    """A connection on which a stranger asks: one small message a stream, a few streams at a time, and
    windows that never grow (RFC 9250 §4.3, §7.3)."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        *,
        reset_tokens: ResetTokens,
        original_destination_connection_id: bytes,
        retry_source_connection_id: bytes | None,
    ) -> None:
        super().__init__(
            configuration,
            reset_tokens=reset_tokens,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self._receive_window = ReceiveWindow(DOQ_WINDOW_BYTES)
        self._local_max_data = self._receive_window
        self._local_max_stream_data_bidi_remote = DOQ_STREAM_BYTES
        self._local_max_stream_data_uni = DOQ_STREAM_BYTES
        self._local_max_streams_bidi = Limit(QuicFrameType.MAX_STREAMS_BIDI, "max_streams_bidi", DOQ_STREAMS)
        # None may be opened: one is enough to see that it was.
        self._local_max_streams_uni = Limit(QuicFrameType.MAX_STREAMS_UNI, "max_streams_uni", 1)
