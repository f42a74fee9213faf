"""The JSON that goes into and comes out of the key-value routes. Bytes are base64 (RFC 4648 §4)."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeVar

import msgspec

from aspen.decoding import UNDECODABLE
from aspen.errors import HttpError, KeyValueStoreError
from aspen.state.kv_commands import (
    Compare,
    Comparison,
    KvEntry,
    KvTxn,
    KvTxnResult,
    Target,
    TxnDelete,
    TxnGet,
    TxnOp,
    TxnPut,
)
from aspen.state.kv_revisions import Change, KvEvent

T = TypeVar("T")

_COMPARISONS: Final = {
    "=": Comparison.EQUAL,
    "!=": Comparison.NOT_EQUAL,
    "<": Comparison.LESS,
    ">": Comparison.GREATER,
}
_NUMBERS: Final = {
    "version": Target.VERSION,
    "create_revision": Target.CREATE_REVISION,
    "mod_revision": Target.MOD_REVISION,
    "lease": Target.LEASE,
}


class PairBody(msgspec.Struct, forbid_unknown_fields=True):
    key: bytes
    value: bytes


class BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """Of `POST /v1/kv`: pairs to set and keys to delete, all or none."""

    pairs: list[PairBody] = []
    deletes: list[bytes] = []
    lease: int = 0
    ttl_ms: int = 0


class IncrementBody(msgspec.Struct, forbid_unknown_fields=True):
    """Of `POST /v1/kv/{key}`."""

    delta: int = 1


class LeaseBody(msgspec.Struct, forbid_unknown_fields=True):
    """Of `POST /v1/leases`."""

    ttl_ms: int


class LeasesBody(msgspec.Struct, forbid_unknown_fields=True):
    """Of `POST /v1/leases/keepalive`."""

    leases: list[int]


class CompareBody(msgspec.Struct, forbid_unknown_fields=True):
    """One condition: `is` one of = != < >, and what the value or a number of the key is compared with."""

    key: bytes
    is_: Literal["=", "!=", "<", ">"] = msgspec.field(default="=", name="is")
    value: bytes | None = None
    version: int | None = None
    create_revision: int | None = None
    mod_revision: int | None = None
    lease: int | None = None
    exists: bool | None = None

    def read(self) -> Compare:
        """Raises `KeyValueStoreError.InvalidRequest`."""
        names = ("value", *_NUMBERS, "exists")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise KeyValueStoreError.InvalidRequest(f"a comparison has exactly one of {', '.join(names)}")
        comparison = _COMPARISONS[self.is_]
        if self.value is not None:
            return Compare(self.key, Target.VALUE, comparison, value=self.value)
        if self.exists is None:
            return Compare(self.key, _NUMBERS[given[0]], comparison, getattr(self, given[0]))
        if self.is_ != "=":
            raise KeyValueStoreError.InvalidRequest("whether a key exists is compared by = alone")
        return Compare(self.key, Target.VERSION, Comparison.GREATER if self.exists else Comparison.EQUAL, 0)


class OpBody(msgspec.Struct, forbid_unknown_fields=True):
    """One operation of a transaction."""

    op: Literal["get", "put", "delete"]
    key: bytes
    value: bytes | None = None
    lease: int = 0

    def read(self) -> TxnOp:
        """Raises `KeyValueStoreError.InvalidRequest`."""
        if self.op == "put":
            if self.value is None:
                raise KeyValueStoreError.InvalidRequest("a put has a value")
            return TxnPut(self.key, self.value, self.lease)
        if self.value is not None or self.lease:
            raise KeyValueStoreError.InvalidRequest("only a put has a value or a lease")
        return TxnGet(self.key) if self.op == "get" else TxnDelete(self.key)


class TxnBody(msgspec.Struct, forbid_unknown_fields=True):
    """Of `POST /v1/txn`."""

    compare: list[CompareBody] = []
    success: list[OpBody] = []
    failure: list[OpBody] = []

    def read(self) -> KvTxn:
        """Raises `KeyValueStoreError.InvalidRequest`."""
        return KvTxn(
            tuple(compare.read() for compare in self.compare),
            tuple(op.read() for op in self.success),
            tuple(op.read() for op in self.failure),
        )


def read_json(body: bytes, kind: type[T]) -> T:
    """Raises `HttpError` 400."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except UNDECODABLE as error:
        raise HttpError(400, "bad_json", f"not what this route takes: {error}") from None


def entry_json(entry: KvEntry, *, with_value: bool = True) -> dict[str, Any]:
    answer = entry._asdict()
    if not with_value:
        del answer["value"]
    return answer


def txn_json(command: KvTxn, result: KvTxnResult) -> dict[str, Any]:
    branch = command.success if result.succeeded else command.failure
    results: list[dict[str, Any]] = []
    for op, outcome in zip(branch, result.outcomes, strict=True):
        if isinstance(op, TxnGet):
            found = None if outcome.entry is None else entry_json(outcome.entry)
            results.append({"op": "get", "entry": found})
        else:
            name = "put" if isinstance(op, TxnPut) else "delete"
            results.append({"op": name, "changed": outcome.changed})
    return {"revision": result.revision, "succeeded": result.succeeded, "results": results}


def event_json(event: KvEvent, *, with_value: bool = True) -> dict[str, Any]:
    change, entry = event
    if change is Change.DELETE:
        return {"type": "delete", "key": entry.key, "mod_revision": entry.mod_revision}
    return {"type": "put", **entry_json(entry, with_value=with_value)}
