"""The HTTPS listener: the public routes, admin routes behind a token only, and connections with bounds."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from http_fakes import NODE_MS, Client, FakeCluster, Line, within

from aspen.errors import ConfigError
from aspen.http.cluster import ClusterRoutes
from aspen.http.connection import HttpLimits
from aspen.http.health import HealthRoutes
from aspen.http.server import Https, HttpServer
from aspen.pkarr.relay import Relay
from aspen.tls.certificates import Certificates
from aspen.tls.sources import SelfSigned

Serve = Callable[..., Awaitable[HttpServer]]


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(SelfSigned(tmp_path, ["localhost", "127.0.0.1", "::1"]), wall_s=time.time)


@pytest.fixture
def context(certificates: Certificates, tmp_path: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=tmp_path / "self-signed.pem")


@pytest.fixture
async def serve_https(certificates: Certificates) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(host: str = "127.0.0.1", **options: Any) -> HttpServer:
            cluster = FakeCluster()
            server = HttpServer(
                listen=("127.0.0.1", 0), https=Https((host, 0), certificates.context), **options
            )
            relay = Relay(cluster, cluster.packet_reader, wall_us=lambda: NODE_MS * 1_000)
            relay.add_routes(server.public)
            ClusterRoutes(cluster).add_routes(server.admin)
            HealthRoutes(cluster).add_routes(server.public)
            await server.start()
            stack.push_async_callback(server.close)
            return server

        yield start
        for line in Line.opened:
            await line.close()
        Line.opened.clear()


class TlsClient(Client):
    """As `Client`, over TLS."""

    def __init__(self, server: HttpServer, context: ssl.SSLContext) -> None:
        assert server.https_address is not None
        super().__init__(server.https_address)
        self.context = context

    async def request(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Any:
        if self._line is None:
            self._line = await tls_line(self.address, self.context)
        return await super().request(method, target, body, **headers)


async def tls_line(address: tuple[str, int], context: ssl.SSLContext) -> Line:
    line = Line(*await asyncio.open_connection(*address, ssl=context, server_hostname="localhost"))
    Line.opened.append(line)
    return line


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_public_routes_are_served_over_tls(
    serve_https: Serve, context: ssl.SSLContext, host: str
) -> None:
    client = TlsClient(await serve_https(host), context)
    assert (await client.get("/healthz")).status == 200
    assert (await client.get("/pkarr/" + "y" * 52)).error == (404, "not_found")
    await client.close()


async def test_admin_routes_are_not_on_it_without_a_token(
    serve_https: Serve, context: ssl.SSLContext
) -> None:
    server = await serve_https()
    assert server.admin_on_public  # on the plain listener, which is loopback
    client = TlsClient(server, context)
    assert (await client.get("/v1/cluster/status", Host="localhost")).error == (404, "not_found")
    await client.close()


async def test_admin_routes_are_on_it_behind_a_token(serve_https: Serve, context: ssl.SSLContext) -> None:
    client = TlsClient(await serve_https(admin_token="t" * 20), context)
    assert (await client.get("/v1/cluster/status")).error == (401, "unauthorized")
    answer = await client.get("/v1/cluster/status", Authorization="Bearer " + "t" * 20)
    assert answer.status == 200
    await client.close()


async def test_with_a_listener_of_their_own_they_are_not_here(
    serve_https: Serve, context: ssl.SSLContext
) -> None:
    server = await serve_https(admin_listen=("127.0.0.1", 0), admin_token="t" * 20)
    client = TlsClient(server, context)
    answer = await client.get("/v1/cluster/status", Authorization="Bearer " + "t" * 20)
    assert answer.error == (404, "not_found")
    assert server.admin_address != server.https_address
    await client.close()


async def test_http_in_the_clear_is_no_handshake(serve_https: Serve) -> None:
    server = await serve_https()
    assert server.https_address is not None
    line = await Line.open(server.https_address)
    await line.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await line.ended()


async def test_who_sends_an_octet_now_and_then_is_cut_off(
    serve_https: Serve, context: ssl.SSLContext
) -> None:
    server = await serve_https(limits=HttpLimits(head_ms=200))
    assert server.https_address is not None
    line = await tls_line(server.https_address, context)
    try:
        for octet in b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 200:
            await line.send(bytes((octet,)))
            await asyncio.sleep(0.01)
    except OSError:
        pass
    else:
        assert (await line.answer()).error == (408, "timeout")
    await within(30, lambda: server.connections == 0)


async def test_too_many_connections_are_told_so(serve_https: Serve, context: ssl.SSLContext) -> None:
    server = await serve_https(limits=HttpLimits(connections=2))
    assert server.https_address is not None
    lines = [await tls_line(server.https_address, context) for _ in range(2)]
    await within(30, lambda: server.connections == 2)
    over = await tls_line(server.https_address, context)
    assert (await over.answer()).error == (503, "overloaded")
    assert len(lines) == 2


async def test_a_taken_port_is_a_configuration_error(serve_https: Serve, certificates: Certificates) -> None:
    server = await serve_https()
    assert server.https_address is not None
    other = HttpServer(listen=("127.0.0.1", 0), https=Https(server.https_address, certificates.context))
    with pytest.raises(ConfigError, match="HTTPS can't listen"):
        await other.start()
