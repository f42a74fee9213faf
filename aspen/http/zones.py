"""Authored zones over HTTP: `/v1/zones`, and below each zone its records, import and export.

::

    GET    /v1/zones                   list; `for` a name, `after` a zone
    POST   /v1/zones                   create
    GET    /v1/zones/{zone}            show
    PATCH  /v1/zones/{zone}            change settings
    DELETE /v1/zones/{zone}
    GET    /v1/zones/{zone}/records    list; of a `name` and `type`, `after` a name
    POST   /v1/zones/{zone}/records    set, add, delete: a batch, all or none
    GET    /v1/zones/{zone}/import     imports under way
    POST   /v1/zones/{zone}/import     a master file (RFC 1035 §5), taken in as it comes
    GET    /v1/zones/{zone}/export     a master file

Reads wait for the consistency they ask for (by default linearizable), then look at the local replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Final, TypeVar, cast

import msgspec
import structlog
from aiohttp import web

from aspen.decoding import UNDECODABLE
from aspen.dns.authored_text import NewZone, apex_from_text, owner_from_text, read_type
from aspen.dns.authoring import ZoneAuthor
from aspen.dns.master_file import write_master_file
from aspen.dns.name import name_to_text
from aspen.dns.tsig import TsigKey
from aspen.dns.tsig_keys import missing_keys
from aspen.dns.zone import ZoneSettings
from aspen.errors import HttpError, InputError, ZoneError
from aspen.http import zone_types as types
from aspen.http.errors import json_response
from aspen.http.freshness import freshness_headers
from aspen.http.request import body_pieces, query_of, read_body, unquote
from aspen.http.routing import Request, Router
from aspen.http.tsig_keys import KeyReader
from aspen.http.zone_types import MASTER_FILE, PATH, RecordList, ZoneChanged, ZoneList, ZoneView
from aspen.limits import (
    HTTP_BODY_BYTES,
    KV_SCAN_BYTES,
    ZONE_EXPORT_MS,
    ZONE_EXPORT_NAMES,
    ZONE_IMPORT_BYTES,
    ZONE_IMPORT_PIECE_MS,
    ZONE_PAGE,
)
from aspen.state.ports import Consistency, Proposer
from aspen.state.zone_commands import ZoneResult
from aspen.state.zone_tables import ZoneNumbers
from aspen.state.zones import LmdbZone, LmdbZones, ZoneSummary

if TYPE_CHECKING:
    from aspen.http.connection import Connection

log = structlog.get_logger("aspen.http")

T = TypeVar("T")

_READ: Final = frozenset({"consistency"})
_NO_PARAMETERS: Final[frozenset[str]] = frozenset()

SubHandler = Callable[[Request, bytes], Awaitable[web.StreamResponse]]


class ZoneRoutes:
    """The handlers, over a way to write, and the zones and TSIG keys of the local replica."""

    def __init__(self, proposer: Proposer, zones: LmdbZones, keys: KeyReader) -> None:
        self._proposer = proposer
        self._zones = zones
        self._keys = keys
        self._author = ZoneAuthor(proposer, zones)
        self._below: dict[tuple[str, str], SubHandler] = {
            ("", "GET"): self.show,
            ("", "PATCH"): self.configure,
            ("", "DELETE"): self.delete,
            ("records", "GET"): self.records,
            ("records", "POST"): self.change,
            ("import", "GET"): self.imports,
            ("import", "POST"): self.bring_in,
            ("export", "GET"): self.export,
        }

    def add_routes(self, router: Router) -> None:
        collection = {"GET": self.list_zones, "POST": self.create}
        router.add(PATH, collection, public=False, operations={"GET": types.LIST, "POST": types.CREATE})
        router.add(PATH + "/", dict.fromkeys(("GET", "POST", "PATCH", "DELETE"), self.one_zone), public=False)
        zone = PATH + "/{zone}"
        router.describe(
            zone,
            {"GET": types.SHOW, "PATCH": types.CONFIGURE, "DELETE": types.DELETE},
            types.ZONE,
            public=False,
        )
        router.describe(
            zone + "/records", {"GET": types.RECORDS, "POST": types.CHANGE}, types.ZONE, public=False
        )
        router.describe(
            zone + "/import", {"GET": types.IMPORTS, "POST": types.IMPORT}, types.ZONE, public=False
        )
        router.describe(zone + "/export", {"GET": types.EXPORT}, types.ZONE, public=False)

    async def one_zone(self, request: Request, rest: str) -> web.StreamResponse:
        """Whatever is asked of one zone."""
        raw_name, _, part = rest.partition("/")
        method = "GET" if request.method == "HEAD" else request.method
        handler = self._below.get((part, method))
        if handler is None:
            methods = [known for sub, known in self._below if sub == part]
            if not methods:
                raise HttpError(404, "not_found", "there is nothing at this path")
            allow = ", ".join([*methods, "HEAD"] if "GET" in methods else methods)
            raise HttpError(
                405, "method_not_allowed", f"{method} is not for this path", headers={"Allow": allow}
            )
        return await handler(request, apex_from_text(_text(unquote(raw_name))))

    # --- zones --------------------------------------------------------------------------------

    async def list_zones(self, request: Request, _rest: str) -> web.StreamResponse:
        query = query_of(request, frozenset({"after", "for", "limit", "consistency"}))
        limit = _limit(query.get("limit"), ZONE_PAGE)
        after = apex_from_text(_text(query["after"])) if "after" in query else None
        headers = await self._fresh(query)
        if "for" in query:
            zone = self._zones.find(apex_from_text(_text(query["for"])))
            found = [] if zone is None else [self._view(zone)]
            return json_response(ZoneList(tuple(found), False), headers=headers)
        summaries = self._zones.summaries(after, limit + 1)
        keys = self._keys.all()
        views = tuple(_view(each.apex, each, each.settings, keys) for each in summaries[:limit])
        return json_response(ZoneList(views, len(summaries) > limit), headers=headers)

    async def create(self, request: Request, _rest: str) -> web.StreamResponse:
        new = await _read(request, NewZone)
        await self._author.create(new)
        return self._shown(apex_from_text(new.name), status=201)

    async def show(self, request: Request, apex: bytes) -> web.StreamResponse:
        headers = await self._fresh(query_of(request, _READ))
        return json_response(self._view(self._zone(apex)), headers=headers)

    async def configure(self, request: Request, apex: bytes) -> web.StreamResponse:
        change = await _read(request, types.SettingsChange)
        await self._author.configure(apex, change.settings)
        return self._shown(apex)

    async def delete(self, request: Request, apex: bytes) -> web.StreamResponse:
        query_of(request, _NO_PARAMETERS)
        return _changed(apex, await self._author.delete(apex))

    # --- records ------------------------------------------------------------------------------

    async def records(self, request: Request, apex: bytes) -> web.StreamResponse:
        query = query_of(request, frozenset({"name", "type", "after", "limit", "consistency"}))
        limit = _limit(query.get("limit"), ZONE_PAGE)
        rrtype = read_type(_text(query["type"])) if "type" in query else None
        name = _owner(query["name"], apex) if "name" in query else None
        after = _owner(query["after"], apex) if "after" in query else None
        headers = await self._fresh(query)
        zone = self._zone(apex)
        found: list[types.RecordSetView] = []
        more = False
        if name is not None:
            found += types.record_sets(name, zone.node(name) or {}, rrtype)
        else:
            size = 0
            for count, (owner, node) in enumerate(zone.walk(after)):
                size += sum(len(rdata) for rrset in node.values() for rdata in rrset.rdatas)
                if count == limit or (count and size > KV_SCAN_BYTES):  # a page is a page
                    more = True
                    break
                found += types.record_sets(owner, node, rrtype)
        return json_response(RecordList(name_to_text(apex), zone.serial, tuple(found), more), headers=headers)

    async def change(self, request: Request, apex: bytes) -> web.StreamResponse:
        body = await _read(request, types.Changes)
        return _changed(apex, await self._author.change(apex, body.changes))

    # --- whole zones --------------------------------------------------------------------------

    async def imports(self, request: Request, apex: bytes) -> web.StreamResponse:
        """How far imports have come that are under way, on whichever node."""
        query_of(request, _NO_PARAMETERS)
        found = tuple(types.ImportProgress(records) for records in self._zones.imports(apex))
        headers = {**freshness_headers(self._proposer), "Cache-Control": "no-store"}
        return json_response(types.ImportList(found), headers=headers)

    async def bring_in(self, request: Request, apex: bytes) -> web.StreamResponse:
        replace = query_of(request, frozenset({"replace"})).get("replace", b"true")
        if replace not in (b"true", b"false"):
            raise HttpError(400, "bad_query", "replace is true or false")
        pieces = body_pieces(request, ZONE_IMPORT_BYTES, ZONE_IMPORT_PIECE_MS)
        try:
            result = await self._author.bring_in(apex, pieces, replace=replace == b"true")
        except ZoneError:
            async for _ in pieces:  # or a client that is still sending never reads why
                pass
            raise
        return _changed(apex, result)

    async def export(self, request: Request, apex: bytes) -> web.StreamResponse:
        headers = await self._fresh(query_of(request, _READ))
        zone = self._zone(apex)
        headers |= {"Content-Type": f"{MASTER_FILE}; charset=us-ascii", "Aspen-Zone-Serial": str(zone.serial)}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        if request.method != "HEAD":
            try:
                async with asyncio.timeout(ZONE_EXPORT_MS / 1_000):
                    await _write(response, zone)
            except Exception as error:  # the client's slowness, or the store's trouble
                # Half a zone must not look like a whole one: the answer never gets its end.
                log.warning("an export was cut off", zone=name_to_text(apex), error=repr(error))
                cast("Connection", request.protocol).abort()
                return response
        await response.write_eof()
        return response

    # --- the state ----------------------------------------------------------------------------

    async def _fresh(self, query: dict[str, bytes]) -> dict[str, str]:
        given = query.get("consistency", b"consistent").decode("ascii", "replace")
        try:
            consistency = Consistency(given)
        except ValueError:
            raise HttpError(400, "bad_query", f"consistency is one of {', '.join(Consistency)}") from None
        if consistency is not Consistency.STALE:
            await self._proposer.barrier(consistency)
        return {**freshness_headers(self._proposer), "Cache-Control": "no-store"}

    def _zone(self, apex: bytes) -> LmdbZone:
        zone = self._zones.get(apex)
        if zone is None:
            raise ZoneError.NotFound(f"there is no zone {name_to_text(apex)}")
        return zone

    def _shown(self, apex: bytes, status: int = 200) -> web.StreamResponse:
        headers = {**freshness_headers(self._proposer), "Cache-Control": "no-store"}
        return json_response(self._view(self._zone(apex)), status=status, headers=headers)

    def _view(self, zone: LmdbZone) -> ZoneView:
        return _view(zone.apex, zone.numbers(), zone.settings, self._keys.all())


async def _write(response: web.StreamResponse, zone: LmdbZone) -> None:
    lines: list[str] = []
    for line in write_master_file(zone.apex, zone.walk()):
        lines.append(line)
        if len(lines) >= ZONE_EXPORT_NAMES:
            await response.write("".join(lines).encode("ascii"))
            lines.clear()
            await asyncio.sleep(0)
    await response.write("".join(lines).encode("ascii"))


def _view(
    apex: bytes, numbers: ZoneNumbers | ZoneSummary, settings: ZoneSettings, keys: Collection[TsigKey]
) -> ZoneView:
    return ZoneView(
        name_to_text(apex),
        numbers.serial,
        numbers.records,
        numbers.changed_at_ms,
        settings,
        missing_keys(settings, keys),
    )


def _changed(apex: bytes, result: ZoneResult) -> web.StreamResponse:
    return json_response(ZoneChanged(name_to_text(apex), result.serial, result.changed))


def _owner(given: bytes, apex: bytes) -> bytes:
    try:
        return owner_from_text(_text(given), apex)
    except InputError as error:
        raise ZoneError.RuleBroken(str(error), rule="name") from None


def _text(given: bytes) -> str:
    return given.decode("utf-8", "replace")


def _limit(given: bytes | None, most: int) -> int:
    if given is None:
        return most
    if not given.isdigit() or len(given) > 9 or not 1 <= int(given) <= most:
        raise HttpError(400, "bad_query", f"limit is a number from 1 to {most}")
    return int(given)


async def _read(request: Request, kind: type[T]) -> T:
    query_of(request, _NO_PARAMETERS)
    body = await read_body(request, HTTP_BODY_BYTES)
    try:
        return msgspec.json.decode(body, type=kind)
    except UNDECODABLE as error:
        raise HttpError(400, "bad_json", f"not what this route takes: {error}") from None
