"""What `ZoneUpdate` does: RFC 2136 §3.2 (prerequisites) and §3.4 (changes), then the rules of zones.

The changes are made in order on a picture of the names they touch. Only if what comes out keeps all
rules is it written, with a new serial and the difference from the old one; else nothing is.
"""

from __future__ import annotations

from typing import Final

from aspen.dns.name import relative_to
from aspen.dns.zone import Node, RRset, canonical_rdata, make_rrset, soa_serial
from aspen.dns.zone_rules import CNAME, DNAME, NS, SOA, ZoneRecord, check_record
from aspen.errors import DnsWireError, ZoneRuleError
from aspen.limits import ZONE_RECORDS, ZONE_TTL_MAX_S, ZONE_TTL_MIN_S
from aspen.state.apply import ApplyContext
from aspen.state.zone_apply import NO_ZONE, RecordRefused, difference_of, put_serial
from aspen.state.zone_commands import (
    Change,
    ChangeKind,
    Prerequisite,
    PrerequisiteKind,
    ZoneResult,
    ZoneStatus,
    ZoneUpdate,
)
from aspen.state.zone_content import Content, count_records
from aspen.state.zone_tables import ZoneDifference, ZoneTables, is_newer, next_serial

_SINGLE: Final = frozenset({CNAME, DNAME, SOA})  # one record a name: adding another replaces it
_BESIDE_CNAME: Final = frozenset({CNAME, 25, 46, 47})
_AT_APEX: Final = frozenset({SOA, NS})

# RFC 2136 §2.2
_FORMERR: Final = 1
_NXDOMAIN: Final = 3
_REFUSED: Final = 5
_YXDOMAIN: Final = 6
_YXRRSET: Final = 7
_NXRRSET: Final = 8
_NOTZONE: Final = 10


def apply_zone_update(context: ApplyContext, command: ZoneUpdate) -> ZoneResult:
    tables = ZoneTables(context.store, context.txn)
    info = tables.info(command.apex)
    if info is None:
        return NO_ZONE
    numbers = tables.numbers(info.zone_id)
    content = Content(context.txn, tables.rrsets, info.content_id, command.apex)
    for at, prerequisite in enumerate(command.prerequisites):
        failure = _failure(content, prerequisite)
        if failure is not None:
            rcode, reason = failure
            return ZoneResult(ZoneStatus.PREREQUISITE, numbers.serial, at=at, reason=reason, rcode=rcode)
    try:
        _make_changes(content, command)
    except RecordRefused as refused:
        rcode = {"out-of-zone": _NOTZONE, "rdata": _FORMERR, "type": _FORMERR}.get(
            refused.error.rule, _REFUSED
        )
        return ZoneResult(
            ZoneStatus.REFUSED,
            numbers.serial,
            at=refused.at,
            rule=refused.error.rule,
            reason=refused.error.reason,
            rcode=rcode,
        )
    changed = content.changed()
    if not changed:
        return ZoneResult(ZoneStatus.DONE, numbers.serial)
    serial = soa_serial(content.get(command.apex)[SOA].rdatas[0])
    if not is_newer(serial, numbers.serial):
        serial = next_serial(numbers.serial)
    put_serial(content, serial)
    touched = [command.apex, *(owner for owner in changed if owner != command.apex)]
    had = {owner[: len(owner) - len(command.apex)]: content.stored(owner) for owner in touched}
    has = {owner[: len(owner) - len(command.apex)]: content.get(owner) for owner in touched}
    records = numbers.records + count_records(has.values()) - count_records(had.values())
    if records > ZONE_RECORDS:
        reason = f"a zone has at most {ZONE_RECORDS} records"
        return ZoneResult(ZoneStatus.LIMIT, numbers.serial, reason=reason, rcode=_REFUSED)
    removed, added = difference_of(command.apex, had, has)
    content.flush()
    after = numbers._replace(serial=serial, records=records, changed_at_ms=context.time_ms)
    difference = ZoneDifference(numbers.serial, serial, removed, added)
    tables.put_numbers(info.zone_id, tables.add_difference(info.zone_id, after, difference))
    context.dns_changed = True
    # The SOA that moved with the serial is nobody's change.
    moved = sum(record.rrtype == SOA for record in added)
    return ZoneResult(ZoneStatus.DONE, serial, len(removed) + len(added) - 2 * moved)


# --- prerequisites ------------------------------------------------------------------------------


