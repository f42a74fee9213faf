"""The key-value store over HTTP: `/v1/kv/{key}` for one key, `/v1/kv` for ranges and batches, `/v1/txn`.

Keys stand in the path and query as percent-escaped bytes, any bytes. Values travel as they are:
a PUT's body is the value, and a GET that accepts `application/octet-stream` returns it; other
answers are JSON with bytes in base64. Reads wait for the consistency they ask for (by default
linearizable), then look at the local replica.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from aspen.errors import HttpError
from aspen.http import kv_api as api
from aspen.http.errors import json_response, problem
from aspen.http.kv_access import REVISION, Beyond, KvAccess
from aspen.http.kv_api import OCTETS
from aspen.http.kv_bodies import BatchBody, IncrementBody, TxnBody, entry_json, read_json, txn_json
from aspen.http.kv_query import (
    RANGE,
    READ,
    Cursor,
    Query,
    bad_query,
    cursor_of,
    flag_of,
    number_of,
    range_of,
)
from aspen.http.request import query_of, read_body, unquote
from aspen.http.routing import Request, Router
from aspen.limits import (
    HTTP_BODY_BYTES,
    KV_COUNT_MAX,
    KV_SCAN_BYTES,
    KV_SCAN_DEFAULT,
    KV_SCAN_MAX,
    KV_SLICE_KEYS,
    KV_VALUE_BYTES,
    LEASE_TTL_MAX_MS,
)
from aspen.state.kv_checks import validate_key
from aspen.state.kv_commands import (
    KvDelete,
    KvDeleteRange,
    KvEntry,
    KvIncrement,
    KvIncrementResult,
    KvPlainCommand,
    KvResult,
    KvSet,
    KvTxn,
    KvTxnResult,
)
from aspen.state.kv_reader import KvRange, KvSlice
from aspen.state.kv_recipes import batch, compare_and_delete, compare_and_swap, is_as_expected
from aspen.state.ports import Proposer

PATH: Final = "/v1/kv"
TXN_PATH: Final = "/v1/txn"

_GET: Final = READ | {"revision"}
_COMPARE: Final = frozenset({"if_value", "if_mod_revision"})
_PUT: Final = _COMPARE | {"lease", "ttl_ms"}
_SCAN: Final = _GET | RANGE | {"after", "limit", "cursor", "order", "keys_only", "count_only"}
_NONE: Final[frozenset[str]] = frozenset()


class KeyValueReader(Protocol):
    """The keys of the local replica."""

    def look(self, key: bytes, revision: int | None = None) -> tuple[KvEntry | None, int]: ...

    def slice(
        self, range_: KvRange, revision: int | None, limit: int, *, keys_only: bool = False
    ) -> KvSlice: ...


class KvRoutes:
    """The handlers, over a way to write and a way to read."""

    def __init__(self, proposer: Proposer, reader: KeyValueReader, beyond: Beyond) -> None:
        self._access = KvAccess(proposer, beyond)
        self._reader = reader

    def add_routes(self, router: Router) -> None:
        several = {"GET": self.scan, "POST": self.change_several, "DELETE": self.delete_range}
        router.add(PATH, several, public=False, operations=api.SEVERAL)
        one_key = {"GET": self.get, "PUT": self.put, "POST": self.increment, "DELETE": self.delete}
        router.add(PATH + "/", one_key, public=False, operations=api.ONE_KEY, parameter=api.KEY)
        router.add(TXN_PATH, {"POST": self.txn}, public=False, operations=api.TXN)

    # --- one key ------------------------------------------------------------------------------

    async def get(self, request: Request, raw_key: str) -> web.StreamResponse:
        """The entry as JSON, or the bare value; 404 if there is none."""
        query = query_of(request, _GET)
        key = unquote(raw_key)
        validate_key(key)
        revision = number_of(query, "revision")
        headers = await self._access.fresh(query)
        entry, at = self._reader.look(key, revision)
        headers[REVISION] = str(at)
        headers["Cache-Control"] = "no-store"
        headers["Vary"] = "Accept"
        if entry is None:
            raise HttpError(404, "not_found", "there is no such key", headers=headers)
        if OCTETS in request.headers.get("Accept", ""):
            headers["Content-Type"] = OCTETS
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Aspen-Create-Revision"] = str(entry.create_revision)
            headers["Aspen-Mod-Revision"] = str(entry.mod_revision)
            headers["Aspen-Version"] = str(entry.version)
            headers["Aspen-Lease"] = str(entry.lease)
            return web.Response(body=entry.value, headers=headers)
        return json_response(entry_json(entry), headers=headers)

    async def put(self, request: Request, raw_key: str) -> web.StreamResponse:
        """Set the key to the body; with `if_…`, only if it is as expected."""
        query = query_of(request, _PUT)
        key = unquote(raw_key)
        validate_key(key)
        lease, ttl_ms = number_of(query, "lease") or 0, number_of(query, "ttl_ms", LEASE_TTL_MAX_MS) or 0
        compares = _COMPARE & query.keys()
        if compares and ttl_ms:
            raise bad_query("a comparison goes with a lease, not with a time to live: grant one first")
        value = await read_body(request, KV_VALUE_BYTES, code="value_too_large")
        if compares:
            return await self._compared(request, compare_and_swap(_expected(key, query), value, lease))
        return await self._write(request, KvSet(((key, value),), lease, ttl_ms))

    async def increment(self, request: Request, raw_key: str) -> web.StreamResponse:
        """Add to the number under the key: `{"delta": 1}`."""
        query_of(request, _NONE)
        key = unquote(raw_key)
        validate_key(key)
        body = read_json(await read_body(request, HTTP_BODY_BYTES), IncrementBody)
        result, headers = await self._access.write(request, KvIncrement(key, body.delta), KvIncrementResult)
        return json_response({"revision": result.revision, "value": result.value}, headers=headers)

    async def delete(self, request: Request, raw_key: str) -> web.StreamResponse:
        """Delete the key; `changed` is 0 if there was none."""
        query = query_of(request, _COMPARE)
        key = unquote(raw_key)
        validate_key(key)
        if _COMPARE & query.keys():
            return await self._compared(request, compare_and_delete(_expected(key, query)))
        return await self._write(request, KvDelete((key,)))

    # --- several ------------------------------------------------------------------------------

    async def change_several(self, request: Request, _rest: str) -> web.StreamResponse:
        """Set and delete several keys, all or none: `{"pairs": [{"key": …, "value": …}], "deletes": […]}`."""
        query_of(request, _NONE)
        body = read_json(await read_body(request, HTTP_BODY_BYTES), BatchBody)
        pairs = tuple((pair.key, pair.value) for pair in body.pairs)
        command: KvPlainCommand
        if not body.deletes:
            command = KvSet(pairs, body.lease, body.ttl_ms)
        elif body.ttl_ms:
            raise HttpError(400, "invalid_request", "deletes don't go with a ttl_ms")
        elif not pairs:
            command = KvDelete(tuple(body.deletes))
        else:
            txn = batch(pairs, body.deletes, body.lease)
            result, headers = await self._access.write(request, txn, KvTxnResult)
            return json_response({"revision": result.revision, "changed": result.changed}, headers=headers)
        return await self._write(request, command)

    async def delete_range(self, request: Request, _rest: str) -> web.StreamResponse:
        """Delete the first keys of a range, as many as one command may; `more` if there are more."""
        query = query_of(request, RANGE)
        if not query:
            raise bad_query("say which keys: prefix, or start and end (an empty prefix is all keys)")
        range_ = range_of(query)
        return await self._write(request, KvDeleteRange(range_.start, range_.end), with_more=True)

    async def txn(self, request: Request, _rest: str) -> web.StreamResponse:
        """Compare, then do one thing or the other."""
        query_of(request, _NONE)
        command = read_json(await read_body(request, HTTP_BODY_BYTES), TxnBody).read()
        result, headers = await self._access.write(request, command, KvTxnResult)
        return json_response(txn_json(command, result), headers=headers)

    # --- scans --------------------------------------------------------------------------------

    async def scan(self, request: Request, _rest: str) -> web.StreamResponse:
        """One page of a range, in order; continue with its `cursor`, at the same revision."""
        query = query_of(request, _SCAN)
        cursor = cursor_of(query)
        if cursor is None:
            keys_only, count_only = flag_of(query, "keys_only"), flag_of(query, "count_only")
            range_, revision = range_of(query), number_of(query, "revision")
        else:
            keys_only, count_only = cursor.keys_only, cursor.count_only
            range_, revision = KvRange(cursor.start, cursor.end, cursor.descending), cursor.revision
        most, usual = (KV_COUNT_MAX, KV_COUNT_MAX) if count_only else (KV_SCAN_MAX, KV_SCAN_DEFAULT)
        limit = number_of(query, "limit", most, 1) or usual
        headers = await self._access.fresh(query, 0 if cursor is None else cursor.revision)
        page = _Page(self._reader, limit, keys_only=keys_only, count_only=count_only)
        rest, at = await page.fill(range_, revision)
        headers[REVISION] = str(at)
        headers["Cache-Control"] = "no-store"
        headers["Content-Type"] = "application/json"
        following = None
        if rest is not None:
            following = Cursor(at, rest.start, rest.end, rest.descending, keys_only, count_only).encode()
        return web.Response(body=page.encode(rest is not None, at, following), headers=headers)

    # --- the state ----------------------------------------------------------------------------

    async def _write(
        self, request: Request, command: KvPlainCommand, *, with_more: bool = False
    ) -> web.StreamResponse:
        result, headers = await self._access.write(request, command, KvResult)
        answer: dict[str, Any] = {"revision": result.revision, "changed": result.changed}
        if result.lease:
            answer["lease"] = result.lease
        if with_more:
            answer["more"] = result.more
        return json_response(answer, headers=headers)

    async def _compared(self, request: Request, command: KvTxn) -> web.StreamResponse:
        result, headers = await self._access.write(request, command, KvTxnResult)
        if result.succeeded:
            return json_response({"revision": result.revision, "changed": result.changed}, headers=headers)
        found = result.outcomes[0].entry
        return problem(
            409,
            "compare_failed",
            "the key is not as expected",
            headers,
            revision=result.revision,
            current=None if found is None else entry_json(found),
        )


def _expected(key: bytes, query: Query) -> Any:
    return is_as_expected(key, value=query.get("if_value"), mod_revision=number_of(query, "if_mod_revision"))


class _Page:
    """A page under way, made of slices: the event loop has other things to do between them."""

    def __init__(self, reader: KeyValueReader, limit: int, *, keys_only: bool, count_only: bool) -> None:
        self._reader = reader
        self._limit = limit
        self._keys_only = keys_only
        self._count_only = count_only
        self._parts: list[bytes] = []
        self._count = 0
        self._size = 0

    async def fill(self, range_: KvRange, revision: int | None) -> tuple[KvRange | None, int]:
        """What is left of the range, and the revision it was read at."""
        rest: KvRange | None = range_
        at = 0
        while rest is not None and self._count < self._limit and self._size < KV_SCAN_BYTES:
            if self._parts or revision is not None:
                await asyncio.sleep(0)
            wanted = min(self._limit - self._count, KV_SLICE_KEYS)
            bare = self._keys_only or self._count_only
            part = self._reader.slice(rest, revision, wanted, keys_only=bare)
            at = revision = part.revision
            self._count += len(part.entries)
            if part.entries and not self._count_only:
                shown = [entry_json(entry, with_value=not bare) for entry in part.entries]
                self._parts.append(msgspec.json.encode(shown)[1:-1])
                self._size += sum(len(entry.key) + len(entry.value) for entry in part.entries)
            rest = part.rest
        return rest, at

    def encode(self, more: bool, revision: int, cursor: str | None) -> bytes:
        tail: dict[str, Any] = {"more": more, "revision": revision, "cursor": cursor}
        if self._count_only:
            return msgspec.json.encode({"count": self._count, **tail})
        return b'{"entries":[' + b",".join(self._parts) + b"]," + msgspec.json.encode(tail)[1:]
