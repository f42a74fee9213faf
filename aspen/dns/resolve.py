"""Answers gathered from zones and packets: aliases followed through all the data we hold.

RFC 1034 §4.3.2 sends the search back to its start with every CNAME, RFC 6672 §3.2 with every DNAME.
Each round is one `search` in the zone, or one look into the packet, that the name is in now; what is
found goes into the answer section. The rounds end with data, with the SOA of the zone that has
nothing more (RFC 2308), with a referral, at a name that is not ours, at one seen before, or after
`DNS_CNAME_CHAIN` aliases. The response code is that of the last round (RFC 6604 §3).
"""

from __future__ import annotations

import struct
from typing import Final

from aspen.dns.additional import addresses, glue
from aspen.dns.lookup import Found, KeySource, View, find_in_packet, locate
from aspen.dns.members import ServedZone
from aspen.dns.message import read_record
from aspen.dns.name import HEADER_BYTES
from aspen.dns.networks import networks
from aspen.dns.origin import Origin
from aspen.dns.packet_zone import PacketZone
from aspen.dns.rdata import read_rdata
from aspen.dns.ready import Outcome
from aspen.dns.search import Finding, SearchedZone, Verdict, search
from aspen.dns.wire import CNAME, SOA, Rcode
from aspen.dns.writer import Records, records_of
from aspen.dns.zone import Consistency, RRset, negative_ttl
from aspen.limits import DNS_CNAME_CHAIN, DNS_NAME_BYTES

_QUESTION: Final = struct.Struct(">HH")
_STRICTNESS: Final[dict[Consistency, int]] = {"stale": 0, "consistent": 1, "leader": 2}


class Resolution:
    """The sections of a reply."""

    __slots__ = (
        "additional",
        "answer",
        "authoritative",
        "authority",
        "consistency",
        "forbidden",
        "glue",
        "rcode",
        "shared",
    )

    def __init__(self) -> None:
        self.answer: list[Records] = []
        self.authority: list[Records] = []
        self.glue: list[Records] = []
        """Additional records that a referral can't do without."""
        self.additional: list[Records] = []
        self.rcode = Rcode.NOERROR
        self.authoritative = True
        """Whether the first name is answered from our own data (RFC 1034 §4.1.1: AA)."""
        self.forbidden = False
        """The first name's zone is closed to this client."""
        self.consistency: Consistency = "stale"
        """The strictest among the zones that were read."""
        self.shared = True
        """Whether any client would be answered so."""


def resolve(view: View, qname: bytes, qtype: int, client: bytes) -> Resolution:
    """Answer a question for a wire name, as spelled, that is in something of ours."""
    resolver = _Resolver(view, qtype, client)
    resolver.run(qname)
    return resolver.resolution


