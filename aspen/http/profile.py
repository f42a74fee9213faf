"""`POST /v1/cluster/profile`: what this node's time goes into, for a few seconds. An admin route."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from aiohttp import web

from aspen.errors import HttpError
from aspen.http.control import read_request
from aspen.http.errors import RETRY_AFTER_SECONDS, json_response
from aspen.http.openapi import JSON, Answer, Body, Operation
from aspen.http.routing import Request, Router
from aspen.limits import PROFILE_DEFAULT_MS, PROFILE_MS
from aspen.profiler import Profile, profile

PATH: Final = "/v1/cluster/profile"


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    seconds: Annotated[float, msgspec.Meta(gt=0, le=PROFILE_MS / 1000)] = PROFILE_DEFAULT_MS / 1000


PROFILE: Final = Operation(
    "Sample the stacks of the node's threads",
    {200: Answer("Samples by part, function and stack.", {JSON: Profile})},
    body=Body({JSON: Wanted}, False),
    description="503 `overloaded` while another profile of this node is being made.",
    tag="cluster",
)


class ProfileRoutes:
    """The handler."""

    def __init__(self, workers: Callable[[], dict[str, int]]) -> None:
        """`workers` names the node's other processes, by pid."""
        self._workers = workers
        self._busy = False

    def add_routes(self, admin: Router) -> None:
        admin.add(PATH, {"POST": self.post}, public=False, operations={"POST": PROFILE})

    async def post(self, request: Request, _rest: str) -> web.StreamResponse:
        wanted = await read_request(request, Wanted)
        if self._busy:
            reason = "a profile of this node is being made already"
            raise HttpError(503, "overloaded", reason, headers={"Retry-After": RETRY_AFTER_SECONDS})
        self._busy = True
        stop = threading.Event()
        try:
            pids = {"node": os.getpid(), **self._workers()}
            return json_response(await asyncio.to_thread(profile, wanted.seconds, stop, pids))
        finally:
            stop.set()  # the node may be stopping
            self._busy = False
