"""Transaction signatures (RFC 8945): who sent this message, and is it as they sent it?

A TSIG record ends a message. Its MAC covers, in this order: the MAC of the request, if this is an
answer; the message as it was before the record was added; the record's own variables. Answers of
several messages (RFC 8945 §5.3.1) form a chain: each MAC covers the one before it. Time is an
argument, seconds since 1970.

A request is judged in the RFC's order: key (BADKEY), MAC (BADSIG), time (BADTIME). The first two
failures are answered without a signature, for there is no key to sign with; the third is signed,
so that a client with a wrong clock can believe it.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final, NamedTuple, Protocol

from aspen.dns.message import read_record, section_counts, skip_questions
from aspen.dns.name import HEADER_BYTES, name_from_text, read_name
from aspen.dns.wire import ARCOUNT_OFFSET, CLASS_ANY, TSIG, Rcode
from aspen.errors import DnsWireError
from aspen.limits import TSIG_FUDGE_S

_RR_FIXED: Final = struct.Struct(">HHIH")
_TIMES: Final = struct.Struct(">HIH")  # time signed in 48 bits, fudge
_MAC_SIZE: Final = struct.Struct(">H")
_TAIL: Final = struct.Struct(">HHH")  # original id, error, length of other data
_ERROR_AND_OTHER: Final = struct.Struct(">HH")
_SHORTEST_MAC_BYTES: Final = 10  # RFC 8945 §5.2.2.1, and no less than half of the hash


class TsigError(IntEnum):
    """RFC 8945 §3."""

    NONE = 0
    BADSIG = 16
    BADKEY = 17
    BADTIME = 18
    BADTRUNC = 22


class Algorithm(NamedTuple):
    """A hash to sign with."""

    text: str
    wire: bytes
    """Its name as in a TSIG record, folded."""
    digest: Callable[..., Any]
    mac_bytes: int


ALGORITHMS: Final = {
    text: Algorithm(text, name_from_text(text), digest, digest().digest_size)
    for text, digest in (
        ("hmac-sha256", hashlib.sha256),
        ("hmac-sha384", hashlib.sha384),
        ("hmac-sha512", hashlib.sha512),
    )
}
"""By name (RFC 8945 §6). HMAC-MD5 and HMAC-SHA1 are left out: nobody has to use them any more."""


class TsigKey(NamedTuple):
    """A secret shared with a peer. Its representation never shows the secret."""

    name: bytes
    """Folded wire name."""
    algorithm: Algorithm
    secret: bytes

    def __repr__(self) -> str:
        return f"TsigKey({self.name!r}, {self.algorithm.text})"


class Keys(Protocol):
    """The keys that may sign."""

    def get(self, name: bytes) -> TsigKey | None:
        """The key of a folded wire name."""
        ...


class TsigRecord(NamedTuple):
    """The TSIG record of a message."""

    start: int
    """Where it begins: the message without it is what lies before."""
    name: bytes
    """Of the key, folded."""
    algorithm: bytes
    """Folded wire name."""
    time_s: int
    fudge_s: int
    mac: bytes
    original_id: int
    error: int
    other: bytes


def read_tsig(message_untrusted: bytes) -> TsigRecord | None:
    """The TSIG record that ends a message, None if there is none.

    Raises `DnsWireError` carrying FORMERR if the message doesn't parse, or has a TSIG record that
    is not alone, not last, or not of its form (RFC 8945 §5.2).
    """
    message = message_untrusted
    questions, answers, authority, additional = section_counts(message)
    offset = skip_questions(message, questions)
    count = answers + authority + additional
    for index in range(count):
        start = offset
        record = read_record(message, offset)
        offset = record.rdata_end
        if record.rrtype != TSIG:
            continue
        if index != count - 1 or not additional:
            raise DnsWireError("a TSIG record that isn't the last of the additional section")
        if record.rrclass != CLASS_ANY or record.ttl:
            raise DnsWireError("a TSIG record is of class ANY and has no TTL")
        if offset != len(message):
            raise DnsWireError("bytes after the end of the message")
        return _read_rdata(message, start, record.owner.lower(), record.rdata_start, offset)
    return None


def _read_rdata(message: bytes, start: int, name: bytes, rdata_start: int, end: int) -> TsigRecord:
    algorithm, offset = read_name(message, rdata_start)
    try:
        high, low, fudge_s = _TIMES.unpack_from(message, offset)
        offset += _TIMES.size
        (size,) = _MAC_SIZE.unpack_from(message, offset)
        offset += _MAC_SIZE.size
        mac = message[offset : offset + size]
        offset += size
        original_id, error, other_bytes = _TAIL.unpack_from(message, offset)
    except struct.error:
        raise DnsWireError("a TSIG record runs past its end") from None
    offset += _TAIL.size
    if offset + other_bytes != end:
        raise DnsWireError("a TSIG record of another length than its fields")
    other = message[offset:end]
    return TsigRecord(
        start, name, algorithm.lower(), high << 32 | low, fudge_s, mac, original_id, error, other
    )


def unsigned_form(message: bytes, tsig: TsigRecord) -> bytes:
    """The message as it was before the record was added: what its MAC covers (RFC 8945 §4.3.2)."""
    count = int.from_bytes(message[ARCOUNT_OFFSET : ARCOUNT_OFFSET + 2], "big") - 1
    return (
        tsig.original_id.to_bytes(2, "big")
        + message[2:ARCOUNT_OFFSET]
        + count.to_bytes(2, "big")
        + message[HEADER_BYTES : tsig.start]
    )


def _times(time_s: int, fudge_s: int) -> bytes:
    return _TIMES.pack(time_s >> 32 & 0xFFFF, time_s & 0xFFFFFFFF, fudge_s)


def _variables(key: TsigKey, times: bytes, error: int, other: bytes) -> bytes:
    """RFC 8945 §4.3.3."""
    return (
        key.name
        + CLASS_ANY.to_bytes(2, "big")
        + bytes(4)
        + key.algorithm.wire
        + times
        + _ERROR_AND_OTHER.pack(error, len(other))
        + other
    )


def _with_length(mac: bytes) -> bytes:
    return _MAC_SIZE.pack(len(mac)) + mac if mac else b""


def _append(
    message: bytes, name: bytes, algorithm: bytes, times: bytes, mac: bytes, error: int, other: bytes
) -> bytes:
    """The message with a TSIG record at its end. The message's id is the record's original id."""
    rdata = (
        algorithm
        + times
        + _MAC_SIZE.pack(len(mac))
        + mac
        + message[:2]
        + _ERROR_AND_OTHER.pack(error, len(other))
        + other
    )
    count = int.from_bytes(message[ARCOUNT_OFFSET : ARCOUNT_OFFSET + 2], "big") + 1
    return (
        message[:ARCOUNT_OFFSET]
        + count.to_bytes(2, "big")
        + message[HEADER_BYTES:]
        + name
        + _RR_FIXED.pack(TSIG, CLASS_ANY, 0, len(rdata))
        + rdata
    )


class Signer:
    """Signs what goes one way of an exchange: a request, or the one or more messages of an answer."""

    __slots__ = ("_first", "_mac", "key")

    def __init__(self, key: TsigKey, request_mac: bytes = b"") -> None:
        """For an answer, `request_mac` is the MAC of what it answers."""
        self.key = key
        self._mac = request_mac
        self._first = True

    @property
    def mac(self) -> bytes:
        """Of the last message signed."""
        return self._mac

    @property
    def room(self) -> int:
        """Octets that signing adds to a message at most."""
        algorithm = self.key.algorithm
        fixed = _RR_FIXED.size + _TIMES.size + _MAC_SIZE.size + _TAIL.size + len(_other_time(0))
        return len(self.key.name) + fixed + len(algorithm.wire) + algorithm.mac_bytes

    def sign(
        self, message: bytes, now_s: int, error: int = TsigError.NONE, request: TsigRecord | None = None
    ) -> bytes:
        """The message signed. For BADTIME, `request` is the one whose time was wrong: its time is
        signed, and ours told beside (RFC 8945 §5.2.3)."""
        other = b""
        times = _times(now_s, TSIG_FUDGE_S)
        if request is not None:
            times, other = _times(request.time_s, request.fudge_s), _other_time(now_s)
        covered = times if not self._first else _variables(self.key, times, error, other)
        algorithm = self.key.algorithm
        self._mac = hmac.digest(
            self.key.secret, _with_length(self._mac) + message + covered, algorithm.digest
        )
        self._first = False
        return _append(message, self.key.name, algorithm.wire, times, self._mac, error, other)


def _other_time(now_s: int) -> bytes:
    return (now_s & 0xFFFF_FFFF_FFFF).to_bytes(6, "big")


class Refusal(NamedTuple):
    """Why a signed request is not believed, and how its reply is made."""

    error: TsigError
    tsig: TsigRecord
    signer: Signer | None
    """Signs the reply; None where it goes without a MAC."""

    @property
    def rcode(self) -> Rcode:
        return Rcode.NOTAUTH

    def reply(self, message: bytes, now_s: int) -> bytes:
        """`message`, a reply with this rcode, with the TSIG record that says why."""
        if self.signer is not None:
            return self.signer.sign(message, now_s, self.error, self.tsig)
        times = _times(now_s, self.tsig.fudge_s)
        return _append(message, self.tsig.name, self.tsig.algorithm, times, b"", self.error, b"")


def verify_request(message: bytes, tsig: TsigRecord, keys: Keys, now_s: int) -> Signer | Refusal:
    """Check a request's TSIG: what signs the answer, or why it is refused (RFC 8945 §5.2).

    Raises `DnsWireError` carrying FORMERR for a MAC of a size that no one may send.
    """
    key = keys.get(tsig.name)
    if key is None or key.algorithm.wire != tsig.algorithm:
        return Refusal(TsigError.BADKEY, tsig, None)
    if not _mac_matches(key, message, tsig, b"", first=True):
        return Refusal(TsigError.BADSIG, tsig, None)
    signer = Signer(key, tsig.mac)
    if abs(now_s - tsig.time_s) > tsig.fudge_s:
        return Refusal(TsigError.BADTIME, tsig, signer)
    return signer


def _mac_matches(key: TsigKey, message: bytes, tsig: TsigRecord, before: bytes, *, first: bool) -> bool:
    """Whether the MAC is that of `key`. One that was truncated within the RFC's bounds is good.

    Raises `DnsWireError` for one outside them (RFC 8945 §5.2.2.1).
    """
    full = key.algorithm.mac_bytes
    if not max(_SHORTEST_MAC_BYTES, full // 2) <= len(tsig.mac) <= full:
        if tsig.mac:
            raise DnsWireError("a MAC of a size that isn't allowed")
        return False
    times = _times(tsig.time_s, tsig.fudge_s)
    covered = _variables(key, times, tsig.error, tsig.other) if first else times
    data = _with_length(before) + unsigned_form(message, tsig) + covered
    expected = hmac.digest(key.secret, data, key.algorithm.digest)
    return hmac.compare_digest(expected[: len(tsig.mac)], tsig.mac)


class AnswerVerifier:
    """Checks the messages of an answer to a request we signed, one after the other."""

    __slots__ = ("_first", "_key", "_mac")

    def __init__(self, key: TsigKey, request_mac: bytes) -> None:
        self._key = key
        self._mac = request_mac
        self._first = True

    def verify(self, message_untrusted: bytes, now_s: int) -> TsigError:
        """NONE if this message is by the holder of the key and fresh; else what is wrong.

        Raises `DnsWireError` if it doesn't parse.
        """
        tsig = read_tsig(message_untrusted)
        if tsig is None:
            return TsigError.BADSIG
        if tsig.name != self._key.name or tsig.algorithm != self._key.algorithm.wire:
            return TsigError.BADKEY
        if not _mac_matches(self._key, message_untrusted, tsig, self._mac, first=self._first):
            return TsigError.BADSIG
        if abs(now_s - tsig.time_s) > tsig.fudge_s:
            return TsigError.BADTIME
        self._mac = tsig.mac
        self._first = False
        return TsigError.NONE
