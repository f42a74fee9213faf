"""A node's relays, put together: those it uses, and the one it may be.

Which ones it uses (`iroh.relay_mode`): those it was given (`relay_url`, `relay_urls`); by `default` also
those that other nodes of the cluster announce, so that one public node with `relay_server` is enough for
all. `custom` is the given ones only, `disabled` none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import structlog

from aspen.config import ClusterBootstrapConfig, RelayMode, is_loopback
from aspen.discovery.announcement import Announcement
from aspen.errors import ConfigError
from aspen.http.server import HttpServer
from aspen.identity import Cookies, EndpointId, Identity
from aspen.limits import RELAY_LOOK_MS, RELAY_PROBE_MS
from aspen.net.address_book import Address
from aspen.net.endpoint import Endpoint
from aspen.net.reachable import reachable_addresses
from aspen.relay.access import COOKIE_CONTEXT, Access, RelayUrl, parse_relay_url
from aspen.relay.pool import RelayPool
from aspen.relay.server import RelayServer
from aspen.tls.certificates import Certificates

log = structlog.get_logger("aspen.relay")

Known = Mapping[EndpointId, tuple[Announcement, int]]
"""What gossip has heard of others."""


class Removed(Protocol):
    """What is known of nodes that were sent away."""

    def has_removed(self, endpoint_id: EndpointId) -> bool: ...


class NodeRelays:
    """`pool` is for the endpoint. `start` once that runs, `serve` before the HTTP listeners do."""

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
        self._uses_relays = iroh.relay_mode is not RelayMode.DISABLED
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
                ),
                certified=lambda: () if self._certificates is None else self._certificates.bundle.names,
            )
        self.observed: tuple[Address, ...] = ()
        """Where relays see this node's QUIC port, beyond a NAT if there is one."""
        self._probe_at = 0.0
        self._observing = False
        self._http: HttpServer | None = None
        self._certificates: Certificates | None = None
        self._known: Known = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, endpoint: Endpoint, known: Known, moved: Callable[[], None]) -> None:
        """Connect from now on; `known` may change. `moved` hears of another address under `observed`."""
        self._known = known
        self._endpoint = endpoint
        self._moved = moved
        self.pool.feed(endpoint)
        self._look()
        self._task = asyncio.create_task(self._keep_looking(), name="relays")

    def serve(self, http: HttpServer, certificates: Certificates | None) -> None:
        """Add the route, if this node is to be a relay."""
        if self.server is not None:
            self.server.add_routes(http.public)
            self._http, self._certificates = http, certificates

    async def stop(self) -> None:
        """After the endpoint has said goodbye."""
        if self.server is not None and self.server.observer is not None:
            self.server.observer.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.pool.stop()

    def announce(self) -> str | None:
        """The relay to tell others of: the own one, or one that this node is found at."""
        own = self._own_url()
        return self.pool.home if own is None else own.websocket

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(RELAY_LOOK_MS / 1000)
            try:
                self._look()
                await self._observe()
            except Exception:
                log.exception("looking for relays failed")

    def _look(self) -> None:
        """Use what there is to use now: others announce relays, and this node may have moved."""
        own = self._own_url()
        if own is not None and self.server is not None and self._uses_relays:
            self.pool.attach(own, self.server.hub)
        self.pool.use(self._wanted())
        if self.server is not None:
            self.server.recheck()

    async def _observe(self) -> None:
        """Ask the relays where this node is seen, now and then; and let clients of the own one ask."""
        if self.server is not None and self._http is not None and self._http.is_open and not self._observing:
            self._observing = True
            await self.server.observe(*self._http.address)
        seen = tuple(each for each in self.pool.observed if not is_loopback(each[0]))
        if seen != self.observed:
            self.observed = seen
            self._moved()
        now = time.monotonic()
        if self.pool.probes and (now >= self._probe_at or not self.observed):
            self._probe_at = now + RELAY_PROBE_MS / 1000
            for address, datagram in self.pool.probes:
                self._endpoint.send_bare(datagram, address)

    def _wanted(self) -> list[RelayUrl]:
        """The given ones first; then the announced, in an order that is the same on every node."""
        if not self._uses_relays:
            return []
        wanted = {url.websocket: url for url in self._given}
        if self._follows:
            announced = {announcement.relay_url or "" for announcement, _ in self._known.values()}
            told = [url for text in announced if (url := _parsed(text)) is not None]
            told += self.pool.connected  # one that works stays, though its node isn't heard just now
            wanted |= {url.websocket: url for url in sorted(told, key=lambda url: url.websocket)}
        return list(wanted.values())

    def _announced(self, endpoint_id: EndpointId) -> str | None:
        known = self._known.get(endpoint_id)
        url = None if known is None else _parsed(known[0].relay_url or "")
        return None if url is None else url.websocket

    def _own_url(self) -> RelayUrl | None:
        """Where others reach this node's relay, as far as it knows: asked anew, as machines move."""
        given = self._config.iroh.relay_server_url
        if self.server is None or self._http is None or not self._http.is_open:
            return None
        if given is not None:
            return parse_relay_url("iroh.relay_server_url", given)
        if is_loopback(self._config.http_listen[0]):
            return None
        host, port = reachable_addresses(self._http.address)[0]
        return parse_relay_url(
            "http_addr", f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        )


@asynccontextmanager
async def given_pool(config: ClusterBootstrapConfig, identity: Identity) -> AsyncIterator[RelayPool]:
    """The relays that a newcomer can use, which has heard of nobody yet: those it was given."""
    authenticators = Cookies.of(config.all_cookies).authenticators(COOKIE_CONTEXT) if config.cookie else ()
    pool = RelayPool(identity, authenticators)
    if config.iroh.relay_mode is not RelayMode.DISABLED:
        pool.use(given_relays(config))
    try:
        yield pool
    finally:
        await pool.stop()


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
