"""A node's own key is changed: `POST /v1/cluster/rotate-identity`, an admin route of the node concerned."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec
from aiohttp import web

from aspen.http.control import PATH, TimeoutMs, read_request
from aspen.http.errors import json_response
from aspen.http.openapi import JSON, Answer, Body, Operation
from aspen.http.routing import Request, Router
from aspen.limits import CONTROL_MS


class Rotated(msgspec.Struct, frozen=True):
    """The members admit the node by its next key. It ends now, and starts again under that key."""

    node_id: int
    was: str
    """z-base-32."""
    becomes: str


class Rotator(Protocol):
    async def rotate(self, timeout_ms: int) -> Rotated:
        """Raises a kind of `ControlPlaneError`."""
        ...


class _Wanted(msgspec.Struct, forbid_unknown_fields=True):
    timeout_ms: TimeoutMs = CONTROL_MS


ROTATE: Final = Operation(
    "Change this node's key: it announces the next one and starts again under it",
    {200: Answer("The key is announced, and the node is about to start again.", {JSON: Rotated})},
    {409: "The cluster refuses: `reason` says why."},
    body=Body({JSON: _Wanted}, False),
    tag="cluster",
)


class RotationRoutes:
    """The handler."""

    def __init__(self, rotator: Rotator) -> None:
        self._rotator = rotator

    def add_routes(self, admin: Router) -> None:
        path = f"{PATH}/rotate-identity"
        admin.add(path, {"POST": self.rotate}, public=False, operations={"POST": ROTATE})

    async def rotate(self, request: Request, _rest: str) -> web.StreamResponse:
        wanted = await read_request(request, _Wanted)
        return json_response(await self._rotator.rotate(wanted.timeout_ms))
