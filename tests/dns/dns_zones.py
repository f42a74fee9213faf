"""Zones for tests: from master-file text, read by dnspython."""

from __future__ import annotations

import dns.name
import dns.rdataclass
import dns.tokenizer
import dns.zonefile

from aspen.dns.name import name_from_text
from aspen.dns.zone import MemoryZone, ZoneSettings

SOA_AND_NS = """
@ 3600 SOA ns1 hostmaster 1 7200 900 1209600 300
@ 3600 NS ns1
ns1 3600 A 192.0.2.53
"""


def wire(text: str) -> bytes:
    return name_from_text(text)


def zone_from_text(apex: str, text: str, settings: ZoneSettings | None = None) -> MemoryZone:
    """`text` has no SOA and NS of the apex: `SOA_AND_NS` are added."""
    origin = dns.name.from_text(apex)
    rrsets = dns.zonefile.read_rrsets(
        SOA_AND_NS + text, origin=origin, relativize=False, default_ttl=300, rdclass=dns.rdataclass.IN
    )
    records = [
        (rrset.name.to_wire() or b"", int(rrset.rdtype), int(rrset.ttl), rdata.to_wire() or b"")
        for rrset in rrsets
        for rdata in rrset
    ]
    return MemoryZone(wire(apex), records, settings)
