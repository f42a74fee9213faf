"""The key-value store as its HTTP interface has it: the requests, and what comes of them.

`KvCalls` says what to send; whoever mixes it in, a client of one node or of several, sends it. Keys
and values are bytes. Every method raises a kind of `ClientError`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from aspen.client.transport import Answer, Query, refusal
from aspen.decoding import UNDECODABLE
from aspen.errors import ClientError, ClientNotFound
from aspen.limits import KV_SCAN_DEFAULT

JSON: Final = {"Accept": "application/json"}


class KvEntry(msgspec.Struct, frozen=True):
    """A key and its value, with the revisions that made them."""

    key: bytes
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    lease: int = 0


class KvScan(msgspec.Struct, frozen=True):
    """One page of a scan. If there is `more`, `cursor` goes on at the same revision."""

    entries: tuple[KvEntry, ...] = ()
    more: bool = False
    revision: int = 0
    cursor: str | None = None
    count: int = 0
    """Of a scan that only counts."""


class KvWritten(msgspec.Struct, frozen=True):
    """What a write did: the store's revision after it, and how many keys it set or deleted."""

    revision: int = 0
    changed: int = 0
    more: bool = False
    """Of a range: there were more keys in it than one command deletes."""
    lease: int = 0


class KvIncremented(msgspec.Struct, frozen=True):
    revision: int
    value: int


class TxnOutcome(msgspec.Struct, frozen=True):
    op: str
    changed: int = 0
    entry: KvEntry | None = None


class TxnResult(msgspec.Struct, frozen=True):
    revision: int
    succeeded: bool
    results: tuple[TxnOutcome, ...] = ()


class LeaseInfo(msgspec.Struct, frozen=True):
    lease: int
    ttl_ms: int = 0
    remaining_ms: int = 0
    """An estimate by the answering node's clock."""
    keys: int = 0
    attached: tuple[bytes, ...] = ()
    revision: int = 0


class LeaseList(msgspec.Struct, frozen=True):
    leases: tuple[LeaseInfo, ...] = ()
    more: bool = False


class Change(msgspec.Struct, frozen=True):
    """One change of one key."""

    type: str
    """`put` or `delete`."""
    key: bytes
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    lease: int = 0


class Changes(msgspec.Struct, frozen=True):
    """What one command changed; without `changes`, a sign of life: all up to `revision` has been told."""

    revision: int
    changes: tuple[Change, ...] = ()


def compare(key: bytes, **condition: Any) -> dict[str, Any]:
    """A condition of a transaction: `compare(b"k", value=b"v")`, `compare(b"k", mod_revision=0)`,
    `compare(b"k", version=3, is_=">")`, `compare(b"k", exists=True)`."""
    relation = condition.pop("is_", "=")
    return {"key": key, "is": relation, **condition}


def op_get(key: bytes) -> dict[str, Any]:
    return {"op": "get", "key": key}


def op_put(key: bytes, value: bytes, lease: int = 0) -> dict[str, Any]:
    return {"op": "put", "key": key, "value": value, "lease": lease}


def op_delete(key: bytes) -> dict[str, Any]:
    return {"op": "delete", "key": key}


