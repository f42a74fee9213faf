"""What the commands of whole zones do: create, configure, delete, import, collect what is out of use.

An import is staged in a content of its own, checked chunk by chunk, and made current by one command
that only exchanges ids: whoever reads sees the old content or the new one, whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from aspen.dns.zone import Node, RRset, ZoneSettings, make_rrset, soa_serial
from aspen.dns.zone_rules import SOA, ZoneRecord, check_apex, check_record
from aspen.errors import ZoneRuleError
from aspen.limits import ZONE_DIFFERENCE_RECORDS, ZONE_RECORDS, ZONE_STAGE_MS, ZONE_STAGES, ZONES
from aspen.state.apply import ApplyContext
from aspen.state.zone_commands import (
    ZoneAbandon,
    ZoneActivate,
    ZoneCollect,
    ZoneConfigure,
    ZoneCreate,
    ZoneDelete,
    ZoneResult,
    ZoneStage,
    ZoneStatus,
)
from aspen.state.zone_content import Content, content_prefix, count_records, walk_content
from aspen.state.zone_tables import (
    StageInfo,
    ZoneDifference,
    ZoneInfo,
    ZoneNumbers,
    ZoneTables,
    is_newer,
    next_serial,
)

_SERIAL_END: Final = -16  # REFRESH, RETRY, EXPIRE, MINIMUM follow it in the SOA's RDATA


class RecordRefused(Exception):
    """Which record of a command breaks a rule."""

    def __init__(self, at: int, error: ZoneRuleError) -> None:
        super().__init__(str(error))
        self.at = at
        self.error = error

    @property
    def result(self) -> ZoneResult:
        return ZoneResult(ZoneStatus.REFUSED, at=self.at, rule=self.error.rule, reason=self.error.reason)


NO_ZONE: Final = ZoneResult(ZoneStatus.NO_ZONE, reason="there is no zone of this name", rcode=9)
_EXISTS: Final = ZoneResult(ZoneStatus.EXISTS, reason="there is a zone of this name already")
_TOO_MANY: Final = ZoneResult(
    ZoneStatus.LIMIT, reason=f"there are {ZONES} zones already, the most there may be"
)
_LOST: Final = ZoneResult(
    ZoneStatus.NO_STAGE, reason="the import was given up, or one of its chunks is missing; start it again"
)


# --- zones --------------------------------------------------------------------------------------


def apply_zone_create(context: ApplyContext, command: ZoneCreate) -> ZoneResult:
    tables = ZoneTables(context.store, context.txn)
    if tables.info(command.apex) is not None:
        return _EXISTS
    if tables.count() >= ZONES:
        return _TOO_MANY
    zone_id = tables.next_id()
    content = Content(context.txn, tables.rrsets, zone_id, command.apex)
    try:
        _check_apex(command.apex)
        records = add_records(content, command.records, complete=True)
    except RecordRefused as refused:
        return refused.result
    content.flush()
    tables.new_id()
    serial = soa_serial(content.get(command.apex)[SOA].rdatas[0])
    tables.put_info(command.apex, ZoneInfo(zone_id, zone_id, command.settings))
    tables.put_numbers(zone_id, ZoneNumbers(serial, records, context.time_ms, 0, 0, 0))
    context.dns_changed = True
    return ZoneResult(ZoneStatus.DONE, serial, records)


def apply_zone_configure(context: ApplyContext, command: ZoneConfigure) -> ZoneResult:
    tables = ZoneTables(context.store, context.txn)
    info = tables.info(command.apex)
    if info is None:
        return NO_ZONE
    numbers = tables.numbers(info.zone_id)
    if info.settings != command.settings:
        tables.put_info(command.apex, ZoneInfo(info.zone_id, info.content_id, command.settings))
        context.dns_changed = True
    return ZoneResult(ZoneStatus.DONE, numbers.serial)


def apply_zone_delete(context: ApplyContext, command: ZoneDelete) -> ZoneResult:
    tables = ZoneTables(context.store, context.txn)
    info = tables.info(command.apex)
    if info is None:
        return NO_ZONE
    numbers = tables.numbers(info.zone_id)
    tables.delete_zone(command.apex, info)
    context.dns_changed = True
    return ZoneResult(ZoneStatus.DONE, numbers.serial, numbers.records)


# --- imports ------------------------------------------------------------------------------------


def apply_zone_stage(context: ApplyContext, command: ZoneStage) -> ZoneResult:
    """Add a chunk to what is staged. A chunk that came before is not added again."""
    tables = ZoneTables(context.store, context.txn)
    stage = tables.stage(command.stage_id)
    if stage is None:
        if command.sequence:
            return _LOST
        if len(tables.stages()) >= ZONE_STAGES:
            reason = f"{ZONE_STAGES} imports are under way already; try again later"
            return ZoneResult(ZoneStatus.LIMIT, reason=reason)
        stage = StageInfo(command.apex, tables.next_id(), 0, 0, context.time_ms)
    if command.sequence > stage.next_sequence or command.apex != stage.apex:
        return _LOST
    if command.sequence < stage.next_sequence:
        return ZoneResult(ZoneStatus.DONE, changed=stage.records)
    if stage.records + len(command.records) > ZONE_RECORDS:
        return ZoneResult(ZoneStatus.LIMIT, reason=f"a zone has at most {ZONE_RECORDS} records")
    content = Content(context.txn, tables.rrsets, stage.content_id, stage.apex)
    try:
        _check_apex(stage.apex)
        added = add_records(content, command.records, complete=False)
    except RecordRefused as refused:
        return refused.result
    content.flush()
    if not command.sequence:
        tables.new_id()
    records = stage.records + added
    tables.put_stage(
        command.stage_id,
        StageInfo(stage.apex, stage.content_id, stage.next_sequence + 1, records, context.time_ms),
    )
    return ZoneResult(ZoneStatus.DONE, changed=records)


def apply_zone_activate(context: ApplyContext, command: ZoneActivate) -> ZoneResult:
    tables = ZoneTables(context.store, context.txn)
    stage = tables.stage(command.stage_id)
    if stage is None or stage.next_sequence != command.chunks:
        return _LOST
    old = tables.info(stage.apex)
    if old is not None and not command.replace:
        return _EXISTS
    if old is None and tables.count() >= ZONES:
        return _TOO_MANY
    content = Content(context.txn, tables.rrsets, stage.content_id, stage.apex)
    try:
        content.check(stage.apex)
    except ZoneRuleError as error:
        return ZoneResult(ZoneStatus.REFUSED, rule=error.rule, reason=error.reason)
    serial = soa_serial(content.get(stage.apex)[SOA].rdatas[0])
    numbers = ZoneNumbers(serial, stage.records, context.time_ms, 0, 0, 0)
    if old is None:
        info = ZoneInfo(tables.new_id(), stage.content_id, command.settings or ZoneSettings())
    else:
        before = tables.numbers(old.zone_id)
        if not is_newer(serial, before.serial):
            serial = next_serial(before.serial)
        put_serial(content, serial)
        content.flush()
        info = ZoneInfo(old.zone_id, stage.content_id, command.settings or old.settings)
        numbers = before._replace(serial=serial, records=stage.records, changed_at_ms=context.time_ms)
        numbers = _note_import(context, tables, old, info, stage.apex, before, numbers)
        tables.put_garbage(old.content_id)
    tables.delete_stage(command.stage_id)
    tables.put_info(stage.apex, info)
    tables.put_numbers(info.zone_id, numbers)
    context.dns_changed = True
    return ZoneResult(ZoneStatus.DONE, serial, stage.records)


def _note_import(
    context: ApplyContext,
    tables: ZoneTables,
    old: ZoneInfo,
    new: ZoneInfo,
    apex: bytes,
    before: ZoneNumbers,
    numbers: ZoneNumbers,
) -> ZoneNumbers:
    """Keep what an import changed, so that secondaries needn't transfer all of a small zone again."""
    if before.records + numbers.records > ZONE_DIFFERENCE_RECORDS:
        return tables.forget_changes(new.zone_id, numbers)
    had = dict(walk_content(context.txn, tables.rrsets, old.content_id))
    has = dict(walk_content(context.txn, tables.rrsets, new.content_id))
    removed, added = difference_of(apex, had, has)
    return tables.add_difference(
        new.zone_id, numbers, ZoneDifference(before.serial, numbers.serial, removed, added)
    )


