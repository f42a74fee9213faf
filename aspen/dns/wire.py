"""A query on the wire, and the pieces of a reply (RFC 1035 §4.1, RFC 6891 §6).

A query is small and mostly plain, so it is parsed by hand into one flat tuple. Parsing is strict
about form (a reply to nonsense helps nobody) and deaf to meaning: unknown types, options and flags
are for the pipeline to ignore.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from aspen.dns.message import read_record, section_counts, skip_questions
from aspen.dns.name import HEADER_BYTES, read_name
from aspen.dns.rdata import read_rdata
from aspen.errors import DnsWireError
from aspen.limits import DNS_QUERY_BYTES, DNS_UDP_EDNS_BYTES

ARCOUNT_OFFSET: Final = 10
FLAG_QR: Final = 0x80  # in octet 2
FLAG_AA: Final = 0x04
FLAG_TC: Final = 0x02
FLAG_RD: Final = 0x01
OPCODE_MASK: Final = 0x78

CLASS_IN: Final = 1
CLASS_CHAOS: Final = 3
CLASS_NONE: Final = 254
CLASS_ANY: Final = 255

A: Final = 1
NS: Final = 2
CNAME: Final = 5
SOA: Final = 6
MX: Final = 15
TXT: Final = 16
AAAA: Final = 28
SRV: Final = 33
DNAME: Final = 39
OPT: Final = 41
DS: Final = 43
SVCB: Final = 64
HTTPS: Final = 65
TSIG: Final = 250
IXFR: Final = 251
AXFR: Final = 252
ANY: Final = 255
META_QTYPES: Final = frozenset({OPT, 249, TSIG, 253, 254})
"""OPT, TKEY, TSIG, MAILB, MAILA: not data and not questions this server knows."""

DNSSEC_OK: Final = 0x8000  # RFC 3225

NSID_OPTION: Final = 3  # RFC 5001
EDE_OPTION: Final = 15  # RFC 8914
EDE_STALE_ANSWER: Final = 3
EDE_PROHIBITED: Final = 18
EDE_STALE_NXDOMAIN: Final = 19
EDE_NOT_AUTHORITATIVE: Final = 20
EDE_NO_REACHABLE_AUTHORITY: Final = 22


class Rcode(IntEnum):
    """Response codes; those above 15 need EDNS to be said."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    YXDOMAIN = 6
    YXRRSET = 7
    NXRRSET = 8
    NOTAUTH = 9
    NOTZONE = 10
    BADVERS = 16
    BADCOOKIE = 23


class Edns(NamedTuple):
    """A query's OPT record (RFC 6891 §6.1.3)."""

    udp_bytes: int
    version: int
    dnssec_ok: bool
    options: bytes = b""
    """Its RDATA, checked for form only."""

    def option(self, code: int) -> bytes | None:
        """The data of the first option with this code."""
        offset = 0
        while offset < len(self.options):
            found, length = _OPTION.unpack_from(self.options, offset)
            offset += _OPTION.size + length
            if found == code:
                return self.options[offset - length : offset]
        return None


class Query(NamedTuple):
    name: bytes
    """QNAME, folded."""
    qtype: int
    qclass: int
    question_end: int
    """The question, as the client spelled it, is `query[HEADER_BYTES:question_end]`."""
    edns: Edns | None


_HEADER: Final = struct.Struct(">HHHH")
_QUESTION: Final = struct.Struct(">HH")
_REPLY_HEADER: Final = struct.Struct(">HBBHHHH")
_OPT_RECORD: Final = struct.Struct(">BHHBBHH")
_OPTION: Final = struct.Struct(">HH")


def parse_query(query_untrusted: bytes) -> Query:
    """Read a message as a query with one question. Raises `DnsWireError` carrying FORMERR.

    Answer and authority sections are walked and ignored (IXFR has one, RFC 1995 §3); so are
    additional records other than the one OPT allowed.
    """
    query = query_untrusted
    if not HEADER_BYTES <= len(query) <= DNS_QUERY_BYTES:
        raise DnsWireError("not the size of a query")
    questions, answers, authority, additional = _HEADER.unpack_from(query, 4)
    if questions != 1:
        raise DnsWireError("a query has one question")
    name, offset = read_name(query, HEADER_BYTES)
    end = offset + _QUESTION.size
    if end > len(query):
        raise DnsWireError("the question runs past the end of the message")
    qtype, qclass = _QUESTION.unpack_from(query, offset)
    edns = _read_edns(query, end, answers + authority, additional)
    return Query(name.lower(), qtype, qclass, end, edns)


def parse_edns(message_untrusted: bytes) -> Edns | None:
    """The OPT record of a message of any opcode, if it has one. Raises `DnsWireError`."""
    questions, answers, authority, additional = section_counts(message_untrusted)
    if len(message_untrusted) > DNS_QUERY_BYTES:
        raise DnsWireError("not the size of a query")
    return _read_edns(
        message_untrusted, skip_questions(message_untrusted, questions), answers + authority, additional
    )


def _read_edns(query: bytes, offset: int, plain: int, additional: int) -> Edns | None:
    """Walk the records from `offset` to the message's end: `plain` of them, and then the additional ones,
    among which one OPT may be."""
    edns = None
    for index in range(plain + additional):
        record = read_record(query, offset)
        offset = record.rdata_end
        if record.rrtype == OPT:
            if index < plain or edns is not None or len(record.owner) != 1:
                raise DnsWireError("one OPT record, owned by the root, in the additional section")
            read_rdata(query, OPT, record.rdata_start, offset)
            version = record.ttl >> 16 & 0xFF
            options = query[record.rdata_start : offset]
            edns = Edns(record.rrclass, version, bool(record.ttl & DNSSEC_OK), options)
    if offset != len(query):
        raise DnsWireError("bytes after the end of the message")
    return edns


def reply_header(
    query: bytes,
    rcode: int,
    flags: int = 0,
    counts: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> bytes:
    """A reply's header: id, opcode and RD copied (RFC 1035 §4.1.1), all other bits as told."""
    first = FLAG_QR | query[2] & (OPCODE_MASK | FLAG_RD) | flags
    return _REPLY_HEADER.pack(query[0] << 8 | query[1], first, rcode & 0x0F, *counts)


def opt_record(edns: Edns, rcode: int = 0, options: bytes = b"") -> bytes:
    """The OPT record of a reply: our size, version 0, DO echoed (RFC 6891 §6.1.3, RFC 3225 §3)."""
    flags = DNSSEC_OK if edns.dnssec_ok else 0
    return _OPT_RECORD.pack(0, OPT, DNS_UDP_EDNS_BYTES, rcode >> 4, 0, flags, len(options)) + options


def option(code: int, data: bytes) -> bytes:
    """An EDNS option (RFC 6891 §6.1.2)."""
    return _OPTION.pack(code, len(data)) + data


def extended_error(info_code: int) -> bytes:
    """An Extended DNS Error option (RFC 8914 §2)."""
    return option(EDE_OPTION, info_code.to_bytes(2, "big"))
