"""Peers: every node this one has heard of, how it knows them, and what the way to them is like."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec
from aiohttp import web

from aspen.errors import HttpError, TicketError
from aspen.http.errors import json_response
from aspen.http.openapi import JSON, Answer, Operation
from aspen.http.request import query_of
from aspen.http.routing import Request, Router

_NONE: Final[frozenset[str]] = frozenset()


class PeerAddress(msgspec.Struct, frozen=True):
    address: str
    """`host:port`."""
    source: str
    """Who said so: `connected`, `inbound`, `manual`, `membership`, `gossip`, …"""
    age_ms: int
    """Since it was last said."""


class PeerConnection(msgspec.Struct, frozen=True):
    protocol: str
    dialled: bool
    """By this node; else by the peer."""
    address: str
    rtt_ms: float
    age_ms: int


class PeerStatus(msgspec.Struct, frozen=True):
    """A node other than this one."""

    endpoint_id: str
    """z-base-32."""
    node_id: int
    """0 if it isn't known, or it has none yet."""
    member: bool
    path: str
    """`direct` with a connection, else `none`."""
    addresses: tuple[PeerAddress, ...]
    connections: tuple[PeerConnection, ...]
    announced_ms_ago: int
    """Since its last announcement by gossip; -1 if none is remembered."""


class PeersStatus(msgspec.Struct, frozen=True):
    endpoint_id: str
    """This node's."""
    neighbours: int
    """Nodes this one gossips with."""
    refused: dict[str, int]
    """Announcements not believed, by reason."""
    peers: tuple[PeerStatus, ...]


class TicketAnswer(msgspec.Struct, frozen=True):
    ticket: str
    """Names the cluster and some of its nodes; holds no secret."""


class PeersView(Protocol):
    """Where the answers come from."""

    def peers(self) -> PeersStatus: ...

    def ticket(self) -> str:
        """Raises `TicketError` on a node that belongs to no cluster."""
        ...


PEERS: Final = Operation(
    "The nodes this one knows of", {200: Answer("The peers.", {JSON: PeersStatus})}, tag="cluster"
)

TICKET: Final = Operation(
    "A ticket that tells a new node where the cluster is",
    {200: Answer("The ticket.", {JSON: TicketAnswer})},
    {409: "This node belongs to no cluster yet."},
    tag="cluster",
)


class PeersRoutes:
    """The handlers."""

    def __init__(self, view: PeersView) -> None:
        self._view = view

    def add_routes(self, admin: Router) -> None:
        admin.add("/v1/peers", {"GET": self.peers}, public=False, operations={"GET": PEERS})

        admin.add("/cluster-ticket", {"GET": self.ticket}, public=False, operations={"GET": TICKET})

    async def ticket(self, request: Request, _rest: str) -> web.StreamResponse:
        query_of(request, _NONE)
        try:
            told = self._view.ticket()
        except TicketError as error:
            raise HttpError(409, "no_cluster", str(error)) from None
        return json_response(TicketAnswer(told), headers={"Cache-Control": "no-store"})

    async def peers(self, request: Request, _rest: str) -> web.StreamResponse:
        query_of(request, _NONE)
        return json_response(self._view.peers(), headers={"Cache-Control": "no-store"})
