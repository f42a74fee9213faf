"""Peers: every node this one has heard of, how it knows them, and what the way to them is like."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec
from aiohttp import web

from aspen.errors import HttpError, TicketError
from aspen.http.errors import json_response
from aspen.http.kv_query import bad_query, flag_of, number_of
from aspen.http.openapi import JSON, Answer, Operation, Parameter
from aspen.http.request import query_of
from aspen.http.routing import Request, Router
from aspen.limits import TICKET_LIFE_MAX_S, TICKET_LIFE_MIN_S, TICKET_LIFE_S

_NONE: Final[frozenset[str]] = frozenset()


class PeerAddress(msgspec.Struct, frozen=True):
    address: str
    """`host:port`."""
    source: str
    """The most trusted of `sources`."""
    sources: tuple[str, ...]
    """Who said so: `connected`, `inbound`, `manual`, `membership`, `gossip`, …"""
    age_ms: int
    """Since it was last said."""


class PeerConnection(msgspec.Struct, frozen=True):
    protocol: str
    dialled: bool
    """By this node; else by the peer."""
    address: str
    """`host:port`, or the URL of the relay."""
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
    """`direct`; `relay` if all connections go through one; `none` without a connection."""
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
    """Names the cluster and some of its nodes. Unless it is signed it holds no secret."""
    expires_at_s: int | None = None
    """Unix time until which a signed ticket lets its holder in."""


class PeersView(Protocol):
    """Where the answers come from."""

    def peers(self) -> PeersStatus: ...

    def ticket(self) -> str:
        """Raises `TicketError` on a node that belongs to no cluster."""
        ...

    def signed_ticket(self, life_s: int) -> tuple[str, int]:
        """A ticket whose holder may join, and when it expires. Raises `TicketError`."""
        ...


PEERS: Final = Operation(
    "The nodes this one knows of", {200: Answer("The peers.", {JSON: PeersStatus})}, tag="cluster"
)

TICKET: Final = Operation(
    "A ticket that tells a new node where the cluster is; a signed one lets its holder in",
    {200: Answer("The ticket.", {JSON: TicketAnswer})},
    {409: "This node belongs to no cluster yet."},
    parameters=(
        Parameter(
            "signed", "A ticket whose holder may join, without knowing the cookie.", {"type": "boolean"}
        ),
        Parameter(
            "ttl",
            "Seconds that a signed ticket lives; a day if not given.",
            {"type": "integer", "minimum": TICKET_LIFE_MIN_S, "maximum": TICKET_LIFE_MAX_S},
        ),
    ),
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
        query = query_of(request, frozenset({"signed", "ttl"}))
        life_s = number_of(query, "ttl", TICKET_LIFE_MAX_S, TICKET_LIFE_MIN_S)
        signed = flag_of(query, "signed")
        if life_s is not None and not signed:
            raise bad_query("ttl is for signed tickets; a plain one doesn't expire")
        try:
            if signed:
                told = TicketAnswer(*self._view.signed_ticket(life_s or TICKET_LIFE_S))
            else:
                told = TicketAnswer(self._view.ticket())
        except TicketError as error:
            raise HttpError(409, "no_cluster", str(error)) from None
        return json_response(told, headers={"Cache-Control": "no-store"})

    async def peers(self, request: Request, _rest: str) -> web.StreamResponse:
        query_of(request, _NONE)
        return json_response(self._view.peers(), headers={"Cache-Control": "no-store"})
