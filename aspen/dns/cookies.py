"""DNS cookies (RFC 7873; their making, RFC 9018): a weak proof that a client is where it says it is.

A client sends eight octets of its own choice; the server answers with those and a *server cookie*,
a MAC over them, the time and the client's address. Whoever shows the server cookie later has
received our reply at that address. The key is the cluster's: any member knows another's cookies.

The cookie is about the exchange, not about the question. So it is taken off the query before the
pipeline (and before the cache of ready replies) sees it, and put into the reply afterwards: the
pipeline knows nothing of cookies, and a fresh cookie in every query defeats no cache.

Secrets roll as RFC 9018 §5 has it for servers that share one: the next secret is accepted by all
before any uses it, the one before is accepted for as long as its cookies live.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

import msgspec
from nacl._sodium import ffi, lib

from aspen.dns.message import read_record
from aspen.dns.name import HEADER_BYTES, read_name
from aspen.dns.wire import FLAG_QR, FLAG_TC, OPCODE_MASK, OPT, Edns, Rcode, opt_record, reply_header
from aspen.errors import DnsWireError
from aspen.limits import (
    DNS_COOKIE_FUTURE_S,
    DNS_COOKIE_LIFE_S,
    DNS_COOKIE_RENEW_S,
    DNS_UDP_EDNS_BYTES,
    DNS_UDP_PLAIN_BYTES,
)

COOKIE_OPTION: Final = 10
SECRET_BYTES: Final = 16
CLIENT_BYTES: Final = 8
SERVER_BYTES: Final = 16
_DIGEST_BYTES: Final = 8
REPLY_OPTION_BYTES: Final = 4 + CLIENT_BYTES + SERVER_BYTES
"""What a cookie adds to a reply."""
_SERVER_LENGTHS: Final = range(8, 33)  # RFC 7873 §4
_VERSION: Final = b"\x01\x00\x00\x00"  # and three reserved octets, RFC 9018 §4.1, §4.2
_OPT_FIXED: Final = struct.Struct(">BHHIH")
_OPTION: Final = struct.Struct(">HH")
_QUERY_MASK: Final = FLAG_QR | OPCODE_MASK
_TSIG: Final = 250
_EMPTY_OPT: Final = b"\x00" + OPT.to_bytes(2, "big")


class CookieSecrets(msgspec.Struct, frozen=True, array_like=True):
    """The setting `dns/cookie-secret`: what all members make and know cookies by."""

    current: bytes
    next: bytes
    previous: bytes = b""
    rolled_at_ms: int = 0

    def __post_init__(self) -> None:
        if not len(self.current) == len(self.next) == SECRET_BYTES or len(self.previous) not in (
            0,
            SECRET_BYTES,
        ):
            raise ValueError(f"a cookie secret is {SECRET_BYTES} octets")

    def rolled(self, fresh: bytes, now_ms: int) -> CookieSecrets:
        """The next secret taken into use, and `fresh` made known."""
        return CookieSecrets(self.next, fresh, self.current, now_ms)


class Standing(Enum):
    """What a query's cookie says of its client."""

    NEW = 0
    """A client cookie alone."""
    GOOD = 1
    """With a server cookie of ours, for this address and time."""
    BAD = 2
    """With a server cookie that is not, or no more: treated as if it were absent (RFC 7873 §5.2.3)."""


class CookieQuery(NamedTuple):
    """A query with its cookie taken off."""

    plain: bytes
    """The query without the option: the pipeline's input."""
    client: bytes
    server: bytes
    """Empty if the client sent none."""


