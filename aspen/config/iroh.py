"""The section `[iroh]` of a node's configuration."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, NamedTuple, Self
from urllib.parse import urlsplit

import msgspec

from aspen.errors import ConfigError

DEFAULT_DNS_DISCOVERY_URL: Final = "https://dns.iroh.link"
_DNS_PORT: Final = 53
_DOH_PATH: Final = "/dns-query"


class DnsUrl(NamedTuple):
    """A DNS server: one that is asked by UDP and TCP, or by HTTPS if there is a `doh_url`."""

    host: str
    port: int
    doh_url: str | None

    @classmethod
    def parse(cls, text_untrusted: str) -> Self:
        """Read `dns://host[:port]` (port 53) or `https://host[:port][/path]` (path `/dns-query`).

        Raises `ConfigError`.
        """
        text = text_untrusted.strip()
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if host and not (parts.query or parts.fragment or parts.username):
            bare = parts.path in ("", "/")
            if parts.scheme == "dns" and bare:
                return cls(host, port or _DNS_PORT, None)
            if parts.scheme in ("https", "http"):
                return cls(host, port or 0, text.rstrip("/") + _DOH_PATH if bare else text)
        raise ConfigError(
            f"iroh.dns_discovery_url: {text_untrusted!r} is not dns://host:port or https://host/dns-query"
        )


class RelayMode(StrEnum):
    DEFAULT = "default"
    CUSTOM = "custom"
    DISABLED = "disabled"


class IrohConfig(msgspec.Struct, kw_only=True):
    """Peer discovery, by the names it has in iroh."""

    secret_key: str | None = None
    """The node's identity as 64 hexadecimal digits; without it, `<data_dir>/identity.key`."""
    relay_url: str | None = None
    """A relay for nodes that can't reach each other; goes before `relay_urls`."""
    relay_urls: list[str] = []
    """Relays for nodes that can't reach each other; the same on every node."""
    relay_mode: RelayMode = RelayMode.DEFAULT
    """`default`: also relays that nodes of the cluster announce; `custom`: only these; `disabled`: none."""
    relay_server: bool = False
    """Be a relay for the cluster's nodes, at `/relay` of the public HTTP listeners."""
    relay_server_url: str | None = None
    """Where others reach it; if not given, `http_addr`, unless that is loopback."""
    enable_gossip: bool = True
    """Tell and hear of nodes by gossip."""
    gossip_ticket: str | None = None
    """The same setting as the top-level `ticket`."""
    enable_mdns: bool = True
    """Tell and hear of nodes on the local network by multicast DNS."""
    enable_dns_discovery: bool = False
    """Ask a DNS server where the cluster's nodes are."""
    dns_discovery_url: str | None = None
    """Which: `dns://host:port`, or `https://host[/path]` (DNS over HTTPS); `https://dns.iroh.link` if none is
    given."""
    dns_discovery_origin: str | None = None
    """The name that its records stand under: `_aspen._udp.<origin>`, `_iroh.<endpoint id>.<origin>`. If not
    given, this node's own origins are tried, and the server's name."""
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
    """Hosts where nodes of the cluster are, `host` or `host:port` (7300); their keys needn't be known."""

    @property
    def dns_discovery(self) -> DnsUrl | None:
        """The DNS server to ask where the cluster's nodes are, if any. Raises `ConfigError`."""
        if not self.enable_dns_discovery:
            return None
        return DnsUrl.parse(self.dns_discovery_url or DEFAULT_DNS_DISCOVERY_URL)

    def __post_init__(self) -> None:
        self.relay_mode = RelayMode(self.relay_mode)
