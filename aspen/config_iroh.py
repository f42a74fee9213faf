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
    """A relay for nodes that can't reach each other; one of `relay_urls`."""
    relay_urls: list[str] = []
    """Relays for nodes that can't reach each other."""
    relay_mode: RelayMode = RelayMode.DEFAULT
    """`custom`: the relays named here; `disabled`: none."""
    enable_gossip: bool = True
    """Tell and hear of nodes by gossip."""
    gossip_ticket: str | None = None
    """The same setting as the top-level `ticket`."""
    enable_mdns: bool = True
    """Tell and hear of nodes on the local network by multicast DNS."""
    enable_dns_discovery: bool = False
    """Look nodes up by DNS."""
    dns_discovery_url: str | None = None
    """Where: `dns://host:port`, or `https://…` for DNS over HTTPS."""
    enable_pkarr: bool = False
    """Publish this node's address under its key, and look up those of peers."""
    enable_pkarr_dht: bool = True
    """With `enable_pkarr`: in the BitTorrent DHT."""
    enable_pkarr_relay: bool = True
    """With `enable_pkarr`: at pkarr relays."""
    include_pkarr_direct_addresses: bool = True
    """Publish the addresses of this machine too, not only its relay."""
    pkarr_republish_delay_secs: Annotated[int, msgspec.Meta(ge=0)] = 600
    """Publish again so often."""
    pkarr_relay_url: str | None = None
    """Where the node publishes its own address; `https://dns.iroh.link/pkarr` if none is given."""
    pkarr_relay_urls: list[str] = []
    """Further relays; it publishes at all of them."""
    enable_raft_auth: bool = True
    """Nodes always prove who they are to each other: False is overruled, and the node says so."""
    bootstrap_nodes: list[str] = []
    """Names or addresses of hosts where nodes of the cluster may be found."""

    def __post_init__(self) -> None:
        self.relay_mode = RelayMode(self.relay_mode)
