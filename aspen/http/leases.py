"""Leases over HTTP: `/v1/leases` to grant and list, `/v1/leases/{lease}` to look, renew and revoke."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from aiohttp import web

from aspen.errors import HttpError, KeyValueStoreError
from aspen.http import kv_api as api
from aspen.http.errors import json_response
from aspen.http.kv_access import Beyond, KvAccess
from aspen.http.kv_bodies import LeaseBody, LeasesBody, read_json
from aspen.http.kv_query import READ, number_of
from aspen.http.request import query_of, read_body
from aspen.http.routing import Request, Router
from aspen.limits import HTTP_CONTROL_BYTES, KV_SCAN_DEFAULT, KV_SCAN_MAX
from aspen.state.kv_commands import LeaseGrant, LeaseKeepAlive, LeaseResult, LeaseRevoke
from aspen.state.leases import Lease
from aspen.state.ports import Proposer

PATH: Final = "/v1/leases"
_LIST: Final = READ | {"after", "limit"}
_NONE: Final[frozenset[str]] = frozenset()


class LeaseReader(Protocol):
    """The leases of the local replica."""

    def get(self, lease: int) -> Lease | None: ...

    def keys(self, lease: int, limit: int) -> list[bytes]: ...

    def after(self, lease: int, limit: int) -> list[Lease]: ...


class LeaseRoutes:
    """The handlers. `wall_ms` is this node's clock, for estimates alone."""

    def __init__(
        self, proposer: Proposer, reader: LeaseReader, beyond: Beyond, wall_ms: Callable[[], int]
    ) -> None:
        self._access = KvAccess(proposer, beyond)
        self._reader = reader
        self._wall_ms = wall_ms

    def add_routes(self, router: Router) -> None:
        router.add(PATH, {"GET": self.list, "POST": self.grant}, public=False, operations=api.LEASES)
        several = {"POST": self.keep_several_alive}
        router.add(f"{PATH}/keepalive", several, public=False, operations=api.KEEP_ALIVE)
        one = {"GET": self.get, "DELETE": self.revoke, "POST": self.keep_alive}
        router.add(PATH + "/", one, public=False, operations=api.ONE_LEASE, parameter=api.LEASE)

    async def grant(self, request: Request, _rest: str) -> web.StreamResponse:
        """A new lease: `{"ttl_ms": 30000}`."""
        query_of(request, _NONE)
        body = read_json(await read_body(request, HTTP_CONTROL_BYTES), LeaseBody)
        result, headers = await self._access.write(request, LeaseGrant(body.ttl_ms), LeaseResult)
        return json_response(_lease_json(result), headers=headers)

    async def keep_alive(self, request: Request, rest: str) -> web.StreamResponse:
        """Begin the lease's time anew."""
        query_of(request, _NONE)
        await read_body(request, HTTP_CONTROL_BYTES)
        command = LeaseKeepAlive((_number(rest),))
        result, headers = await self._access.write(request, command, LeaseResult)
        return json_response(_lease_json(result), headers=headers)

    async def keep_several_alive(self, request: Request, _rest: str) -> web.StreamResponse:
        """Those of the leases that there are: `{"leases": [1, 2]}`."""
        query_of(request, _NONE)
        body = read_json(await read_body(request, HTTP_CONTROL_BYTES), LeasesBody)
        command = LeaseKeepAlive(tuple(body.leases))
        result, headers = await self._access.write(request, command, LeaseResult)
        return json_response({"renewed": result.renewed, "revision": result.revision}, headers=headers)

    async def revoke(self, request: Request, rest: str) -> web.StreamResponse:
        """End the lease; `changed` is the number of its keys that went at once."""
        query_of(request, _NONE)
        result, headers = await self._access.write(request, LeaseRevoke(_number(rest)), LeaseResult)
        answer = {"lease": result.lease, "changed": result.changed, "revision": result.revision}
        return json_response(answer, headers=headers)

    async def get(self, request: Request, rest: str) -> web.StreamResponse:
        """The lease and its first keys."""
        query = query_of(request, READ)
        number = _number(rest)
        headers = await self._access.fresh(query)
        lease = self._reader.get(number)
        if lease is None:
            raise KeyValueStoreError.LeaseNotFound(f"there is no lease {number}")
        attached = self._reader.keys(number, KV_SCAN_DEFAULT)
        return json_response({**self._shown(lease), "attached": attached}, headers=_unkept(headers))

    async def list(self, request: Request, _rest: str) -> web.StreamResponse:
        """Leases in the order of their grants; continue with `after` = the last."""
        query = query_of(request, _LIST)
        limit = number_of(query, "limit", KV_SCAN_MAX, 1) or KV_SCAN_DEFAULT
        after = number_of(query, "after") or 0
        headers = await self._access.fresh(query)
        found = self._reader.after(after, limit + 1)
        answer = {"leases": [self._shown(lease) for lease in found[:limit]], "more": len(found) > limit}
        return json_response(answer, headers=_unkept(headers))

    def _shown(self, lease: Lease) -> dict[str, Any]:
        # Clocks may differ: the leader alone, by another clock, decides when a lease has ended.
        left_ms = lease.renewed_at_ms + lease.ttl_ms - self._wall_ms()
        return {
            "lease": lease.lease,
            "ttl_ms": lease.ttl_ms,
            "remaining_ms": 0 if lease.ending else min(max(left_ms, 0), lease.ttl_ms),
            "keys": lease.keys,
        }


def _lease_json(result: LeaseResult) -> dict[str, Any]:
    return {"lease": result.lease, "ttl_ms": result.ttl_ms, "revision": result.revision}


def _unkept(headers: dict[str, str]) -> dict[str, str]:
    return {**headers, "Cache-Control": "no-store"}


def _number(text_untrusted: str) -> int:
    text = text_untrusted
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text)):
        raise HttpError(400, "invalid_request", "a lease is a positive number")
    return int(text)
