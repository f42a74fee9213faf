"""The DNS over QUIC server: one UDP socket, its connections and their timers (RFC 9250).

Like the endpoint between nodes it drives aioquic from event-loop callbacks: the socket is readable, or
a timer fires; each ends in sending what there is to send. It differs in whom it serves. Strangers prove
nothing but their address, so they are counted: connections in all, for each client, and in the
handshake, where the one that has taken longest gives way. 0-RTT is off: no session tickets are issued.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from typing import Any, Final

import structlog
from aioquic.quic.configuration import QuicConfiguration

from aspen.dns.sockets import ANCILLARY_BYTES, Ancillary, reply_source
from aspen.dns.stream import Answers, client_of
from aspen.identity import Identity
from aspen.limits import (
    DNS_TCP_WRITE_MS,
    DOQ_CONNECTIONS,
    DOQ_CONNECTIONS_PER_CLIENT,
    DOQ_DATAGRAMS_PER_TURN,
    DOQ_HANDSHAKES,
    DOQ_IDLE_MS,
    DOQ_RETRY_ABOVE,
    DOQ_SEND_BYTES,
)
from aspen.net.demultiplexer import Demultiplexer
from aspen.net.quic_internals import QueryPipe, ResetTokens, query_configuration
from aspen.net.udp import SocketAddress, received_from
from aspen.tls.certificates import Bundle, Certificates
from aspen.tls.doq_connection import DoqConnection, DoqError

log = structlog.get_logger("aspen.dns.doq")

ALPN: Final = "doq"
_DATAGRAM_MAX_BYTES: Final = 65_535


class DoqServer:
    """Answers DNS over QUIC. Use from one event loop."""

    def __init__(
        self,
        answers: Answers,
        certificates: Certificates,
        identity: Identity,
        *,
        idle_ms: int = DOQ_IDLE_MS,
        connections_max: int = DOQ_CONNECTIONS,
        connections_per_client: int = DOQ_CONNECTIONS_PER_CLIENT,
        retry_above: int = DOQ_RETRY_ABOVE,
    ) -> None:
        """`identity` only makes tokens for stateless resets."""
        self._answers = answers
        self._certificates = certificates
        self._idle_s = idle_ms / 1_000
        self._max = connections_max
        self._per_client = connections_per_client
        self._retry_above = retry_above
        self._configuration: tuple[Bundle, QuicConfiguration] | None = None
        self._reset_tokens = ResetTokens(identity)
        self._demultiplexer: Demultiplexer[DoqConnection] = Demultiplexer(
            self._accept, self._put_on_wire, self._is_full, self._is_crowded, self._reset_tokens
        )
        self._connections: dict[DoqConnection, str] = {}  # → whose it is, as `client_of` says
        self._clients: Counter[str] = Counter()
        self._unproven: dict[DoqConnection, None] = {}  # the oldest first
        self._sources: dict[DoqConnection, Ancillary] = {}
        self._timers: dict[DoqConnection, tuple[float, asyncio.TimerHandle]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: socket.socket | None = None
        self._deferred: dict[DoqConnection, set[asyncio.Task[None]]] = {}
        self._news: dict[DoqConnection, asyncio.Event] = {}
        """Set when a datagram of a client has come that may have made room for more of an answer."""
        self._source: Ancillary = []
        """What the datagram just read must be answered with."""
        self.refused = 0
        """Connections over a limit."""
        self.errors: Counter[DoqError] = Counter()
        """What connections were closed with."""
        self._answered_before = 0

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    @property
    def answered(self) -> int:
        return self._answered_before + sum(connection.answered for connection in self._connections)

    def start(self, sock: socket.socket) -> tuple[str, int]:
        """Serve on a bound UDP socket (`bind_udp`), which is closed with this; its address."""
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._socket = sock
        self._loop.add_reader(sock.fileno(), self._readable)
        host, port = sock.getsockname()[:2]
        return host, port

    def close(self) -> None:
        """Say goodbye to every client and release the port."""
        for connection in list(self._connections):
            connection.close(DoqError.NO_ERROR)
            self._transmit(connection)
        if self._socket is not None and self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    # --- the network's side -------------------------------------------------------------------

    def _readable(self) -> None:
        if self._socket is None:
            return
        now = time.monotonic()
        touched: dict[DoqConnection, None] = {}
        for _ in range(DOQ_DATAGRAMS_PER_TURN):
            try:
                datagram, ancillary, _, sender = self._socket.recvmsg(_DATAGRAM_MAX_BYTES, ANCILLARY_BYTES)
            except OSError:
                break  # nothing left, or an ICMP error that QUIC's own timers will find out about
            address = received_from(sender)
            self._source = reply_source(ancillary)
            connection = self._demultiplexer.route(datagram, address, now)
            if connection is not None:
                self._sources[connection] = self._source
                self._hand_over(connection, datagram, address, now)
                touched[connection] = None
                if connection in self._news:
                    self._news[connection].set()
        for connection in touched:
            self._transmit(connection)

    def _hand_over(
        self, connection: DoqConnection, datagram: bytes, address: SocketAddress, now: float
    ) -> None:
        try:
            connection.receive(datagram, address, now)
        except Exception:
            log.exception("a DoQ connection failed")  # ours to mend; the others go on
            connection.close(DoqError.INTERNAL_ERROR)

    def _accept(
        self, original_id: bytes, retry_source_id: bytes | None, address: SocketAddress, now: float
    ) -> DoqConnection:
        quic = QueryPipe(
            self._current_configuration(),
            reset_tokens=self._reset_tokens,
            original_destination_connection_id=original_id,
            retry_source_connection_id=retry_source_id,
        )
        connection = DoqConnection(quic, self._answers, self._answer_later, address=address, now=now)
        client = self._connections[connection] = client_of(address)
        self._clients[client] += 1
        self._unproven[connection] = None
        return connection

    def _current_configuration(self) -> QuicConfiguration:
        bundle = self._certificates.bundle
        if self._configuration is None or self._configuration[0] is not bundle:
            made = query_configuration(bundle.chain, bundle.private_key, ALPN, self._idle_s)
            self._configuration = (bundle, made)
        return self._configuration[1]

    def _is_full(self, address: SocketAddress) -> bool:
        if len(self._connections) >= self._max or self._clients[client_of(address)] >= self._per_client:
            self.refused += 1
            return True
        if len(self._unproven) >= DOQ_HANDSHAKES:
            # An honest handshake is over in a moment, so whoever has taken longest goes.
            oldest = next(iter(self._unproven))
            oldest.close(DoqError.EXCESSIVE_LOAD)
            self._transmit(oldest)
        return False

    def _is_crowded(self) -> bool:
        return len(self._unproven) >= self._retry_above

    def _transmit(self, connection: DoqConnection) -> None:
        """Send what there is to send; forget the connection if it is over."""
        if connection not in self._connections:
            return
        source = self._sources.get(connection, [])
        for datagram, address in connection.datagrams(time.monotonic()):
            self._send(datagram, address, source)
        if connection.proven:
            self._unproven.pop(connection, None)
        if connection.closed:
            self._remove(connection)
        else:
            self._demultiplexer.refresh(connection)
            self._arm(connection)

    def _remove(self, connection: DoqConnection) -> None:
        client = self._connections.pop(connection)
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]
        self._unproven.pop(connection, None)
        self._sources.pop(connection, None)
        for task in self._deferred.pop(connection, ()):
            task.cancel()
        self._news.pop(connection, None)
        self._demultiplexer.remove(connection)
        timer = self._timers.pop(connection, None)
        if timer is not None:
            timer[1].cancel()
        self._answered_before += connection.answered
        if connection.error is not None:
            self.errors[connection.error] += 1

    def _put_on_wire(self, datagram: bytes, address: SocketAddress) -> None:
        """For the demultiplexer: an answer to the datagram just read."""
        self._send(datagram, address, self._source)

    def _send(self, datagram: bytes, address: Any, source: Ancillary) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendmsg((datagram,), source, 0, address)
        except OSError:
            pass  # a full buffer or an unreachable network is packet loss, which QUIC repairs

    # --- answers that take their time -----------------------------------------------------------

    def _answer_later(self, connection: DoqConnection, stream_id: int, query: bytes) -> None:
        tasks = self._deferred.setdefault(connection, set())  # no more than a connection has streams
        task = asyncio.get_running_loop().create_task(self._answered_later(connection, stream_id, query))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _answered_later(self, connection: DoqConnection, stream_id: int, query: bytes) -> None:
        assert self._answers.defer is not None

        async def send(reply: bytes) -> None:
            await self._room(connection)
            connection.send(stream_id, self._answers.pad(query, reply), time.monotonic())
            self._transmit(connection)

        whole = False
        try:
            await self._answers.defer(query, connection.address, self._answers.noting(send))
            whole = True
        except ConnectionError:
            pass  # the client is gone, or took its query back
        except Exception as error:
            log.warning("answer_cut_off", client=self._connections.get(connection), error=repr(error))
        finally:
            connection.end(stream_id, whole=whole)
            self._transmit(connection)

    async def _room(self, connection: DoqConnection) -> None:
        """Wait until the client has taken enough of what went before. Raises `ConnectionError`."""
        while connection.unacknowledged_bytes > DOQ_SEND_BYTES // 4:
            news = self._news.setdefault(connection, asyncio.Event())
            news.clear()
            try:
                async with asyncio.timeout(DNS_TCP_WRITE_MS / 1_000):
                    await news.wait()
            except TimeoutError:
                raise ConnectionResetError("the client takes nothing") from None

    # --- timers -------------------------------------------------------------------------------

    def _arm(self, connection: DoqConnection) -> None:
        """Lazily: a timer that is early enough looks again when it fires."""
        assert self._loop is not None
        deadline = connection.deadline()
        timer = self._timers.get(connection)
        if timer is not None:
            if timer[0] <= deadline:
                return
            timer[1].cancel()
        delay = max(0.0, deadline - time.monotonic())
        self._timers[connection] = (
            deadline,
            self._loop.call_later(delay, self._timer_fired, connection, deadline),
        )

    def _timer_fired(self, connection: DoqConnection, armed_for: float) -> None:
        self._timers.pop(connection, None)
        now = max(time.monotonic(), armed_for)
        if connection.deadline() <= now:
            connection.timer_fired(now)
        self._transmit(connection)
