"""A node's pkarr relay, put together from its configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from aspen.config import ClusterBootstrapConfig
from aspen.config.pkarr import PkarrConfig
from aspen.http.forwarded import parse_networks
from aspen.http.server import HttpServer
from aspen.pkarr.admin import PacketAdmin
from aspen.pkarr.expiry import Lifetimes, PacketExpiry
from aspen.pkarr.gate import Gate, GateRules
from aspen.pkarr.ports import Network
from aspen.pkarr.relay import Relay, RelayRules
from aspen.pkarr.watch import PacketWatch
from aspen.ratelimit import Rate
from aspen.state.packet_events import LmdbPacketEvents
from aspen.state.packets import LmdbPackets, PacketLife
from aspen.state.ports import Proposer
from aspen.state.settings import LmdbSettings
from aspen.state.store import Store
from aspen.z32 import decode_key


class PkarrParts(NamedTuple):
    relay: Relay
    gate: Gate
    watch: PacketWatch
    admin: PacketAdmin
    expiry: PacketExpiry

    def add_routes(self, http: HttpServer) -> None:
        self.relay.add_routes(http.public)
        self.watch.add_routes(http.public, http.admin)
        self.admin.add_routes(http.admin)


def packet_life(config: PkarrConfig) -> PacketLife:
    return PacketLife(config.retention_secs * 1_000, config.strict_ttl)


def assemble_pkarr(
    config: ClusterBootstrapConfig,
    store: Store,
    proposer: Proposer,
    packets: LmdbPackets,
    applied_index: Callable[[], int],
    network: Network | None = None,
) -> PkarrParts:
    """`network` is the DHT, if the node is to ask it."""
    pkarr, settings = config.pkarr, LmdbSettings(store)
    life = packet_life(pkarr)
    gate = Gate(_gate_rules(config), settings)
    rules = RelayRules(
        life=life,
        future_ms=pkarr.future_secs * 1_000,
        max_packets=pkarr.max_packets,
        max_bytes=pkarr.max_mib * 1_048_576,
    )
    return PkarrParts(
        Relay(proposer, packets, rules=rules, gate=gate, network=network),
        gate,
        PacketWatch(LmdbPacketEvents(store), applied_index, gate),
        PacketAdmin(proposer, packets, settings, life),
        PacketExpiry(proposer, packets, Lifetimes(life.retention_ms, pkarr.tombstone_secs * 1_000)),
    )


def _gate_rules(config: ClusterBootstrapConfig) -> GateRules:
    pkarr = config.pkarr
    return GateRules(
        put_per_address=Rate(pkarr.puts_per_address, pkarr.puts_per_address_burst),
        put_per_key=Rate(pkarr.puts_per_key, pkarr.puts_per_key_burst),
        put_in_all=Rate(pkarr.puts_in_all, pkarr.puts_in_all_burst),
        get_per_address=Rate(pkarr.gets_per_address, pkarr.gets_per_address_burst),
        limit_loopback=pkarr.limit_loopback,
        trusted_proxies=parse_networks(config.trusted_proxies, "trusted_proxies"),
        denied=frozenset(map(decode_key, pkarr.denied_keys)),
        allowed=frozenset(map(decode_key, pkarr.allowed_keys)),
    )
