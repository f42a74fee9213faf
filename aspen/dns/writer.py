"""Replies, put together record by record: name compression and the fit to a size.

Names are written as they are given, case and all. A pointer (RFC 1035 §4.1.4) replaces the longest
end of a name that stands in the message already in the very same octets, so compression never
changes the spelling of a name. Owners may be compressed, in RDATA only the names of RFC 1035's own
types (RFC 3597 §4). An RRset goes in whole or not at all (RFC 2181 §9).
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from aspen.dns.name import HEADER_BYTES
from aspen.dns.rdata import NAME, compressible, read_rdata
from aspen.dns.zone import RRset

_FIXED: Final = struct.Struct(">HHI")  # type, class, TTL
_CLASS_IN: Final = 1
_POINTER: Final = 0xC000
_POINTER_SPAN: Final = 0x4000


class Records(NamedTuple):
    """Records of one owner and type, on their way into a section."""

    owner: bytes
    """Wire name, in the case it is to have."""
    rrtype: int
    ttl: int
    rdatas: tuple[bytes, ...]
    """Uncompressed."""
    rrclass: int = _CLASS_IN


def records_of(owner: bytes, rrtype: int, rrset: RRset) -> Records:
    """An RRset as it goes into a section."""
    return Records(owner, rrtype, rrset.ttl, rrset.rdatas)


class Writer:
    """What stands behind the header of a reply that begins with `question`, at most `limit` octets
    with the header."""

    __slots__ = ("_limit", "_names", "_octets")

    def __init__(self, question: bytes, limit: int) -> None:
        """`question` is one entry of the question section, its name uncompressed; or empty."""
        self._octets = bytearray(question)
        self._limit = limit - HEADER_BYTES
        self._names: dict[bytes, int] = {}
        if question:
            offset = 0
            end = len(question) - 4
            while length := question[offset]:
                self._names[question[offset:end]] = HEADER_BYTES + offset
                offset += 1 + length

    def add(self, records: Records) -> bool:
        """Append records; False, and nothing happened, if they don't fit."""
        octets, start = self._octets, len(self._octets)
        known = len(self._names)
        owner, rrtype, ttl, rdatas, rrclass = records
        fixed = _FIXED.pack(rrtype, rrclass, ttl)
        has_names = compressible(rrtype)
        for rdata in rdatas:
            self._add_name(owner)
            octets += fixed
            if has_names:
                self._add_rdata(rrtype, rdata)
            else:
                octets += len(rdata).to_bytes(2, "big")
                octets += rdata
            if len(octets) > self._limit:
                del octets[start:]
                while len(self._names) > known:
                    self._names.popitem()
                return False
        return True

    def finish(self) -> bytes:
        return bytes(self._octets)

    def _add_rdata(self, rrtype: int, rdata: bytes) -> None:
        octets = self._octets
        at = len(octets)
        octets += b"\x00\x00"
        for kind, field in read_rdata(rdata, rrtype, 0, len(rdata)):
            if kind == NAME:
                self._add_name(field)
            else:
                octets += field
        octets[at : at + 2] = (len(octets) - at - 2).to_bytes(2, "big")

    def _add_name(self, name: bytes) -> None:
        octets, names = self._octets, self._names
        offset = 0
        while length := name[offset]:
            rest = name[offset:]
            at = names.get(rest)
            if at is not None:
                octets += (_POINTER | at).to_bytes(2, "big")
                return
            at = HEADER_BYTES + len(octets)
            if at < _POINTER_SPAN:
                names[rest] = at
            octets += name[offset : offset + 1 + length]
            offset += 1 + length
        octets.append(0)
