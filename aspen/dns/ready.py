"""Ready-made answers: everything DNS can ask of one packet, rendered when the packet is stored.

A packet is written once and asked for a million times, so the work is done at the write. The
answers are one block of bytes that a query searches with a single `bytes.find`::

    version u8 ‖ mark (2) ‖ index ‖ bodies
    index entry: mark (2) ‖ length of owner u8 ‖ owner ‖ type u16 ‖
                 count u16 ‖ outcome u8 ‖ start u16 ‖ end u16

`owner` is the relative name under the packet's key, folded. `start:end` are the octets of `count`
whole resource records, ready to follow the question. Beside an entry for each CutRRset, each name
that exists (the apex and empty non-terminals among them) has an entry of type 0, which says what
to answer for types the name has not: nothing (NODATA), or its CNAME, followed as far as this
packet knows (RFC 1034 §3.6.2, §4.3.2; the outcome is that of the chain's end, RFC 6604 §3). A name
without entries does not exist. `mark` is a pair of octets found nowhere in the block except where
entries begin, so a match is always an entry: the length octet then fixes the owner's extent.

An answer follows a question for the very name, at offset 12. So an owner is the pointer C00C, and
a name in RDATA under the key's own top-level label ends in a pointer to that label inside the
question: whichever origin was asked, the name is under it, in the asker's case. That holds for
the types whose names may be compressed (RFC 3597 §4). A packet with such a name in another type is
not told in advance, but kept as a small zone (`packet_zone`).
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator, Mapping
from enum import IntEnum
from typing import Final, NamedTuple

from aspen.dns.name import HEADER_BYTES, parents, relative_to
from aspen.dns.rdata import NAME
from aspen.limits import DNS_CNAME_CHAIN, DNS_LABEL_BYTES, DNS_NAME_BYTES, DNS_ORIGIN_BYTES, DNS_READY_BYTES

READY_VERSION: Final = 1
MARK_OFFSET: Final = 1
INDEX_OFFSET: Final = 3
DEFAULT_MARK: Final = b"\xff\xfe"
ENTRY: Final = struct.Struct(">HBHH")  # count, outcome, start, end: what follows an entry's type
DEFAULT_TYPE: Final = b"\x00\x00"  # RFC 6895 §3.1: type 0 is reserved, so no record has it

_CNAME: Final = 5
_OPT: Final = 41
_CLASS_IN: Final = 1
_META_TYPES: Final = range(128, 256)  # QTYPEs and meta types, RFC 6895 §3.1: never data
_RR_FIXED: Final = struct.Struct(">HHI")
_OWNER: Final = b"\xc0\x0c"  # a pointer to the question's name
_POINTER: Final = 0xC000
# A longer relative name in RDATA could pass 255 octets under the longest origin; it stands as signed.
_RELATIVE_BYTES: Final = DNS_NAME_BYTES - (1 + DNS_LABEL_BYTES) - DNS_ORIGIN_BYTES


class Outcome(IntEnum):
    """What a lookup found (RFC 1034 §4.3.2, RFC 2308 §2)."""

    SUCCESS = 0
    CNAME = 1
    """An alias whose target's data isn't held here: the answer ends with the CNAME."""
    DELEGATION = 2
    NODATA = 3
    """The name exists, the type doesn't."""
    NXDOMAIN = 4
    REFUSED = 5
    """The name is in no zone of ours."""


Rdata = tuple[bytes, ...]
"""RDATA cut at the places where the name of the zone belongs: joined by a pointer, it is whole."""


class CutRRset(NamedTuple):
    ttl: int
    rdatas: list[Rdata]


Names = Mapping[bytes, Mapping[int, CutRRset]]
"""Relative owner → type → CutRRset."""


class ReadyAnswer(NamedTuple):
    outcome: Outcome
    record_count: int
    """Resource records in `records`, which are the answer section."""
    records: bytes


NO_SUCH_NAME: Final = ReadyAnswer(Outcome.NXDOMAIN, 0, b"")


def is_data_type(rrtype: int) -> bool:
    """Whether a record of this type is data, not a question's or a message's own type."""
    return rrtype not in _META_TYPES and rrtype != _OPT and rrtype != 0


def cut_rdata(fields: list[tuple[int, bytes]], zone: bytes, *, kinds: Container[int] = (NAME,)) -> Rdata:
    """Cut RDATA fields wherever a name ends in `zone` (a folded wire name); by default, only names that
    may be compressed."""
    pieces = []
    piece = b""
    for kind, octets in fields:
        if kind in kinds:
            relative = relative_to(octets.lower(), zone)
            if relative is not None and len(relative) <= _RELATIVE_BYTES:
                pieces.append(piece + octets[: len(relative)])
                piece = b""
                continue
        piece += octets
    pieces.append(piece)
    return tuple(pieces)


def add_record(
    names: dict[bytes, dict[int, CutRRset]], owner: bytes, rrtype: int, ttl: int, rdata: Rdata
) -> None:
    """Add one record: duplicates fall away and an CutRRset has one TTL, its lowest (RFC 2181 §5)."""
    rrsets = names.setdefault(owner, {})
    rrset = rrsets.get(rrtype)
    if rrset is None:
        rrsets[rrtype] = CutRRset(ttl, [rdata])
        return
    if rdata not in rrset.rdatas and rrtype != _CNAME:  # one CNAME a name (RFC 2181 §10.1): the first
        rrset.rdatas.append(rdata)
    if ttl < rrset.ttl:
        rrsets[rrtype] = CutRRset(ttl, rrset.rdatas)


