"""RDATA: which fields a record type has, as a table (RFC 1035 §3.3 and each type's own RFC).

The table serves two readers: validation (does the RDATA have the fields of its type, no more, no
less?) and ready answers (where are the names in it?). Types not in the table are opaque octets
(RFC 3597 §3). A message may compress the names of RFC 1035's own types; names in younger types
must not be sent compressed, but are decompressed where a sender did it (RFC 3597 §4).
"""

from __future__ import annotations

from typing import Final

from aspen.dns.name import read_name
from aspen.errors import DnsWireError

# Fields. A positive number is that many octets.
NAME: Final = -1  # a name that may be sent compressed
PLAIN_NAME: Final = -2  # a name that must be sent whole
STRING: Final = -3  # one character string
STRINGS: Final = -4  # one or more, to the end
REST: Final = -5  # anything to the end
SVC_PARAMS: Final = -6  # RFC 9460 §2.2
OPTIONS: Final = -7  # RFC 6891 §6.1.2

_FORMS: Final[dict[int, tuple[int, ...]]] = {
    1: (4,),  # A
    2: (NAME,),  # NS
    3: (NAME,),  # MD
    4: (NAME,),  # MF
    5: (NAME,),  # CNAME
    6: (NAME, NAME, 20),  # SOA
    7: (NAME,),  # MB
    8: (NAME,),  # MG
    9: (NAME,),  # MR
    11: (5, REST),  # WKS
    12: (NAME,),  # PTR
    13: (STRING, STRING),  # HINFO
    14: (NAME, NAME),  # MINFO
    15: (2, NAME),  # MX
    16: (STRINGS,),  # TXT
    17: (PLAIN_NAME, PLAIN_NAME),  # RP, RFC 1183
    18: (2, PLAIN_NAME),  # AFSDB
    19: (STRING,),  # X25
    20: (STRINGS,),  # ISDN
    21: (2, PLAIN_NAME),  # RT
    24: (18, PLAIN_NAME, REST),  # SIG, RFC 2535
    25: (4, REST),  # KEY
    26: (2, PLAIN_NAME, PLAIN_NAME),  # PX, RFC 2163
    27: (STRING, STRING, STRING),  # GPOS, RFC 1712
    28: (16,),  # AAAA, RFC 3596
    29: (16,),  # LOC, RFC 1876
    30: (PLAIN_NAME, REST),  # NXT
    33: (6, PLAIN_NAME),  # SRV, RFC 2782
    35: (4, STRING, STRING, STRING, PLAIN_NAME),  # NAPTR, RFC 3403
    36: (2, PLAIN_NAME),  # KX, RFC 2230
    37: (5, REST),  # CERT, RFC 4398
    39: (PLAIN_NAME,),  # DNAME, RFC 6672
    41: (OPTIONS,),  # OPT, RFC 6891
    43: (4, REST),  # DS, RFC 4034
    44: (2, REST),  # SSHFP, RFC 4255
    46: (18, PLAIN_NAME, REST),  # RRSIG
    47: (PLAIN_NAME, REST),  # NSEC
    48: (4, REST),  # DNSKEY
    52: (3, REST),  # TLSA, RFC 6698
    53: (3, REST),  # SMIMEA, RFC 8162
    59: (4, REST),  # CDS, RFC 7344
    60: (4, REST),  # CDNSKEY
    64: (2, PLAIN_NAME, SVC_PARAMS),  # SVCB, RFC 9460
    65: (2, PLAIN_NAME, SVC_PARAMS),  # HTTPS
    99: (STRINGS,),  # SPF, RFC 7208
    107: (2, PLAIN_NAME),  # LP, RFC 6742
    256: (4, REST),  # URI, RFC 7553
    257: (1, STRING, REST),  # CAA, RFC 8659
}

_COMPRESSIBLE: Final = frozenset(rrtype for rrtype, form in _FORMS.items() if NAME in form)


def compressible(rrtype: int) -> bool:
    """Whether the RDATA of a type has names that may be sent compressed."""
    return rrtype in _COMPRESSIBLE


def read_rdata(message_untrusted: bytes, rrtype: int, start: int, end: int) -> list[tuple[int, bytes]]:
    """Check the RDATA at `start:end` of a message against its type and split it into fields.

    Returns (kind, octets) pairs, kind being `NAME`, `PLAIN_NAME` (octets are then the whole,
    uncompressed name) or `REST` (octets as they are). Raises `DnsWireError`.
    """
    message = message_untrusted
    form = _FORMS.get(rrtype)
    if form is None:
        return [(REST, message[start:end])]
    fields = []
    offset = start
    for kind in form:
        if kind in (NAME, PLAIN_NAME):
            name, after = read_name(message, offset)
            fields.append((kind, name))
        else:
            after = offset + kind if kind > 0 else _field_end(message, kind, offset, end)
            fields.append((REST, message[offset:after]))
        if after > end:
            raise DnsWireError(f"RDATA of type {rrtype} is too short for its fields")
        offset = after
    if offset != end:
        raise DnsWireError(f"RDATA of type {rrtype} is longer than its fields")
    return fields


def _field_end(message: bytes, kind: int, offset: int, end: int) -> int:
    """Where a field of variable length ends; past `end` when it doesn't fit."""
    if kind == REST:
        return end
    if kind == STRING:
        return offset + 1 + message[offset] if offset < end else end + 1
    if kind == STRINGS:
        if offset == end:
            return end + 1
        while offset < end:
            offset += 1 + message[offset]
        return offset
    previous_key = -1
    while offset < end:  # SVC_PARAMS and OPTIONS: key u16, length u16, value
        if offset + 4 > end:
            return end + 1
        key = message[offset] << 8 | message[offset + 1]
        if kind == SVC_PARAMS and key <= previous_key:
            raise DnsWireError("service parameters out of order")
        previous_key = key
        offset += 4 + (message[offset + 2] << 8 | message[offset + 3])
    return offset
