"""A node's HTTP listeners as the configuration has them. Routes are added by who knows the parts."""

from __future__ import annotations

from aspen.config import ClusterBootstrapConfig
from aspen.http.connection import HttpLimits
from aspen.http.forwarded import Network
from aspen.http.server import Https, HttpServer
from aspen.slow import SlowLog
from aspen.systemd import GivenSockets
from aspen.tls.certificates import Certificates


def open_http(
    config: ClusterBootstrapConfig,
    certificates: Certificates | None,
    proxies: tuple[Network, ...],
    sockets: GivenSockets,
) -> HttpServer:
    """Not started yet. Raises `ConfigError` for an admin listener that is open to the network."""
    https = config.dns_server.https_config
    server = HttpServer(
        listen=config.http_listen,
        admin_listen=config.admin_listen,
        admin_token=config.admin_token,
        https=Https((config.https_host, https.port), certificates.context)
        if https is not None and certificates is not None
        else None,
        limits=HttpLimits(unlimited_clients=proxies),
        sockets=sockets,
        slow=SlowLog(config.slow_operation_ms),
    )
    server.accept_tokens(config.admin_tokens)
    return server