def apply_zone_abandon(context: ApplyContext, command: ZoneAbandon) -> ZoneResult:
    tables = ZoneTables(context.store, context.txn)
    stage = tables.stage(command.stage_id)
    if stage is None:
        return _LOST
    _give_up(tables, command.stage_id, stage)
    return ZoneResult(ZoneStatus.DONE, changed=stage.records)


def _give_up(tables: ZoneTables, stage_id: bytes, stage: StageInfo) -> None:
    tables.delete_stage(stage_id)
    tables.put_garbage(stage.content_id)


# --- what is out of use -------------------------------------------------------------------------


def apply_zone_collect(context: ApplyContext, command: ZoneCollect) -> ZoneResult:
    tables = ZoneTables(context.store, context.txn)
    for stage_id, stage in tables.stages():
        if stage.at_ms + ZONE_STAGE_MS < context.time_ms:
            _give_up(tables, stage_id, stage)
    removed = 0
    while (content_id := tables.first_garbage()) is not None:
        keys = _first_keys(context, tables, content_id, command.names - removed)
        for key in keys:
            context.txn.delete(key, db=tables.rrsets)
        removed += len(keys)
        if removed >= command.names:
            return ZoneResult(ZoneStatus.DONE, changed=removed, more=True)
        tables.delete_garbage(content_id)
    return ZoneResult(ZoneStatus.DONE, changed=removed)


