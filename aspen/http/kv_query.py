"""What requests to the key-value routes say in their query: consistency, ranges, numbers, cursors."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Final

import msgspec

from aspen.decoding import UNDECODABLE
from aspen.errors import HttpError
from aspen.limits import KV_KEY_BYTES
from aspen.state.kv_reader import KvRange, under
from aspen.state.ports import Consistency

Query = Mapping[str, bytes]

READ: Final = frozenset({"consistency", "min_revision"})
RANGE: Final = frozenset({"prefix", "start", "end"})
_DIGITS: Final = 19  # of a revision, at most


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a scan goes on: what is left of its range, at its revision."""

    revision: int
    start: bytes
    end: bytes | None
    descending: bool
    keys_only: bool
    count_only: bool

    def encode(self) -> str:
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).decode().rstrip("=")


def bad_query(reason: str) -> HttpError:
    return HttpError(400, "bad_query", reason)


def consistency_of(query: Query) -> Consistency:
    given = query.get("consistency")
    if given is None:
        return Consistency.CONSISTENT
    try:
        return Consistency(given.decode("ascii", "replace"))
    except ValueError:
        names = ", ".join(Consistency)
        raise bad_query(f"consistency is one of {names}") from None


def number_of(query: Query, name: str, most: int = 10**_DIGITS - 1, least: int = 0) -> int | None:
    given = query.get(name)
    if given is None:
        return None
    if not given.isdigit() or len(given) > _DIGITS or not least <= int(given) <= most:
        raise bad_query(f"{name} is a number from {least} to {most}")
    return int(given)


def flag_of(query: Query, name: str) -> bool:
    given = query.get(name, b"false")
    if given not in (b"true", b"false"):
        raise bad_query(f"{name} is true or false")
    return given == b"true"


def range_of(query: Query) -> KvRange:
    """The keys under `prefix`, or from `start` on and before `end`; after `after` on the way there."""
    order = query.get("order", b"asc")
    if order not in (b"asc", b"desc"):
        raise bad_query("order is asc or desc")
    descending = order == b"desc"
    for name in ("prefix", "start", "end", "after"):
        if len(query.get(name, b"")) > KV_KEY_BYTES:
            raise bad_query(f"{name} is at most {KV_KEY_BYTES} bytes")
    after = query.get("after")
    if "start" not in query and "end" not in query:
        return under(query.get("prefix", b""), after=after, descending=descending)
    if "prefix" in query:
        raise bad_query("a prefix, or a start and an end, not both")
    start, end = query.get("start", b""), query.get("end")
    if after is not None and descending:
        end = after if end is None else min(end, after)
    elif after is not None:
        start = max(start, after + b"\0")
    return KvRange(start, end, descending)


def cursor_of(query: Query) -> Cursor | None:
    """Raises `HttpError` 400 for one that no scan gave out, or beside what it says already."""
    given = query.get("cursor")
    if given is None:
        return None
    beside = {*RANGE, "after", "order", "revision", "keys_only", "count_only"} & query.keys()
    if beside:
        raise bad_query(f"a cursor goes on as its scan began, without {', '.join(sorted(beside))}")
    try:
        raw = base64.urlsafe_b64decode(given + b"=" * (-len(given) % 4))
        cursor = msgspec.msgpack.decode(raw, type=Cursor)
    except (binascii.Error, ValueError, *UNDECODABLE):
        raise bad_query("not a cursor that a scan gave") from None
    if not 0 <= cursor.revision < 10**_DIGITS or len(cursor.start) > KV_KEY_BYTES + 1:
        raise bad_query("not a cursor that a scan gave")
    if len(cursor.end or b"") > KV_KEY_BYTES + 1:
        raise bad_query("not a cursor that a scan gave")
    return cursor