def pack_answers(names: Names) -> bytes:
    """Render RRsets into a block of ready-made answers.

    RRsets that would take the block past `DNS_READY_BYTES` are left out.
    """
    packer = _Packer()
    for owner in sorted(names):
        pointer = _zone_pointer(owner)
        for rrtype, rrset in sorted(names[owner].items()):
            records = _render(_OWNER, rrtype, rrset, pointer)
            packer.add(owner, rrtype, Outcome.SUCCESS, len(rrset.rdatas), records)
    existing = set(names)
    for owner in tuple(existing):
        existing.update(parents(owner))
    for owner in sorted(existing):
        if _CNAME in names.get(owner, ()):
            _pack_chain(packer, names, existing, owner)
        else:
            packer.add(owner, 0, Outcome.NODATA, 0, b"")
    return packer.finish()


def _pack_chain(packer: _Packer, names: Names, existing: set[bytes], alias: bytes) -> None:
    """Entries of a name with a CNAME: for each type at the end of its chain, and for all others."""
    pointer = _zone_pointer(alias)
    chain, owner, count = b"", _OWNER, 0
    seen = {alias}
    name = alias
    while True:
        rrset = names[name][_CNAME]
        chain += _render(owner, _CNAME, rrset, pointer)
        count += 1
        pieces = rrset.rdatas[0]
        if len(pieces) != 2 or count == DNS_CNAME_CHAIN:  # the target is not under this key
            packer.add(alias, 0, Outcome.CNAME, count, chain)
            return
        owner = pieces[0] + pointer
        name = pieces[0].lower()
        if name in seen:
            packer.add(alias, 0, Outcome.CNAME, count, chain)
            return
        seen.add(name)
        if _CNAME not in names.get(name, ()):
            break
    packer.add(alias, 0, Outcome.NODATA if name in existing else Outcome.NXDOMAIN, count, chain)
    rrsets = names.get(name, {})
    for rrtype, rrset in sorted(rrsets.items()):
        if rrtype not in names[alias]:
            records = chain + _render(owner, rrtype, rrset, pointer)
            packer.add(alias, rrtype, Outcome.SUCCESS, count + len(rrset.rdatas), records)


def _zone_pointer(owner: bytes) -> bytes:
    """A pointer to the zone's name inside a question for `owner`."""
    return (_POINTER | HEADER_BYTES + len(owner)).to_bytes(2, "big")


def _render(owner: bytes, rrtype: int, rrset: CutRRset, pointer: bytes) -> bytes:
    fixed = owner + _RR_FIXED.pack(rrtype, _CLASS_IN, rrset.ttl)
    records = b""
    for pieces in rrset.rdatas:
        rdata = pointer.join(pieces)
        records += fixed + len(rdata).to_bytes(2, "big") + rdata
    return records


class _Packer:
    """Gathers entries and bodies; `finish` chooses the mark and joins them."""

    def __init__(self) -> None:
        self._entries: list[tuple[bytes, int, Outcome, int, bytes]] = []
        self._bytes = INDEX_OFFSET

    def add(self, owner: bytes, rrtype: int, outcome: Outcome, count: int, records: bytes) -> None:
        key = bytes((len(owner),)) + owner + rrtype.to_bytes(2, "big")
        size = len(DEFAULT_MARK) + len(key) + ENTRY.size + len(records)
        if self._bytes + size <= DNS_READY_BYTES:
            self._bytes += size
            self._entries.append((key, count, outcome, len(records), records))

    def finish(self) -> bytes:
        entries = self._entries
        start = INDEX_OFFSET + sum(len(DEFAULT_MARK) + len(entry[0]) + ENTRY.size for entry in entries)
        pieces = []
        for key, count, outcome, size, _ in entries:
            pieces.append(key + ENTRY.pack(count, outcome, start, start + size))
            start += size
        bodies = b"".join(entry[4] for entry in entries)
        for mark in _marks():
            block = b"".join([mark + piece for piece in pieces]) + bodies
            if block.count(mark) == len(pieces):
                break
        return bytes((READY_VERSION,)) + mark + block


def _marks() -> Iterator[bytes]:
    """Pairs of different octets (they can't overlap themselves), the likeliest to be free first."""
    for first in range(255, -1, -1):
        for second in range(255, -1, -1):
            if first != second:
                yield bytes((first, second))


def find_answer(answers: bytes, owner: bytes, rrtype: int) -> ReadyAnswer:
    """What a packet's ready-made answers say of a relative name (folded) and type."""
    name = answers[MARK_OFFSET:INDEX_OFFSET] + bytes((len(owner),)) + owner
    at = answers.find(name + rrtype.to_bytes(2, "big"), INDEX_OFFSET)
    if at < 0:
        at = answers.find(name + DEFAULT_TYPE, INDEX_OFFSET)
        if at < 0:
            return NO_SUCH_NAME
    return _entry_at(answers, at + len(name) + 2)


def find_any(answers: bytes, owner: bytes) -> ReadyAnswer:
    """One CutRRset of a name, for QTYPE ANY (RFC 8482 §4.1): the lowest type, its CNAME if it has one."""
    name = answers[MARK_OFFSET:INDEX_OFFSET] + bytes((len(owner),)) + owner
    # Entries of a name's own RRsets stand before its entry of type 0, and that before its chains'.
    at = answers.find(name, INDEX_OFFSET)
    return NO_SUCH_NAME if at < 0 else _entry_at(answers, at + len(name) + 2)


def _entry_at(answers: bytes, offset: int) -> ReadyAnswer:
    count, outcome, start, end = ENTRY.unpack_from(answers, offset)
    return ReadyAnswer(Outcome(outcome), count, answers[start:end])
