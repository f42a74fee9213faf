"""Dynamic updates (RFC 2136) as they come: an UPDATE message read into one replicated command.

The message is that of a query with its sections renamed: zone, prerequisites, changes, additional
data. What the class, TTL and RDATA of a record say there is a table (§2.4, §2.5). All that can be
judged without the zone is judged here (§3.1.1, §3.2.4's FORMERR, §3.4.1's prescan); the rest is
judged in the log's order, with the zone as it is then, prerequisites and changes in one (`ZoneUpdate`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from aspen.dns.message import RecordView, read_record, section_counts
from aspen.dns.name import HEADER_BYTES, read_name, relative_to
from aspen.dns.rdata import read_rdata
from aspen.dns.wire import ANY, CLASS_ANY, CLASS_IN, CLASS_NONE, DNSSEC_OK, OPT, SOA, Edns, Rcode
from aspen.errors import DnsWireError
from aspen.state.zone_commands import Change, ChangeKind, Prerequisite, PrerequisiteKind, ZoneUpdate

_META_TYPES: Final = range(128, 256)  # RFC 6895 §3.1
_QUESTION_FIXED_BYTES: Final = 4
_PREREQUISITES: Final = {
    CLASS_ANY: (PrerequisiteKind.NAME_IN_USE, PrerequisiteKind.RRSET_EXISTS),
    CLASS_NONE: (PrerequisiteKind.NAME_NOT_IN_USE, PrerequisiteKind.RRSET_ABSENT),
}


class UpdateZone(NamedTuple):
    """The zone section of an UPDATE message."""

    apex: bytes
    """Folded wire name."""
    zclass: int
    end: int
    """The section, as the client spelled it, is `message[HEADER_BYTES:end]`."""
    edns: Edns | None


def parse_update_zone(message_untrusted: bytes) -> UpdateZone:
    """Read the zone section (RFC 2136 §3.1.1), and look for the OPT record of the additional one.

    Raises `DnsWireError` carrying FORMERR.
    """
    message = message_untrusted
    zones, prerequisites, changes, additional = section_counts(message)
    if zones != 1:
        raise DnsWireError("an update names one zone")
    name, offset = read_name(message, HEADER_BYTES)
    end = offset + _QUESTION_FIXED_BYTES
    if end > len(message):
        raise DnsWireError("the zone section runs past the end of the message")
    ztype, zclass = message[offset] << 8 | message[offset + 1], message[offset + 2] << 8 | message[offset + 3]
    if ztype != SOA:
        raise DnsWireError("the type in the zone section is SOA")
    offset, edns = end, None
    plain = prerequisites + changes
    for index in range(plain + additional):
        record = read_record(message, offset)
        offset = record.rdata_end
        if index >= plain and record.rrtype == OPT:
            if edns is not None:
                raise DnsWireError("two OPT records")
            edns = Edns(record.rrclass, record.ttl >> 16 & 0xFF, bool(record.ttl & DNSSEC_OK))
    if offset != len(message):
        raise DnsWireError("bytes after the end of the message")
    return UpdateZone(name.lower(), zclass, end, edns)


def parse_update(message_untrusted: bytes, zone: UpdateZone) -> ZoneUpdate:
    """Read prerequisites and changes. Raises `DnsWireError` carrying FORMERR or NOTZONE."""
    message = message_untrusted
    _, prerequisites, changes, _ = section_counts(message)
    offset = zone.end
    wanted: list[Prerequisite] = []
    valued: dict[tuple[bytes, int], list[bytes]] = {}
    for _ in range(prerequisites):
        record = read_record(message, offset)
        offset = record.rdata_end
        owner = _owner(record, zone)
        if record.ttl:
            raise DnsWireError("a prerequisite has no TTL")
        if record.rrclass == CLASS_IN:
            _check_data_type(record.rrtype)
            valued.setdefault((owner, record.rrtype), []).append(_rdata(message, record))
        else:
            wanted.append(_prerequisite(record, owner))
    wanted += (
        Prerequisite(PrerequisiteKind.RRSET_IS, owner, rrtype, tuple(rdatas))
        for (owner, rrtype), rdatas in valued.items()
    )
    made: list[Change] = []
    for _ in range(changes):
        record = read_record(message, offset)
        offset = record.rdata_end
        made.append(_change(message, record, _owner(record, zone)))
    return ZoneUpdate(zone.apex, tuple(wanted), tuple(made))


def _prerequisite(record: RecordView, owner: bytes) -> Prerequisite:
    """RFC 2136 §2.4.1, §2.4.3 to §2.4.5."""
    if record.rdata_end != record.rdata_start:
        raise DnsWireError("a prerequisite of this class has no RDATA")
    kinds = _PREREQUISITES.get(record.rrclass)
    if kinds is None:
        raise DnsWireError(f"class {record.rrclass} in a prerequisite")
    of_name, of_rrset = kinds
    if record.rrtype == ANY:
        return Prerequisite(of_name, owner)
    _check_data_type(record.rrtype)
    return Prerequisite(of_rrset, owner, record.rrtype)


def _change(message: bytes, record: RecordView, owner: bytes) -> Change:
    """RFC 2136 §2.5, §3.4.1.3."""
    rrtype = record.rrtype
    if record.rrclass == CLASS_IN:
        _check_data_type(rrtype)
        return Change(ChangeKind.ADD, owner, rrtype, record.ttl, _rdata(message, record))
    if record.ttl:
        raise DnsWireError("a deletion has no TTL")
    if record.rrclass == CLASS_NONE:
        _check_data_type(rrtype)
        return Change(ChangeKind.DELETE_RECORD, owner, rrtype, rdata=_rdata(message, record))
    if record.rrclass != CLASS_ANY:
        raise DnsWireError(f"class {record.rrclass} in an update")
    if record.rdata_end != record.rdata_start:
        raise DnsWireError("the deletion of an RRset has no RDATA")
    if rrtype == ANY:
        return Change(ChangeKind.DELETE_NAME, owner)
    _check_data_type(rrtype)
    return Change(ChangeKind.DELETE_RRSET, owner, rrtype)


def _owner(record: RecordView, zone: UpdateZone) -> bytes:
    owner = record.owner.lower()
    if relative_to(owner, zone.apex) is None:
        raise DnsWireError("a name outside the zone", Rcode.NOTZONE)
    return owner


def _check_data_type(rrtype: int) -> None:
    if not rrtype or rrtype == OPT or rrtype in _META_TYPES:
        raise DnsWireError(f"type {rrtype} is no type of data")


def _rdata(message: bytes, record: RecordView) -> bytes:
    """RDATA with its names uncompressed."""
    fields = read_rdata(message, record.rrtype, record.rdata_start, record.rdata_end)
    return b"".join(octets for _, octets in fields)
