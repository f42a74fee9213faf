"""What stands between a UDP socket and the pipeline: ready replies, cookies, rate limits, counting.

One `UdpAnswers` belongs to one worker (or to the node process, which then keeps no ready replies).
The worker's loop looks into the plain cache itself; whatever isn't found there, and everything
while a network is watched by the rate limiter, comes to `reply_to`.

Cookies are taken off before anything else looks at the query, and put on last (`cookies`). A query
whose cookie stands at its very end, as resolvers and dig write it, is answered as the same query
without it, from ready replies too: that costs one MAC and no parsing.
"""

from __future__ import annotations

import struct
import time
from bisect import bisect_left
from collections.abc import Callable
from enum import IntEnum
from typing import Final

import structlog

from aspen.dns.cookies import (
    CLIENT_BYTES,
    COOKIE_OPTION,
    REPLY_OPTION_BYTES,
    SERVER_BYTES,
    CookieMaker,
    Standing,
    add_cookie,
    answer_with_cookie,
    bad_cookie,
)
from aspen.dns.fallback import UnknownKey
from aspen.dns.fast import ID_BYTES, FastResponder
from aspen.dns.forward import needs_node
from aspen.dns.lookup import View
from aspen.dns.origin import CookiePolicy
from aspen.dns.reply_cache import ReplyCache
from aspen.dns.respond import servfail
from aspen.dns.rrl import RRL_STRIDE, RateLimiter, RrlSettings, Verdict, truncated
from aspen.dns.sockets import packed_address
from aspen.dns.tally import LATENCY_BOUNDS_NS, LATENCY_BUCKETS, RCODES, response_code
from aspen.dns.wire import FLAG_TC, OPT, Rcode
from aspen.limits import (
    DNS_CACHE_LIFE_MS,
    DNS_FAILURE_LOG_MS,
    DNS_TICK_MS,
    DNS_UDP_EDNS_BYTES,
    DNS_UDP_PLAIN_BYTES,
)

log = structlog.get_logger("aspen.dns.udp")

# The length of an OPT's RDATA and the head of its one option, before a client's cookie or a whole one.
_NEW_END: Final = struct.pack(">HHH", 4 + CLIENT_BYTES, COOKIE_OPTION, CLIENT_BYTES)
_FULL_END: Final = struct.pack(">HHH", REPLY_OPTION_BYTES, COOKIE_OPTION, CLIENT_BYTES + SERVER_BYTES)
_EMPTY_OPT: Final = b"\x00" + OPT.to_bytes(2, "big")
_NO_OPTIONS: Final = b"\x00\x00"
_COUNTS: Final = struct.pack(">HHHH", 1, 0, 0, 1)
_MANY: Final = 2_000  # queries a second of which it matters whether they find a ready reply
_SPARING: Final = 7
_SAMPLED: Final = 15
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
    BADVERS = 14
    BADCOOKIE = 15
    RCODE_0 = 16
    """Replies by response code: NOERROR, and the fifteen words after it. Those beyond the header's four bits
    have words of their own."""
    LATENCY_0 = 32
    """Replies by response code and the time they took, a row for each of the words from `BADVERS` on: the
    buckets of `aspen.dns.tally`, then the sum in nanoseconds. Those from the loop's ready replies aren't
    timed and count in NOERROR's first bucket."""


_ROW: Final = LATENCY_BUCKETS + 1


def latency_row(rcode_word: int) -> int:
    """Where the times begin of the replies that a word counts."""
    return _ROWS + rcode_word * _ROW


