"""What one zone says of a name: the algorithm of RFC 1034 §4.3.2 with the wildcards of RFC 4592.

From the apex down, label by label: a zone cut ends the search with a referral (RFC 1034 §4.3.2 3b),
a DNAME above the name with a new name (RFC 6672 §3.2), a name that does not exist with the wildcard of
its closest encloser or with NXDOMAIN (RFC 4592 §3.3). Empty non-terminals exist, so they are
closest enclosers and block wildcards above them (RFC 4592 §2.2).
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple, Protocol

from aspen.dns.name import ROOT, label_offsets
from aspen.dns.wire import ANY, CNAME, DNAME, DS, NS
from aspen.dns.zone import Node, RRset

_WILDCARD: Final = b"\x01*"
# May stand beside a CNAME (RFC 4035 §2.5), so a question for them is about the alias itself.
_BESIDE_CNAME: Final = frozenset({46, 47})  # RRSIG, NSEC


class SearchedZone(Protocol):
    """What a search needs of a zone (`ZoneReader` is one)."""

    @property
    def apex(self) -> bytes: ...

    def node(self, owner: bytes) -> Node | None: ...


class Verdict(Enum):
    """How a search in one zone ended."""

    DATA = 1
    """The RRset asked for."""
    ALIAS = 2
    """A CNAME instead of it."""
    REDIRECT = 3
    """A DNAME above the name."""
    REFERRAL = 4
    """A zone cut above the name, or at it."""
    NODATA = 5
    """The name exists, the type doesn't."""
    NXDOMAIN = 6


class Finding(NamedTuple):
    """The end of a search. `rrtype` and `rrset` mean nothing for NODATA and NXDOMAIN."""

    verdict: Verdict
    owner_offset: int = 0
    """Where the RRset's owner begins in the name searched: 0, but for a DNAME or a cut above it.
    A wildcard's RRset is at 0: its owner becomes the name asked for (RFC 4592 §3.3.1)."""
    rrtype: int = 0
    rrset: RRset = RRset(0, ())


_NODATA: Final = Finding(Verdict.NODATA)
_NXDOMAIN: Final = Finding(Verdict.NXDOMAIN)


def search(zone: SearchedZone, name: bytes, qtype: int, *, cuts: bool = True) -> Finding:
    """Look a folded wire name up in the zone that it is in. Without `cuts`, NS below the apex are data
    like any other."""
    apex_offset = len(name) - len(zone.apex)
    node: Node = {}
    encloser = zone.apex
    for offset in reversed(label_offsets(name)):
        if offset > apex_offset:
            continue
        owner = name[offset:]
        below = zone.node(owner)
        if below is None:
            return _synthesize(zone, encloser, qtype)
        node, encloser = below, owner
        # The parent answers for DS at the cut, and for nothing else (RFC 4035 §3.1.4.1).
        if cuts and NS in node and offset != apex_offset and (offset or qtype != DS):
            return Finding(Verdict.REFERRAL, offset, NS, node[NS])
        if offset and DNAME in node:
            return Finding(Verdict.REDIRECT, offset, DNAME, node[DNAME])
    return _match(node, qtype)


def _synthesize(zone: SearchedZone, encloser: bytes, qtype: int) -> Finding:
    """The answer for a name that does not exist: from its source of synthesis, if there is one."""
    source = zone.node(_WILDCARD + encloser)
    return _NXDOMAIN if source is None else _match(source, qtype)


def _match(node: Node, qtype: int) -> Finding:
    rrset = node.get(qtype)
    if rrset is not None:
        return Finding(Verdict.DATA, 0, qtype, rrset)
    if not node:
        return _NODATA
    if qtype == ANY:  # one RRset, RFC 8482 §4.1
        lowest = min(node)
        return Finding(Verdict.DATA, 0, lowest, node[lowest])
    alias = node.get(CNAME)
    if alias is None or qtype in _BESIDE_CNAME:
        return _NODATA
    return Finding(Verdict.ALIAS, 0, CNAME, alias)


def parent_of(name: bytes) -> bytes:
    """The name without its first label; the root is its own parent."""
    return name[1 + name[0] :] if name != ROOT else name