class _Resolver:
    def __init__(self, view: View, qtype: int, client: bytes) -> None:
        self.resolution = Resolution()
        self._view = view
        self._qtype = qtype
        self._client = client
        self._seen: set[bytes] = set()
        """Names that were looked up, folded."""
        self._said: set[tuple[bytes, int]] = set()
        """Owners and types from zones in the answer section."""
        self._aliases = 0

    def run(self, qname: bytes) -> None:
        name: bytes | None = qname
        while name is not None:
            folded = name.lower()
            if folded in self._seen or self._aliases >= DNS_CNAME_CHAIN:
                return
            self._seen.add(folded)
            source = locate(self._view, folded, self._qtype)
            if source is None:
                return
            if isinstance(source, KeySource):
                name = self._ask_packet(source, name, folded)
            elif self._may_read(source):
                name = self._ask_zone(source, name, folded)
            else:
                return

    def _may_read(self, zone: ServedZone) -> bool:
        """Note what the zone's settings ask of an answer; False if it is closed to the client."""
        resolution, settings = self.resolution, zone.settings
        if _STRICTNESS[settings.consistency] > _STRICTNESS[resolution.consistency]:
            resolution.consistency = settings.consistency
        if not settings.query_acl:
            return True
        resolution.shared = False
        if self._client in networks(settings.query_acl):
            return True
        if not self._aliases:
            resolution.forbidden, resolution.authoritative = True, False
            resolution.rcode = Rcode.REFUSED
        return False

    def _ask_zone(
        self, zone: SearchedZone, name: bytes, folded: bytes, origin: Origin | None = None
    ) -> bytes | None:
        """One round in a zone, or in a packet under its origin; the name to go on with, if there is one."""
        resolution = self.resolution
        finding = search(zone, folded, self._qtype, cuts=origin is None)
        rrset = finding.rrset
        owner = name[finding.owner_offset :]
        if finding.verdict is Verdict.REFERRAL:
            self._refer(zone, owner, finding)
            return None
        if finding.verdict in (Verdict.NODATA, Verdict.NXDOMAIN):
            if origin is not None:
                self._deny(origin.name, origin.soa, name)
            elif (soa := (zone.node(zone.apex) or {}).get(SOA)) is not None:
                self._deny(zone.apex, RRset(negative_ttl(soa), soa.rdatas), name)
            if finding.verdict is Verdict.NXDOMAIN:
                resolution.rcode = Rcode.NXDOMAIN
            return None
        if (folded[finding.owner_offset :], finding.rrtype) not in self._said:  # a DNAME may be met twice
            self._said.add((folded[finding.owner_offset :], finding.rrtype))
            resolution.answer.append(records_of(owner, finding.rrtype, rrset))
        if finding.verdict is Verdict.DATA:
            if origin is None and not self._view.policy.minimal:
                resolution.additional = addresses(zone, owner, finding.rrtype, rrset)
            return None
        self._aliases += 1
        if finding.verdict is Verdict.ALIAS:
            return rrset.rdatas[0]
        target = name[: finding.owner_offset] + rrset.rdatas[0]
        if len(target) > DNS_NAME_BYTES:
            resolution.rcode = Rcode.YXDOMAIN  # RFC 6672 §2.2
            return None
        resolution.answer.append(Records(name, CNAME, rrset.ttl, (target,)))
        return target if self._qtype != CNAME else None  # the CNAME asked for is found

    def _refer(self, zone: SearchedZone, owner: bytes, finding: Finding) -> None:
        resolution = self.resolution
        if not self._aliases:
            resolution.authoritative = False
        resolution.authority.append(records_of(owner, finding.rrtype, finding.rrset))
        resolution.glue, optional = glue(zone, owner.lower(), finding.rrset)
        if not self._view.policy.minimal:
            resolution.additional = optional

    def _deny(self, apex: bytes, soa: RRset, name: bytes) -> None:
        """There is no more: the SOA says so (RFC 2308 §2), its owner in the spelling of the name."""
        owner = name[len(name) - len(apex) :]
        self.resolution.authority.append(records_of(owner, SOA, soa))

    def _ask_packet(self, source: KeySource, name: bytes, folded: bytes) -> bytes | None:
        """One round in a packet; the name to go on with, if it leads out."""
        resolution = self.resolution
        block = self._view.records.packet_answers(source.public_key)
        found = find_in_packet(block, source, folded, self._qtype)
        if found is None:
            assert block is not None  # for the type checker
            return self._ask_zone(PacketZone(block, name[source.key_offset :]), name, folded, source.origin)
        outcome = found.answer.outcome
        last = b""
        for records in expand(found, name):
            resolution.answer.append(records)
            if records.rrtype == CNAME and self._qtype != CNAME:
                self._aliases += 1
                self._seen.add(records.owner.lower())
                (last,) = records.rdatas
        if outcome in (Outcome.NODATA, Outcome.NXDOMAIN):
            self._deny(found.origin.name, found.origin.soa, name)
            if outcome is Outcome.NXDOMAIN:
                resolution.rcode = Rcode.NXDOMAIN
        return last if outcome is Outcome.CNAME else None


def expand(found: Found, name: bytes) -> list[Records]:
    """The records of a ready-made answer for a wire name, uncompressed, RRset by RRset."""
    answer = found.answer
    message = bytes(HEADER_BYTES) + name + _QUESTION.pack(0, 1) + answer.records
    offset = HEADER_BYTES + len(name) + _QUESTION.size
    gathered: dict[tuple[bytes, int], tuple[int, list[bytes]]] = {}
    for _ in range(answer.record_count):
        record = read_record(message, offset)
        offset = record.rdata_end
        fields = read_rdata(message, record.rrtype, record.rdata_start, offset)
        rdata = b"".join(octets for _, octets in fields)
        gathered.setdefault((record.owner, record.rrtype), (record.ttl, []))[1].append(rdata)
    return [
        records_of(owner, rrtype, RRset(ttl, tuple(rdatas)))
        for (owner, rrtype), (ttl, rdatas) in gathered.items()
    ]
