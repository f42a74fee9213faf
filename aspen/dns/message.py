"""Whole DNS messages (RFC 1035 §4.1): walk every section, believe nothing.

`validate_message` answers "is this DNS?" for a message somebody signed: after it, every name,
length and known RDATA in the message is known to be sound, and readers needn't check again.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from aspen.dns.name import HEADER_BYTES, read_name
from aspen.dns.rdata import read_rdata
from aspen.errors import DnsWireError

_COUNTS: Final = struct.Struct(">HHHH")
_RR_FIXED: Final = struct.Struct(">HHIH")  # type, class, TTL, RDLENGTH
_QUESTION_FIXED_BYTES: Final = 4


class RecordView(NamedTuple):
    """Where a resource record stands in its message. `owner` is uncompressed, case kept."""

    owner: bytes
    rrtype: int
    rrclass: int
    ttl: int
    rdata_start: int
    rdata_end: int


def section_counts(message_untrusted: bytes) -> tuple[int, int, int, int]:
    """QDCOUNT, ANCOUNT, NSCOUNT, ARCOUNT. Raises `DnsWireError`."""
    if len(message_untrusted) < HEADER_BYTES:
        raise DnsWireError("shorter than a message header")
    questions, answers, authority, additional = _COUNTS.unpack_from(message_untrusted, 4)
    return questions, answers, authority, additional


def skip_questions(message_untrusted: bytes, count: int) -> int:
    """The offset after `count` questions. Raises `DnsWireError`."""
    offset = HEADER_BYTES
    for _ in range(count):
        offset = read_name(message_untrusted, offset)[1] + _QUESTION_FIXED_BYTES
        if offset > len(message_untrusted):
            raise DnsWireError("a question runs past the end of the message")
    return offset


def read_record(message_untrusted: bytes, offset: int) -> RecordView:
    """The resource record at `offset`, its RDATA unread. The next one is at `rdata_end`.

    Raises `DnsWireError`.
    """
    owner, offset = read_name(message_untrusted, offset)
    try:
        rrtype, rrclass, ttl, length = _RR_FIXED.unpack_from(message_untrusted, offset)
    except struct.error:
        raise DnsWireError("a record runs past the end of the message") from None
    start = offset + _RR_FIXED.size
    if start + length > len(message_untrusted):
        raise DnsWireError("RDATA runs past the end of the message")
    return RecordView(owner, rrtype, rrclass, ttl, start, start + length)


def validate_message(message_untrusted: bytes) -> None:
    """Check a whole message: header, all four sections, all names, RDATA, nothing after the end.

    Raises `DnsWireError`.
    """
    questions, *others = section_counts(message_untrusted)
    offset = skip_questions(message_untrusted, questions)
    for _ in range(sum(others)):
        record = read_record(message_untrusted, offset)
        read_rdata(message_untrusted, record.rrtype, record.rdata_start, record.rdata_end)
        offset = record.rdata_end
    if offset != len(message_untrusted):
        raise DnsWireError("bytes after the end of the message")
