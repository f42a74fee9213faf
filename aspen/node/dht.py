"""The part of a node that deals with the world outside its cluster, put together: the DHT and other relays.

- Keys unknown here are looked up in the DHT (`enable_dht_fallback`), for DNS and for the relay.
- Packets accepted here are published there (`enable_dht_publish`), and kept there by the leader.
- The node's own address is published under its own key (`iroh.enable_pkarr`), and those of other nodes are
  looked up and told to `learn`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

import structlog

from aspen.config import ClusterBootstrapConfig
from aspen.dns.fallback import Elsewhere
from aspen.identity import EndpointId, Identity
from aspen.net.reachable import reachable_addresses
from aspen.pkarr.dht import DhtClient, parse_bootstrap
from aspen.pkarr.endpoint_info import Address, EndpointInfo, format_address, parse_address
from aspen.pkarr.network import DhtNetwork
from aspen.pkarr.packet import SignedPacket
from aspen.pkarr.ports import Network
from aspen.pkarr.publisher import Publisher, Target
from aspen.pkarr.relay import Relay
from aspen.pkarr.relay_client import RelayClient
from aspen.pkarr.republish import DhtRepublish
from aspen.pkarr.resolver import DhtSource, Resolution, Resolver
from aspen.raft.ports import Clock
from aspen.services.housekeeping import Housekeeper
from aspen.state.packet_scan import LmdbPacketScan
from aspen.state.packets import LmdbPackets

log = structlog.get_logger("aspen.pkarr")

DEFAULT_RELAY: Final = "https://dns.iroh.link/pkarr"


Learn = Callable[[EndpointId, Address], None]
"""Is told an address of an endpoint: the address book, by the source `pkarr`."""


class NodeDht:
    """`start` it before DNS and HTTP, `announce` once the node's address is known, `close` it last."""

    network: Network | None = None
    """For the relay: None if it is neither to look elsewhere nor to publish."""
    elsewhere: Elsewhere | None = None
    """For DNS: None if unknown keys are denied at once."""
    publisher: Publisher | None = None
    resolver: Resolver
    relay: Relay | None = None
    """By whose rules packets from the DHT are served and stored; to be set before anybody is served."""

    def __init__(
        self,
        config: ClusterBootstrapConfig,
        identity: Identity,
        packets: LmdbPackets,
        scan: LmdbPacketScan,
        clock: Clock,
    ) -> None:
        self._config = config
        self._identity = identity
        self._packets = packets
        self._scan = scan
        self._clock = clock
        self._stack = AsyncExitStack()
        self._client: DhtClient | None = None
        self._relays: list[RelayClient] = []
        self.dht: DhtNetwork | None = None
        """With its counters."""

    async def start(self, housekeeper: Housekeeper) -> None:
        """Raises `ConfigError` for settings that can't be used, the DHT's port included."""
        config = self._config
        dns, iroh = config.dns_server, config.iroh
        asks, publishes = dns.enable_dht_fallback, config.publishes_to_dht
        own_by_dht = iroh.enable_pkarr and iroh.enable_pkarr_dht
        if asks or publishes or own_by_dht:
            bootstrap = parse_bootstrap(dns.dht_bootstrap_nodes)
            self._client = client = DhtClient(bootstrap, host=_dht_host(config.quic_host), port=dns.dht_port)
            await client.start()
            self._stack.push_async_callback(client.close)
            store = self._store if dns.store_dht_results else None
            self.dht = dht = DhtNetwork(client, self._clock.monotonic_ms, store=store)
            dht.start()
            self._stack.push_async_callback(dht.close)
            if asks or publishes:
                self.network = _Limited(dht, self._admits, asks=asks, publishes=publishes)
            if asks:
                self.elsewhere = _UnlessUnpublished(dht, self._packets, self._admits)
            if publishes:
                housekeeper.add(DhtRepublish(dht, self._scan))
        if iroh.enable_pkarr and iroh.enable_pkarr_relay:
            given = [url for url in [iroh.pkarr_relay_url, *iroh.pkarr_relay_urls] if url is not None]
            for url in dict.fromkeys(given or [DEFAULT_RELAY]):
                self._relays.append(await self._stack.enter_async_context(RelayClient(url)))
        source = [DhtSource(self._client)] if self._client is not None and own_by_dht else []
        self.resolver = Resolver([*self._relays, *source])

    async def announce(self, quic_address: Address) -> None:
        """Publish where this node can be reached, from now on, if it is to be."""
        iroh = self._config.iroh
        if not iroh.enable_pkarr:
            return
        targets: list[Target] = [*self._relays]
        if self._client is not None and iroh.enable_pkarr_dht:
            targets.append(DhtSource(self._client))
        relay_urls = tuple(dict.fromkeys([*([iroh.relay_url] if iroh.relay_url else []), *iroh.relay_urls]))

        def records() -> Sequence[str]:
            direct = numeric(reachable_addresses(quic_address)) if iroh.include_pkarr_direct_addresses else ()
            return EndpointInfo(tuple(direct), relay_urls).records()

        self.publisher = Publisher(
            self._identity,
            targets,
            records,
            wall_us=lambda: self._clock.wall_ms() * 1_000,
            republish_ms=iroh.pkarr_republish_delay_secs * 1_000,
        )
        self.publisher.start()
        self._stack.push_async_callback(self.publisher.close)

    async def find_peer(self, endpoint_id: EndpointId, learn: Learn) -> Resolution:
        """Look up where another node can be reached, and tell `learn` every address found.

        An address proves nothing: whoever answers there must still prove the key.
        """
        found = await self.resolver.resolve(endpoint_id)
        for address in found.info.addresses if found.info is not None else ():
            learn(endpoint_id, address)
        return found

    async def close(self) -> None:
        await self._stack.aclose()

    async def _store(self, packet: SignedPacket) -> None:
        if self.relay is not None:
            await self.relay.take_found(packet)

    def _admits(self, public_key: bytes) -> bool:
        return self.relay is None or self.relay.admits(public_key)


