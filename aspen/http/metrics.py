"""`GET /metrics`: what a node counts, in Prometheus' text format. An admin route."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from aspen.http.openapi import Answer, Operation
from aspen.http.request import query_of
from aspen.http.routing import Request, Router

PATH: Final = "/metrics"
TEXT: Final = "text/plain"
METRICS: Final = Operation(
    "Counters, gauges and histograms for Prometheus",
    {200: Answer("Prometheus' text format, version 0.0.4.", {TEXT: {"type": "string"}})},
    tag="health",
)
_NO_PARAMETERS: Final[frozenset[str]] = frozenset()


class MetricsRoutes:
    """The handler."""

    def __init__(self, render: Callable[[], bytes]) -> None:
        """`render` writes all metrics as they are now."""
        self._render = render

    def add_routes(self, admin: Router) -> None:
        admin.add(PATH, {"GET": self.get}, public=False, operations={"GET": METRICS})

    async def get(self, request: Request, _rest: str) -> web.StreamResponse:
        query_of(request, _NO_PARAMETERS)
        headers = {"Content-Type": CONTENT_TYPE_PLAIN_0_0_4, "Cache-Control": "no-store"}
        return web.Response(body=self._render(), headers=headers)