class KvCalls:
    """The calls. `once` is an idempotency key: sent again under the same, a write is done once."""

    async def call(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send it, and give what came of it."""
        raise NotImplementedError

    def kv_watch(
        self, prefix: bytes = b"", *, key: bytes | None = None, start: int | None = None
    ) -> AsyncIterator[Changes]:
        raise NotImplementedError

    # --- one key ------------------------------------------------------------------------------

    async def kv_get(
        self, key: bytes, consistency: str = "consistent", *, revision: int | None = None
    ) -> KvEntry:
        """Raises `ClientNotFound` if there is no such key."""
        query: dict[str, str | bytes] = {"consistency": consistency}
        if revision is not None:
            query["revision"] = str(revision)
        return (await self.call("GET", key_path(key), query, headers=JSON)).read(KvEntry)

    async def kv_put(
        self,
        key: bytes,
        value: bytes,
        *,
        lease: int = 0,
        ttl_ms: int = 0,
        if_value: bytes | None = None,
        if_mod_revision: int | None = None,
        once: str | None = None,
    ) -> KvWritten:
        """Set the key; with `if_value` or `if_mod_revision` (0: if it is absent), raises
        `ClientCompareFailed` if it is not as expected."""
        query = _conditions(if_value, if_mod_revision)
        if lease:
            query["lease"] = str(lease)
        if ttl_ms:
            query["ttl_ms"] = str(ttl_ms)
        return (await self.call("PUT", key_path(key), query, body=value, headers=_once(once))).read(KvWritten)

    async def kv_delete(
        self,
        key: bytes,
        *,
        if_value: bytes | None = None,
        if_mod_revision: int | None = None,
        once: str | None = None,
    ) -> KvWritten:
        """Raises `ClientNotFound` if there was no such key, `ClientCompareFailed` if it was another."""
        query = _conditions(if_value, if_mod_revision)
        written = (await self.call("DELETE", key_path(key), query, headers=_once(once))).read(KvWritten)
        if not written.changed:
            raise ClientNotFound(200, "not_found", "there was no such key")
        return written

    async def kv_increment(self, key: bytes, delta: int = 1, *, once: str | None = None) -> KvIncremented:
        """Add to the decimal integer that the value is."""
        body = msgspec.json.encode({"delta": delta})
        return (await self.call("POST", key_path(key), body=body, headers=_once(once))).read(KvIncremented)

    # --- several ------------------------------------------------------------------------------

    async def kv_scan(
        self,
        prefix: bytes = b"",
        *,
        start: bytes | None = None,
        end: bytes | None = None,
        after: bytes | None = None,
        limit: int | None = KV_SCAN_DEFAULT,
        cursor: str | None = None,
        revision: int | None = None,
        keys_only: bool = False,
        count_only: bool = False,
        descending: bool = False,
        consistency: str = "consistent",
    ) -> KvScan:
        """One page of the keys that begin with `prefix`, or from `start` on and before `end`. With the
        `cursor` of the page before, the next one, of the same moment; `ClientCompacted` if that is too
        long ago."""
        query: dict[str, str | bytes] = {"consistency": consistency}
        if limit is not None:
            query["limit"] = str(limit)
        if cursor is not None:
            query["cursor"] = cursor
        else:
            if start is not None or end is not None:
                query |= {} if start is None else {"start": start}
                query |= {} if end is None else {"end": end}
            else:
                query["prefix"] = prefix
            query |= {} if after is None else {"after": after}
            query |= {} if revision is None else {"revision": str(revision)}
            query |= {"keys_only": "true"} if keys_only else {}
            query |= {"count_only": "true"} if count_only else {}
            query |= {"order": "desc"} if descending else {}
        return (await self.call("GET", "/v1/kv", query, headers=JSON)).read(KvScan)

    async def kv_batch(
        self,
        pairs: Iterable[tuple[bytes, bytes]] = (),
        deletes: Sequence[bytes] = (),
        *,
        lease: int = 0,
        ttl_ms: int = 0,
        once: str | None = None,
    ) -> KvWritten:
        """Set and delete keys, all or none."""
        request = {
            "pairs": [{"key": key, "value": value} for key, value in pairs],
            "deletes": list(deletes),
            "lease": lease,
            "ttl_ms": ttl_ms,
        }
        body = msgspec.json.encode(request)
        return (await self.call("POST", "/v1/kv", body=body, headers=_once(once))).read(KvWritten)

    async def kv_delete_prefix(self, prefix: bytes) -> KvWritten:
        """Delete every key under the prefix, in as many commands as it takes; `changed` counts them all."""
        changed = 0
        while True:
            answer = await self.call("DELETE", "/v1/kv", {"prefix": prefix})
            written = answer.read(KvWritten)
            changed += written.changed
            if not written.more:
                return KvWritten(written.revision, changed)

    async def kv_txn(
        self,
        compares: Sequence[Mapping[str, Any]],
        success: Sequence[Mapping[str, Any]],
        failure: Sequence[Mapping[str, Any]] = (),
        *,
        once: str | None = None,
    ) -> TxnResult:
        """If all comparisons hold, the first operations, else the others; see `compare` and `op_…`."""
        request = {"compare": list(compares), "success": list(success), "failure": list(failure)}
        body = msgspec.json.encode(request)
        return (await self.call("POST", "/v1/txn", body=body, headers=_once(once))).read(TxnResult)

    # --- leases -------------------------------------------------------------------------------

    async def lease_grant(self, ttl_ms: int, *, once: str | None = None) -> LeaseInfo:
        body = msgspec.json.encode({"ttl_ms": ttl_ms})
        return (await self.call("POST", "/v1/leases", body=body, headers=_once(once))).read(LeaseInfo)

    async def lease_keep_alive(self, lease: int) -> LeaseInfo:
        """Raises `ClientError` with code `lease_not_found` if it has ended."""
        return (await self.call("POST", f"/v1/leases/{lease}", body=b"")).read(LeaseInfo)

    async def lease_revoke(self, lease: int) -> KvWritten:
        return (await self.call("DELETE", f"/v1/leases/{lease}")).read(KvWritten)

    async def lease_get(self, lease: int, consistency: str = "consistent") -> LeaseInfo:
        query = {"consistency": consistency}
        return (await self.call("GET", f"/v1/leases/{lease}", query)).read(LeaseInfo)

    async def leases(self, *, after: int = 0, consistency: str = "consistent") -> LeaseList:
        query = {"consistency": consistency, "after": str(after)}
        return (await self.call("GET", "/v1/leases", query)).read(LeaseList)


def key_path(key: bytes) -> str:
    spelled = quote(key, safe="")
    if not spelled.strip("."):
        spelled = spelled.replace(".", "%2E")  # or `..` would climb out of the path
    return f"/v1/kv/{spelled}"


def watch_query(prefix: bytes, key: bytes | None) -> dict[str, str | bytes]:
    return {"prefix": prefix} if key is None else {"key": key}


def read_event(name: str, data: bytes) -> Changes:
    """Raises `ClientError` for an event that ends the stream with an error."""
    try:
        if name == "end":
            raise refusal(410, data, False)
        return msgspec.json.decode(data, type=Changes)
    except UNDECODABLE as error:
        raise ClientError(200, "bad_answer", f"not an event of an Aspen node: {error}") from None


def _conditions(if_value: bytes | None, if_mod_revision: int | None) -> dict[str, str | bytes]:
    query: dict[str, str | bytes] = {}
    if if_value is not None:
        query["if_value"] = if_value
    if if_mod_revision is not None:
        query["if_mod_revision"] = str(if_mod_revision)
    return query


def _once(once: str | None) -> dict[str, str]:
    return {} if once is None else {"Idempotency-Key": once}
