"""The cluster as one node sees it, for operators: an admin route."""

from __future__ import annotations

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


class ClusterView(Protocol):
    """Where the answers come from."""

    def status(self) -> ClusterStatus: ...


STATUS: Final = Operation(
    "The cluster as this node sees it", {200: Answer("The status.", {JSON: ClusterStatus})}, tag="cluster"
)


class ClusterRoutes:
    """The handlers."""

    def __init__(self, view: ClusterView) -> None:
        self._view = view

    def add_routes(self, admin: Router) -> None:
        admin.add("/v1/cluster/status", {"GET": self.status}, public=False, operations={"GET": STATUS})

    async def status(self, request: Request, _rest: str) -> web.StreamResponse:
        query_of(request, _NONE)
        return json_response(self._view.status(), headers={"Cache-Control": "no-store"})
