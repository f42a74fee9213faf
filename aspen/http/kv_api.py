"""What the key-value routes are, for the OpenAPI document (and for who reads this to learn the API)."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from aspen.http.kv_bodies import BatchBody, IncrementBody, LeaseBody, LeasesBody, TxnBody
from aspen.http.openapi import BINARY, JSON, Answer, Body, Operation, Parameter
from aspen.http.sse import EVENT_STREAM
from aspen.limits import KV_COUNT_MAX, KV_KEY_BYTES, KV_SCAN_DEFAULT, KV_SCAN_MAX, LEASE_TTL_MAX_MS

OCTETS: Final = "application/octet-stream"
_TAG: Final = "kv"


class Entry(msgspec.Struct):
    """A key and its value; `lease` is 0 if the key has none."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


class EntryOfScan(msgspec.Struct):
    """As `Entry`; without `value` if only keys were asked for."""

    key: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int
    value: bytes = b""


class Page(msgspec.Struct):
    """Of a scan: `entries`, or their `count` if that is what was asked for."""

    more: bool
    revision: int
    cursor: str | None
    entries: list[EntryOfScan] = []
    count: int = 0


class Written(msgspec.Struct):
    """`more`: of a range. `lease`: made by `ttl_ms`."""

    revision: int
    changed: int
    more: bool = False
    lease: int = 0


class Incremented(msgspec.Struct):
    revision: int
    value: int


class OperationResult(msgspec.Struct):
    op: Literal["get", "put", "delete"]
    changed: int = 0
    entry: Entry | None = None


class TxnAnswer(msgspec.Struct):
    revision: int
    succeeded: bool
    results: list[OperationResult]


class Granted(msgspec.Struct):
    lease: int
    ttl_ms: int
    revision: int


class Renewed(msgspec.Struct):
    renewed: list[int]
    revision: int


class Revoked(msgspec.Struct):
    lease: int
    changed: int
    revision: int


class LeaseShown(msgspec.Struct):
    """`remaining_ms` is an estimate by the answering node's clock; `attached` is of one lease alone."""

    lease: int
    ttl_ms: int
    remaining_ms: int
    keys: int
    attached: list[bytes] = []


class LeasePage(msgspec.Struct):
    leases: list[LeaseShown]
    more: bool


_NUMBER: Final = {"type": "integer", "minimum": 0, "maximum": 10**19 - 1}
_BOUND: Final = {"type": "string", "maxLength": KV_KEY_BYTES}
_FLAG: Final = {"type": "string", "enum": ["true", "false"]}
_HEADERS: Final = {
    "Aspen-Revision": "The store's revision.",
    "Aspen-Applied-Index": "How far the replica is that answered.",
    "Aspen-Last-Contact-Ms": "How long ago it heard from a leader.",
    "Aspen-Known-Leader": "The leader's node id; 0 if none is known.",
}
_DONE: Final = {"Aspen-Revision": "The store's revision.", "Aspen-Replayed": "The answer given before."}