class CookieMaker:
    """Makes and checks server cookies with the cluster's secrets. Used by one thread at a time."""

    __slots__ = ("_digest", "_digest_octets", "_known", "secrets")

    def __init__(self, secrets: CookieSecrets) -> None:
        self.secrets = secrets
        # libsodium's function itself, as PyNaCl's binding calls it: the binding takes five times as long,
        # for an array made anew and lengths that are right here. In the middle of every query.
        self._digest = ffi.new("unsigned char[]", _DIGEST_BYTES)
        self._digest_octets = ffi.buffer(self._digest, _DIGEST_BYTES)
        self._known = tuple(filter(None, (secrets.current, secrets.previous, secrets.next)))

    def _siphash24(self, text: bytes, secret: bytes) -> bytes:
        lib.crypto_shorthash_siphash24(self._digest, text, len(text), secret)
        digest: bytes = self._digest_octets[:]
        return digest

    def make(self, client: bytes, address: bytes, now_s: int) -> bytes:
        """The server cookie for a client cookie from a packed address (RFC 9018 §4)."""
        head = _VERSION + (now_s & 0xFFFFFFFF).to_bytes(4, "big")
        return head + self._siphash24(client + head + address, self.secrets.current)

    def judge(self, client: bytes, server: bytes, address: bytes, now_s: int) -> tuple[Standing, bytes]:
        """What a query's cookie is worth, and the server cookie to answer with: the same while it is
        young, else a fresh one (RFC 9018 §4.3)."""
        if not server:
            return Standing.NEW, self.make(client, address, now_s)
        age = _age_s(server, now_s)
        if age is not None:
            head = server[:8]
            text = client + head + address
            for secret in self._known:
                if hmac.compare_digest(self._siphash24(text, secret), server[8:]):
                    # Reserved octets are under the MAC, but not ours to repeat (RFC 9018 §4.2).
                    young = age < DNS_COOKIE_RENEW_S and secret is self.secrets.current
                    if young and head.startswith(_VERSION):
                        return Standing.GOOD, server
                    return Standing.GOOD, self.make(client, address, now_s)
        return Standing.BAD, self.make(client, address, now_s)

    def is_proven(self, query_untrusted: bytes, address: bytes, now_s: int) -> bool:
        """Whether a query shows a good cookie."""
        try:
            asked = split_cookie(query_untrusted)
        except DnsWireError:
            return False
        if asked is None:
            return False
        return self.judge(asked.client, asked.server, address, now_s)[0] is Standing.GOOD


def _age_s(server: bytes, now_s: int) -> int | None:
    """How old a server cookie says it is; None if it is not of our kind, too old or of the future."""
    if len(server) != SERVER_BYTES or server[0] != _VERSION[0]:
        return None
    # Serial number arithmetic (RFC 1982), so that 2106 passes unnoticed.
    age = (now_s - int.from_bytes(server[4:8], "big") + 0x80000000 & 0xFFFFFFFF) - 0x80000000
    return age if -DNS_COOKIE_FUTURE_S <= age <= DNS_COOKIE_LIFE_S else None


def split_cookie(query_untrusted: bytes) -> CookieQuery | None:
    """Take the cookie off a query; None if it has none, or is for the pipeline to judge as it stands.

    Signed messages (RFC 8945) stay whole: their cookie is under the signature. Raises `DnsWireError`
    for a cookie of a length that RFC 7873 §4 doesn't allow.
    """
    query = query_untrusted
    if len(query) < HEADER_BYTES or query[2] & _QUERY_MASK or not query[11]:
        return None
    try:
        opt = _find_opt(query)
    except DnsWireError:
        return None
    if opt is None:
        return None
    start, end = opt
    offset = start + _OPT_FIXED.size
    while offset + _OPTION.size <= end:
        code, length = _OPTION.unpack_from(query, offset)
        value = offset + _OPTION.size
        if value + length > end:
            return None
        if code == COOKIE_OPTION:
            if length != CLIENT_BYTES and length - CLIENT_BYTES not in _SERVER_LENGTHS:
                raise DnsWireError("a cookie is 8 octets, or 16 to 40")
            cookie = query[value : value + length]
            plain = _without(query, start, offset, value + length)
            return CookieQuery(plain, cookie[:CLIENT_BYTES], cookie[CLIENT_BYTES:])
        offset = value + length
    return None


def _find_opt(query: bytes) -> tuple[int, int] | None:
    """Where a query's OPT record begins and ends; None without one, or if the message is signed."""
    questions, answers, authority, additional = struct.unpack_from(">HHHH", query, 4)
    offset = HEADER_BYTES
    if questions > 1:
        return None
    for _ in range(questions):
        offset = read_name(query, offset)[1] + 4
    found = None
    for _ in range(answers + authority + additional):
        record = read_record(query, offset)
        if record.rrtype == _TSIG:
            return None
        if record.rrtype == OPT and found is None and len(record.owner) == 1:
            found = (offset, record.rdata_end)
        offset = record.rdata_end
    return found if offset == len(query) else None


def _without(query: bytes, opt_start: int, option_start: int, option_end: int) -> bytes:
    """The query less an option of its OPT."""
    length_at = opt_start + _OPT_FIXED.size - 2
    length = int.from_bytes(query[length_at : length_at + 2], "big") - (option_end - option_start)
    return (
        query[:length_at]
        + length.to_bytes(2, "big")
        + query[length_at + 2 : option_start]
        + query[option_end:]
    )