# Plain numbers where every query passes: arithmetic on an enumeration costs as much as a look-up.
_ROWS: Final = int(Counter.LATENCY_0) - int(Counter.BADVERS) * _ROW
COUNTERS: Final = latency_row(Counter.RCODE_0 + RCODES)
assert Counter.BADVERS + 1 == Counter.BADCOOKIE == Counter.RCODE_0 - 1
assert Counter.RCODE_0 + RCODES <= Counter.LATENCY_0
_MISSES: Final = int(Counter.MISSES)
_RCODE_0: Final = int(Counter.RCODE_0)
RCODE_WORDS: Final = {code: _RCODE_0 + code for code in range(RCODES)} | {
    int(Rcode.BADVERS): int(Counter.BADVERS),
    int(Rcode.BADCOOKIE): int(Counter.BADCOOKIE),
}
"""Where replies are counted, by response code."""
assert set(Rcode) <= set(RCODE_WORDS)
_NO_ID: Final = bytes(ID_BYTES)
_STANDINGS: Final = {
    Standing.NEW: Counter.COOKIES_NEW,
    Standing.GOOD: Counter.COOKIES_GOOD,
    Standing.BAD: Counter.COOKIES_BAD,
}


def _mask(now: tuple[int, int], before: tuple[int, int]) -> int:
    """Which misses to keep, by hits and misses of the last second."""
    hits, misses = now[0] - before[0], now[1] - before[1]
    return _SPARING if hits + misses > _MANY and hits * 8 < hits + misses else 0


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
        cache_life_ms: int = DNS_CACHE_LIFE_MS,
        caching: bool = True,
        forwards: bool = False,
        waiting: bool = False,
        wall_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`processes` share the rate of `rrl`, and one reply of at most `stride` is sampled. `forwards`:
        there is a node process to pass on to, which answers what needs more than the replica. `waiting`:
        unknown keys are raised, for the caller to wait for them (`fallback.answering`).
        Raises `ConfigError`."""
        self.tally = [0] * COUNTERS
        """By `Counter`, but for what `totals` adds."""
        self.cache = ReplyCache()
        self.limiter = RateLimiter(rrl, processes, stride)
        # The same objects for good, at hand.
        self._errors, self._watched = self.cache.errors, self.limiter.watched
        self.must_pass_on = False
        """Whether the last datagram is for the node process (`forward`)."""
        self._policy = policy
        self._caching = caching
        self._cache_ticks = cache_life_ms // DNS_TICK_MS
        self._ticks = 0
        self._forwards = forwards
        self._waiting = waiting
        self._plain_hits = self._plain_misses = self._error_hits = self._error_misses = 0
        self._quick = 0
        """Replies without error that were looked up by a plan."""
        self._plain_before = self._errors_before = (0, 0)
        # One miss of so many is kept ready, less one: all, or one of eight where it hardly ever pays.
        self._plain_mask = self._error_mask = 0
        self.asked = 0
        """Queries that `reply_to` was given."""
        self._asked_before = 0  # queries at the last tick
        self._timed = [0] * Counter.LATENCY_0
        """By the words of response codes: replies when one was last timed."""
        self._failure_logged_at_s = -float("inf")
        self._timed_mask = 0
        """One reply of so many is to be timed, less one: all, or one of sixteen where there are many."""
        self._maker: CookieMaker | None = None
        self._wall_s, self._monotonic_s = wall_s, monotonic_s
        self._responder: FastResponder
        self.replace_view(view)

    def replace_view(self, view: View) -> None:
        """Answer from another view from now on."""
        self.cache.clear()
        self._responder = responder = FastResponder(view)
        self._find_quick = responder.quick

    def use_cookies(self, maker: CookieMaker | None) -> None:
        """Take up the cluster's secrets; without them, cookies are options like any other."""
        self._maker = maker if self._policy is not CookiePolicy.OFF else None
        self.cache.clear()

    def reply_to(self, query_untrusted: bytes, host: str) -> bytes | None:
        """What to send to a client for its datagram, but for the id; None for nothing, unless
        `must_pass_on`. SERVFAIL when the replica can't be read just now. Raises `UnknownKey` if `waiting`."""
        self.asked = asked = self.asked + 1
        began_ns = 0 if asked & self._timed_mask else time.perf_counter_ns()
        errors = self._errors
        try:
            if self._watched:
                return self._count(self._reply_watched(query_untrusted, host), began_ns)
            if errors and (reply := errors.get(query_untrusted[ID_BYTES:])) is not None:
                self.tally[Counter.HITS] += 1
                self._error_hits += 1
            elif (reply := self._find_quick(query_untrusted)) is not None:
                if not reply[1] & 0x0F:
                    # What a server of many names does most: counted in one place, by `totals` in all.
                    self._quick = quick = self._quick + 1
                    if not quick & self._plain_mask and self._caching:
                        self._keep_plain(query_untrusted, reply)
                    if began_ns:
                        self._note_time(began_ns, _RCODE_0)
                    return reply
                self._keep(query_untrusted, reply)
            elif (reply := self._with_cookie(query_untrusted, host)) is None:
                return self._count(self._look_up(query_untrusted, host), began_ns)
        except UnknownKey:
            if self._waiting:
                raise
            self.must_pass_on = True
            return None
        except Exception as error:
            return self._count(self._fail(query_untrusted, error), began_ns)
        # As `_count` does, of replies that are none of the rare ones.
        tally, word = self.tally, _RCODE_0 + (reply[1] & 0x0F)
        tally[word] += 1
        if reply[0] & FLAG_TC:
            tally[Counter.TRUNCATED] += 1
        if began_ns:
            self._note_time(began_ns, word)
        return reply

    def _count(self, reply: bytes | None, began_ns: int) -> bytes | None:
        """Count what `reply_to` gives, whatever it is."""
        if reply is None:
            return None
        tally, word = self.tally, RCODE_WORDS[response_code(_NO_ID + reply)]
        tally[word] += 1
        if reply[0] & FLAG_TC:
            tally[Counter.TRUNCATED] += 1
        if began_ns:
            self._note_time(began_ns, word)
        return reply

    def _fail(self, query_untrusted: bytes, error: Exception) -> bytes | None:
        """SERVFAIL. Not the query's fault (the pipeline is total): the replica can't be read just now."""
        self.must_pass_on = False
        self.tally[Counter.FAILURES] += 1
        now_s = self._monotonic_s()
        if now_s - self._failure_logged_at_s >= DNS_FAILURE_LOG_MS / 1_000:
            self._failure_logged_at_s = now_s
            log.error("replica_unreadable", error=repr(error))
        failure = servfail(query_untrusted)
        return None if failure is None else failure[ID_BYTES:]

    def _reply_watched(self, query: bytes, host: str) -> bytes | None:
        """As `reply_to`, while the rate limiter watches a network."""
        is_proven = self._is_proven(query, host)
        reply = self._with_cookie(query, host)
        if reply is None:
            key = query[ID_BYTES:]
            reply = self.cache.plain.get(key) or self.cache.errors.get(key)
            if reply is not None:
                self.tally[Counter.HITS] += 1
            else:
                reply = self._look_up(query, host)
        return reply if reply is None or is_proven else self._limit(query, reply, host)

    def totals(self) -> list[int]:
        """What was counted, by `Counter`, since the beginning."""
        totals = list(self.tally)
        totals[_MISSES] += self._quick
        totals[_RCODE_0] += self._quick
        return totals

    def _note_time(self, began_ns: int, word: int) -> None:
        """Count what it took to make a reply, for all of its response code since the last one timed."""
        elapsed_ns = time.perf_counter_ns() - began_ns
        tally, timed = self.tally, self._timed
        made = tally[word] + self._quick if word == _RCODE_0 else tally[word]
        replies, timed[word] = made - timed[word], made
        row = _ROWS + word * _ROW
        tally[row + bisect_left(LATENCY_BOUNDS_NS, elapsed_ns)] += replies
        tally[row + LATENCY_BUCKETS] += elapsed_ns * replies

    def tick(self, plain_hits: int) -> None:
        """`DNS_TICK_MS` have passed; `plain_hits` is how often the loop found what it looked for, in all."""
        self._ticks += 1
        if self._ticks % self._cache_ticks == 0:
            self.cache.clear()
        self.limiter.tick()
        plain = plain_hits + self._plain_hits, self._plain_misses + self._quick
        errors = self._error_hits, self._error_misses
        self._timed_mask = _SAMPLED if self.asked - self._asked_before > _MANY else 0
        self._asked_before = self.asked
        self._plain_mask = _mask(plain, self._plain_before)
        self._error_mask = _mask(errors, self._errors_before)
        self._plain_before, self._errors_before = plain, errors

    def _keep(self, query: bytes, reply: bytes) -> None:
        """Count a reply that was looked up, and keep it ready if that is likely to pay."""
        self.tally[_MISSES] += 1
        if reply[1] & 0x0F:
            self._error_misses = misses = self._error_misses + 1
            if not misses & self._error_mask and self._caching:
                self.cache.keep(self.cache.errors, query[ID_BYTES:], reply, self._responder.packets)
        else:
            self._plain_misses = misses = self._plain_misses + 1
            if not misses & self._plain_mask and self._caching:
                self._keep_plain(query, reply)

    def _keep_plain(self, query: bytes, reply: bytes) -> None:
        self.cache.keep(self.cache.plain, query[ID_BYTES:], reply, self._responder.packets)

    def _look_up(self, query_untrusted: bytes, host: str) -> bytes | None:
        self.must_pass_on = self._forwards and needs_node(query_untrusted)
        if self.must_pass_on:
            return None
        responder, tally = self._responder, self.tally
        maker = self._maker
        address = packed_address(host)
        # A query for the pipeline either way; those without EDNS have no cookie to be looked for.
        if maker is None or query_untrusted[11:12] in (b"", b"\x00"):
            reply = responder.answer(query_untrusted, address)
            standing = None
        else:
            reply, standing = self._look_up_cookie(query_untrusted, address, maker)
        if reply is None:
            tally[Counter.MISSES] += 1
            tally[Counter.IGNORED] += 1
        elif responder.consistency != "stale" and self._forwards:
            self.must_pass_on = True
            return None
        elif responder.shared and responder.consistency == "stale" and standing is None:
            self._keep(query_untrusted, reply)
        else:
            tally[Counter.MISSES] += 1
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
        return message[ID_BYTES:], standing

    def _with_cookie(self, query: bytes, host: str) -> bytes | None:
        """The reply to a query that is plain but for a cookie at its very end: the plain one's, and ours.
        None for any other query."""
        maker = self._maker
        if maker is None or self._policy is CookiePolicy.REQUIRED:
            return None
        if query[-14:-8] == _NEW_END:
            cut, client, server = 14, query[-8:], b""
        elif query[-30:-24] == _FULL_END:
            cut, client, server = 30, query[-24:-16], query[-16:]
        else:
            return None
        # One question and one record, the OPT: so the plain query ends where its options would begin.
        if query[4:12] != _COUNTS or query[-cut - 9 : -cut - 6] != _EMPTY_OPT:
            return None
        plain = query[:-cut] + _NO_OPTIONS
        address = packed_address(host)
        reply = self._plain_reply(plain, address)
        if reply is None:
            return None
        standing, server = maker.judge(client, server, address, int(self._wall_s()))
        self.tally[_STANDINGS[standing]] += 1
        offered = query[-cut - 6] << 8 | query[-cut - 5]
        limit = min(max(offered, DNS_UDP_PLAIN_BYTES), DNS_UDP_EDNS_BYTES)
        fits = ID_BYTES + len(reply) + REPLY_OPTION_BYTES <= limit
        if fits and reply[-11:-8] == _EMPTY_OPT and reply[-2:] == _NO_OPTIONS:
            return reply[:-2] + _FULL_END + client + server
        return add_cookie(query[:ID_BYTES] + reply, client + server, limit)[ID_BYTES:]

    def _plain_reply(self, plain: bytes, address: bytes) -> bytes | None:
        """The reply to a query that has had its cookie taken off; None if it comes with a condition."""
        cache, key = self.cache, plain[ID_BYTES:]
        reply = cache.plain.get(key)
        if reply is not None:
            self.tally[Counter.HITS] += 1
            self._plain_hits += 1
            return reply
        reply = cache.errors.get(key)
        if reply is not None:
            self.tally[Counter.HITS] += 1
            self._error_hits += 1
            return reply
        if self._forwards and needs_node(plain):
            return None
        responder = self._responder
        reply = responder.answer(plain, address)
        if reply is None or not responder.shared or responder.consistency != "stale":
            return None
        self._keep(plain, reply)
        return reply

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
