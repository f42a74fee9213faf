"""What an author writes, made into changes of a zone: records as text, settings, a new zone's beginning.

Names are relative to the zone unless they end in a dot; `@` is the zone itself. Data is written as
in master files. Errors name the record as it was written and the rule it breaks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import msgspec

from aspen.dns.name import name_to_text, relative_to
from aspen.dns.networks import Networks
from aspen.dns.notification import parse_target
from aspen.dns.presentation import parse_name, parse_rdata, split_words, type_name, type_number
from aspen.dns.zone import ZoneSettings
from aspen.dns.zone_rules import NS, SOA, ZoneRecord, check_apex, check_record
from aspen.errors import ConfigError, InputError, ZoneError, ZoneRuleError
from aspen.limits import ZONE_BATCH_RECORDS, ZONE_TTL_MAX_S, ZONE_TTL_MIN_S

ROOT: Final = b"\0"
SYNTAX: Final = "syntax"
"""The rule that a record's text breaks if it can't be read at all."""
_SOA_TIMES: Final = (7_200, 900, 1_209_600, 300)
"""REFRESH, RETRY, EXPIRE and MINIMUM of a new zone (RIPE-203, but for negative answers)."""
_RESPONSIBLE: Final = "hostmaster"


class RecordSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All records of one name and type."""

    name: str
    type: str
    ttl: int
    data: tuple[str, ...]


class RecordChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One change: `set` replaces all records of a name and type, `add` adds to them, `delete` takes away
    those with this data, else those of this type, else all of the name."""

    op: Literal["set", "add", "delete"]
    name: str
    type: str | None = None
    data: tuple[str, ...] = ()
    ttl: int | None = None
    """Seconds; the zone's default if there is none."""


class NewZone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    nameservers: tuple[str, ...]
    """At least one; the first is the SOA's MNAME."""
    responsible: str = ""
    """The SOA's RNAME, a mail address as a name; `hostmaster` in the zone if there is none."""
    ttl: int | None = None
    """Of SOA and NS."""
    records: tuple[RecordSet, ...] = ()
    settings: ZoneSettings = ZoneSettings()


def apex_from_text(text: str) -> bytes:
    """Raises `ZoneError.RuleBroken`."""
    try:
        apex = parse_name(text if text.endswith(".") else text + ".", ROOT).lower()
        check_apex(apex)
    except ZoneRuleError as error:
        raise ZoneError.RuleBroken(error.reason, rule=error.rule) from None
    except InputError as error:
        raise ZoneError.RuleBroken(str(error), rule="name") from None
    return apex


def owner_from_text(text: str, apex: bytes) -> bytes:
    """Raises `InputError`."""
    owner = parse_name(text or "@", apex).lower()
    if relative_to(owner, apex) is None:
        raise ZoneRuleError(
            "out-of-zone", f"the owner {name_to_text(owner)} is not in the zone {name_to_text(apex)}"
        )
    return owner


def read_record(name: str, rrtype: int, ttl: int, data: str, apex: bytes) -> ZoneRecord:
    """Raises `ZoneError.RuleBroken`."""
    shown = f"{name} {ttl} IN {type_name(rrtype)} {data}"
    try:
        rdata = b"".join(parse_rdata(rrtype, split_words(data), apex))
        record = ZoneRecord(owner_from_text(name, apex), rrtype, ttl, rdata)
        check_record(record, apex)
        check_authored_ttl(ttl)
    except ZoneRuleError as error:
        raise ZoneError.RuleBroken(error.reason, rule=error.rule, record=shown) from None
    except InputError as error:
        raise ZoneError.RuleBroken(str(error), rule=SYNTAX, record=shown) from None
    return record


def check_authored_ttl(ttl: int) -> None:
    """Raises `ZoneRuleError`. Imports, transfers and updates by DNS take any TTL."""
    if not ZONE_TTL_MIN_S <= ttl <= ZONE_TTL_MAX_S:
        raise ZoneRuleError("ttl", f"a TTL is {ZONE_TTL_MIN_S} to {ZONE_TTL_MAX_S} seconds, not {ttl}")


def read_type(text: str) -> int:
    """Raises `ZoneError.RuleBroken`."""
    try:
        return type_number(text)
    except InputError as error:
        raise ZoneError.RuleBroken(str(error), rule=SYNTAX) from None


def new_zone_records(new: NewZone, apex: bytes, serial: int) -> list[ZoneRecord]:
    """SOA, NS and the other records of a new zone. Raises `ZoneError.RuleBroken`."""
    if not new.nameservers:
        raise ZoneError.RuleBroken("a zone has at least one nameserver", rule="ns")
    ttl = new.settings.default_ttl_s if new.ttl is None else new.ttl
    responsible = new.responsible or _RESPONSIBLE
    numbers = " ".join(map(str, (serial, *_SOA_TIMES)))
    records = [read_record("@", SOA, ttl, f"{new.nameservers[0]} {responsible} {numbers}", apex)]
    records += [read_record("@", NS, ttl, server, apex) for server in new.nameservers]
    for given in new.records:
        rrtype = read_type(given.type)
        records += [read_record(given.name, rrtype, given.ttl, data, apex) for data in given.data]
    return records


