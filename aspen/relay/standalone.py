"""A relay that is no node: `aspen relay` (shell). It keeps nothing on disk and knows no cluster's data."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from aiohttp import web

from aspen.errors import ConfigError
from aspen.http.admin import AdminGuard, names_loopback
from aspen.http.connection import HttpLimits
from aspen.http.errors import json_response
from aspen.http.metrics import MetricsRoutes
from aspen.http.openapi import JSON, Answer, Operation
from aspen.http.routing import Request, Router
from aspen.http.server import Listener
from aspen.limits import RELAY_UNPROVEN
from aspen.relay.access import Access
from aspen.relay.hub import RelayLimits
from aspen.relay.metrics import RelayMetrics
from aspen.relay.server import RelayServer
from aspen.tls.certificates import Certificates

log = structlog.get_logger("aspen.relay")

_HEALTH: Final = Operation(
    "Whether the relay serves", {200: Answer("It does.", {JSON: {"type": "object"}})}, tag="about"
)


class StandaloneRelay:
    """One listener, with the relay and its health; and where its metrics are served.

    As a node's admin routes these are for this machine, or for whoever holds a token: on a listener of
    their own, or else on the relay's.
    """

    def __init__(
        self,
        access: Access,
        limits: RelayLimits,
        certificates: Certificates | None = None,
        tokens: Sequence[str] = (),
    ) -> None:
        """`certificates` make it listen by TLS. Any of the `tokens` opens the metrics."""
        certified = (lambda: ()) if certificates is None else (lambda: certificates.bundle.names)
        self.server = RelayServer(access, limits, certified)
        self._guard = AdminGuard(tokens)
        self._limits = HttpLimits(streams=limits.clients + RELAY_UNPROVEN)
        self._context = None if certificates is None else certificates.context
        self._public, self._admin = Router(), Router()
        self.server.add_routes(self._public)
        self._public.add("/healthz", {"GET": self._health}, public=True, operations={"GET": _HEALTH})
        MetricsRoutes(RelayMetrics(self.server, certificates).render).add_routes(self._admin)
        self._listeners: list[Listener] = []
        self.metrics_address: tuple[str, int] | None = None
        """As bound, if they are served."""

    @property
    def address(self) -> tuple[str, int]:
        """As bound."""
        return self._listeners[0].address

    async def start(self, address: tuple[str, int], admin: tuple[str, int] | None = None) -> None:
        """`admin` is for a listener of the metrics' own. Raises `ConfigError`."""
        guarded = self._guard.asks_for_token
        if admin is not None and not guarded and not names_loopback(admin[0]):
            raise ConfigError(f"--admin-addr {admin[0]} is not loopback: set a token, or bind 127.0.0.1")
        here = admin is None and (guarded or names_loopback(address[0]))
        await self._listen(address, self._public.joined(self._admin) if here else self._public, self._context)
        if admin is not None:
            try:
                await self._listen(admin, self._admin, None)
            except ConfigError:
                await self._listeners[0].close()
                raise
        self.metrics_address = self._listeners[-1].address if here or admin is not None else None
        await self.server.observe(*address)
        metrics = "nowhere" if self.metrics_address is None else "{}:{}".format(*self.metrics_address)
        log.info(
            "relay started",
            address="{}:{}".format(*self.address),
            called=self.server.called or "by the address it is reached at",
            metrics=metrics,
        )

    async def _listen(
        self, address: tuple[str, int], router: Router, context: Callable[..., ssl.SSLContext] | None
    ) -> None:
        listener = Listener(router, self._guard, self._limits, context)
        await listener.start(address)
        self._listeners.append(listener)

    async def close(self) -> None:
        await self.server.close()
        await asyncio.gather(*(listener.close() for listener in self._listeners))
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
