"""`POST /v1/cluster/profile`: what a node's time goes into, for a few seconds. An admin route."""

from __future__ import annotations

from typing import Annotated, Final, Protocol

import msgspec
from aiohttp import web

from aspen.http.control import NodeId, read_request
from aspen.http.errors import json_response
from aspen.http.openapi import JSON, Answer, Body, Operation
from aspen.http.routing import Request, Router
from aspen.limits import PROFILE_DEFAULT_MS, PROFILE_MS
from aspen.profiler import Profile

PATH: Final = "/v1/cluster/profile"


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    seconds: Annotated[float, msgspec.Meta(gt=0, le=PROFILE_MS / 1000)] = PROFILE_DEFAULT_MS / 1000
    node_id: NodeId | None = None
    """Of this member; without it of the node asked."""


PROFILE: Final = Operation(
    "Sample the stacks of a node's threads",
    {200: Answer("Samples by part, function and stack.", {JSON: Profile})},
    {404: "A node that is named is no member."},
    body=Body({JSON: Wanted}, False),
    description="503 `overloaded` while another profile of that node is being made; `unavailable` if another "
    "member doesn't answer the node asked.",
    tag="cluster",
)


class Profiler(Protocol):
    """Who makes profiles."""

    async def profile(self, node_id: int | None, seconds: float) -> Profile:
        """Of a member; None is the node asked. Raises `HttpError` or `ControlPlaneError`."""
        ...


class ProfileRoutes:
    """The handler."""

    def __init__(self, profiler: Profiler) -> None:
        self._profiler = profiler

    def add_routes(self, admin: Router) -> None:
        admin.add(PATH, {"POST": self.post}, public=False, operations={"POST": PROFILE})

    async def post(self, request: Request, _rest: str) -> web.StreamResponse:
        wanted = await read_request(request, Wanted)
        return json_response(await self._profiler.profile(wanted.node_id, wanted.seconds))
