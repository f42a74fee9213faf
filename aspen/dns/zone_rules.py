"""What may stand in an authored zone: the rules that a record or a name must keep to be stored.

Checked when a zone is written, in the state machine, so that no zone with a contradiction in it is
ever served: RDATA of its type's form (RFC 1035 §3.3), owners inside the zone, an alias alone at its
name (RFC 1034 §3.6.2, RFC 2181 §10.1), nothing below a DNAME (RFC 6672 §2.3, §2.4), one SOA and at
least one NS at the apex (RFC 1034 §4.2.1, RFC 2181 §6.1), targets that are names and not addresses.
Pure and deterministic.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final, NamedTuple

from aspen.dns.name import label_offsets, name_to_text, relative_to
from aspen.dns.rdata import read_rdata
from aspen.dns.zone import Node, RRset
from aspen.errors import DnsWireError, ZoneRuleError
from aspen.limits import DNS_LABEL_BYTES, DNS_NAME_BYTES, TTL_MAX_S, ZONE_NAME_BYTES, ZONE_RRSET_BYTES

NS: Final = 2
CNAME: Final = 5
SOA: Final = 6
DNAME: Final = 39

_META_TYPES: Final = range(128, 256)  # RFC 6895 §3.1: questions, never data
_OPT: Final = 41
_BESIDE_CNAME: Final = frozenset({CNAME, 25, 46, 47})  # KEY, RRSIG, NSEC: RFC 2181 §10.1, RFC 4034
_TARGETS: Final[Mapping[int, tuple[str, int]]] = {2: ("NS", 0), 15: ("MX", 2), 33: ("SRV", 6)}
"""Type → its name, and where in the RDATA the name of a host begins."""
_RECORD_BYTES: Final = 12  # of a record beside its RDATA, the owner being a pointer


class ZoneRecord(NamedTuple):
    """One record of a zone. In commands it stands as an array of these."""

    owner: bytes
    """Wire name, folded."""
    rrtype: int
    ttl: int
    rdata: bytes
    """Uncompressed."""


def check_apex(apex: bytes) -> None:
    """Raises `ZoneRuleError` for bytes that can't be the name of a zone."""
    _check_name(apex, "the zone's name")


def check_record(record: ZoneRecord, apex: bytes) -> None:
    """Check one record by itself. Raises `ZoneRuleError`."""
    owner, rrtype, ttl, rdata = record
    _check_name(owner, "the owner")
    if relative_to(owner, apex) is None:
        raise ZoneRuleError(
            "out-of-zone", f"the owner {name_to_text(owner)} is not in the zone {name_to_text(apex)}"
        )
    if not is_data_type(rrtype):
        raise ZoneRuleError("type", f"type {rrtype} is no type of data (RFC 6895 §3.1)")
    if not 0 <= ttl <= TTL_MAX_S:
        raise ZoneRuleError("ttl", f"a TTL is 0 to {TTL_MAX_S} seconds (RFC 2181 §8), not {ttl}")
    try:
        fields = read_rdata(rdata, rrtype, 0, len(rdata))
        whole = b"".join(octets for _, octets in fields)
    except DnsWireError as error:
        raise ZoneRuleError("rdata", str(error)) from None
    if whole != rdata:
        raise ZoneRuleError("rdata", "a name in the RDATA is compressed")
    if rrtype in _TARGETS:
        _check_target(rrtype, rdata, apex)
    if rrtype == SOA and owner != apex:
        raise ZoneRuleError("soa", "an SOA stands at the apex of its zone only (RFC 1035 §3.3.13)")
    if rrtype == CNAME and owner == apex:
        raise ZoneRuleError(
            "cname-at-apex", "the apex has SOA and NS, so it can't be an alias (RFC 1912 §2.4)"
        )


def is_data_type(rrtype: int) -> bool:
    return 0 < rrtype < 65_536 and rrtype not in _META_TYPES and rrtype != _OPT


