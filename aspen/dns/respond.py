"""The one answer pipeline, whatever transport the query came by (RFC 1034 §4.3.1, in RFC order).

header → opcode → question → EDNS → class → type → lookup → sections → fit to size. Pure: bytes and
a view in, bytes or silence out. Total: for no input does it raise, answer an answer, or exceed the
size the client can take.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from aspen.dns.lookup import Found, Outcome, View, lookup
from aspen.dns.name import HEADER_BYTES
from aspen.dns.wire import (
    AXFR,
    CLASS_IN,
    EDE_NOT_AUTHORITATIVE,
    FLAG_AA,
    FLAG_QR,
    FLAG_TC,
    IXFR,
    META_QTYPES,
    OPCODE_MASK,
    Edns,
    Query,
    Rcode,
    extended_error,
    opt_record,
    parse_query,
    reply_header,
)
from aspen.errors import DnsWireError
from aspen.limits import DNS_TCP_MESSAGE_BYTES, DNS_UDP_EDNS_BYTES, DNS_UDP_PLAIN_BYTES

__all__ = ["Transport", "View", "respond", "servfail", "size_limit"]


class Transport(Enum):
    """How a query came, as far as the answer depends on it: by datagram or by stream."""

    UDP = 1
    TCP = 2


_RCODES: Final = {
    Outcome.SUCCESS: Rcode.NOERROR,
    Outcome.CNAME: Rcode.NOERROR,
    Outcome.DELEGATION: Rcode.NOERROR,
    Outcome.NODATA: Rcode.NOERROR,
    Outcome.NXDOMAIN: Rcode.NXDOMAIN,
    Outcome.REFUSED: Rcode.REFUSED,
}


def respond(query_untrusted: bytes, view: View, transport: Transport) -> bytes | None:
    """The reply to a message, or None for what must not be answered."""
    if not _is_answerable(query_untrusted):
        return None
    if query_untrusted[2] & OPCODE_MASK:
        return reply_header(query_untrusted, Rcode.NOTIMP)
    try:
        query = parse_query(query_untrusted)
    except DnsWireError as error:
        return reply_header(query_untrusted, error.rcode)
    edns = query.edns
    if edns is not None and edns.version:
        return _bare_reply(query_untrusted, query, Rcode.BADVERS)
    if query.qclass != CLASS_IN:
        return _bare_reply(query_untrusted, query, Rcode.REFUSED)
    if query.qtype in (AXFR, IXFR):
        return _bare_reply(query_untrusted, query, Rcode.REFUSED)
    if query.qtype in META_QTYPES:
        return _bare_reply(query_untrusted, query, Rcode.NOTIMP)
    found = lookup(view, query.name, query.qtype)
    if found.origin is None:
        not_ours = extended_error(EDE_NOT_AUTHORITATIVE)
        return _bare_reply(query_untrusted, query, Rcode.REFUSED, not_ours)
    return _reply(query_untrusted, query, found, size_limit(edns, transport))


def servfail(query_untrusted: bytes) -> bytes | None:
    """The reply when the replica can't be read; None for what must not be answered."""
    return reply_header(query_untrusted, Rcode.SERVFAIL) if _is_answerable(query_untrusted) else None


def size_limit(edns: Edns | None, transport: Transport) -> int:
    """The largest reply allowed: by datagram 512 octets, or what EDNS offers up to our own bound
    (RFC 6891 §6.2.3; sizes below 512 count as 512)."""
    if transport is Transport.TCP:
        return DNS_TCP_MESSAGE_BYTES
    if edns is None:
        return DNS_UDP_PLAIN_BYTES
    return min(max(edns.udp_bytes, DNS_UDP_PLAIN_BYTES), DNS_UDP_EDNS_BYTES)


def _is_answerable(query_untrusted: bytes) -> bool:
    """Too short to have an id and flags, or itself an answer: silence, lest two servers loop."""
    return len(query_untrusted) >= HEADER_BYTES and not query_untrusted[2] & FLAG_QR


def _bare_reply(query_bytes: bytes, query: Query, rcode: Rcode, options: bytes = b"") -> bytes:
    """The question echoed with a response code and, under EDNS, an OPT record."""
    question = query_bytes[HEADER_BYTES : query.question_end]
    if query.edns is None:
        return reply_header(query_bytes, rcode, counts=(1, 0, 0, 0)) + question
    opt = opt_record(query.edns, rcode, options)
    return reply_header(query_bytes, rcode, counts=(1, 0, 0, 1)) + question + opt


def _reply(query_bytes: bytes, query: Query, found: Found, limit: int) -> bytes:
    """Put the sections together; what doesn't fit goes whole, under TC (RFC 2181 §9)."""
    answer, origin = found.answer, found.origin
    rcode = _RCODES[answer.outcome]
    question = query_bytes[HEADER_BYTES : query.question_end]
    additional = opt_record(query.edns) if query.edns is not None else b""
    authority = b""
    if origin is not None and answer.outcome in (Outcome.NODATA, Outcome.NXDOMAIN):
        authority = origin.authority(HEADER_BYTES + found.origin_offset)
    counts = (1, answer.record_count, 1 if authority else 0, 1 if additional else 0)
    size = HEADER_BYTES + len(question) + len(answer.records) + len(authority) + len(additional)
    if size > limit:
        counts = (1, 0, 0, counts[3])
        return reply_header(query_bytes, rcode, FLAG_AA | FLAG_TC, counts) + question + additional
    header = reply_header(query_bytes, rcode, FLAG_AA, counts)
    return header + question + answer.records + authority + additional