class _Limited:
    """The DHT for the relay, as far as it is switched on."""

    def __init__(
        self, dht: DhtNetwork, admits: Callable[[bytes], bool], *, asks: bool, publishes: bool
    ) -> None:
        self._dht = dht
        self._admits = admits
        self._asks = asks
        self._publishes = publishes

    async def resolve(self, public_key: bytes, newer_than_us: int | None = None) -> SignedPacket | None:
        if not self._asks or not self._admits(public_key):
            return None
        return await self._dht.resolve(public_key, newer_than_us)

    async def publish(self, packet: SignedPacket) -> None:
        if self._publishes:
            await self._dht.publish(packet)


class _UnlessUnpublished:
    """The DHT for DNS. What was unpublished or is not admitted here doesn't come back from there."""

    def __init__(self, dht: DhtNetwork, packets: LmdbPackets, admits: Callable[[bytes], bool]) -> None:
        self._dht = dht
        self._packets = packets
        self._admits = admits

    def known(self, public_key: bytes) -> tuple[bool, bytes | None]:
        stored = self._packets.get(public_key)
        if (stored is not None and stored.tombstone) or not self._admits(public_key):
            return True, None
        return self._dht.known(public_key)

    async def look_up(self, public_key: bytes) -> None:
        await self._dht.look_up(public_key)


def _dht_host(host: str) -> str:
    """The node's own IPv4 address, or any: Mainline is asked by IPv4."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return "0.0.0.0"  # noqa: S104
    # From loopback nobody else can be reached.
    return str(ip) if ip.version == 4 and not ip.is_loopback else "0.0.0.0"  # noqa: S104


def numeric(addresses: Sequence[Address]) -> list[Address]:
    """Those that aren't names: a record holds numbers."""
    return [address for address in addresses if parse_address(format_address(address)) is not None]