def check_node(owner: bytes, node: Node, apex: bytes, *, complete: bool = True) -> None:
    """Check the RRsets of one name together. Raises `ZoneRuleError`.

    Without `complete`, more is still to come: the apex may lack SOA and NS.
    """
    if CNAME in node:
        others = sorted(set(node) - _BESIDE_CNAME)
        if others:
            raise ZoneRuleError(
                "cname-alone", f"{name_to_text(owner)} is an alias, which has no other data (RFC 1034 §3.6.2)"
            )
    for single, name in ((CNAME, "CNAME"), (SOA, "SOA"), (DNAME, "DNAME")):
        if single in node and len(node[single].rdatas) > 1:
            raise ZoneRuleError(
                f"one-{name.lower()}", f"{name_to_text(owner)} has {len(node[single].rdatas)} {name} records"
            )
    if DNAME in node and NS in node and owner != apex:
        raise ZoneRuleError("dname-and-ns", f"{name_to_text(owner)} has both DNAME and NS (RFC 6672 §2.3)")
    for rrtype, rrset in node.items():
        size = rrset_bytes(rrset)
        if size > ZONE_RRSET_BYTES:
            raise ZoneRuleError(
                "rrset-size",
                f"the RRset of type {rrtype} at {name_to_text(owner)} takes {size} bytes; "
                f"at most {ZONE_RRSET_BYTES} fit into an answer",
            )
    if owner == apex and complete:
        _check_apex_node(node, apex)


def rrset_bytes(rrset: RRset) -> int:
    """What an RRset takes in a message."""
    return sum(_RECORD_BYTES + len(rdata) for rdata in rrset.rdatas)


def dname_above(owner: bytes, dname_owner: bytes) -> ZoneRuleError:
    """The error for a name under one that has a DNAME."""
    return ZoneRuleError(
        "below-dname",
        f"{name_to_text(owner)} lies below {name_to_text(dname_owner)}, which has a DNAME (RFC 6672 §2.4)",
    )


def _check_apex_node(node: Node, apex: bytes) -> None:
    if SOA not in node:
        raise ZoneRuleError("soa", f"the zone {name_to_text(apex)} has no SOA at its apex")
    if NS not in node:
        raise ZoneRuleError("ns", f"the zone {name_to_text(apex)} has no NS at its apex (RFC 1034 §4.2.1)")


def _check_name(name: bytes, what: str) -> None:
    """A folded, uncompressed wire name and nothing after it."""
    offset, size = 0, len(name)
    while offset < size and 0 < name[offset] <= DNS_LABEL_BYTES:
        offset += 1 + name[offset]
    if offset != size - 1 or name[offset]:
        raise ZoneRuleError("name", f"{what} is not a domain name")
    if size > DNS_NAME_BYTES:
        raise ZoneRuleError("name", f"{what} is longer than {ZONE_NAME_BYTES} characters")
    if name != name.lower():
        raise ZoneRuleError("name", f"{what} is not in lower case")


def _check_target(rrtype: int, rdata: bytes, apex: bytes) -> None:
    """A host is named, not numbered: `MX 10 192.0.2.1` looks for a host of that *name*."""
    kind, start = _TARGETS[rrtype]
    target = rdata[start:]
    labels = _labels(target)
    first_four = b".".join(labels[:4]).decode("latin-1")
    rest = target[sum(1 + len(label) for label in labels[:4]) :].lower()
    address = ""
    if len(labels) >= 4 and (rest in (b"\x00", apex)) and _is_address(first_four):
        address = first_four
    elif labels and b":" in labels[0] and _is_address(labels[0].decode("latin-1")):
        address = labels[0].decode("latin-1")
    if address:
        raise ZoneRuleError(
            "target-address",
            f"the target of {kind} is the address {address}; it must be the name of a host "
            f"that has A or AAAA records",
        )


def _labels(name: bytes) -> list[bytes]:
    return [name[at + 1 : at + 1 + name[at]] for at in label_offsets(name)[:-1]]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
