"""A shortcut through the pipeline for names one label below a known one in a zone (pure).

As for names under a key (`fast`), queries of one shape differ in id and first label only, and what
the pipeline would find out about everything above that label is found out once: which zone, that
the name above exists and that no cut and no DNAME stands between it and the apex. What is left for
each query is one look at its own node, and to say what is there, or that nothing is.

Only types without names in their data are answered here (no compression, no additional section),
and only what needs no other name: aliases, delegations and wildcards take the pipeline.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from typing import Final

from aspen.dns.lookup import KeySource, View, locate
from aspen.dns.members import Overlay, ServedZone
from aspen.dns.name import HEADER_BYTES, label_offsets, read_name
from aspen.dns.respond import Transport, size_limit
from aspen.dns.wire import (
    AAAA,
    CLASS_IN,
    CNAME,
    DNAME,
    FLAG_AA,
    NS,
    SOA,
    TXT,
    A,
    Query,
    Rcode,
    opt_record,
    reply_header,
)
from aspen.dns.writer import Writer, records_of
from aspen.dns.zone import MemoryZone, Node, RRset, negative_ttl
from aspen.limits import DNS_LABEL_BYTES, DNS_TCP_MESSAGE_BYTES
from aspen.z32 import KEY_CHARS

_ID_BYTES: Final = 2
_WILDCARD: Final = b"\x01*"
_OWNER: Final = b"\xc0\x0c"  # a pointer to the question's name
_FIXED: Final = struct.Struct(">2sHHI")
_PLAIN_TYPES: Final = frozenset({A, AAAA, TXT, 13, 29, 44, 52, 61, 256, 257})
"""Beside those: HINFO, LOC, SSHFP, TLSA, OPENPGPKEY, URI, CAA."""


class ZonePlan:
    """What all queries have in common that differ in their first label, but not in its length."""

    __slots__ = (
        "_apexes",
        "_has_wildcard",
        "_head",
        "_limit",
        "_names",
        "_no_data",
        "_no_name",
        "_node",
        "_opt",
        "_opt_start",
        "_qtype",
        "_tail",
    )

    def __init__(
        self, query_bytes: bytes, query: Query, view: View, zone: ServedZone, apexes: Collection[bytes]
    ) -> None:
        apex_offset = len(query.name) - len(zone.apex)
        self._qtype = query.qtype
        self._apexes = apexes
        self._opt = opt_record(query.edns) if query.edns is not None else b""
        self._opt_start = query.question_end - len(query_bytes) or None
        self._limit = size_limit(query.edns, Transport.UDP) - _ID_BYTES
        self._has_wildcard = zone.node(_WILDCARD + _parent(query.name)) is not None
        self._node = _node_reader(view, zone)
        additional = 1 if self._opt else 0
        head = reply_header(query_bytes, Rcode.NOERROR, FLAG_AA, (1, 0, 0, additional))[_ID_BYTES:]
        self._head = head[:4], head[6:]
        counts = (1, 0, 1, additional)
        self._no_data = reply_header(query_bytes, Rcode.NOERROR, FLAG_AA, counts)[_ID_BYTES:]
        self._no_name = reply_header(query_bytes, Rcode.NXDOMAIN, FLAG_AA, counts)[_ID_BYTES:]
        self._tail, self._names = self._negative(query, zone, apex_offset)

    def _negative(self, query: Query, zone: ServedZone, apex_offset: int) -> tuple[bytes, set[bytes]]:
        """What follows the question in a negative answer; and the names that it would point to."""
        soa = (zone.node(zone.apex) or {})[SOA]
        # Compressed against a question whose first label is none: nothing points to that.
        length = query.name[0]
        question = bytes((length,)) + b"\xff" * length + _parent(query.name) + bytes(4)
        writer = Writer(question, DNS_TCP_MESSAGE_BYTES)
        owner = question[apex_offset:-4]
        writer.add(records_of(owner, SOA, RRset(negative_ttl(soa), soa.rdatas)))
        names: set[bytes] = set()
        for rdata in soa.rdatas:
            mname, after = read_name(rdata, 0)
            for name in (mname, read_name(rdata, after)[0]):
                names.update(name[offset:].lower() for offset in label_offsets(name))
        return writer.finish()[len(question) :] + self._opt, names

    def answer(self, query: bytes) -> bytes | None:
        """The reply but for its id; None for what the pipeline is to answer."""
        question = query[HEADER_BYTES : self._opt_start]
        owner = question[:-4].lower()
        if owner in self._apexes:
            return None  # a zone of its own
        node = self._node(owner)
        if not node:
            if owner in self._names or (node is None and self._has_wildcard):
                return None
            reply = (self._no_name if node is None else self._no_data) + question + self._tail
        else:
            rrset = node.get(self._qtype)
            if NS in node or (rrset is None and CNAME in node) or owner in self._names:
                return None
            if rrset is None:
                reply = self._no_data + question + self._tail
            else:
                fixed = _FIXED.pack(_OWNER, self._qtype, CLASS_IN, rrset.ttl)
                records = b"".join([fixed + len(rdata).to_bytes(2, "big") + rdata for rdata in rrset.rdatas])
                start, end = self._head
                count = len(rrset.rdatas).to_bytes(2, "big")
                reply = start + count + end + question + records + self._opt
        return reply if len(reply) <= self._limit else None


def make_zone_plan(query_bytes: bytes, query: Query, view: View) -> ZonePlan | None:
    """The plan for queries like this one; None if they are not plain."""
    name = query.name
    parent = _parent(name)
    plain = query.qtype in _PLAIN_TYPES and query.qclass == CLASS_IN
    if not plain or not parent or name[0] in (KEY_CHARS, 0) or name[0] > DNS_LABEL_BYTES:
        return None
    if not query_bytes[HEADER_BYTES + 1 + name[0] :].startswith(parent):
        return None  # spelled in another case than the next one will be
    source = locate(view, name, query.qtype)
    if source is None or isinstance(source, KeySource) or len(source.apex) >= len(name):
        return None
    settings = source.settings
    if settings.consistency != "stale" or settings.query_acl or not _is_open(source, parent):
        return None
    apexes = {*view.origins, *view.zones.apexes()}
    return ZonePlan(query_bytes, query, view, source, apexes)


def _is_open(zone: ServedZone, parent: bytes) -> bool:
    """Whether a name in the zone exists, with neither cut nor DNAME at it or between it and the apex."""
    while True:
        node = zone.node(parent)
        if node is None or DNAME in node:
            return False
        if len(parent) <= len(zone.apex):
            return True
        if NS in node:
            return False
        parent = _parent(parent)


def _node_reader(view: View, zone: ServedZone) -> Callable[[bytes], Node | None]:
    if isinstance(zone, MemoryZone) or (isinstance(zone, Overlay) and isinstance(zone.zone, MemoryZone)):
        return zone.node
    if isinstance(zone, Overlay):
        under, names = _node_reader(view, zone.zone), zone.names

        def read_either(owner: bytes) -> Node | None:
            node = under(owner)
            return node or names.get(owner, node)

        return read_either
    apex, get = zone.apex, view.zones.get

    def read(owner: bytes) -> Node | None:
        now = get(apex)  # a reader sees one moment and must not be kept
        return None if now is None else now.node(owner)

    return read


def _parent(name: bytes) -> bytes:
    return name[1 + name[0] :]
