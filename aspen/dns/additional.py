"""Addresses sent along with names: the additional section (RFC 1034 §4.3.2 step 6, RFC 9471).

A referral's glue is part of the answer: without the addresses of nameservers below the cut, nobody
could follow it, so they come whole or under TC (RFC 9471 §3). All else is a kindness and is left
out when there is no room for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from aspen.dns.name import ROOT, relative_to
from aspen.dns.search import SearchedZone, Verdict, search
from aspen.dns.wire import AAAA, HTTPS, MX, NS, SRV, SVCB, A
from aspen.dns.writer import Records, records_of
from aspen.dns.zone import RRset

_TARGET_AT: Final = {NS: 0, MX: 2, SRV: 6, SVCB: 2, HTTPS: 2}
"""Type → where the name of a host begins in its RDATA (RFC 1035, RFC 2782, RFC 9460 §4.1)."""
_SERVICES: Final = frozenset({SVCB, HTTPS})


def targets(owner: bytes, rrtype: int, rrset: RRset) -> Iterator[bytes]:
    """The hosts that an RRset names, each once, in the spelling of the record."""
    at = _TARGET_AT.get(rrtype)
    if at is None:
        return
    seen = set()
    for rdata in rrset.rdatas:
        if rrtype in _SERVICES:
            end = at
            while rdata[end]:
                end += 1 + rdata[end]
            host = rdata[at : end + 1]
            if host == ROOT and rdata[:2] != b"\x00\x00":
                host = owner  # service mode: the owner itself, RFC 9460 §2.5.2
        else:
            host = rdata[at:]
        if host != ROOT and host.lower() not in seen:
            seen.add(host.lower())
            yield host


def glue(zone: SearchedZone, cut: bytes, servers: RRset) -> tuple[list[Records], list[Records]]:
    """Addresses that the zone has for a referral to `cut` (folded): of nameservers at or below the cut,
    which must be sent, and of others, which may be."""
    needed: list[Records] = []
    optional: list[Records] = []
    for host in targets(cut, NS, servers):
        folded = host.lower()
        into = optional if relative_to(folded, cut) is None else needed
        into.extend(_addresses_at(zone, host, folded))
    return needed, optional


def addresses(zone: SearchedZone, owner: bytes, rrtype: int, rrset: RRset) -> list[Records]:
    """What the zone has of the hosts that an answer names: addresses, and for SVCB and HTTPS records
    more of their kind (RFC 9460 §4.1)."""
    found: list[Records] = []
    wanted = (A, AAAA, rrtype) if rrtype in _SERVICES else (A, AAAA)
    for host in targets(owner, rrtype, rrset):
        folded = host.lower()
        found.extend(_addresses_at(zone, host, folded, wanted if folded != owner.lower() else (A, AAAA)))
    return found


def _addresses_at(
    zone: SearchedZone, host: bytes, folded: bytes, wanted: tuple[int, ...] = (A, AAAA)
) -> Iterator[Records]:
    if relative_to(folded, zone.apex) is None:
        return
    node = zone.node(folded)
    for rrtype in wanted:
        if node is not None:
            rrset = node.get(rrtype)
            if rrset is not None:
                yield records_of(host, rrtype, rrset)
        else:
            finding = search(zone, folded, rrtype)
            if finding.verdict is Verdict.DATA:
                yield records_of(host, rrtype, finding.rrset)
