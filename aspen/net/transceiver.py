"""All QUIC connections over one UDP socket, and over relays: reading, timers, one flush for all (shell).

Everything happens in event-loop callbacks: the socket is readable, a timer fires, or someone has queued
something. Each ends in one flush, so that what was queued in one turn of the loop leaves in as few
datagrams as it fits in. There is no timer to wait for company: a lone frame leaves in the same turn.

Timers are lazy. A connection's deadline moves with every packet, mostly further away; the loop's timer is
left alone then, and looks again when it fires.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from aspen.errors import ConfigError
from aspen.identity import EndpointId, Identity
from aspen.limits import (
    NET_CONNECTIONS,
    NET_DATAGRAM_BYTES,
    NET_DATAGRAMS_PER_TURN,
    NET_LOOPBACK_DATAGRAM_BYTES,
    NET_RETRY_ABOVE,
    NET_UNAUTHENTICATED,
)
from aspen.net.connection import Connection, State
from aspen.net.demultiplexer import Demultiplexer
from aspen.net.handshake import Credentials
from aspen.net.quic_internals import QuicPipe, ResetTokens, dialler_configuration, listener_configuration
from aspen.net.relayed import RelayAddress, Relays, relay_address, relay_of
from aspen.net.streams import FrameStream
from aspen.net.udp import SocketAddress, is_loopback, open_udp, received_from

_DATAGRAM_MAX_BYTES: Final = 65_536
# An idle peer is asked for a sign of life after a sixth of the idle time, and given up when it has been
# silent for two thirds of it: within the whole idle time a dead peer is noticed.
_PING_PART: Final = 1 / 6
_SILENCE_PART: Final = 2 / 3


class Owner(Protocol):
    """Whoever decides what connections are for."""

    def opened(self, connection: Connection) -> None:
        """Both sides are proven."""

    def moved(self, connection: Connection) -> None:
        """The peer, who dialled, has another address now."""

    def received(self, connection: Connection, frames: list[bytes]) -> None: ...

    def accepted(self, connection: Connection, stream: FrameStream) -> None:
        """The peer has opened a stream."""

    def closed(self, connection: Connection) -> None:
        """The connection is over; `connection.refusal` says so if it was refused."""

    def turned_away(self, code: str, address: SocketAddress) -> None:
        """A newcomer was refused before it became a connection."""

    def flushing(self) -> None:
        """The last moment to hand frames to connections, and to `mark` them."""


class Transceiver:
    """The connections of one endpoint. Use from the event loop it was started in."""

    def __init__(
        self,
        owner: Owner,
        identity: Identity,
        credentials: Mapping[str, Credentials],
        idle_ms: int,
        max_datagram_bytes: int | None,
        relays: Relays,
    ) -> None:
        """`credentials` are by ALPN: what each protocol is spoken with."""
        far = max_datagram_bytes or NET_DATAGRAM_BYTES
        near = max_datagram_bytes or NET_LOOPBACK_DATAGRAM_BYTES
        if not NET_DATAGRAM_BYTES <= far <= near <= NET_LOOPBACK_DATAGRAM_BYTES:
            raise ConfigError(
                f"the largest datagram is {NET_DATAGRAM_BYTES} to {NET_LOOPBACK_DATAGRAM_BYTES} bytes, "
                f"not {max_datagram_bytes}"
            )
        self.connections: set[Connection] = set()
        self.family = socket.AF_INET
        self._owner = owner
        self._relays = relays
        self._relayed: list[tuple[bytes, SocketAddress]] = []
        """Datagrams that came through relays, in this turn of the loop."""
        self._credentials = credentials
        self._ping_s = idle_ms / 1000 * _PING_PART
        silence_s = idle_ms / 1000 * _SILENCE_PART
        self._near_bytes, self._far_bytes = near, far
        sizes = {near, far, NET_DATAGRAM_BYTES}
        self._listening = {
            size: listener_configuration(identity, list(credentials), silence_s, size) for size in sizes
        }
        self._dialling = {
            (alpn, size): dialler_configuration(alpn, silence_s, size)
            for alpn in credentials
            for size in sizes
        }
        self._unproven: dict[Connection, None] = {}  # accepted, not proven; the oldest first
        self._dirty: dict[Connection, None] = {}
        self._timers: dict[Connection, tuple[float, asyncio.TimerHandle]] = {}
        self._flush_scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: socket.socket | None = None
        self._buffer = bytearray(_DATAGRAM_MAX_BYTES)
        self._keepalive: asyncio.TimerHandle | None = None
        self._reset_tokens = ResetTokens(identity)
        self._demultiplexer = Demultiplexer(
            self._accept, self._put_on_wire, self._is_full, self._is_crowded, self._reset_tokens
        )

    # --- the owner's side ----------------------------------------------------------------------

    def start(self, host: str, port: int) -> tuple[str, int]:
        """Bind, and serve from now on. The bound address. Raises `OSError`."""
        self._loop = asyncio.get_running_loop()
        self._socket = open_udp(host, port)
        self.family = self._socket.family
        self._loop.add_reader(self._socket.fileno(), self._readable)
        self._keepalive = self._loop.call_later(self._ping_s, self._ping_the_silent)
        bound = self._socket.getsockname()
        return bound[0], bound[1]

    @property
    def is_running(self) -> bool:
        return self._socket is not None

    @property
    def has_room(self) -> bool:
        return len(self.connections) < NET_CONNECTIONS

    def now(self) -> float:
        # Not the loop's time, which some loops keep in whole milliseconds: QUIC paces by much less.
        return time.monotonic()

    def dial(self, listener_id: EndpointId, address: SocketAddress, alpn: str) -> Connection:
        """Start a connection to a peer. What becomes of it, the owner hears."""
        now = self.now()
        quic = QuicPipe(self._dialling[alpn, self._datagram_bytes(address)], reset_tokens=self._reset_tokens)
        connection = Connection(
            quic,
            self._credentials,
            address=address,
            now=now,
            alpn=alpn,
            listener_id=listener_id,
            mark=self.mark,
        )
        self.connections.add(connection)
        self._demultiplexer.refresh(connection)
        connection.dial(now)
        self.mark(connection)
        return connection

    def mark(self, connection: Connection) -> None:
        """The connection may have something to send."""
        self._dirty[connection] = None
        self.flush_soon()

    def flush_soon(self) -> None:
        """Flush at the end of this turn of the loop."""
        if not self._flush_scheduled and self._loop is not None:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def drop(self, connection: Connection) -> None:
        """Close a connection the owner has no more use for; it is not told again."""
        if connection in self.connections:
            connection.close()
            self._remove(connection)

    def send_bare(self, datagram: bytes, address: SocketAddress) -> None:
        """Send something that isn't QUIC, from this port."""
        self._put_on_wire(datagram, address)

    def stop(self) -> None:
        """Close every connection and the socket."""
        for connection in list(self.connections):
            self.drop(connection)
        if self._keepalive is not None:
            self._keepalive.cancel()
        if self._socket is not None and self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _datagram_bytes(self, address: SocketAddress) -> int:
        """How large a datagram that way may be."""
        if relay_of(address):
            return NET_DATAGRAM_BYTES
        return self._near_bytes if is_loopback(address) else self._far_bytes

    # --- the network's side --------------------------------------------------------------------

    def relayed(self, relay: str, endpoint_id: EndpointId, datagram_untrusted: bytes) -> None:
        """A datagram came through a relay, which says who sent it; QUIC finds out whether that is true."""
        if self._socket is None or self._loop is None:
            return
        if not self._relayed:
            self._loop.call_soon(self._take_relayed)
        self._relayed.append((datagram_untrusted, relay_address(relay, endpoint_id)))

    def _take_relayed(self) -> None:
        datagrams, self._relayed = self._relayed, []
        if self._socket is not None:
            now = self.now()
            self._settle_all([self._take(datagram, address, now) for datagram, address in datagrams], now)

    def _readable(self) -> None:
        if self._socket is None or self._loop is None:
            return
        now = self.now()
        touched: list[Connection | None] = []
        view = memoryview(self._buffer)
        self._flush_scheduled = True  # by `_settle_all`
        for _ in range(NET_DATAGRAMS_PER_TURN):
            try:
                size, address = self._socket.recvfrom_into(self._buffer)
            except OSError:
                break  # nothing left, or an ICMP error that QUIC's own timers will find out about
            touched.append(self._take(bytes(view[:size]), received_from(address), now))
        self._settle_all(touched, now)

    def _take(self, datagram_untrusted: bytes, address: SocketAddress, now: float) -> Connection | None:
        """Give a datagram to the connection it belongs to."""
        connection = self._demultiplexer.route(datagram_untrusted, address, now)
        if connection is not None:
            connection.receive(datagram_untrusted, address, now)
        return connection

    def _settle_all(self, touched: Iterable[Connection | None], now: float) -> None:
        """After a turn's datagrams: each connection once."""
        self._flush_scheduled = True  # at the end of this
        try:
            for connection in dict.fromkeys(touched):
                if connection is not None:
                    self._settle(connection, now)
        finally:
            self._flush()

    def _accept(
        self, original_id: bytes, retry_source_id: bytes | None, address: SocketAddress, now: float
    ) -> Connection:
        quic = QuicPipe(
            self._listening[self._datagram_bytes(address)],
            reset_tokens=self._reset_tokens,
            original_destination_connection_id=original_id,
            retry_source_connection_id=retry_source_id,
        )
        connection = Connection(quic, self._credentials, address=address, now=now, mark=self.mark)
        self.connections.add(connection)
        self._unproven[connection] = None
        return connection

    def _is_full(self, address: SocketAddress) -> bool:
        if len(self._unproven) >= NET_UNAUTHENTICATED:
            # An honest handshake is over in a moment, so whoever has taken longest goes.
            oldest = next(iter(self._unproven))
            oldest.refuse("too_many", "too many others are in the handshake")
            self._settle(oldest, self.now())
        if self.has_room:
            return False
        self._owner.turned_away("too_many", address)
        return True

    def _is_crowded(self) -> bool:
        return len(self._unproven) >= NET_RETRY_ABOVE

    def _settle(self, connection: Connection, now: float) -> None:
        """Something happened to a connection: tell the owner, and look for something to send."""
        if connection not in self.connections:
            return
        if connection.state is State.OPEN and not connection.announced:
            connection.announced = True
            self._unproven.pop(connection, None)
            self._demultiplexer.expect_reset(connection)
            self._owner.opened(connection)
        if connection.moved:
            connection.moved = False
            self._owner.moved(connection)
        if connection.frames_received:
            frames, connection.frames_received = connection.frames_received, []
            self._owner.received(connection, frames)
        if connection.streams.accepted:
            streams, connection.streams.accepted = connection.streams.accepted, []
            for stream in streams:
                self._owner.accepted(connection, stream)
        if connection.state is State.CLOSED:
            if connection in self.connections:
                self._remove(connection)
                self._owner.closed(connection)
        elif connection.is_quiet(now):
            self._arm(connection)
        else:
            self._dirty[connection] = None

    def _remove(self, connection: Connection) -> None:
        connection.streams.cut("the connection is lost")
        for datagram, address in connection.datagrams(self.now()):
            self._put_on_wire(datagram, address)
        self.connections.discard(connection)
        self._unproven.pop(connection, None)
        self._dirty.pop(connection, None)
        self._demultiplexer.remove(connection)
        timer = self._timers.pop(connection, None)
        if timer is not None:
            timer[1].cancel()

    def _flush(self) -> None:
        self._flush_scheduled = False
        self._owner.flushing()
        unfinished: list[Connection] = []
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            for connection in dirty:
                if connection in self.connections:
                    self._transmit(connection)
                    if connection.streams.has_more:
                        unfinished.append(connection)
        for connection in unfinished:
            self.mark(connection)  # streams go on in the next turn of the loop; others come first

    def _transmit(self, connection: Connection) -> None:
        for datagram, address in connection.datagrams(self.now()):
            self._put_on_wire(datagram, address)
        self._demultiplexer.refresh(connection)
        if connection.state is State.CLOSED:
            self._settle(connection, self.now())
        else:
            self._arm(connection)

    def _put_on_wire(self, datagram: bytes, address: SocketAddress) -> None:
        if self._socket is None:
            return
        if isinstance(address, RelayAddress):
            self._relays.send(address.relay, address.endpoint_id, datagram)
            return
        try:
            self._socket.sendto(datagram, address)
        except OSError:
            pass  # a full buffer or an unreachable network is packet loss, which QUIC repairs

    # --- timers --------------------------------------------------------------------------------

    def _arm(self, connection: Connection) -> None:
        assert self._loop is not None
        deadline = connection.deadline()
        if deadline is None:
            return
        timer = self._timers.get(connection)
        if timer is not None:
            if timer[0] <= deadline:
                return
            timer[1].cancel()
        handle = self._loop.call_later(deadline - self.now(), self._timer_fired, connection, deadline)
        self._timers[connection] = (deadline, handle)

    def _timer_fired(self, connection: Connection, armed_for: float) -> None:
        self._timers.pop(connection, None)
        deadline = connection.deadline()
        if deadline is None:
            return
        now = max(self.now(), armed_for)
        if deadline > now:
            self._arm(connection)
            return
        connection.timer_fired(now)
        self._dirty[connection] = None
        try:
            self._settle(connection, now)
        finally:
            self._flush()

    def _ping_the_silent(self) -> None:
        assert self._loop is not None
        now = self.now()
        for connection in list(self.connections):
            silent_s = now - connection.heard_at
            if connection.dialled and connection.state is State.OPEN and silent_s >= self._ping_s * 0.9:
                connection.quic.send_ping(0)
                self.mark(connection)
        self._keepalive = self._loop.call_later(self._ping_s, self._ping_the_silent)
