"""Padding of encrypted answers (RFC 7830, RFC 8467): their lengths should tell nobody what was asked.

Answers are filled up to a multiple of 468 octets, the block that RFC 8467 §4.1 recommends for servers.
"""

from __future__ import annotations

import struct
from typing import Final

from aspen.dns.message import read_record, section_counts, skip_questions
from aspen.dns.wire import OPT
from aspen.errors import DnsWireError
from aspen.limits import DNS_PADDING_BLOCK_BYTES, DNS_TCP_MESSAGE_BYTES

PADDING: Final = 12
"""The option's code."""
TCP_KEEPALIVE: Final = 11
"""Another option's, which RFC 9250 §5.5.2 forbids on QUIC."""
_OPTION: Final = struct.Struct(">HH")
_LENGTH_BYTES: Final = 2


def option_codes(message_untrusted: bytes) -> frozenset[int] | None:
    """The EDNS options of a message; None if it has no OPT record, or is none that can be read."""
    place = opt_rdata(message_untrusted)
    if place is None:
        return None
    offset, end = place
    codes = set()
    while offset + _OPTION.size <= end:
        code, length = _OPTION.unpack_from(message_untrusted, offset)
        codes.add(code)
        offset += _OPTION.size + length
    return frozenset(codes)


def padded(reply: bytes) -> bytes:
    """Our own reply with a padding option at its end; as it was if it has no OPT record, or something
    stands behind that (a signature must be last, and covers all before it)."""
    place = opt_rdata(reply)
    if place is None or place[1] != len(reply):
        return reply
    start, end = place
    size = -(-(len(reply) + _OPTION.size) // DNS_PADDING_BLOCK_BYTES) * DNS_PADDING_BLOCK_BYTES
    size = min(size, DNS_TCP_MESSAGE_BYTES)
    filling = size - len(reply) - _OPTION.size
    if filling < 0:
        return reply
    rdata_bytes = end - start + _OPTION.size + filling
    head = reply[: start - _LENGTH_BYTES] + rdata_bytes.to_bytes(_LENGTH_BYTES, "big") + reply[start:]
    return head + _OPTION.pack(PADDING, filling) + bytes(filling)


def opt_rdata(message_untrusted: bytes) -> tuple[int, int] | None:
    """Where the RDATA of the OPT record begins and ends."""
    try:
        questions, answers, authority, additional = section_counts(message_untrusted)
        if not additional:
            return None
        offset = skip_questions(message_untrusted, questions)
        for _ in range(answers + authority + additional):
            record = read_record(message_untrusted, offset)
            if record.rrtype == OPT:
                return record.rdata_start, record.rdata_end
            offset = record.rdata_end
    except DnsWireError:
        pass
    return None
