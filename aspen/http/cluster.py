"""What a node says of itself: cluster status for operators, health for load balancers.

`/healthz` asks "is this process worth keeping?" (503 = replace it), `/readyz` "should it get
traffic now?" (503 = it can't write, or hasn't caught up). Both are open to anyone and tell
little; `/v1/cluster/status` tells all and is an admin route.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Protocol

import msgspec
from aiohttp import web

from aspen.http.errors import json_response
from aspen.http.openapi import JSON, Answer, Operation
from aspen.http.request import query_of
from aspen.http.routing import Request, Router

_NONE: Final[frozenset[str]] = frozenset()


class MemberStatus(msgspec.Struct, frozen=True):
    node_id: int
    endpoint_id: str
    """z-base-32."""
    role: str
    """`voter` or `learner`."""
    addresses: tuple[str, ...]
    """`host:port` of its QUIC endpoint."""


class DnsStatus(msgspec.Struct, frozen=True):
    """Where this node answers DNS."""

    origins: tuple[str, ...]
    port: int


class ClusterStatus(msgspec.Struct, frozen=True):
    """One node's view of the cluster."""

    node_id: int
    endpoint_id: str
    cluster_id: str
    """Hexadecimal; empty before the node belongs to a cluster."""
    role: str
    """`leader`, `follower`, `candidate`, `pre_candidate`; `removed` if it is no member any more."""
    leader_id: int
    """0 if none is known."""
    term: int
    commit_index: int
    applied_index: int
    last_contact_ms: int
    """Milliseconds since a leader was heard from: 0 on the leader, -1 if never."""
    version: str
    members: tuple[MemberStatus, ...]
    refusals: dict[str, int]
    """Peers this node refused since it started, by reason."""
    dns: DnsStatus | None = None
    """None if DNS is switched off."""


class HealthState(StrEnum):
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """Serving, with something an operator should see."""
    UNHEALTHY = "unhealthy"


class Health(msgspec.Struct, frozen=True):
    state: HealthState
    ready: bool
    """Knows a leader and has caught up, so that reads are fresh and writes can succeed."""
    reasons: tuple[str, ...] = ()
    """What keeps it from being healthy or ready."""


class ClusterView(Protocol):
    """Where the answers come from."""

    def status(self) -> ClusterStatus: ...

    def health(self) -> Health: ...


class _Well(msgspec.Struct):
    """What `/healthz` and `/readyz` say; with a 503, `error` and `reason` beside it."""

    status: HealthState
    ready: bool
    reasons: tuple[str, ...]


STATUS: Final = Operation(
    "The cluster as this node sees it", {200: Answer("The status.", {JSON: ClusterStatus})}, tag="cluster"
)
HEALTHZ: Final = Operation(
    "Is this process worth keeping?",
    {200: Answer("Healthy, or degraded but serving.", {JSON: _Well})},
    {503: "Unhealthy: replace it."},
    tag="health",
)
READYZ: Final = Operation(
    "Should this node get traffic now?",
    {200: Answer("It knows a leader and has caught up.", {JSON: _Well})},
    {503: "Not ready: it can't write, or lags."},
    tag="health",
)


class ClusterRoutes:
    """The handlers."""

    def __init__(self, view: ClusterView) -> None:
        self._view = view

    def add_routes(self, public: Router, admin: Router) -> None:
        for path, handler, operation in (
            ("/healthz", self.healthz, HEALTHZ),
            ("/readyz", self.readyz, READYZ),
        ):
            public.add(path, {"GET": handler}, public=True, operations={"GET": operation})
        admin.add("/v1/cluster/status", {"GET": self.status}, public=False, operations={"GET": STATUS})

    async def status(self, request: Request, _rest: str) -> web.StreamResponse:
        query_of(request, _NONE)
        return json_response(self._view.status(), headers={"Cache-Control": "no-store"})

    async def healthz(self, _request: Request, _rest: str) -> web.StreamResponse:
        health = self._view.health()
        return _answer(health, health.state is not HealthState.UNHEALTHY, "unhealthy")

    async def readyz(self, _request: Request, _rest: str) -> web.StreamResponse:
        health = self._view.health()
        return _answer(health, health.ready and health.state is not HealthState.UNHEALTHY, "not_ready")


def _answer(health: Health, well: bool, code: str) -> web.Response:
    answer: dict[str, object] = {"status": health.state, "ready": health.ready, "reasons": health.reasons}
    if not well:
        answer |= {"error": code, "reason": "; ".join(health.reasons) or code.replace("_", " ")}
    return json_response(answer, status=200 if well else 503, headers={"Cache-Control": "no-store"})