def _failure(content: Content, prerequisite: Prerequisite) -> tuple[int, str] | None:
    """(RCODE, reason) if it doesn't hold (RFC 2136 §3.2.5)."""
    owner, rrtype = prerequisite.owner, prerequisite.rrtype
    if relative_to(owner, content.apex) is None:
        return _NOTZONE, "the name is outside the zone"
    node = content.stored(owner)
    match prerequisite.kind:
        case PrerequisiteKind.RRSET_EXISTS:
            return None if rrtype in node else (_NXRRSET, "there is no such RRset")
        case PrerequisiteKind.RRSET_ABSENT:
            return (_YXRRSET, "there is such an RRset") if rrtype in node else None
        case PrerequisiteKind.NAME_IN_USE:
            return None if node else (_NXDOMAIN, "the name is not in use")
        case PrerequisiteKind.NAME_NOT_IN_USE:
            return (_YXDOMAIN, "the name is in use") if node else None
        case PrerequisiteKind.RRSET_IS:
            try:
                wanted = {canonical_rdata(rrtype, rdata) for rdata in prerequisite.rdatas}
            except DnsWireError as error:
                return _FORMERR, str(error)
            there = node.get(rrtype)
            found = {canonical_rdata(rrtype, rdata) for rdata in there.rdatas} if there is not None else set()
            return None if wanted == found else (_NXRRSET, "the RRset is another")


# --- changes ------------------------------------------------------------------------------------


def _make_changes(content: Content, command: ZoneUpdate) -> None:
    """Raises `RecordRefused`; nothing has been written then."""
    last: dict[bytes, int] = {}
    for at, change in enumerate(command.changes):
        if relative_to(change.owner, content.apex) is None:
            raise RecordRefused(at, ZoneRuleError("out-of-zone", "the name is outside the zone"))
        node = content.get(change.owner)
        if change.kind is ChangeKind.ADD:
            after = _added(content, change, at, node, strict=command.strict)
        else:
            after = _deleted(content, change, node, strict=command.strict)
        if after is not None:
            content.put(change.owner, after)
        last[change.owner] = at
    for owner, at in last.items():
        try:
            content.check(owner)
        except ZoneRuleError as error:
            raise RecordRefused(at, error) from None


def _added(content: Content, change: Change, at: int, node: Node, *, strict: bool) -> Node | None:
    """The node with the record; None if it is to be ignored (RFC 2136 §3.4.2.2)."""
    owner, rrtype, ttl, rdata = change.owner, change.rrtype, change.ttl, change.rdata
    try:
        check_record(ZoneRecord(owner, rrtype, ttl, rdata), content.apex)
        if strict and not ZONE_TTL_MIN_S <= ttl <= ZONE_TTL_MAX_S:
            raise ZoneRuleError("ttl", f"a TTL is {ZONE_TTL_MIN_S} to {ZONE_TTL_MAX_S} seconds, not {ttl}")
    except ZoneRuleError as error:
        raise RecordRefused(at, error) from None
    if not strict:
        if rrtype == CNAME and set(node) - _BESIDE_CNAME:
            return None
        if rrtype not in _BESIDE_CNAME and CNAME in node:
            return None
        if rrtype == SOA and not is_newer(soa_serial(rdata), soa_serial(node[SOA].rdatas[0])):
            return None
    there = node.get(rrtype)
    replaces = rrtype == SOA or (rrtype in _SINGLE and not strict)
    before = () if there is None or replaces else there.rdatas
    # The new spelling first: it replaces the same record in other letters.
    return {**node, rrtype: make_rrset(rrtype, ttl, (rdata, *before))}


def _deleted(content: Content, change: Change, node: Node, *, strict: bool) -> Node | None:
    """The node without what is deleted; None if that is to be ignored (RFC 2136 §3.4.2.3, §3.4.2.4)."""
    rrtype = change.rrtype
    at_apex = change.owner == content.apex
    if change.kind is ChangeKind.DELETE_NAME:
        return {kind: rrset for kind, rrset in node.items() if at_apex and kind in _AT_APEX}
    there = node.get(rrtype)
    if there is None:
        return None
    rest: RRset | None = None
    if change.kind is ChangeKind.DELETE_RECORD:
        try:
            unwanted = canonical_rdata(rrtype, change.rdata)
        except DnsWireError:
            return None  # no record has such RDATA
        left = tuple(rdata for rdata in there.rdatas if canonical_rdata(rrtype, rdata) != unwanted)
        rest = RRset(there.ttl, left) if left else None
    if at_apex and rrtype in _AT_APEX and not strict and (rest is None or rrtype == SOA):
        return None
    without = {kind: rrset for kind, rrset in node.items() if kind != rrtype}
    return without if rest is None else {**without, rrtype: rest}
