"""The section `[iroh]` of a node's configuration."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec


class RelayMode(StrEnum):
    DEFAULT = "default"
    CUSTOM = "custom"
    DISABLED = "disabled"


class IrohConfig(msgspec.Struct, kw_only=True):
    """Peer discovery, by the names it has in iroh."""

    secret_key: str | None = None
    """The node's identity as 64 hexadecimal digits; without it, `<data_dir>/identity.key`."""
    relay_url: str | None = None
    relay_urls: list[str] = []
    relay_mode: RelayMode = RelayMode.DEFAULT
    enable_gossip: bool = True
    gossip_ticket: str | None = None
    enable_mdns: bool = True
    enable_dns_discovery: bool = False
    dns_discovery_url: str | None = None
    enable_pkarr: bool = False
    enable_pkarr_dht: bool = True
    enable_pkarr_relay: bool = True
    include_pkarr_direct_addresses: bool = True
    pkarr_republish_delay_secs: Annotated[int, msgspec.Meta(ge=0)] = 600
    pkarr_relay_url: str | None = None
    """Where the node publishes its own address; `https://dns.iroh.link/pkarr` if none is given."""
    pkarr_relay_urls: list[str] = []
    """Further relays; it publishes at all of them."""
    enable_raft_auth: bool = True
    bootstrap_nodes: list[str] = []

    def __post_init__(self) -> None:
        self.relay_mode = RelayMode(self.relay_mode)
        if self.enable_pkarr:
            self.enable_raft_auth = True  # whoever is found by a public directory must prove itself
