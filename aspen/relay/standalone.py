"""A relay that is no node: `aspen relay` (shell). It keeps nothing on disk and knows no cluster's data."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Final

import structlog
from aiohttp import web

from aspen.http.admin import AdminGuard
from aspen.http.connection import HttpLimits
from aspen.http.errors import json_response
from aspen.http.openapi import JSON, Answer, Operation
from aspen.http.routing import Request, Router
from aspen.http.server import Listener
from aspen.limits import RELAY_UNPROVEN
from aspen.relay.access import Access
from aspen.relay.hub import RelayLimits
from aspen.relay.server import RelayServer

log = structlog.get_logger("aspen.relay")

_HEALTH: Final = Operation(
    "Whether the relay serves", {200: Answer("It does.", {JSON: {"type": "object"}})}, tag="about"
)


class StandaloneRelay:
    """One listener, with the relay and its health."""

    def __init__(
        self, access: Access, limits: RelayLimits, context: Callable[..., ssl.SSLContext] | None
    ) -> None:
        """`context` makes it listen by TLS."""
        self.server = RelayServer(access, limits)
        router = Router()
        self.server.add_routes(router)
        router.add("/healthz", {"GET": self._health}, public=True, operations={"GET": _HEALTH})
        self._listener = Listener(
            router, AdminGuard(), HttpLimits(streams=limits.clients + RELAY_UNPROVEN), context
        )

    @property
    def address(self) -> tuple[str, int]:
        """As bound."""
        return self._listener.address

    async def start(self, address: tuple[str, int]) -> None:
        """Raises `ConfigError`."""
        await self._listener.start(address)
        await self.server.observe(*address)
        log.info("relay started", address="{}:{}".format(*self.address))

    async def close(self) -> None:
        await self.server.close()
        await self._listener.close()
        log.info("relay stopped")

    async def _health(self, _request: Request, _rest: str) -> web.StreamResponse:
        hub = self.server.hub
        told = {
            "status": "healthy",
            "clients": len(hub),
            "forwarded": hub.forwarded,
            "forwarded_bytes": hub.forwarded_bytes,
            "dropped": dict(hub.dropped),
            "refused": dict(self.server.refusals.counts),
        }
        return json_response(told, headers={"Cache-Control": "no-store"})