def answer_with_cookie(
    query_untrusted: bytes,
    address: bytes,
    now_s: int,
    maker: CookieMaker,
    answer: Callable[[bytes], bytes | None],
    *,
    limit: int,
    required: bool = False,
) -> tuple[bytes | None, Standing | None]:
    """The reply to a message from `address`, made by `answer`, with the cookie it is due; and what the
    client's cookie is worth (None without one).

    Over UDP `limit` is the most we ever send; what the client offered counts too. `required`: who
    sends a cookie, but none of ours that is good, gets BADCOOKIE (RFC 7873 §5.2.3).
    """
    query = query_untrusted
    try:
        asked = split_cookie(query)
    except DnsWireError as error:
        return reply_header(query, error.rcode), None
    if asked is None:
        return answer(query), None
    standing, server = maker.judge(asked.client, asked.server, address, now_s)
    cookie = asked.client + server
    if query[4:6] == b"\x00\x00" and query[6:10] == bytes(4):
        # RFC 7873 §5.4: only the cookie is asked for.
        rcode = Rcode.BADCOOKIE if standing is Standing.BAD else Rcode.NOERROR
        return _bare(query, rcode, cookie), standing
    if required and standing is not Standing.GOOD:
        return _bare(query, Rcode.BADCOOKIE, cookie), standing
    reply = answer(asked.plain)
    if reply is not None:
        reply = add_cookie(reply, cookie, limit if limit > DNS_UDP_EDNS_BYTES else _offered(query, limit))
    return reply, standing


def bad_cookie(query_untrusted: bytes, address: bytes, now_s: int, maker: CookieMaker) -> bytes | None:
    """BADCOOKIE with a good cookie, for a query that has a cookie but no good one; else None."""
    try:
        asked = split_cookie(query_untrusted)
    except DnsWireError:
        return None
    if asked is None:
        return None
    standing, server = maker.judge(asked.client, asked.server, address, now_s)
    return (
        None if standing is Standing.GOOD else _bare(query_untrusted, Rcode.BADCOOKIE, asked.client + server)
    )


def add_cookie(reply: bytes, cookie: bytes, limit: int) -> bytes:
    """The reply with a cookie put last into its OPT record; as it stands if it has none."""
    if len(reply) == HEADER_BYTES:
        return reply
    if reply[-11:-8] == _EMPTY_OPT and reply[-2:] == b"\x00\x00" and reply[11]:
        start, end = len(reply) - _OPT_FIXED.size, len(reply)
    else:
        opt = _find_opt(reply)
        if opt is None or opt[1] != len(reply):
            return reply
        start, end = opt
    if end + REPLY_OPTION_BYTES > limit:
        reply, start = _cut(reply, start)
    length_at = start + _OPT_FIXED.size - 2
    length = int.from_bytes(reply[length_at : length_at + 2], "big") + REPLY_OPTION_BYTES
    option = _OPTION.pack(COOKIE_OPTION, len(cookie)) + cookie
    return reply[:length_at] + length.to_bytes(2, "big") + reply[length_at + 2 :] + option


def _cut(reply: bytes, opt_start: int) -> tuple[bytes, int]:
    """A reply too long for its cookie: question and OPT alone, under TC; and where the OPT begins."""
    question = reply[HEADER_BYTES : read_name(reply, HEADER_BYTES)[1] + 4]
    head = reply[:2] + bytes((reply[2] | FLAG_TC, reply[3])) + b"\x00\x01" + bytes(4) + b"\x00\x01"
    fixed = reply[opt_start : opt_start + _OPT_FIXED.size - 2] + b"\x00\x00"
    return head + question + fixed, HEADER_BYTES + len(question)


def _offered(query: bytes, limit: int) -> int:
    """The size a query with an OPT record offers, up to `limit`."""
    opt = _find_opt(query)
    offered = 0 if opt is None else int.from_bytes(query[opt[0] + 3 : opt[0] + 5], "big")
    return min(max(offered, DNS_UDP_PLAIN_BYTES), limit)


def _bare(query: bytes, rcode: Rcode, cookie: bytes) -> bytes:
    """A reply of question and OPT alone."""
    opt = _find_opt(query)
    flags = query[opt[0] + 7] & 0x80 if opt is not None else 0  # DO is echoed
    questions = query[5]
    end = read_name(query, HEADER_BYTES)[1] + 4 if questions else HEADER_BYTES
    edns = opt_record(Edns(0, 0, bool(flags)), rcode, _OPTION.pack(COOKIE_OPTION, len(cookie)) + cookie)
    return reply_header(query, rcode, counts=(questions, 0, 0, 1)) + query[HEADER_BYTES:end] + edns
