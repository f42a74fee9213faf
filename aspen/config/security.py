"""What protects a node as it is configured: defaults that can't be switched off, and a report of the rest.

A node says at its start who may do what with it, so that nobody has to guess from the settings. The report
names where secrets come from, never the secrets.
"""

from __future__ import annotations

from collections.abc import Callable

from aspen.config.cluster import ClusterBootstrapConfig, is_loopback

Origin = Callable[[str], str]
"""Where a setting's value comes from."""


def apply_security_defaults(config: ClusterBootstrapConfig) -> dict[str, str]:
    """Set what must be set for the node to be safe; the settings overruled, and a text that says why."""
    if config.iroh.enable_raft_auth:
        return {}
    config.iroh.enable_raft_auth = True
    if config.iroh.enable_pkarr:
        why = "iroh.enable_pkarr has it, since whoever is found by a public directory must prove itself"
    else:
        why = "nodes always prove who they are to each other"
    return {"iroh.enable_raft_auth": f"iroh.enable_raft_auth = false is overruled: {why}"}


def security_report(config: ClusterBootstrapConfig, origin: Origin = lambda path: "") -> dict[str, str]:
    """Topic → how it stands, for people."""
    return {
        "peers": _peers(config),
        "trust": _trust(config, origin),
        "identity": _identity(config, origin),
        "admin": _admin(config),
        "publishing": _publishing(config),
        "dns": _dns(config),
        "announced": _announced(config),
        "relays": "for nodes that know the cookie, at /relay" if config.iroh.relay_server else "nothing",
        "encrypted": _encrypted(config),
    }


def _peers(config: ClusterBootstrapConfig) -> str:
    forced = " (iroh.enable_pkarr has it so)" if config.iroh.enable_pkarr else ""
    where = f"{config.quic_host}:{config.quic_port}"
    return f"at {where}, authenticated by identity key and cookie, encrypted by QUIC{forced}"


def _trust(config: ClusterBootstrapConfig, origin: Origin) -> str:
    if not config.cookie:
        return "no cookie yet: " + ("a signed ticket brings it" if config.ticket else "set ASPEN_COOKIE")
    if config.cookie_file is not None:
        source = f"in the file {config.cookie_file}"
    elif "flag" in origin("cookie"):
        source = "given by --cookie, which every process on this machine can see"
    else:
        source = f"from {origin('cookie') or 'the program'}"
    also = len(config.all_cookies) - 1
    return f"cookie {source}" + (f"; {also} more accepted from others" if also else "")


def _identity(config: ClusterBootstrapConfig, origin: Origin) -> str:
    if config.iroh.secret_key is not None:
        return f"iroh.secret_key from {origin('iroh.secret_key') or 'the program'}"
    file = config.data_path / "identity.key"
    return f"{file}, {'readable' if file.exists() else 'which will be made, readable'} by its owner only"


def _admin(config: ClusterBootstrapConfig) -> str:
    """Who reaches the admin routes: kv, zones, cluster, peers, metrics."""
    host, port = config.admin_listen or config.http_listen
    if not is_loopback(host) and not config.admin_tokens:
        return "served nowhere: http_addr is open to the network, and there is no admin_token"
    where = f"this machine at {host}:{port}" if is_loopback(host) else f"whoever reaches {host}:{port}"
    count = len(config.admin_tokens)
    if not count:
        return f"{where}, without a token"
    token = "the token" if count == 1 else f"one of {count} tokens"
    clear = "" if is_loopback(host) else "; over plain HTTP the token can be overheard"
    https = config.dns_server.https_config
    if https is not None and config.admin_listen is None:
        where += f" or {config.https_host}:{https.port} (HTTPS)"
    return f"{where}, with {token}{clear}"


def _publishing(config: ClusterBootstrapConfig) -> str:
    host, port = config.http_listen
    who = "this machine" if is_loopback(host) else "everybody"
    keys = config.pkarr
    which = f"{len(keys.allowed_keys)} keys" if keys.allowed_keys else "any key"
    limit = f"{keys.puts_per_address:g}/s for an address" if keys.puts_per_address else "without a limit"
    return f"signed packets from {who} at {host}:{port}, under {which}, {limit}"


def _dns(config: ClusterBootstrapConfig) -> str:
    dns = config.dns_server
    if not dns.enable:
        return "off"
    who = "this machine" if is_loopback(config.dns_host) else "everybody"
    if dns.query_acl:
        who = ", ".join(dns.query_acl)
    limits = f"cookies {dns.cookies}, rate limit " + (f"{dns.rrl_rate}/s" if dns.rrl_rate else "off")
    return f"answers {who} at {config.dns_host}:{config.dns_port}; {limits}"


def _announced(config: ClusterBootstrapConfig) -> str:
    """Who is told where this node is."""
    iroh = config.iroh
    told = ["the cluster (gossip)"] if iroh.enable_gossip else []
    if iroh.enable_mdns:
        told.append("the local network (multicast DNS)")
    if iroh.enable_pkarr:
        relays = [url for url in (iroh.pkarr_relay_url, *iroh.pkarr_relay_urls) if url is not None]
        if iroh.enable_pkarr_relay:
            told.append(", ".join(relays) or "the public pkarr relay")
        if iroh.enable_pkarr_dht:
            told.append("the BitTorrent DHT")
    return f"this node's address to {', '.join(told)}" if told else "nowhere"


def _encrypted(config: ClusterBootstrapConfig) -> str:
    https = config.dns_server.https_config
    if https is None:
        return "HTTP and DNS are in the clear (no https_config)"
    kinds = ["HTTPS", *(["DoT"] if https.enable_dot else []), *(["DoQ"] if https.enable_doq else [])]
    return f"{', '.join(kinds)}; certificate {https.mode}"
