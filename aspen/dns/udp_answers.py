"""What stands between a UDP socket and the pipeline: ready replies, cookies, rate limits, counting.

One `UdpAnswers` belongs to one worker (or to the node process, which then keeps no ready replies).
The worker's loop looks into the plain cache itself; whatever isn't found there, and everything
while a network is watched by the rate limiter, comes to `reply_to`.

Cookies are taken off before anything else looks at the query, and put on last (`cookies`). A query
whose cookie stands at its very end, as resolvers and dig write it, is answered from the cache of
replies without cookies: that costs one MAC and no parsing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from aspen.dns.cookies import (
    CLIENT_BYTES,
    COOKIE_OPTION,
    SERVER_BYTES,
    CookieMaker,
    Standing,
    answer_with_cookie,
    bad_cookie,
)
from aspen.dns.fallback import UnknownKey
from aspen.dns.fast import ID_BYTES, FastResponder
from aspen.dns.lookup import View
from aspen.dns.origin import CookiePolicy
from aspen.dns.reply_cache import ReplyCache
from aspen.dns.rrl import RRL_STRIDE, RateLimiter, RrlSettings, Verdict, truncated
from aspen.dns.sockets import packed_address
from aspen.dns.wire import FLAG_TC
from aspen.limits import DNS_UDP_EDNS_BYTES

_COOKIE_BYTES: Final = CLIENT_BYTES + SERVER_BYTES
_NEW_MARK: Final = COOKIE_OPTION.to_bytes(2, "big") + CLIENT_BYTES.to_bytes(2, "big")
_FULL_MARK: Final = COOKIE_OPTION.to_bytes(2, "big") + _COOKIE_BYTES.to_bytes(2, "big")
_RCODES: Final = 16
_NO_LIMIT: Final = RrlSettings()


class Counter(IntEnum):
    """Words of a worker's block on the status page. Each counts since the node started."""

    HITS = 0
    """Queries answered from ready replies."""
    MISSES = 1
    """Queries looked up in the replica."""
    IGNORED = 2
    """Datagrams that must not be answered (of the misses)."""
    FAILURES = 3
    """SERVFAIL for want of the replica (of the misses)."""
    SEND_ERRORS = 4
    FORWARDED = 5
    """Datagrams passed on to the node process (of the misses)."""
    TRUNCATED = 6
    """Replies under TC, slips included."""
    COOKIES_NEW = 7
    """Queries with a client cookie alone."""
    COOKIES_GOOD = 8
    COOKIES_BAD = 9
    LIMITED = 10
    """Replies over the rate that were not sent."""
    SLIPPED = 11
    """Replies over the rate that were sent empty, under TC."""
    FORGOTTEN = 12
    """Changed packets whose ready replies were forgotten."""
    FLUSHED = 13
    """Times all ready replies were forgotten, because anything may have changed."""
    RCODE_0 = 16
    """Replies by response code (its lower four bits): NOERROR, and the fifteen words after it."""


COUNTERS: Final = Counter.RCODE_0 + _RCODES
_STANDINGS: Final = {
    Standing.NEW: Counter.COOKIES_NEW,
    Standing.GOOD: Counter.COOKIES_GOOD,
    Standing.BAD: Counter.COOKIES_BAD,
}