def _first_keys(context: ApplyContext, tables: ZoneTables, content_id: int, count: int) -> list[bytes]:
    prefix = content_prefix(content_id)
    cursor = context.txn.cursor(db=tables.rrsets)
    found = cursor.set_range(prefix)
    keys: list[bytes] = []
    while found and len(keys) < count and cursor.key().startswith(prefix):
        keys.append(cursor.key())
        found = cursor.next()
    return keys


# --- records ------------------------------------------------------------------------------------


def _check_apex(apex: bytes) -> None:
    try:
        check_apex(apex)
    except ZoneRuleError as error:
        raise RecordRefused(-1, error) from None


def add_records(content: Content, records: Iterable[ZoneRecord], *, complete: bool) -> int:
    """Add the records of a new content; how many weren't there. Raises `RecordRefused`."""
    last: dict[bytes, int] = {}
    """Where the last record of an owner stands: what its name comes to is blamed on that."""
    gathered: dict[bytes, dict[int, tuple[int, list[bytes]]]] = {}
    for at, record in enumerate(records):
        owner, rrtype, ttl, rdata = record
        try:
            check_record(record, content.apex)
        except ZoneRuleError as error:
            raise RecordRefused(at, error) from None
        last[owner] = at
        rrsets = gathered.get(owner)
        if rrsets is None:
            rrsets = gathered[owner] = {
                kind: (rrset.ttl, list(rrset.rdatas)) for kind, rrset in content.get(owner).items()
            }
        there = rrsets.get(rrtype)
        if there is None:
            rrsets[rrtype] = (ttl, [rdata])
        elif there[0] != ttl:
            raise RecordRefused(at, different_ttls(there[0], ttl))
        else:
            there[1].append(rdata)
    before = count_records(content.get(owner) for owner in gathered)
    for owner, rrsets in gathered.items():
        content.put(owner, {kind: make_rrset(kind, ttl, rdatas) for kind, (ttl, rdatas) in rrsets.items()})
    for owner, at in last.items():
        _check(content, owner, at, complete=complete)
    if complete and content.apex not in last:
        _check(content, content.apex, -1, complete=True)
    return count_records(content.get(owner) for owner in gathered) - before


def _check(content: Content, owner: bytes, at: int, *, complete: bool) -> None:
    try:
        content.check(owner, complete=complete)
    except ZoneRuleError as error:
        raise RecordRefused(at, error) from None


def different_ttls(one: int, other: int) -> ZoneRuleError:
    return ZoneRuleError(
        "rrset-ttl", f"the records of one RRset have one TTL (RFC 2181 §5.2): {one} or {other}"
    )


def put_serial(content: Content, serial: int) -> None:
    """Have the SOA say what the serial is."""
    node = content.get(content.apex)
    soa = node[SOA]
    rdata = soa.rdatas[0]
    end = len(rdata) + _SERIAL_END
    changed = rdata[: end - 4] + serial.to_bytes(4, "big") + rdata[end:]
    content.put(content.apex, {**node, SOA: RRset(soa.ttl, (changed,))})


def difference_of(
    apex: bytes, had: dict[bytes, Node], has: dict[bytes, Node]
) -> tuple[tuple[ZoneRecord, ...], tuple[ZoneRecord, ...]]:
    """(removed, added) records between nodes by relative name. Where the TTL of an RRset changed, all of
    its records are in both."""
    removed: list[ZoneRecord] = []
    added: list[ZoneRecord] = []
    for relative in [*had, *(name for name in has if name not in had)]:
        before, after = had.get(relative, {}), has.get(relative, {})
        for rrtype in sorted({*before, *after}):
            old, new = before.get(rrtype), after.get(rrtype)
            if old != new:
                removed += _only_in(apex, relative, rrtype, old, new)
                added += _only_in(apex, relative, rrtype, new, old)
    return tuple(removed), tuple(added)


def _only_in(
    apex: bytes, relative: bytes, rrtype: int, one: RRset | None, other: RRset | None
) -> Iterator[ZoneRecord]:
    if one is not None:
        kept = () if other is None or other.ttl != one.ttl else other.rdatas
        for rdata in one.rdatas:
            if rdata not in kept:
                yield ZoneRecord(relative + apex, rrtype, one.ttl, rdata)