KEY: Final = Parameter(
    "key",
    f"The key: any bytes, percent-escaped, 1 to {KV_KEY_BYTES}.",
    {"type": "string", "minLength": 1, "maxLength": KV_KEY_BYTES},
    where="path",
)
LEASE: Final = Parameter(
    "lease", "The lease.", {"type": "integer", "minimum": 1, "maximum": 10**18}, where="path"
)
_ONCE: Final = Parameter(
    "Idempotency-Key",
    "Sent again under the same key within ten minutes, the request is carried out once.",
    {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"},
    where="header",
)
_READ: Final = (
    Parameter(
        "consistency",
        "How fresh: linearizable, linearizable and only on the leader, or as this replica is.",
        {"type": "string", "enum": ["consistent", "leader", "stale"]},
    ),
    Parameter("min_revision", "Wait until the replica has this revision.", _NUMBER),
)
_AT: Final = Parameter("revision", "As it was at this revision.", _NUMBER)
_RANGE: Final = (
    Parameter("prefix", "Keys that begin with this.", _BOUND),
    Parameter("start", "Keys from this one on; not with a prefix.", _BOUND),
    Parameter("end", "Keys before this one; not with a prefix.", _BOUND),
)
_CONDITIONS: Final = (
    Parameter("if_value", "Only if the value is this.", {"type": "string"}),
    Parameter("if_mod_revision", "Only if modified last at this revision; 0: if absent.", _NUMBER),
)
_KEY_ERRORS: Final = {403: "A key under `_system:`, or a page of another origin."}
_CONFLICTS: Final = {
    409: "`compare_failed` (with `current`), or `request_reused`: the idempotency key stood for another.",
    404: "`lease_not_found`: there is no such lease.",
}
_REUSED: Final = {409: "`request_reused`: the idempotency key stood for another request."}
_COMPACTED: Final = {
    410: "`compacted`: that revision is no longer kept; `revision` is the oldest that is.",
    409: "`future_revision`: that revision does not exist yet.",
}

ONE_KEY: Final = {
    "GET": Operation(
        "Read a key",
        {200: Answer("The entry, or its bare value.", {JSON: Entry, OCTETS: BINARY}, _HEADERS)},
        {**_KEY_ERRORS, **_COMPACTED, 404: "There is no such key."},
        (*_READ, _AT),
        tag=_TAG,
    ),
    "PUT": Operation(
        "Set a key to the body",
        {200: Answer("Set.", {JSON: Written}, _DONE)},
        {**_KEY_ERRORS, **_CONFLICTS},
        (
            *_CONDITIONS,
            Parameter("lease", "End the key with this lease.", _NUMBER),
            Parameter(
                "ttl_ms",
                "End the key after so long, unless it is set again; 0: never.",
                {"type": "integer", "minimum": 0, "maximum": LEASE_TTL_MAX_MS},
            ),
            _ONCE,
        ),
        Body({OCTETS: BINARY, "*/*": BINARY}, required=False),
        tag=_TAG,
    ),
    "POST": Operation(
        "Add to the number that a key holds",
        {200: Answer("The sum.", {JSON: Incremented}, _DONE)},
        {**_KEY_ERRORS, 409: "`not_a_number`, or `request_reused`."},
        (_ONCE,),
        Body({JSON: IncrementBody}, required=False),
        tag=_TAG,
    ),
    "DELETE": Operation(
        "Delete a key",
        {200: Answer("Deleted, if it was there.", {JSON: Written}, _DONE)},
        {**_KEY_ERRORS, **_CONFLICTS},
        (*_CONDITIONS, _ONCE),
        tag=_TAG,
    ),
}
SEVERAL: Final = {
    "GET": Operation(
        "Scan a range, page by page",
        {200: Answer("A page.", {JSON: Page}, _HEADERS)},
        _COMPACTED,
        (
            *_READ,
            _AT,
            *_RANGE,
            Parameter("after", "Only what comes after this key on the way.", _BOUND),
            Parameter("order", "Which way.", {"type": "string", "enum": ["asc", "desc"]}),
            Parameter(
                "limit",
                f"Entries at most ({KV_SCAN_DEFAULT} unless told; {KV_SCAN_MAX} at most, "
                f"{KV_COUNT_MAX} if they are only counted).",
                {"type": "integer", "minimum": 1, "maximum": KV_SCAN_MAX},
            ),
            Parameter("keys_only", "Leave values out.", _FLAG),
            Parameter("count_only", "Only count.", _FLAG),
            Parameter("cursor", "Of the page before, in the range's stead.", {"type": "string"}),
        ),
        tag=_TAG,
    ),
    "POST": Operation(
        "Set and delete keys, all or none",
        {200: Answer("Done.", {JSON: Written}, _DONE)},
        {**_KEY_ERRORS, **_CONFLICTS},
        (_ONCE,),
        Body({JSON: BatchBody}, required=False),
        tag=_TAG,
    ),
    "DELETE": Operation(
        "Delete the first keys of a range",
        {200: Answer("Deleted; `more` if the range was too long for one command.", {JSON: Written}, _DONE)},
        _REUSED,
        (*_RANGE, _ONCE),
        tag=_TAG,
    ),
}
TXN: Final = {
    "POST": Operation(
        "Compare, then do one thing or the other",
        {200: Answer("Which it was, and what came of it.", {JSON: TxnAnswer}, _DONE)},
        {**_KEY_ERRORS, **_CONFLICTS},
        (_ONCE,),
        Body({JSON: TxnBody}, required=False),
        tag=_TAG,
    )
}
WATCH: Final = {
    "GET": Operation(
        "Watch keys",
        {200: Answer("Events `changes`, `progress`, `end`.", {EVENT_STREAM: {"type": "string"}})},
        {**_KEY_ERRORS, **_COMPACTED},
        (
            Parameter("key", "One key; not with a range.", _BOUND),
            *_RANGE,
            Parameter("from", "From this revision on, included; else from now on.", _NUMBER),
            Parameter("keys_only", "Leave values out.", _FLAG),
            Parameter("Last-Event-ID", "Go on behind this revision.", _NUMBER, where="header"),
            *_READ,
        ),
        tag=_TAG,
    )
}
LEASES: Final = {
    "GET": Operation(
        "List leases",
        {200: Answer("In the order of their grants.", {JSON: LeasePage})},
        {409: "`future_revision`: `min_revision` is not known here."},
        (
            *_READ,
            Parameter("after", "Only those granted after this one.", _NUMBER),
            Parameter("limit", "Leases at most.", {"type": "integer", "minimum": 1, "maximum": KV_SCAN_MAX}),
        ),
        tag=_TAG,
    ),
    "POST": Operation(
        "Grant a lease",
        {200: Answer("The lease.", {JSON: Granted}, _DONE)},
        _REUSED,
        (_ONCE,),
        Body({JSON: LeaseBody}),
        tag=_TAG,
    ),
}
_NO_LEASE: Final = {
    404: "`lease_not_found`: never granted, expired or revoked.",
    409: "`future_revision`, or `request_reused`.",
}
ONE_LEASE: Final = {
    "GET": Operation(
        "Look at a lease",
        {200: Answer("The lease and its first keys.", {JSON: LeaseShown})},
        _NO_LEASE,
        _READ,
        tag=_TAG,
    ),
    "POST": Operation(
        "Keep a lease alive",
        {200: Answer("Its time has begun anew.", {JSON: Granted}, _DONE)},
        {**_NO_LEASE, **_REUSED},
        (_ONCE,),
        tag=_TAG,
    ),
    "DELETE": Operation(
        "Revoke a lease",
        {200: Answer("It has ended; `changed` keys went at once.", {JSON: Revoked}, _DONE)},
        {**_NO_LEASE, **_REUSED},
        (_ONCE,),
        tag=_TAG,
    ),
}
KEEP_ALIVE: Final = {
    "POST": Operation(
        "Keep several leases alive",
        {200: Answer("Those that there are.", {JSON: Renewed}, _DONE)},
        {**_NO_LEASE, **_REUSED},
        (_ONCE,),
        Body({JSON: LeasesBody}),
        tag=_TAG,
    )
}
