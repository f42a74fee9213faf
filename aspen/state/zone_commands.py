"""Commands that change authored zones, and what applying them says.

All changes of a zone's records go through `ZoneUpdate`, which has the meaning of a dynamic update
(RFC 2136 §2.4, §2.5, §3): prerequisites and changes in one command, all or nothing. A whole zone is
brought in by chunks (`ZoneStage`), aside from what is served, and becomes the zone's content by one
command (`ZoneActivate`). What is out of use after that goes in batches (`ZoneCollect`).

Names are folded wire names, RDATA is uncompressed.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final

import msgspec

from aspen.dns.zone import ZoneSettings
from aspen.dns.zone_rules import ZoneRecord
from aspen.errors import CommandError
from aspen.limits import (
    TTL_MAX_S,
    ZONE_COLLECT_NAMES,
    ZONE_SETTING_CHARS,
    ZONE_SETTING_ENTRIES,
    ZONE_STAGE_BYTES,
    ZONE_STAGE_RECORDS,
    ZONE_UPDATE_BYTES,
    ZONE_UPDATE_CHANGES,
)

STAGE_ID_BYTES: Final = 16


class PrerequisiteKind(IntEnum):
    """RFC 2136 §2.4."""

    RRSET_EXISTS = 1
    RRSET_IS = 2
    """Value dependent: the RRset has exactly these RDATAs; TTLs don't count."""
    RRSET_ABSENT = 3
    NAME_IN_USE = 4
    """The name has at least one record: an empty non-terminal is not in use."""
    NAME_NOT_IN_USE = 5


