"""Answers to whole messages that came by anything but a datagram: TCP, TLS, QUIC, HTTPS.

What can be answered from one look at the replica is, at once. The rest (a zone that asks for a read
barrier, transfers, updates, …) is deferred to who can take its time over it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any

import structlog

from aspen.dns.cookies import CookieMaker, answer_with_cookie
from aspen.dns.fallback import UnknownKey
from aspen.dns.networks import UNKNOWN, unmapped
from aspen.dns.padding import PADDING, option_codes, padded
from aspen.dns.respond import Transport, View, answer, servfail
from aspen.dns.tally import ResponseTally
from aspen.limits import DNS_FAILURE_LOG_MS, DNS_TCP_MESSAGE_BYTES
from aspen.slow import SlowLog

log = structlog.get_logger("aspen.dns.answers")

Send = Callable[[bytes], Awaitable[None]]
Defer = Callable[[bytes, Any, Send], Awaitable[None]]
"""Answers a message of a client by and by, message by message; an exception cuts the connection off."""


class Padding(Enum):
    """Which answers are padded (RFC 7830 §4, RFC 8467)."""

    NONE = 0
    """Not encrypted: padding would hide nothing."""
    ASKED = 1
    """For those who pad their queries."""
    EDNS = 2
    """For all who speak EDNS (RFC 9250 §5.4)."""


class Answers:
    """Answers whole messages that came by anything but a datagram, from `view` (assign another to
    exchange it)."""

    def __init__(self, view: View, padding: Padding = Padding.NONE, *, defer: Defer | None = None) -> None:
        """`defer` answers what can't be answered at once: what must wait for a read barrier, and on
        connections transfers, updates, … (`needs_time`)."""
        self.view = view
        self.padding = padding
        self.defer = defer
        self.cookies: Callable[[], CookieMaker | None] = lambda: None
        """The cluster's DNS cookies, if they are to be answered."""
        self.must_wait = False
        """Whether the last query has no answer yet: its zone asks for a barrier first, or it is under a key
        that has to be looked up elsewhere."""
        self.answered = 0
        self.tally = ResponseTally()
        """Of answers; what takes several messages counts once, when the first is ready."""
        self.slow = SlowLog()
        """Of answers over connections; a UDP worker's are too many to be timed."""
        self._failure_logged_at = -float("inf")

    def answer(self, query_untrusted: bytes, client: bytes = UNKNOWN) -> bytes | None:
        """The reply; None for what must not be answered, unless `must_wait`. `client` is a packed
        address."""
        began_ns = time.perf_counter_ns()
        reply = self._answer(query_untrusted, client)
        if reply is None:
            return None
        self.answered += 1
        reply = self.pad(query_untrusted, reply)
        self._note(reply, began_ns)
        return reply

    def _note(self, reply: bytes, began_ns: int) -> None:
        elapsed_ns = time.perf_counter_ns() - began_ns
        rcode = self.tally.note(reply, elapsed_ns)
        self.slow.note("dns", elapsed_ns / 1e9, rcode=rcode, size=len(reply))

    def _answer(self, query_untrusted: bytes, client: bytes) -> bytes | None:
        """The reply without padding; None as `answer`."""
        self.must_wait = False
        maker = self.cookies()
        reply: bytes | None
        try:
            if maker is None or client == UNKNOWN:
                reply = self._message(query_untrusted, client)
            else:
                reply, _ = answer_with_cookie(
                    query_untrusted,
                    unmapped(client),
                    int(time.time()),
                    maker,
                    lambda plain: self._message(plain, client),
                    limit=DNS_TCP_MESSAGE_BYTES,
                )
        except UnknownKey:
            if self.defer is not None:
                self.must_wait = True
                return None
            reply = servfail(query_untrusted)
        except Exception as error:
            # Not the query's fault (respond is total): the replica can't be read just now.
            now = asyncio.get_running_loop().time()
            if now - self._failure_logged_at >= DNS_FAILURE_LOG_MS / 1_000:
                self._failure_logged_at = now
                log.error("replica_unreadable", error=repr(error))
            reply = servfail(query_untrusted)
        return reply

    def _message(self, query_untrusted: bytes, client: bytes) -> bytes | None:
        """The reply without cookie and padding; None for what must not be answered, or waits."""
        conditional = answer(query_untrusted, self.view, Transport.TCP, client)
        if conditional is None:
            return None
        if conditional.consistency != "stale" and self.defer is not None:
            self.must_wait = True
            return None
        return conditional.message

    async def answer_in_time(self, query_untrusted: bytes, client: bytes, peer: Any) -> bytes | None:
        """As `answer`, with the barrier waited for. `peer` is the client as the socket spells it."""
        reply = self.answer(query_untrusted, client)
        if reply is not None or not self.must_wait or self.defer is None:
            return reply

        async def send(message: bytes) -> None:
            nonlocal reply
            reply = message

        await self.defer(query_untrusted, peer, self.noting(send))
        self.answered += reply is not None
        return None if reply is None else self.pad(query_untrusted, reply)

    def noting(self, send: Send) -> Send:
        """`send` for one deferred answer that begins now: its first message is counted."""
        began_ns = time.perf_counter_ns()
        is_noted = False

        async def note_and_send(message: bytes) -> None:
            nonlocal is_noted
            if not is_noted:
                is_noted = True
                self._note(message, began_ns)
            await send(message)

        return note_and_send

    def pad(self, query_untrusted: bytes, reply: bytes) -> bytes:
        """The reply, padded if that is due."""
        if self.padding is not Padding.NONE:
            codes = option_codes(query_untrusted)
            if codes is not None and (self.padding is Padding.EDNS or PADDING in codes):
                return padded(reply)
        return reply
