"""DNS over TCP and TLS (RFC 1035 §4.2.2, RFC 7766, RFC 7858): framing, pipelining, patience with limits.

A message travels behind its length in two octets. Queries of one connection may follow one another
without waiting for answers (RFC 7766 §6.2.1.1). What a client may cost is bounded: connections in
all and for each client, time idle, time from a message's first octet to its last, answers waiting
to be taken. A client that has shut its sending side still gets the answers it asked for.

TLS is the business of whoever accepts the connections (`new_connection`); what differs here is that its
answers are padded for those who pad their queries, and that asyncio can't half-close it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import Counter
from typing import Any, Final, cast

import structlog

from aspen.dns.answers import Answers, Defer, Padding, Send
from aspen.dns.forward import needs_time
from aspen.dns.networks import UNKNOWN, packed_address
from aspen.dns.respond import View
from aspen.limits import (
    DNS_TCP_CONNECTIONS,
    DNS_TCP_CONNECTIONS_PER_CLIENT,
    DNS_TCP_DEFERRED,
    DNS_TCP_IDLE_MS,
    DNS_TCP_PIPELINE,
    DNS_TCP_READ_MS,
    DNS_TCP_WRITE_BYTES,
    DNS_TCP_WRITE_MS,
)

__all__ = ["Answers", "Defer", "Padding", "Send", "TcpServer", "client_of"]

log = structlog.get_logger("aspen.dns.stream")

_LENGTH_BYTES: Final = 2
_LAST_TURNS: Final = 8
"""Pipelined answers that a client gets, in turns of them, after it has ended a TLS connection."""


class TcpServer(Answers):
    """Answers DNS over TCP, or TLS over TCP, on the event loop."""

    def __init__(
        self,
        view: View,
        *,
        idle_ms: int = DNS_TCP_IDLE_MS,
        read_ms: int = DNS_TCP_READ_MS,
        write_ms: int = DNS_TCP_WRITE_MS,
        connections_max: int = DNS_TCP_CONNECTIONS,
        connections_per_client: int = DNS_TCP_CONNECTIONS_PER_CLIENT,
        defer: Defer | None = None,
        encrypted: bool = False,
    ) -> None:
        """`defer` answers what can't be answered at once (`needs_time`): transfers, updates, …

        `encrypted`: connections come by TLS, so that padding makes sense, and EOF ends them.
        """
        super().__init__(view, Padding.ASKED if encrypted else Padding.NONE, defer=defer)
        self.encrypted = encrypted
        self.idle_s = idle_ms / 1_000
        self.read_s = read_ms / 1_000
        self.write_s = write_ms / 1_000
        self.refused = 0
        """Connections over a limit."""
        self._connections_max = connections_max
        self._connections_per_client = connections_per_client
        self._connections: set[_Connection] = set()
        self._clients: Counter[str] = Counter()
        self._server: asyncio.Server | None = None

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Bind, listen, and return the bound address. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), host, port)
        return self._address()

    async def start_on(self, sock: socket.socket) -> tuple[str, int]:
        """Listen on a bound socket (`bind_udp_and_tcp`); it is closed with the server."""
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._server = await loop.create_server(lambda: _Connection(self), sock=sock)
        return self._address()

    def new_connection(self) -> asyncio.Protocol:
        """For a connection that somebody else accepts, as TLS does."""
        return _Connection(self)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def _address(self) -> tuple[str, int]:
        assert self._server is not None  # for the type checker
        host, port = self._server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    def admit(self, connection: _Connection) -> bool:
        """Count a new connection in, unless it is over a limit."""
        over = (
            len(self._connections) >= self._connections_max
            or self._clients[connection.client] >= self._connections_per_client
        )
        if over:
            self.refused += 1
            return False
        self._connections.add(connection)
        self._clients[connection.client] += 1
        return True

    def release(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            self._clients[connection.client] -= 1
            if not self._clients[connection.client]:
                del self._clients[connection.client]


def client_of(address: Any) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
    except (ValueError, TypeError, IndexError):
        return "unknown"
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


class _Connection(asyncio.Protocol):
    """One client's connection.

    At any time it waits for one thing: a first octet (idle), the rest of a message, or the client
    to take answers. `_deadline` is when that waiting ends; one timer looks at it.
    """

    def __init__(self, server: TcpServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._turn: asyncio.Handle | None = None
        self._reading = True
        self._inside_message = False
        self._blocked = False
        """The client doesn't take its answers: make no more until it does."""
        self._ended = False
        """The client has shut its sending side."""
        self._deferred: set[asyncio.Task[None]] = set()
        self._writable = asyncio.Event()
        self._writable.set()
        self._peer: Any = None
        self._address = UNKNOWN
        self.client = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour alone
        self._peer = transport.get_extra_info("peername")
        self._address = packed_address(self._peer)
        self.client = client_of(self._peer)
        if not self._server.admit(self):
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=DNS_TCP_WRITE_BYTES)
        self._wait(self._server.idle_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.release(self)
        for handle in (self._timer, self._turn):
            if handle is not None:
                handle.cancel()
        for task in self._deferred:
            task.cancel()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._turn is None and not self._blocked:
            self._answer_some()

    def eof_received(self) -> bool:
        self._ended = True
        if self._server.encrypted:
            # asyncio ends a TLS connection when this returns, after what has been written.
            for _ in range(_LAST_TURNS):
                if self._blocked or self._transport.is_closing() or not self._has_message():
                    break
                self._answer_some()
        self._close_when_done()
        return not self._server.encrypted  # keep our side open: answers may still be on their way

    def pause_writing(self) -> None:
        self._blocked = True
        self._writable.clear()
        self._read(False)
        self._wait(self._server.write_s)

    def resume_writing(self) -> None:
        self._blocked = False
        self._writable.set()
        self._answer_some()

    def abort(self) -> None:
        self._transport.abort()

    def _answer_some(self) -> None:
        """Answer the whole messages received, but no more than a turn's worth at a time."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        replies, taken, understood = self._answer_received()
        del self._received[:taken]
        if replies:
            self._transport.write(b"".join(replies))  # may call pause_writing
        if not understood:
            self._transport.close()  # who sends what is no query doesn't speak DNS
        if self._blocked or self._transport.is_closing():
            return
        if taken and self._has_message():
            self._read(False)
            self._turn = self._loop.call_soon(self._answer_some)
            return
        self._read(len(self._deferred) < DNS_TCP_DEFERRED)
        self._set_deadline(bool(replies))
        self._close_when_done()

    def _answer_received(self) -> tuple[list[bytes], int, bool]:
        """Replies to the messages received, framed; the octets taken; whether all were queries."""
        received, offset, size = self._received, 0, 0
        replies: list[bytes] = []
        while len(replies) < DNS_TCP_PIPELINE and size < DNS_TCP_WRITE_BYTES and self._has_message(offset):
            start = offset + _LENGTH_BYTES
            end = start + (received[offset] << 8 | received[offset + 1])
            message = bytes(received[start:end])
            if self._server.defer is not None and needs_time(message):
                if len(self._deferred) >= DNS_TCP_DEFERRED:
                    break
                offset = end
                self._answer_later(self._server.defer, message)
                continue
            reply = self._server.answer(message, self._address)
            if self._server.must_wait and self._server.defer is not None:
                if len(self._deferred) >= DNS_TCP_DEFERRED:
                    break
                offset = end
                self._answer_later(self._server.defer, message)
                continue
            offset = end
            if reply is None:
                return replies, offset, False
            replies.append(len(reply).to_bytes(_LENGTH_BYTES, "big") + reply)
            size += len(reply)
        return replies, offset, True

    # --- answers that take their time ---------------------------------------------------------

    def _answer_later(self, defer: Defer, message: bytes) -> None:
        task = self._loop.create_task(self._deferred_answer(defer, message))
        self._deferred.add(task)
        task.add_done_callback(self._deferred_ended)

    async def _deferred_answer(self, defer: Defer, message: bytes) -> None:
        try:
            await defer(message, self._peer, self._server.noting(self._send))
        except Exception as error:
            # Half an answer must not look like a whole one.
            log.warning("answer_cut_off", client=self.client, error=repr(error))
            self._transport.abort()

    async def _send(self, reply: bytes) -> None:
        """Send one message once the client has taken those before it."""
        await self._writable.wait()
        self._server.answered += 1
        self._transport.write(len(reply).to_bytes(_LENGTH_BYTES, "big") + reply)

    def _deferred_ended(self, task: asyncio.Task[None]) -> None:
        self._deferred.discard(task)
        if self._transport.is_closing():
            return
        if not self._blocked and self._turn is None:
            self._wait(self._server.idle_s)
            self._answer_some()

    # --- the rest -----------------------------------------------------------------------------

    def _has_message(self, offset: int = 0) -> bool:
        """Whether a whole message stands at `offset` of what was received."""
        received = self._received
        start = offset + _LENGTH_BYTES
        return start <= len(received) and start + (received[offset] << 8 | received[offset + 1]) <= len(
            received
        )

    def _read(self, wanted: bool) -> None:
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _set_deadline(self, answered: bool) -> None:
        """Idle from now on; or, inside a message, from its first octet, however slowly it comes."""
        if not self._received:
            if answered or self._inside_message:
                self._wait(self._server.idle_s)
            self._inside_message = False
        elif answered or not self._inside_message:
            self._wait(self._server.read_s)
            self._inside_message = True

    def _close_when_done(self) -> None:
        """After the client's last octet, close once everything answerable is answered."""
        if self._ended and not self._blocked and self._turn is None and not self._deferred:
            self._transport.close()  # sends what is buffered first
            self._wait(self._server.write_s)

    def _wait(self, seconds: float) -> None:
        """Give what is awaited now this long. A later deadline lets the timer be: it looks again."""
        self._deadline = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._watch)

    def _watch(self) -> None:
        """Cut the connection off at its deadline. Runs until it is lost, closing included."""
        if self._loop.time() >= self._deadline and self._deferred and not self._blocked:
            self._wait(self._server.idle_s)  # the client waits for us
            self._timer = self._loop.call_at(self._deadline, self._watch)
        elif self._loop.time() >= self._deadline:
            self._transport.abort()
        else:
            self._timer = self._loop.call_at(self._deadline, self._watch)
