"""Datagrams that a UDP worker can't answer, passed on to the node process.

A worker reads its replica and does nothing else. What must be signed (RFC 8945), written through the
log (RFC 2136), or wait for a read barrier is the node process's: the worker puts the datagram with
its client's address into a socket pair of its own and goes on. The node process answers by its own
copy of the worker's socket, so the client sees one server. Like all of UDP this may lose: whatever
finds a queue full is dropped, and the client asks again.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from aspen.dns.name import HEADER_BYTES, read_name
from aspen.dns.sockets import Ancillary
from aspen.dns.tally import ResponseTally
from aspen.dns.tsig import read_tsig
from aspen.dns.wire import AXFR, IXFR, OPCODE_MASK, TSIG
from aspen.errors import DnsWireError
from aspen.limits import (
    DNS_FORWARD_BUFFER_BYTES,
    DNS_FORWARD_BYTES,
    DNS_FORWARDED,
    DNS_FORWARDED_PER_S,
    DNS_UDP_BATCH,
)

log = structlog.get_logger("aspen.dns.forward")

_AXFR_MARK: Final = AXFR.to_bytes(2, "big") + b"\x00\x01"
_CLASS_IN: Final = b"\x00\x01"
_TSIG_MARK: Final = TSIG.to_bytes(2, "big")
_IXFR_MARK: Final = IXFR.to_bytes(2, "big") + _CLASS_IN
_OPCODES: Final = frozenset({4 << 3, 5 << 3})
"""NOTIFY and UPDATE, as they stand in octet 2."""


class Forwarded(NamedTuple):
    """A datagram that a worker passed on."""

    query: bytes
    client: Any
    """Its sender, as the socket spelled it."""
    source: Ancillary
    """What the reply is to be sent with (`reply_source`)."""


Answer = Callable[[bytes, Any], Awaitable[bytes | None]]
"""Answers a datagram of a client; None for what must not be answered."""

_DECODER: Final = msgspec.msgpack.Decoder(tuple[bytes, Any, list[tuple[int, int, bytes]]])


def needs_node(query_untrusted: bytes) -> bool:
    """Whether a datagram is one for the node process: NOTIFY, UPDATE, signed, or IXFR.

    A glance tells nearly always that it isn't. Where the octets that would show it do stand in the
    message, it is parsed: an ordinary query that holds them on purpose must not get round cookies and
    rate limits.
    """
    query = query_untrusted
    if len(query) < HEADER_BYTES:
        return False
    if query[2] & OPCODE_MASK in _OPCODES:
        return True
    if _IXFR_MARK in query:
        return _asks_for(query, IXFR) or _is_signed(query)
    return _TSIG_MARK in query and _is_signed(query)


def _asks_for(query: bytes, qtype: int) -> bool:
    try:
        _, offset = read_name(query, HEADER_BYTES)
    except DnsWireError:
        return False
    return query[offset : offset + 2] == qtype.to_bytes(2, "big")


def _is_signed(query: bytes) -> bool:
    """Whether there is a TSIG record, or the message is too broken to tell: then it is FORMERR's."""
    try:
        return read_tsig(query) is not None
    except DnsWireError:
        return True


def needs_time(query_untrusted: bytes) -> bool:
    """As `needs_node`, of a message that came by a connection: there, AXFR too."""
    query = query_untrusted
    return needs_node(query) or (_AXFR_MARK in query and _asks_for(query, AXFR))


def forward_pair() -> tuple[socket.socket, socket.socket]:
    """The node's end and the worker's end. Raises `OSError`."""
    node, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in (node, worker):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, DNS_FORWARD_BUFFER_BYTES)
    return node, worker


def pass_on(pair: socket.socket, query: bytes, client: Any, source: Ancillary) -> bool:
    """Hand a datagram to the node process, from a worker; False if it is lost."""
    try:
        pair.send(msgspec.msgpack.encode((query, client, source)), socket.MSG_DONTWAIT)
    except OSError:  # the queue is full, or the node is ending
        return False
    return True


class ForwardedQueries:
    """The node's side: takes what workers pass on, has it answered, and replies for them.

    `sockets` are pairs of (node's end of a worker's pair, the worker's UDP socket); both stay the
    caller's to close, after `close`.
    """

    def __init__(self, sockets: Sequence[tuple[socket.socket, socket.socket]], answer: Answer) -> None:
        self._sockets = list(sockets)
        self._answer = answer
        self._tasks: set[asyncio.Task[None]] = set()
        self.tally = ResponseTally()
        self.taken = 0
        self.dropped = 0
        """Datagrams that found too many others waiting, or came too fast for all."""
        self._allowance = float(DNS_FORWARDED)
        self._allowed_at = 0.0

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        for pair, udp in self._sockets:
            loop.add_reader(pair.fileno(), self._take, pair, udp)

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        for pair, _ in self._sockets:
            if pair.fileno() >= 0:
                loop.remove_reader(pair.fileno())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def submit(self, udp: socket.socket, forwarded: Forwarded) -> None:
        """Have a datagram answered by and by, and the reply sent by the socket it came in at."""
        loop = asyncio.get_running_loop()
        if len(self._tasks) >= DNS_FORWARDED or not self._has_allowance(loop.time()):
            self.dropped += 1
            return
        task = loop.create_task(self._reply(udp, forwarded))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _has_allowance(self, now_s: float) -> bool:
        """A flood must leave the event loop time for consensus."""
        grown = self._allowance + (now_s - self._allowed_at) * DNS_FORWARDED_PER_S
        self._allowance, self._allowed_at = min(grown, DNS_FORWARDED) - 1.0, now_s
        if self._allowance >= 0:
            return True
        self._allowance = 0.0
        return False

    def _take(self, pair: socket.socket, udp: socket.socket) -> None:
        for _ in range(DNS_UDP_BATCH):
            try:
                data = pair.recv(DNS_FORWARD_BYTES)
            except OSError:  # BlockingIOError: none left
                return
            self.taken += 1
            query, client, source = _DECODER.decode(data)
            # MessagePack knows no tuples; a socket takes an address only as one.
            client = tuple(client) if isinstance(client, list) else client
            self.submit(udp, Forwarded(query, client, source))

    async def _reply(self, udp: socket.socket, forwarded: Forwarded) -> None:
        began_ns = time.perf_counter_ns()
        try:
            reply = await self._answer(forwarded.query, forwarded.client)
        except Exception:
            log.exception("a passed-on query failed")
            return
        if reply is None:
            return
        self.tally.note(reply, time.perf_counter_ns() - began_ns)
        try:
            udp.sendmsg((reply,), forwarded.source, socket.MSG_DONTWAIT, forwarded.client)
        except OSError:
            pass  # an unreachable client, or no room: UDP may lose
