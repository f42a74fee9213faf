"""What the routes of zones take and give, and how they are described (`aspen.http.zones`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from aspen.dns.authored_text import NewZone, RecordChange
from aspen.dns.name import name_to_text
from aspen.dns.presentation import format_rdata, type_name
from aspen.dns.zone import Node, ZoneSettings
from aspen.http.openapi import JSON, Answer, Body, Operation, Parameter

PATH: Final = "/v1/zones"
MASTER_FILE: Final = "text/dns"
"""RFC 4027."""
_TAG: Final = "zones"


class ZoneView(msgspec.Struct, frozen=True):
    """A zone, its records left out."""

    name: str
    """Absolute, with its final dot."""
    serial: int
    records: int
    changed_at_ms: int
    settings: ZoneSettings
    missing_keys: tuple[str, ...] = ()
    """TSIG keys that the settings name and that there are not: nobody can sign with them."""


class ZoneList(msgspec.Struct, frozen=True):
    zones: tuple[ZoneView, ...]
    more: bool
    """There are zones after the last one: ask for those `after` its name."""


class RecordSetView(msgspec.Struct, frozen=True):
    """All records of one name and type."""

    name: str
    """Absolute."""
    type: str
    ttl: int
    data: tuple[str, ...]
    """As in a master file."""


class RecordList(msgspec.Struct, frozen=True):
    zone: str
    serial: int
    records: tuple[RecordSetView, ...]
    more: bool
    """There are names after the last one: ask for those `after` it."""


class ZoneChanged(msgspec.Struct, frozen=True):
    zone: str
    serial: int
    """After the change."""
    changed: int
    """Records added and removed."""


class ImportProgress(msgspec.Struct, frozen=True):
    records: int
    """Staged so far."""


class ImportList(msgspec.Struct, frozen=True):
    imports: tuple[ImportProgress, ...]


class Changes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Made all or none."""

    changes: tuple[RecordChange, ...]


class SettingsChange(msgspec.Struct, frozen=True):
    """Any of a zone's settings; those left out stay."""

    settings: dict[str, Any]


def record_sets(owner: bytes, node: Node, rrtype: int | None = None) -> Iterable[RecordSetView]:
    for kind in sorted(node):
        if rrtype is None or kind == rrtype:
            rrset = node[kind]
            data = tuple(format_rdata(kind, rdata) for rdata in rrset.rdatas)
            yield RecordSetView(name_to_text(owner), type_name(kind), rrset.ttl, data)


# --- descriptions ---------------------------------------------------------------------------------

_CONSISTENCY: Final = Parameter(
    "consistency",
    "How fresh the answer must be; linearizable unless told otherwise.",
    {"type": "string", "enum": ["stale", "consistent", "leader"]},
)
ZONE: Final = Parameter("zone", "The zone's name; a slash in it as %2F.", where="path")
_NO_ZONE: Final = {404: "There is no such zone."}
_RULES: Final = {
    422: "A record breaks a rule: `rule`, `record` and `line` say which.",
    413: "More records than fit into one request.",
}

LIST: Final = Operation(
    "Zones, by name",
    {200: Answer("A page of zones.", {JSON: ZoneList})},
    parameters=(
        Parameter("after", "Only zones after this name."),
        Parameter("for", "Only the zone that this name is in."),
        Parameter("limit", "Zones at most.", {"type": "integer"}),
        _CONSISTENCY,
    ),
    tag=_TAG,
)
CREATE: Final = Operation(
    "Create a zone",
    {201: Answer("The zone, durable on a quorum.", {JSON: ZoneView})},
    {409: "There is a zone of this name.", **_RULES},
    body=Body({JSON: NewZone}),
    tag=_TAG,
)
SHOW: Final = Operation(
    "One zone", {200: Answer("The zone.", {JSON: ZoneView})}, _NO_ZONE, (_CONSISTENCY,), tag=_TAG
)
CONFIGURE: Final = Operation(
    "Change settings of a zone",
    {200: Answer("The zone as it is now.", {JSON: ZoneView})},
    {**_NO_ZONE, 422: "A setting can't be used."},
    body=Body({JSON: SettingsChange}),
    tag=_TAG,
)
DELETE: Final = Operation(
    "Delete a zone and its records",
    {200: Answer("It is gone.", {JSON: ZoneChanged})},
    _NO_ZONE,
    tag=_TAG,
)
RECORDS: Final = Operation(
    "Records of a zone, in canonical order",
    {200: Answer("A page of records.", {JSON: RecordList})},
    {**_NO_ZONE, 422: "The name or type can't be read."},
    (
        Parameter("name", "Only this name; relative unless it ends in a dot."),
        Parameter("type", "Only this type."),
        Parameter("after", "Only names after this one."),
        Parameter("limit", "Names at most.", {"type": "integer"}),
        _CONSISTENCY,
    ),
    tag=_TAG,
)
CHANGE: Final = Operation(
    "Set, add and delete records, all or none",
    {200: Answer("Durable on a quorum.", {JSON: ZoneChanged})},
    {**_NO_ZONE, **_RULES},
    body=Body({JSON: Changes}),
    tag=_TAG,
)
IMPORTS: Final = Operation(
    "Imports of a zone under way", {200: Answer("How far each has come.", {JSON: ImportList})}, tag=_TAG
)
IMPORT: Final = Operation(
    "Make a master file the content of a zone",
    {200: Answer("The zone has this content, whole.", {JSON: ZoneChanged})},
    {
        409: "There is such a zone and it must not be replaced, or the import was lost.",
        422: "The file can't be read, or a record breaks a rule: `line` says where.",
    },
    (Parameter("replace", "`false`: only if there is no such zone.", {"type": "boolean"}),),
    Body({MASTER_FILE: {"type": "string"}}),
    "The body is taken in as it comes. Nobody sees any of it before all of it is there.",
    _TAG,
)
EXPORT: Final = Operation(
    "A zone as a master file",
    {200: Answer("All records, as of one moment.", {MASTER_FILE: {"type": "string"}})},
    _NO_ZONE,
    (_CONSISTENCY,),
    tag=_TAG,
)
