"""A listening server over a fake cluster. The helpers beside this file are a plain module, found by path.

Every asynchronous test here runs under asyncio's own loop and under uvloop, which production uses.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import uvloop

sys.path.insert(0, str(Path(__file__).parent))

from http_fakes import NODE_MS, Client, FakeCluster, Line, Serve, SettingView

from aspen.http.cluster import ClusterRoutes
from aspen.http.connection import HttpLimits
from aspen.http.control import ControlRoutes
from aspen.http.health import HealthRoutes
from aspen.http.metrics import MetricsRoutes
from aspen.http.server import HttpServer
from aspen.http.ui import UiRoutes
from aspen.pkarr.admin import PacketAdmin
from aspen.pkarr.relay import Relay
from aspen.pkarr.watch import PacketWatch
from aspen.state.packets import PacketLife

SOME_METRICS = b"# HELP aspen_zones Authored zones.\n# TYPE aspen_zones gauge\naspen_zones 3.0\n"


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
async def serve(cluster: FakeCluster) -> AsyncIterator[Serve]:
    """Starts an `HttpServer` with all routes: `await serve(limits=…, admin_token=…)`."""
    async with AsyncExitStack() as stack:

        async def start(
            *,
            listen: tuple[str, int] = ("127.0.0.1", 0),
            admin_listen: tuple[str, int] | None = None,
            admin_token: str | None = None,
            limits: HttpLimits | None = None,
        ) -> HttpServer:
            server = HttpServer(
                listen=listen, admin_listen=admin_listen, admin_token=admin_token, limits=limits
            )
            relay = Relay(cluster, cluster.packet_reader, wall_us=lambda: NODE_MS * 1_000)
            relay.add_routes(server.public)
            PacketWatch(cluster.packet_events, lambda: 42).add_routes(server.public, server.admin)
            packets = PacketAdmin(cluster, cluster.packet_reader, SettingView(cluster.settings), PacketLife())
            packets.add_routes(server.admin)
            cluster.kv.add_routes(server.admin)
            ClusterRoutes(cluster).add_routes(server.admin)
            HealthRoutes(cluster).add_routes(server.public)
            ControlRoutes(cluster, cluster, cluster).add_routes(server.admin)
            MetricsRoutes(lambda: SOME_METRICS).add_routes(server.admin)
            UiRoutes().add_routes(server.admin)
            await server.start()
            stack.push_async_callback(server.close)
            return server

        yield start
        for line in Line.opened:
            await line.close()
        Line.opened.clear()


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[Client]:
    """A client of a server with the usual limits."""
    server = await serve()
    one = Client(server.address)
    yield one
    await one.close()
