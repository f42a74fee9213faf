"""What DNS keeps of a packet: ready-made answers, or a small zone that is searched at each question.

Ready answers (`ready`) fit a packet whose every name can be told in advance. Three things can't: a
wildcard (RFC 4592), a DNAME (RFC 6672), and a name under the key's own top level in RDATA that must not be
compressed (RFC 3597 §4; SRV, SVCB, HTTPS and others), which differs from origin to origin. A packet with
one of these is kept as its records, names cut where the zone's own belongs::

    version u8 ‖ records
    record: length of owner u8 ‖ owner ‖ type u16 ‖ TTL u32 ‖ pieces u8 ‖ pieces
    piece: length u16 ‖ octets
"""

from __future__ import annotations

import struct
from typing import Final

from aspen.dns.message import read_record, section_counts, skip_questions
from aspen.dns.name import parents, relative_to
from aspen.dns.rdata import NAME, PLAIN_NAME, read_rdata
from aspen.dns.ready import CutRRset, Names, Rdata, add_record, cut_rdata, is_data_type, pack_answers
from aspen.dns.wire import CLASS_IN, DNAME
from aspen.dns.zone import Node, RRset
from aspen.limits import DNS_READY_BYTES

ZONE_VERSION: Final = 2
_FIXED: Final = struct.Struct(">HIB")
_LENGTH: Final = struct.Struct(">H")
_TTL_SIGN: Final = 1 << 31
_SIGNED_TYPES: Final = frozenset({24, 30, 46, 47})  # SIG, NXT, RRSIG, NSEC: their names stand as signed


def build_ready_answers(message: bytes, zone_label: bytes, *, expired_ms: int = 0) -> bytes:
    """The answers in a packet's DNS message; total for any message that `validate_message` passed.

    `zone_label` is the key's z-base-32 label, folded. Taken are records of class IN in the answer
    section under names that end in that label; deterministic, for it runs in the state machine.
    A packet that can't be told in advance is kept as a zone. Records whose TTL is shorter than
    `expired_ms` are left out.
    """
    names, moved = _read_names(message, bytes((len(zone_label),)) + zone_label + b"\x00", expired_ms)
    return pack_zone(names) if moved or _has_patterns(names) else pack_answers(names)


def _read_names(message: bytes, zone: bytes, expired_ms: int) -> tuple[Names, bool]:
    """A packet's records; and whether RDATA was cut at a name that must not be compressed."""
    names: dict[bytes, dict[int, CutRRset]] = {}
    moved = False
    questions, count, _, _ = section_counts(message)
    offset = skip_questions(message, questions)
    for _ in range(count):
        record = read_record(message, offset)
        offset = record.rdata_end
        owner = relative_to(record.owner.lower(), zone)
        rrtype = record.rrtype
        if owner is None or record.rrclass != CLASS_IN or not is_data_type(rrtype):
            continue
        ttl = 0 if record.ttl & _TTL_SIGN else record.ttl  # RFC 2181 §8
        if ttl * 1_000 < expired_ms:
            continue
        fields = read_rdata(message, rrtype, record.rdata_start, offset)
        rdata = cut_rdata(fields, zone)
        if rrtype not in _SIGNED_TYPES:
            whole = cut_rdata(fields, zone, kinds=(NAME, PLAIN_NAME))
            moved |= whole != rdata
            rdata = whole
        add_record(names, owner, rrtype, ttl, rdata)
    return names, moved


def _has_patterns(names: Names) -> bool:
    """Whether some records answer for names that aren't there."""
    return any(owner.startswith(b"\x01*") or DNAME in rrsets for owner, rrsets in names.items())


def pack_zone(names: Names) -> bytes:
    """The records as a block. Those that would take it past `DNS_READY_BYTES` are left out."""
    block = bytes((ZONE_VERSION,))
    for owner, rrsets in sorted(names.items()):
        for rrtype, rrset in sorted(rrsets.items()):
            head = bytes((len(owner),)) + owner
            for pieces in rrset.rdatas:
                record = head + _FIXED.pack(rrtype, rrset.ttl, len(pieces))
                record += b"".join(_LENGTH.pack(len(piece)) + piece for piece in pieces)
                if len(block) + len(record) <= DNS_READY_BYTES:
                    block += record
    return block


class PacketZone:
    """A packet as a zone (`SearchedZone`) under one origin. It has no SOA and no cuts of its own."""

    __slots__ = ("_nodes", "apex")

    def __init__(self, block: bytes, apex: bytes) -> None:
        """`apex` is the key's name, in the spelling that names in RDATA are to have."""
        self.apex = folded = apex.lower()
        self._nodes: dict[bytes, dict[int, RRset]] = {folded: {}}
        offset = 1
        while offset < len(block):
            start = offset + 1
            offset = start + block[offset]
            owner = block[start:offset]
            rrtype, ttl, count = _FIXED.unpack_from(block, offset)
            pieces, offset = _read_pieces(block, offset + _FIXED.size, count)
            node = self._nodes.setdefault(owner + folded, {})
            known = node[rrtype].rdatas if rrtype in node else ()
            node[rrtype] = RRset(ttl, (*known, apex.join(pieces)))
            for above in parents(owner):
                self._nodes.setdefault(above + folded, {})

    def node(self, owner: bytes) -> Node | None:
        return self._nodes.get(owner)


def _read_pieces(block: bytes, offset: int, count: int) -> tuple[Rdata, int]:
    pieces = []
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(block, offset)
        offset += _LENGTH.size + length
        pieces.append(block[offset - length : offset])
    return tuple(pieces), offset