class UdpAnswers:
    """Answers datagrams. `cache` and `limiter.watched` are for the loop to look at."""

    def __init__(
        self,
        view: View,
        *,
        policy: CookiePolicy = CookiePolicy.ON,
        rrl: RrlSettings = _NO_LIMIT,
        processes: int = 1,
        stride: int = RRL_STRIDE,
        caching: bool = True,
        waiting: bool = False,
        wall_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`waiting`: unknown keys are raised, for the caller to wait for them (`fallback.answering`).
        `processes` share the rate of `rrl`, and one reply of at most `stride` is sampled.
        Raises `ConfigError`."""
        self.tally = [0] * COUNTERS
        self.cache = ReplyCache()
        self.limiter = RateLimiter(rrl, processes, stride)
        self.must_pass_on = False
        """Whether the last datagram needs a read barrier first (`Reply.consistency`), or a key looked up
        that is unknown here (`fallback`)."""
        self._policy = policy
        self._caching = caching
        self._waiting = waiting
        self._maker: CookieMaker | None = None
        self._wall_s, self._monotonic_s = wall_s, monotonic_s
        self._responder: FastResponder
        self.replace_view(view)

    def replace_view(self, view: View) -> None:
        """Answer from another view from now on."""
        self.cache.clear()
        self._responder = FastResponder(view)

    def use_cookies(self, maker: CookieMaker | None) -> None:
        """Take up the cluster's secrets; without them, cookies are options like any other."""
        self._maker = maker if self._policy is not CookiePolicy.OFF else None
        self.cache.clear()

    def reply_to(self, query_untrusted: bytes, host: str) -> bytes | None:
        """What to send to a client for its datagram, but for the id; None for nothing, unless
        `must_pass_on`. Raises whatever the replica raises that can't be read."""
        tally = self.tally
        self.must_pass_on = False
        watched = bool(self.limiter.watched)
        limited = watched and not self._is_proven(query_untrusted, host)
        reply = self._from_cookied(query_untrusted, host)
        if reply is None:
            key = query_untrusted[ID_BYTES:]
            cache = self.cache
            reply = cache.errors.get(key)
            if reply is None and watched:
                reply = cache.plain.get(key)
            if reply is None:
                try:
                    reply = self._look_up(query_untrusted, host)
                except UnknownKey:
                    if self._waiting:
                        raise
                    self.must_pass_on = True
                    return None
                if reply is None:
                    return None
            else:
                tally[Counter.HITS] += 1
        if limited:
            reply = self._limit(query_untrusted, reply, host)
            if reply is None:
                return None
        tally[Counter.RCODE_0 + (reply[1] & 0x0F)] += 1
        if reply[0] & FLAG_TC:
            tally[Counter.TRUNCATED] += 1
        return reply

    def _look_up(self, query_untrusted: bytes, host: str) -> bytes | None:
        responder, tally = self._responder, self.tally
        tally[Counter.MISSES] += 1
        maker = self._maker
        address = packed_address(host)
        # A query for the pipeline either way; those without EDNS have no cookie to be looked for.
        if maker is None or query_untrusted[11:12] in (b"", b"\x00"):
            reply = responder.answer(query_untrusted, address)
            standing = None
        else:
            reply, standing = self._look_up_cookie(query_untrusted, address, maker)
        if reply is None:
            tally[Counter.IGNORED] += 1
            return None
        if responder.consistency != "stale":
            self.must_pass_on = True
            return None
        if self._caching and responder.shared and standing is None:
            cache = self.cache
            replies = cache.errors if reply[1] & 0x0F else cache.plain
            cache.keep(replies, query_untrusted[ID_BYTES:], reply, responder.packets)
        return reply

    def _look_up_cookie(
        self, query: bytes, address: bytes, maker: CookieMaker
    ) -> tuple[bytes | None, Standing | None]:
        responder = self._responder

        def whole(plain: bytes) -> bytes | None:
            reply = responder.answer(plain, address)
            return None if reply is None else plain[:ID_BYTES] + reply

        responder.begin()
        required = self._policy is CookiePolicy.REQUIRED
        message, standing = answer_with_cookie(
            query, address, int(self._wall_s()), maker, whole, limit=DNS_UDP_EDNS_BYTES, required=required
        )
        if standing is not None:
            self.tally[_STANDINGS[standing]] += 1
        if message is None:
            return None, standing
        reply = message[ID_BYTES:]
        if standing is not None and self._caching and responder.shared and query[5]:
            self._keep_cookied(query, reply, required)
        return reply, standing

    def _keep_cookied(self, query: bytes, reply: bytes, required: bool) -> None:
        """Keep the reply for whoever asks the same with another cookie, if both ends are cookies."""
        if reply[-_COOKIE_BYTES - 4 : -_COOKIE_BYTES] != _FULL_MARK or required:
            return
        if query[-_COOKIE_BYTES - 4 : -_COOKIE_BYTES] == _FULL_MARK:
            key = query[ID_BYTES:-_COOKIE_BYTES]
        elif query[-CLIENT_BYTES - 4 : -CLIENT_BYTES] == _NEW_MARK:
            key = query[ID_BYTES:-CLIENT_BYTES]
        else:
            return
        cache = self.cache
        cache.keep(cache.cookied, key, reply[:-_COOKIE_BYTES], self._responder.packets)

    def _from_cookied(self, query: bytes, host: str) -> bytes | None:
        """The reply from what was kept for other cookies."""
        cookied, maker = self.cache.cookied, self._maker
        if maker is None:
            return None
        if query[-12:-8] == _NEW_MARK:
            start = cookied.get(query[ID_BYTES:-CLIENT_BYTES])
            if start is None:
                return None
            client = query[-CLIENT_BYTES:]
            self.tally[Counter.COOKIES_NEW] += 1
            server = maker.make(client, packed_address(host), int(self._wall_s()))
        elif query[-28:-24] == _FULL_MARK:
            start = cookied.get(query[ID_BYTES:-_COOKIE_BYTES])
            if start is None:
                return None
            client = query[-_COOKIE_BYTES:-SERVER_BYTES]
            address = packed_address(host)
            standing, server = maker.judge(client, query[-SERVER_BYTES:], address, int(self._wall_s()))
            self.tally[_STANDINGS[standing]] += 1
        else:
            return None
        self.tally[Counter.HITS] += 1
        return start + client + server

    # --- rate limits --------------------------------------------------------------------------

    def _is_proven(self, query: bytes, host: str) -> bool:
        """Whether a query shows a good cookie: its client is where it says it is."""
        maker = self._maker
        return maker is not None and maker.is_proven(query, packed_address(host), int(self._wall_s()))

    def _limit(self, query: bytes, reply: bytes, host: str) -> bytes | None:
        verdict = self.limiter.judge(host, reply, self._monotonic_s())
        if verdict is Verdict.SEND:
            return reply
        if verdict is Verdict.DROP:
            self.tally[Counter.LIMITED] += 1
            return None
        self.tally[Counter.SLIPPED] += 1
        if self._maker is not None:
            # A client that knows cookies learns ours, and is not limited when it shows it.
            message = bad_cookie(query, packed_address(host), int(self._wall_s()), self._maker)
            if message is not None:
                return message[ID_BYTES:]
        return truncated(reply)
