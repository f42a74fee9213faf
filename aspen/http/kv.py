"""The key-value store over HTTP: `/v1/kv/{key}` for one key, `/v1/kv` for scans and batches.

Keys stand in the path and query as percent-escaped bytes, any bytes. Values travel as they are:
a PUT's body is the value, and a GET that accepts `application/octet-stream` returns it; other
answers are JSON with bytes in base64. Reads wait for the consistency they ask for (by default
linearizable), then look at the local replica.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec
from aiohttp import web

from aspen.errors import HttpError, InvariantViolation, KeyValueStoreError
from aspen.http.errors import json_response
from aspen.http.freshness import freshness_headers
from aspen.http.request import query_of, read_body, unquote
from aspen.http.routing import Request, Router
from aspen.limits import HTTP_BODY_BYTES, KV_SCAN_BYTES, KV_SCAN_DEFAULT, KV_SCAN_MAX, KV_VALUE_BYTES
from aspen.state.commands import Rejected, validate_command
from aspen.state.kv import KvEntry, KvPage
from aspen.state.kv_commands import KvDelete, KvResult, KvSet, validate_key
from aspen.state.ports import Consistency, Proposer

PATH: Final = "/v1/kv"
OCTETS: Final = "application/octet-stream"

_READ_PARAMETERS: Final = frozenset({"consistency"})
_SCAN_PARAMETERS: Final = frozenset({"prefix", "after", "limit", "consistency"})
_NONE: Final[frozenset[str]] = frozenset()


class KeyValueReader(Protocol):
    """The keys of the local replica."""

    def get(self, key: bytes) -> KvEntry | None: ...

    def scan(self, prefix: bytes, after: bytes | None, limit: int, max_bytes: int) -> KvPage: ...

    def revision(self) -> int: ...


class _Pair(msgspec.Struct, forbid_unknown_fields=True):
    key: bytes
    value: bytes


class _SetMulti(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/kv`."""

    pairs: list[_Pair]


_SET_MULTI: Final = msgspec.json.Decoder(_SetMulti)


class KvRoutes:
    """The handlers, over a way to write and a way to read."""

    def __init__(self, proposer: Proposer, reader: KeyValueReader) -> None:
        self._proposer = proposer
        self._reader = reader

    def add_routes(self, router: Router) -> None:
        router.add(PATH, {"GET": self.scan, "POST": self.set_multi}, public=False)
        one_key = {"GET": self.get, "PUT": self.put, "DELETE": self.delete}
        router.add(PATH + "/", one_key, public=False)

    # --- one key ------------------------------------------------------------------------------

    async def get(self, request: Request, raw_key: str) -> web.StreamResponse:
        """The entry as JSON, or the bare value; 404 if there is none."""
        consistency = _consistency(query_of(request, _READ_PARAMETERS))
        key = unquote(raw_key)
        validate_key(key)
        headers = await self._fresh(consistency)
        entry = self._reader.get(key)
        headers["Aspen-Revision"] = str(self._reader.revision())
        headers["Cache-Control"] = "no-store"
        headers["Vary"] = "Accept"
        if entry is None:
            raise HttpError(404, "not_found", "there is no such key", headers=headers)
        if OCTETS in request.headers.get("Accept", ""):
            headers["Content-Type"] = OCTETS
            headers["X-Content-Type-Options"] = "nosniff"
            return web.Response(body=entry.value, headers=headers)
        return json_response(entry._asdict(), headers=headers)

    async def put(self, request: Request, raw_key: str) -> web.StreamResponse:
        """Set the key to the body."""
        query_of(request, _NONE)
        key = unquote(raw_key)
        validate_key(key)
        value = await read_body(request, KV_VALUE_BYTES, code=KeyValueStoreError.ValueTooLarge.code)
        return await self._write(KvSet(((key, value),)))

    async def delete(self, request: Request, raw_key: str) -> web.StreamResponse:
        """Delete the key; `changed` is 0 if there was none."""
        query_of(request, _NONE)
        return await self._write(KvDelete((unquote(raw_key),)))

    # --- several ------------------------------------------------------------------------------

    async def set_multi(self, request: Request, _rest: str) -> web.StreamResponse:
        """Set several keys, all or none: `{"pairs": [{"key": base64, "value": base64}, …]}`."""
        query_of(request, _NONE)
        body = await read_body(request, HTTP_BODY_BYTES)
        try:
            pairs = _SET_MULTI.decode(body).pairs
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
            raise HttpError(400, "bad_json", f"not a batch of pairs: {error}") from None
        return await self._write(KvSet(tuple((pair.key, pair.value) for pair in pairs)))

    async def scan(self, request: Request, _rest: str) -> web.StreamResponse:
        """One page of the keys under `prefix`, in order; continue with `after` = the last key."""
        query = query_of(request, _SCAN_PARAMETERS)
        limit = _limit(query.get("limit"))
        headers = await self._fresh(_consistency(query))
        page = self._reader.scan(query.get("prefix", b""), query.get("after"), limit, KV_SCAN_BYTES)
        headers["Aspen-Revision"] = str(page.revision)
        headers["Cache-Control"] = "no-store"
        answer = {
            "entries": [entry._asdict() for entry in page.entries],
            "more": page.more,
            "revision": page.revision,
        }
        return json_response(answer, headers=headers)

    # --- the state ----------------------------------------------------------------------------

    async def _fresh(self, consistency: Consistency) -> dict[str, str]:
        if consistency is not Consistency.STALE:
            await self._proposer.barrier(consistency)
        return freshness_headers(self._proposer)

    async def _write(self, command: KvSet | KvDelete) -> web.StreamResponse:
        validate_command(command)
        result = await self._proposer.propose(command)
        if isinstance(result, Rejected):
            raise HttpError(400, "rejected", result.reason)
        if not isinstance(result, KvResult):
            raise InvariantViolation("a key-value command was answered as if it were another")
        headers = {"Aspen-Revision": str(result.revision)}
        return json_response({"revision": result.revision, "changed": result.changed}, headers=headers)


def _consistency(query: dict[str, bytes]) -> Consistency:
    given = query.get("consistency")
    if given is None:
        return Consistency.CONSISTENT
    try:
        return Consistency(given.decode("ascii", "replace"))
    except ValueError:
        names = ", ".join(Consistency)
        raise HttpError(400, "bad_query", f"consistency is one of {names}") from None


def _limit(given: bytes | None) -> int:
    if given is None:
        return KV_SCAN_DEFAULT
    if not given.isdigit() or len(given) > 9 or not 1 <= int(given) <= KV_SCAN_MAX:
        raise HttpError(400, "bad_query", f"limit is a number from 1 to {KV_SCAN_MAX}")
    return int(given)
