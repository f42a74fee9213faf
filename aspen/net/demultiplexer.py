"""Which connection a datagram belongs to (RFC 9000 §5.2), over one socket for dialled and accepted ones.

Short-header packets carry a connection id that this node issued, of fixed length, at a fixed place: the
common case is one dictionary lookup. A long header that names no connection may start one, if it is an
Initial packet of a version we speak; everything else from nowhere is dropped without an answer.

Starting a connection costs milliseconds and a slot, so when many are unproven at once, a newcomer must
first show that it receives at the address it names (Retry, RFC 9000 §8.1.2), which costs us no memory.

A short header with an unknown id is what a peer sends that has not noticed our restart: it is told by a
stateless reset (§10.3). One that arrives for us ends the connection it belongs to.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from typing import Final, Generic, Protocol, TypeVar

from aioquic._buffer import Buffer  # aioquic.buffer re-exports it, but not in a typed way
from aioquic.quic.packet import (
    STATELESS_RESET_TOKEN_SIZE,
    QuicHeader,
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from aspen.limits import NET_RESETS_PER_S
from aspen.net.quic_internals import CONNECTION_ID_BYTES, QuicPipe, ResetTokens
from aspen.net.udp import SocketAddress

VERSIONS: Final[list[int]] = [QuicProtocolVersion.VERSION_1]
_INITIAL_BYTES: Final = 1200  # a client's first datagram is padded to this (RFC 9000 §14.1)
_SHORT_END: Final = 1 + CONNECTION_ID_BYTES
_FIXED_BIT: Final = 0x40
_RESET_BYTES: Final = 5 + STATELESS_RESET_TOKEN_SIZE  # RFC 9000 §10.3
_RESET_MAX_BYTES: Final = 43


class Routed(Protocol):
    """What is known of a connection here."""

    quic: QuicPipe
    connection_ids: set[bytes]
    """What the peer may address it by."""
    ids_retired: list[bytes]
    """Ids that were in use and no longer are; taken from here."""

    def reset(self) -> None:
        """The peer has proven that it forgot this connection."""
        ...


Connection = TypeVar("Connection", bound=Routed)
Made = TypeVar("Made", bound=Routed, covariant=True)


class Accept(Protocol[Made]):
    def __call__(
        self, original_id: bytes, retry_source_id: bytes | None, address: SocketAddress, now: float
    ) -> Made: ...


class Demultiplexer(Generic[Connection]):
    """The table of connection ids, and the door for new connections."""

    def __init__(
        self,
        accept: Accept[Connection],
        reply: Callable[[bytes, SocketAddress], None],
        is_full: Callable[[SocketAddress], bool],
        is_crowded: Callable[[], bool],
        reset_tokens: ResetTokens,
    ) -> None:
        self._accept = accept
        self._reply = reply
        self._is_full = is_full
        self._is_crowded = is_crowded
        self._table: dict[bytes, Connection] = {}
        self._retry = QuicRetryTokenHandler()
        self._reset_tokens = reset_tokens
        self._resettable: dict[bytes, Connection] = {}  # by a digest of the token: see `expect_reset`
        self._resets_left = NET_RESETS_PER_S
        self._resets_second = 0

    def __len__(self) -> int:
        return len(self._table)

    def route(self, datagram_untrusted: bytes, address: SocketAddress, now: float) -> Connection | None:
        """The connection a datagram is for, made now if it may start one."""
        if len(datagram_untrusted) < _SHORT_END:
            return None
        if not datagram_untrusted[0] & 0x80:
            connection = self._table.get(datagram_untrusted[1:_SHORT_END])
            if connection is None and len(datagram_untrusted) >= _RESET_BYTES:
                return self._unknown(datagram_untrusted, address, now)
            return connection
        try:
            header = pull_quic_header(Buffer(data=datagram_untrusted), host_cid_length=CONNECTION_ID_BYTES)
        except ValueError:  # BufferReadError is one
            return None
        connection = self._table.get(header.destination_cid)
        if connection is not None or len(datagram_untrusted) < _INITIAL_BYTES:
            return connection
        if header.packet_type == QuicPacketType.VERSION_NEGOTIATION:
            return None
        if header.version not in VERSIONS:
            self._reply(
                encode_quic_version_negotiation(
                    source_cid=header.destination_cid,
                    destination_cid=header.source_cid,
                    supported_versions=VERSIONS,
                ),
                address,
            )
            return None
        if header.packet_type != QuicPacketType.INITIAL:
            return None
        return self._started(header, address, now)

    def _started(self, header: QuicHeader, address: SocketAddress, now: float) -> Connection | None:
        if self._is_full(address):
            return None
        original_id, retry_source_id = header.destination_cid, None
        if header.token:
            try:
                original_id = self._retry.validate_token(
                    address=address, destination_cid=header.destination_cid, token=header.token, now=now
                )
            except ValueError:
                return None
            retry_source_id = header.destination_cid
        elif self._is_crowded():
            self._ask_again(header, address, now)
            return None
        connection = self._accept(original_id, retry_source_id, address, now)
        # Until the dialler has learned the id we chose, it uses one it made up.
        connection.connection_ids.add(header.destination_cid)
        self.refresh(connection)
        return connection

    def _ask_again(self, header: QuicHeader, address: SocketAddress, now: float) -> None:
        source_id = os.urandom(CONNECTION_ID_BYTES)
        token = self._retry.create_token(
            address=address,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=source_id,
            now=now,
        )
        packet = encode_quic_retry(
            version=QuicProtocolVersion.VERSION_1,
            source_cid=source_id,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )
        self._reply(packet, address)

    def _unknown(self, datagram_untrusted: bytes, address: SocketAddress, now: float) -> Connection | None:
        """A short header that names no connection: a reset of one of ours, or reason to send one."""
        forgotten = self._resettable.get(_digest(datagram_untrusted[-STATELESS_RESET_TOKEN_SIZE:]))
        if forgotten is not None:
            forgotten.reset()
            return forgotten
        second = int(now)
        if second != self._resets_second:
            self._resets_second, self._resets_left = second, NET_RESETS_PER_S
        # Always shorter than what it answers, so that two nodes can't keep each other busy.
        size = min(len(datagram_untrusted) - 1, _RESET_MAX_BYTES)
        if self._resets_left == 0 or size < _RESET_BYTES or not datagram_untrusted[0] & _FIXED_BIT:
            return None
        self._resets_left -= 1
        token = self._reset_tokens.token(datagram_untrusted[1:_SHORT_END])
        noise = bytearray(os.urandom(size - len(token)))
        noise[0] = (noise[0] & 0x3F) | _FIXED_BIT
        self._reply(bytes(noise) + token, address)
        return None

    def expect_reset(self, connection: Connection) -> None:
        """Heed a stateless reset for this connection from now on.

        The table is keyed by a digest, so that the time of a lookup tells nothing about a token.
        """
        token = connection.quic.peer_reset_token
        if token:
            self._resettable[_digest(token)] = connection

    def refresh(self, connection: Connection) -> None:
        """Take over a connection's ids after they may have changed."""
        for connection_id in connection.connection_ids:
            self._table[connection_id] = connection
        if connection.ids_retired:
            self._retire(connection, connection.ids_retired)
            connection.ids_retired = []

    def remove(self, connection: Connection) -> None:
        """Forget a connection; what still arrives for it is from nowhere."""
        self._retire(connection, connection.connection_ids)
        self._retire(connection, connection.ids_retired)
        digest = _digest(connection.quic.peer_reset_token)
        if self._resettable.get(digest) is connection:
            del self._resettable[digest]

    def _retire(self, connection: Connection, connection_ids: Iterable[bytes]) -> None:
        for connection_id in connection_ids:
            if self._table.get(connection_id) is connection:
                del self._table[connection_id]


def _digest(token: bytes) -> bytes:
    return hashlib.blake2b(token, digest_size=16).digest()