class Prerequisite(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    kind: PrerequisiteKind
    owner: bytes
    rrtype: int = 0
    rdatas: tuple[bytes, ...] = ()
    """Of `RRSET_IS`."""


class ChangeKind(IntEnum):
    """RFC 2136 §2.5."""

    ADD = 1
    DELETE_RRSET = 2
    DELETE_NAME = 3
    """All RRsets of the name; at the apex, all but SOA and NS."""
    DELETE_RECORD = 4


class Change(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    kind: ChangeKind
    owner: bytes
    rrtype: int = 0
    ttl: int = 0
    """Of `ADD`; the whole RRset takes it (RFC 2181 §5.2)."""
    rdata: bytes = b""


class ZoneCreate(msgspec.Struct, frozen=True, tag=40, array_like=True, forbid_unknown_fields=True):
    """Begin a zone with these records, SOA and NS among them."""

    apex: bytes
    settings: ZoneSettings
    records: tuple[ZoneRecord, ...]


class ZoneConfigure(msgspec.Struct, frozen=True, tag=41, array_like=True, forbid_unknown_fields=True):
    apex: bytes
    settings: ZoneSettings


class ZoneDelete(msgspec.Struct, frozen=True, tag=42, array_like=True, forbid_unknown_fields=True):
    """Delete the zone of this apex; zones below it are others."""

    apex: bytes


class ZoneUpdate(msgspec.Struct, frozen=True, tag=43, array_like=True, forbid_unknown_fields=True):
    """Change records of one zone if all prerequisites hold: all of the changes, or none."""

    apex: bytes
    prerequisites: tuple[Prerequisite, ...] = ()
    changes: tuple[Change, ...] = ()
    strict: bool = False
    """An author's: what breaks a rule is refused, and TTLs have tighter bounds. Otherwise changes that
    RFC 2136 §3.4.2 says to ignore (a second kind of data beside a CNAME, the last NS, …) are ignored."""


class ZoneStage(msgspec.Struct, frozen=True, tag=44, array_like=True, forbid_unknown_fields=True):
    """A chunk of a zone that is being brought in. Chunk 0 begins it; nobody sees it before it is whole."""

    stage_id: bytes
    apex: bytes
    sequence: int
    records: tuple[ZoneRecord, ...]


class ZoneActivate(msgspec.Struct, frozen=True, tag=45, array_like=True, forbid_unknown_fields=True):
    """Make what was staged in `chunks` chunks the content of the zone."""

    stage_id: bytes
    chunks: int
    settings: ZoneSettings | None = None
    """None: as they are, or the defaults of a new zone."""
    replace: bool = True
    """Whether a zone that exists may be replaced."""


class ZoneAbandon(msgspec.Struct, frozen=True, tag=46, array_like=True, forbid_unknown_fields=True):
    stage_id: bytes


class ZoneCollect(msgspec.Struct, frozen=True, tag=47, array_like=True, forbid_unknown_fields=True):
    """Give up stages that were abandoned, and remove `names` names of contents out of use."""

    names: int = ZONE_COLLECT_NAMES


ZoneCommand = (
    ZoneCreate
    | ZoneConfigure
    | ZoneDelete
    | ZoneUpdate
    | ZoneStage
    | ZoneActivate
    | ZoneAbandon
    | ZoneCollect
)


class ZoneStatus(StrEnum):
    DONE = "done"
    NO_ZONE = "no_such_zone"
    EXISTS = "zone_exists"
    PREREQUISITE = "prerequisite_failed"
    REFUSED = "rule_broken"
    NO_STAGE = "import_lost"
    """The import was given up for want of chunks, or a chunk is missing."""
    LIMIT = "limit"


class ZoneResult(msgspec.Struct, frozen=True):
    """What became of a command. Unless `DONE`, nothing was changed."""

    status: ZoneStatus
    serial: int = 0
    """Of the zone after the command."""
    changed: int = 0
    """Records added and removed (of a stage: records in it so far; of a collection: names removed)."""
    at: int = -1
    """Which prerequisite, change or record is to blame, counted from 0."""
    rule: str = ""
    """Its short name."""
    reason: str = ""
    rcode: int = 0
    """What a DNS update is answered (RFC 2136 §2.2)."""
    more: bool = False
    """Of a collection: whether more is out of use."""


def validate_zone_command(command: ZoneCommand) -> None:
    """Check what doesn't depend on the zone. Raises `CommandError`."""
    match command:
        case ZoneCreate(settings=settings, records=records):
            _check_settings(settings)
            _check_size(len(records), sum(map(_record_bytes, records)), "records")
        case ZoneConfigure(settings=settings):
            _check_settings(settings)
        case ZoneUpdate(prerequisites=prerequisites, changes=changes):
            size = sum(len(change.rdata) + len(change.owner) for change in changes)
            size += sum(len(each.owner) + sum(map(len, each.rdatas)) for each in prerequisites)
            _check_size(len(prerequisites) + len(changes), size, "prerequisites and changes")
        case ZoneStage(records=records):
            if len(records) > ZONE_STAGE_RECORDS or sum(map(_record_bytes, records)) > ZONE_STAGE_BYTES:
                raise CommandError(
                    f"a chunk has at most {ZONE_STAGE_RECORDS} records of {ZONE_STAGE_BYTES} bytes in all"
                )
        case ZoneActivate(settings=ZoneSettings() as settings):
            _check_settings(settings)
        case ZoneCollect(names=names) if not 1 <= names <= ZONE_COLLECT_NAMES:
            raise CommandError(f"1 to {ZONE_COLLECT_NAMES} names are collected at a time")
    stage_id = getattr(command, "stage_id", None)
    if stage_id is not None and len(stage_id) != STAGE_ID_BYTES:
        raise CommandError(f"an import's id is {STAGE_ID_BYTES} bytes")


def _record_bytes(record: ZoneRecord) -> int:
    return len(record.owner) + len(record.rdata)


def _check_size(count: int, size: int, what: str) -> None:
    if count > ZONE_UPDATE_CHANGES or size > ZONE_UPDATE_BYTES:
        raise CommandError(
            f"at most {ZONE_UPDATE_CHANGES} {what} of {ZONE_UPDATE_BYTES} bytes in one command"
        )


def _check_settings(settings: ZoneSettings) -> None:
    if not 0 <= settings.default_ttl_s <= TTL_MAX_S:
        raise CommandError(f"default_ttl_s is 0 to {TTL_MAX_S}")
    for name, value in msgspec.structs.asdict(settings).items():
        if isinstance(value, tuple) and (
            len(value) > ZONE_SETTING_ENTRIES or any(len(entry) > ZONE_SETTING_CHARS for entry in value)
        ):
            raise CommandError(
                f"{name} has at most {ZONE_SETTING_ENTRIES} entries of {ZONE_SETTING_CHARS} characters"
            )
