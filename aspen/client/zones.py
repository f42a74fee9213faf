"""Zones by one node's HTTP interface. Answers are the node's JSON, as it gave it."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from aspen.client.node import NodeClient
from aspen.decoding import UNDECODABLE
from aspen.errors import ClientError, ClientNotFound
from aspen.limits import CLIENT_IMPORT_MS

_ZONES: Final = "/v1/zones"


class NodeZones:
    """Calls over a `NodeClient`, which must be open. Raises kinds of `ClientError`: `ClientNotFound` if
    there is no such zone; status 422 and code `rule_broken` for what a zone may not hold."""

    def __init__(self, client: NodeClient) -> None:
        self._client = client

    async def list_all(self, consistency: str = "consistent") -> list[dict[str, Any]]:
        """All zones, by name."""
        found: list[dict[str, Any]] = []
        query: dict[str, str | bytes] = {"consistency": consistency}
        while True:
            page = await self._call("GET", _ZONES, query)
            found += page["zones"]
            if not (page["more"] and page["zones"]):
                return found
            query["after"] = page["zones"][-1]["name"]

    async def of(self, name: str, consistency: str = "consistent") -> str:
        """The zone that an absolute name is in. Raises `ClientNotFound`."""
        page = await self._call("GET", _ZONES, {"for": name, "consistency": consistency})
        if not page["zones"]:
            raise ClientNotFound(404, "no_such_zone", f"{name} is in none of the zones")
        return str(page["zones"][0]["name"])

    async def create(self, new: Mapping[str, Any]) -> dict[str, Any]:
        return await self._call("POST", _ZONES, value=new)

    async def show(self, zone: str, consistency: str = "consistent") -> dict[str, Any]:
        return await self._call("GET", _path(zone), {"consistency": consistency})

    async def configure(self, zone: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        return await self._call("PATCH", _path(zone), value={"settings": settings})

    async def delete(self, zone: str) -> dict[str, Any]:
        return await self._call("DELETE", _path(zone))

    async def records(
        self, zone: str, name: str | None = None, rrtype: str | None = None, consistency: str = "consistent"
    ) -> list[dict[str, Any]]:
        """RRsets in canonical order: all, or those of a name, of a type."""
        query: dict[str, str | bytes] = {"consistency": consistency}
        if name is not None:
            query["name"] = name
        if rrtype is not None:
            query["type"] = rrtype
        found: list[dict[str, Any]] = []
        while True:
            page = await self._call("GET", _path(zone, "records"), query)
            found += page["records"]
            if not (page["more"] and page["records"]):
                return found
            query["after"] = page["records"][-1]["name"]

    async def change(self, zone: str, changes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        return await self._call("POST", _path(zone, "records"), value={"changes": list(changes)})

    async def bring_in(
        self, zone: str, pieces: AsyncIterable[bytes], *, replace: bool = True
    ) -> dict[str, Any]:
        """Import a master file."""
        answer = await self._client.ask(
            "POST",
            _path(zone, "import"),
            {"replace": "true" if replace else "false"},
            body=pieces,
            timeout_ms=CLIENT_IMPORT_MS,
        )
        return _decode(answer.body)

    async def imported_so_far(self, zone: str) -> int:
        """Records of the import of a zone that has come the farthest; 0 if none is under way."""
        imports = (await self._call("GET", _path(zone, "import")))["imports"]
        return max((each["records"] for each in imports), default=0)

    async def export(self, zone: str, consistency: str = "consistent") -> bytes:
        """A master file."""
        query = {"consistency": consistency}
        return (await self._client.ask("GET", _path(zone, "export"), query)).body

    async def _call(
        self, method: str, path: str, query: dict[str, str | bytes] | None = None, *, value: object = None
    ) -> dict[str, Any]:
        body = None if value is None else msgspec.json.encode(value)
        return _decode((await self._client.ask(method, path, query, body=body)).body)


def _path(zone: str, part: str = "") -> str:
    spelled = quote(zone, safe="")
    if not spelled.strip("."):
        spelled = spelled.replace(".", "%2E")  # the root, or `.` would fall out of the path
    return f"{_ZONES}/{spelled}" + ("/" + part if part else "")


def _decode(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except UNDECODABLE as error:
        raise ClientError(200, "bad_answer", f"not the answer of an Aspen node: {error}") from None
