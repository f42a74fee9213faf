"""A node's relays, put together: those it uses, and the one it may be.

Which ones it uses (`iroh.relay_mode`): those it was given (`relay_url`, `relay_urls`); by `default` also
those that other nodes of the cluster announce, so that one public node with `relay_server` is enough for
all. `custom` is the given ones only, `disabled` none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from aspen.config import ClusterBootstrapConfig, RelayMode, is_loopback
from aspen.discovery.announcement import Announcement
from aspen.errors import ConfigError
from aspen.http.server import HttpServer
from aspen.identity import Cookies, EndpointId, Identity
from aspen.limits import RELAY_LOOK_MS
from aspen.net.endpoint import Endpoint
from aspen.net.reachable import reachable_addresses
from aspen.relay.access import COOKIE_CONTEXT, Access, RelayUrl, parse_relay_url
from aspen.relay.pool import RelayPool
from aspen.relay.server import RelayServer

log = structlog.get_logger("aspen.relay")

Known = Mapping[EndpointId, tuple[Announcement, int]]
"""What gossip has heard of others."""


class Removed(Protocol):
    """What is known of nodes that were sent away."""

    def has_removed(self, endpoint_id: EndpointId) -> bool: ...


class NodeRelays:
    """`pool` is for the endpoint; `start`, `serve` and `serving` in this order."""

    def __init__(
        self,
        config: ClusterBootstrapConfig,
        identity: Identity,
        cookies: Cookies,
        roster: Callable[[], Removed],
    ) -> None:
        self._config = config
        iroh = config.iroh
        authenticators = cookies.authenticators(COOKIE_CONTEXT)
        self._given = given_relays(config)
        self._follows = iroh.relay_mode is RelayMode.DEFAULT
        self.pool = RelayPool(identity, authenticators)
        self.pool.announced = self._announced
        self.server: RelayServer | None = None
        if iroh.relay_server:
            url = iroh.relay_server_url
            self.server = RelayServer(
                Access(
                    authenticators=authenticators,
                    names=[] if url is None else [parse_relay_url("iroh.relay_server_url", url).name],
                    refuses=lambda endpoint_id: roster().has_removed(endpoint_id),
                )
            )
        self._http: HttpServer | None = None
        self._known: Known = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, endpoint: Endpoint, known: Known) -> None:
        """Connect from now on; `known` may change."""
        self._known = known
        self.pool.receive = endpoint.relayed
        self.pool.changed = endpoint.relays_changed
        self.pool.use(self._wanted())
        if self._follows:
            self._task = asyncio.create_task(self._follow(), name="relays")

    def serve(self, http: HttpServer) -> None:
        """Add the route, if this node is to be a relay."""
        if self.server is not None:
            self.server.add_routes(http.public)
            self._http = http

    def serving(self) -> None:
        """The listeners are open: use the own relay too, as others may be found nowhere else."""
        url = self._own_url()
        if self.server is None:
            return
        if url is None:
            log.warning(
                "nobody is told of this relay",
                why="http_addr is loopback; iroh.relay_server_url says where it is",
            )
        elif self._config.iroh.relay_mode is not RelayMode.DISABLED:
            self.pool.attach(url, self.server.hub)

    async def stop(self) -> None:
        """After the endpoint has said goodbye."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.pool.stop()

    def announce(self) -> str | None:
        """The relay to tell others of: the own one, or one that this node is found at."""
        own = self._own_url()
        return self.pool.home if own is None else own.websocket

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(RELAY_LOOK_MS / 1000)
            self.pool.use(self._wanted())

    def _wanted(self) -> list[RelayUrl]:
        """The given ones first; then the announced, in an order that is the same on every node."""
        if self._config.iroh.relay_mode is RelayMode.DISABLED:
            return []
        wanted = {url.websocket: url for url in self._given}
        if self._follows:
            announced = {announcement.relay_url or "" for announcement, _ in self._known.values()}
            told = [url for text in announced if (url := _parsed(text)) is not None]
            wanted |= {url.websocket: url for url in sorted(told, key=lambda url: url.websocket)}
        return list(wanted.values())

    def _announced(self, endpoint_id: EndpointId) -> str | None:
        known = self._known.get(endpoint_id)
        url = None if known is None else _parsed(known[0].relay_url or "")
        return None if url is None else url.websocket

    def _own_url(self) -> RelayUrl | None:
        """Where others reach this node's relay, as far as it knows: asked anew, as machines move."""
        given = self._config.iroh.relay_server_url
        if self.server is None or self._http is None:
            return None
        if given is not None:
            return parse_relay_url("iroh.relay_server_url", given)
        if is_loopback(self._config.http_listen[0]):
            return None
        host, port = reachable_addresses(self._http.address)[0]
        return parse_relay_url(
            "http_addr", f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        )


def given_relays(config: ClusterBootstrapConfig) -> list[RelayUrl]:
    """`relay_url`, then `relay_urls`. Raises `ConfigError`."""
    iroh = config.iroh
    first = [] if iroh.relay_url is None else [parse_relay_url("iroh.relay_url", iroh.relay_url)]
    return [*first, *(parse_relay_url("iroh.relay_urls", url) for url in iroh.relay_urls)]


def _parsed(text_untrusted: str) -> RelayUrl | None:
    try:
        return parse_relay_url("", text_untrusted)
    except ConfigError:
        return None
