"""The sources that a node asks where others are, put together: DNS, pkarr and the DHT, bootstrap nodes.

All feed the node's one `AddressBook`. Those that tell by themselves (gossip, multicast DNS) are in
`aspen.node.discovery`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog

from aspen.config import ClusterBootstrapConfig, is_address
from aspen.discovery.bootstrap import Bootstrap
from aspen.discovery.dns_discovery import DnsDiscovery
from aspen.discovery.lookups import Lookups, Source
from aspen.discovery.remembered import SOURCE as REMEMBERED
from aspen.discovery.remembered import Remembered
from aspen.dns.client import DnsClient, DohDns, PlainDns
from aspen.identity import EndpointId
from aspen.limits import BEHIND_MS, DNS_DISCOVERY_ORIGINS, LOOKUP_MISSING, REMEMBER_MS, REMEMBERED_ADDRESSES
from aspen.net.address_book import PROVEN, Address, AddressBook
from aspen.net.endpoint import ALPN_GOSSIP, ALPN_RAFT, Endpoint
from aspen.net.knock import key_at
from aspen.node.dht import NodeDht
from aspen.node.discovery import Discovery
from aspen.z32 import encode_key

log = structlog.get_logger("aspen.discovery")


class NodeLookups:
    """`start` it when the node's endpoint runs, `stop` it once."""

    def __init__(
        self,
        config: ClusterBootstrapConfig,
        endpoint: Endpoint,
        discovery: Discovery,
        dht: NodeDht,
        found: Callable[[], None],
    ) -> None:
        """`found` hears that somebody may be reached who couldn't be before, and dials them all.

        Raises `ConfigError`.
        """
        self._config = config
        self._endpoint = endpoint
        self._consensus = discovery.consensus
        self._found = found
        self._remembered = Remembered(config.data_path)
        self._remembering: asyncio.Task[None] | None = None
        self._caught_up_at = float("-inf")
        discovery.on_behind = self._behind
        self._book: AddressBook = endpoint.address_book
        self._own_id = endpoint.identity.endpoint_id
        self._dns: DnsClient | None = None
        self._lookups = Lookups(self._sources(dht), self._is_anybody_missing, found)

    def start(self) -> None:
        for endpoint_id, addresses in self._remembered.read().items():
            for address in addresses:
                self._book.add(endpoint_id, address, REMEMBERED)
        self._found()
        self._remembering = asyncio.create_task(self._keep_remembering())
        self._lookups.start()

    async def stop(self) -> None:
        await self._lookups.stop()
        if self._remembering is not None:
            self._remembering.cancel()
            await asyncio.gather(self._remembering, return_exceptions=True)
            await self._remember()
        if self._dns is not None:
            await self._dns.close()

    def _sources(self, dht: NodeDht) -> list[Source]:
        iroh = self._config.iroh
        # A node without gossip still answers the other protocol; TLS tells its key by either.
        alpn = ALPN_GOSSIP if iroh.enable_gossip else ALPN_RAFT
        bootstrap = Bootstrap(
            self._config.bootstrap_places,
            lambda address: key_at(address, alpn),
            self._connected_addresses,
            self._own_id,
            self._learn,
        )
        sources: list[Source] = [bootstrap] if iroh.bootstrap_nodes else []
        server = iroh.dns_discovery
        if server is not None:
            self._dns = DohDns(server.doh_url) if server.doh_url else PlainDns([(server.host, server.port)])
            origins = discovery_origins(self._config, server.host)
            sources.append(DnsDiscovery(self._dns, origins, self._missing, self._learn, bootstrap.knock))
        if iroh.enable_pkarr:
            sources.append(PkarrLookup(dht, self._missing, self._learn))
        return sources

    def _learn(self, endpoint_id: EndpointId, address: Address, source: str) -> bool:
        if endpoint_id == self._own_id:
            return False
        is_new = address not in self._book.addresses(endpoint_id)
        self._book.add(endpoint_id, address, source)
        if is_new:
            log.info("address found", endpoint_id=encode_key(endpoint_id), source=source)
        return is_new

    async def _keep_remembering(self) -> None:
        while True:
            await asyncio.sleep(REMEMBER_MS / 1_000)
            await self._remember()

    async def _remember(self) -> None:
        """Of members, where they have been reached."""
        members = [member.endpoint_id for member in self._consensus.roster.members]
        reached = [(each, self._proven(each)) for each in members if each != self._own_id]
        if reached:
            await asyncio.to_thread(self._remembered.write, reached)

    def _proven(self, endpoint_id: EndpointId) -> tuple[Address, ...]:
        known = self._book.known(endpoint_id)
        return tuple(each.address for each in known if each.source in PROVEN)[:REMEMBERED_ADDRESSES]

    def _behind(self, endpoint_id: EndpointId) -> None:
        """Somebody knows a newer membership. Dial it and every member: one of them leads, and may have lost
        this node (a learner, say, which never calls an election, at an address that nobody else knows)."""
        now = time.monotonic()
        belongs = self._consensus.roster.members and not self._consensus.removed
        if belongs and now - self._caught_up_at >= BEHIND_MS / 1_000:
            self._caught_up_at = now
            log.info("behind another node's membership", endpoint_id=encode_key(endpoint_id))
            self._endpoint.channel(ALPN_RAFT).dial(endpoint_id)
            self._found()

    # --- whom to look for -----------------------------------------------------------------------

    def _missing(self) -> list[EndpointId]:
        """The members, or before there are any the peers named, by their keys, that aren't connected."""
        expected = [member.endpoint_id for member in self._consensus.roster.members]
        expected = expected or [peer.endpoint_id for peer in self._config.manual_peers]
        connected = {connection.endpoint_id for connection in self._endpoint.connections()}
        return [each for each in expected if each != self._own_id and each not in connected]

    def _is_anybody_missing(self) -> bool:
        """Members that aren't connected, or, for a node that knows of none, everybody."""
        return bool(self._missing()) or not (self._endpoint.connections() or self._consensus.roster.members)

    def _connected_addresses(self) -> set[Address]:
        return {connection.address for connection in self._endpoint.connections()}


class PkarrLookup:
    """Relays and the DHT, for nodes whose keys are known; a source of `Lookups`."""

    name = "pkarr"

    def __init__(
        self,
        dht: NodeDht,
        missing: Callable[[], Sequence[EndpointId]],
        learn: Callable[[EndpointId, Address, str], bool],
    ) -> None:
        self._dht = dht
        self._missing = missing
        self._learn = learn

    async def look(self) -> bool:
        found: list[bool] = []

        def learn(endpoint_id: EndpointId, address: Address) -> None:
            found.append(self._learn(endpoint_id, address, self.name))

        wanted = self._missing()[:LOOKUP_MISSING]
        await asyncio.gather(*(self._dht.find_peer(endpoint_id, learn) for endpoint_id in wanted))
        return any(found)


def discovery_origins(config: ClusterBootstrapConfig, host: str) -> tuple[str, ...]:
    """The names under which a DNS server is asked."""
    given = config.iroh.dns_discovery_origin
    if given is not None:
        return (given.strip(".") or ".",)
    named = [] if is_address(host) else [host]
    return tuple(dict.fromkeys([*config.dns_server.all_origins, *named]))[:DNS_DISCOVERY_ORIGINS]
