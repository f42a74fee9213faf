"""How a node is, for whoever watches over it: alive, ready, healthy. Open to anyone, and says little.

Three questions, because three different things follow from the answers:

- `/healthz`: is this process alive? 503 means that only ending it helps.
- `/readyz`: should it get requests now? 503 means that another node should; `?for=dns` asks about DNS alone,
  which a node answers from its own copy when it is cut off from the others, too.
- `/health`: does somebody have to look? 503 (`unhealthy`) means now, `degraded` soon. Every check is told.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Protocol

import msgspec
from aiohttp import web

from aspen.errors import HttpError
from aspen.http.errors import json_response
from aspen.http.openapi import JSON, Answer, Operation, Parameter
from aspen.http.request import query_of
from aspen.http.routing import Request, Router


class HealthState(StrEnum):
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """Serving, with something an operator should see."""
    UNHEALTHY = "unhealthy"
    """Something doesn't work, or is about to stop working."""


_ORDER: Final = tuple(HealthState)


class Check(msgspec.Struct, frozen=True):
    """One thing looked at."""

    name: str
    status: HealthState = HealthState.HEALTHY
    reason: str = ""
    """What is wrong, and with which figures; empty if nothing is."""


class Health(msgspec.Struct, frozen=True):
    checks: tuple[Check, ...] = ()
    alive: bool = True
    """The process does its work: its event loop, its writer, its DNS."""
    answers: bool = True
    """DNS is answered, be it from an old copy."""
    ready: bool = True
    """Knows a leader and has caught up, so that reads are fresh and writes can succeed."""

    @property
    def state(self) -> HealthState:
        """That of the worst check."""
        return max((check.status for check in self.checks), key=_ORDER.index, default=HealthState.HEALTHY)

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(check.reason for check in self.checks if check.status is not HealthState.HEALTHY)


class HealthView(Protocol):
    """Where the answers come from."""

    def health(self) -> Health: ...


class Well(msgspec.Struct):
    """What `/healthz` and `/readyz` say; with a 503, `error` and `reason` beside it."""

    status: HealthState
    ready: bool
    reasons: tuple[str, ...]


class Checked(msgspec.Struct):
    """What `/health` says; with a 503, `error` and `reason` beside it."""

    status: HealthState
    ready: bool
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]


HEALTHZ: Final = Operation(
    "Is this process alive?",
    {200: Answer("It does its work, however well; `reasons` say what is wrong.", {JSON: Well})},
    {503: "It doesn't: end it."},
    tag="health",
)
READYZ: Final = Operation(
    "Should this node get requests now?",
    {200: Answer("It knows a leader and has caught up; `for=dns`: it answers DNS.", {JSON: Well})},
    {503: "Not ready: it can't write, or lags."},
    parameters=(Parameter("for", "`dns` asks about DNS alone.", {"type": "string", "enum": ["all", "dns"]}),),
    tag="health",
)
HEALTH: Final = Operation(
    "Does somebody have to look at this node?",
    {200: Answer("Healthy; or degraded, but serving.", {JSON: Checked})},
    {503: "Unhealthy: now."},
    tag="health",
)


class HealthRoutes:
    """The handlers."""

    def __init__(self, view: HealthView) -> None:
        self._view = view

    def add_routes(self, public: Router) -> None:
        for path, handler, operation in (
            ("/healthz", self.healthz, HEALTHZ),
            ("/readyz", self.readyz, READYZ),
            ("/health", self.health, HEALTH),
        ):
            public.add(path, {"GET": handler}, public=True, operations={"GET": operation})

    async def healthz(self, _request: Request, _rest: str) -> web.StreamResponse:
        health = self._view.health()
        return _answer(health, health.alive, "unhealthy")

    async def readyz(self, request: Request, _rest: str) -> web.StreamResponse:
        asked = query_of(request, frozenset({"for"}), ignore_others=True).get("for", b"all")
        if asked not in (b"all", b"dns"):
            raise HttpError(400, "bad_query", "for is all or dns")
        health = self._view.health()
        return _answer(health, health.answers if asked == b"dns" else health.ready, "not_ready")

    async def health(self, _request: Request, _rest: str) -> web.StreamResponse:
        health = self._view.health()
        well = health.state is not HealthState.UNHEALTHY
        return _answer(health, well, "unhealthy", checks=health.checks)


def _answer(health: Health, well: bool, code: str, **more: object) -> web.Response:
    answer: dict[str, object] = {"status": health.state, "ready": health.ready, "reasons": health.reasons}
    answer |= more
    if not well:
        answer |= {"error": code, "reason": "; ".join(health.reasons) or code.replace("_", " ")}
    return json_response(answer, status=200 if well else 503, headers={"Cache-Control": "no-store"})