class Edit(msgspec.Struct, frozen=True):
    """A change read: what is taken away (None: the name, a type of it, or records) and what is added."""

    owner: bytes
    rrtype: int | None
    removes: Literal["name", "rrset", "records", "nothing"]
    records: tuple[ZoneRecord, ...]
    shown: str
    """As its author wrote it."""


def read_changes(changes: Sequence[RecordChange], apex: bytes, default_ttl_s: int) -> list[Edit]:
    """Raises `ZoneError.RuleBroken`, or `ZoneError.Limit`."""
    count = sum(max(1, len(change.data)) for change in changes)
    if not 1 <= count <= ZONE_BATCH_RECORDS:
        raise ZoneError.Limit(f"{count} records in one batch; 1 to {ZONE_BATCH_RECORDS} are allowed")
    edits = [_read_change(change, apex, default_ttl_s) for change in changes]
    ttls: dict[tuple[bytes, int], int] = {}
    for edit in edits:
        for owner, rrtype, ttl, _ in edit.records if edit.removes in ("rrset", "nothing") else ():
            if ttls.setdefault((owner, rrtype), ttl) != ttl:
                raise ZoneError.RuleBroken(
                    f"the records of one RRset have one TTL (RFC 2181 §5.2): {ttls[owner, rrtype]} or {ttl}",
                    rule="rrset-ttl",
                    record=edit.shown,
                )
    return edits


def _read_change(change: RecordChange, apex: bytes, default_ttl_s: int) -> Edit:
    shown = " ".join(filter(None, (change.op, change.name, change.type, *change.data)))
    try:
        owner = owner_from_text(change.name, apex)
    except ZoneRuleError as error:
        raise ZoneError.RuleBroken(error.reason, rule=error.rule, record=shown) from None
    except InputError as error:
        raise ZoneError.RuleBroken(str(error), rule=SYNTAX, record=shown) from None
    rrtype = None if change.type is None else read_type(change.type)
    if change.op == "delete":
        if rrtype is None:
            if change.data:
                raise ZoneError.RuleBroken("data is of a type: name it", rule=SYNTAX, record=shown)
            return Edit(owner, None, "name", (), shown)
        if not change.data:
            return Edit(owner, rrtype, "rrset", (), shown)
        gone = tuple(read_record(change.name, rrtype, ZONE_TTL_MIN_S, data, apex) for data in change.data)
        return Edit(owner, rrtype, "records", gone, shown)
    if rrtype is None or not change.data:
        raise ZoneError.RuleBroken(
            f"what to {change.op} is missing: a type, and data", rule=SYNTAX, record=shown
        )
    ttl = default_ttl_s if change.ttl is None else change.ttl
    records = tuple(read_record(change.name, rrtype, ttl, data, apex) for data in change.data)
    return Edit(owner, rrtype, "rrset" if change.op == "set" else "nothing", records, shown)


# --- settings -----------------------------------------------------------------------------------


def changed_settings(settings: ZoneSettings, changes: dict[str, Any]) -> ZoneSettings:
    """The settings with some of them changed (field → JSON value). Raises `ZoneError.RuleBroken`."""
    unknown = sorted(set(changes) - set(ZoneSettings.__struct_fields__))
    if unknown:
        known = ", ".join(ZoneSettings.__struct_fields__)
        raise ZoneError.RuleBroken(f"{unknown[0]!r} is not a setting of a zone ({known})", rule="setting")
    try:
        changed = msgspec.convert({**msgspec.structs.asdict(settings), **changes}, ZoneSettings)
    except msgspec.ValidationError as error:
        raise ZoneError.RuleBroken(f"a setting can't be used: {error}", rule="setting") from None
    return checked_settings(changed)


def checked_settings(settings: ZoneSettings) -> ZoneSettings:
    """The settings, their names of keys in one spelling. Raises `ZoneError.RuleBroken`."""
    if not ZONE_TTL_MIN_S <= settings.default_ttl_s <= ZONE_TTL_MAX_S:
        raise ZoneError.RuleBroken(
            f"default_ttl_s is {ZONE_TTL_MIN_S} to {ZONE_TTL_MAX_S} seconds, not {settings.default_ttl_s}",
            rule="ttl",
        )
    for field in ("query_acl", "transfer_acl", "update_acl"):
        try:
            Networks(getattr(settings, field))
        except ConfigError as error:
            raise ZoneError.RuleBroken(f"{field}: {error}", rule="setting") from None
    for target in settings.notify:
        try:
            parse_target(target)
        except ConfigError as error:
            raise ZoneError.RuleBroken(f"notify: {error}", rule="setting") from None
    return msgspec.structs.replace(
        settings,
        transfer_keys=_key_names("transfer_keys", settings.transfer_keys),
        update_keys=_key_names("update_keys", settings.update_keys),
    )


def _key_names(field: str, texts: Iterable[str]) -> tuple[str, ...]:
    names = []
    for text in texts:
        try:
            names.append(name_to_text(parse_name(text, ROOT).lower()))
        except InputError as error:
            raise ZoneError.RuleBroken(f"{field}: {error}", rule="setting") from None
    return tuple(names)
