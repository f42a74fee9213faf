"""Whether a configuration can work: errors, and warnings for what probably is a mistake.

Everything wrong is named at once. A setting of the earlier documents that nothing acts on is accepted,
and a warning says so, so that nobody is fooled.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from aspen.config.cluster import (
    SECRET_SETTINGS,
    CertMode,
    ClusterBootstrapConfig,
    ControlBackend,
    HttpsConfig,
    Profile,
    RelayMode,
    expected,
    is_address,
    is_loopback,
    parse_address,
    parse_peer,
    setting_types,
    settings,
)
from aspen.config.iroh import DnsUrl
from aspen.errors import ConfigError, IdentityError
from aspen.identity import Cookie, EndpointId, Identity
from aspen.limits import BOOTSTRAP_NODES, DNS_STRING_BYTES, RELAY_URLS, SECRETS_ACCEPTED
from aspen.z32 import decode_key

DISK_WARNING_PERCENT: Final = 80
TOKEN_SHORT_CHARS: Final = 16


def check(config: ClusterBootstrapConfig, given: frozenset[str] = frozenset()) -> list[str]:
    """Raise `ConfigError` naming every setting that can't be used; return the warnings.

    `given` names the settings someone wrote down.
    """
    problems = list(_type_errors(config))
    if not problems:  # of the right types: look at what they say
        problems = list(_value_errors(config))
    if problems:
        raise ConfigError(*problems)
    return [*_warnings(config), *_without_effect(config, given)]


def _type_errors(config: ClusterBootstrapConfig) -> Iterator[str]:
    types = setting_types()
    for path, value, _default in settings(config):
        plain = os.fspath(value) if isinstance(value, Path) else value
        try:
            msgspec.convert(plain, types.get(path), strict=True)  # an absent section is None
        except msgspec.ValidationError:
            shown = "" if path in SECRET_SETTINGS else f"{value!r} is "
            yield f"{path}: {shown}not {expected(types[path])}"


def _value_errors(config: ClusterBootstrapConfig) -> Iterator[str]:
    if config.node_id == 0 and not (config.ticket or config.auto_cluster):
        yield (
            "node_id must not be 0: give every node of a cluster an id of its own, from 1, "
            "or a ticket or auto_cluster, with which a node is given one"
        )
    yield from _secret_errors(config)
    if config.auto_cluster and config.init:
        yield "init and auto_cluster: a cluster is founded by one node's word, or by several that agree"
    if config.auto_cluster and config.learner:
        yield "learner and auto_cluster: a learner founds nothing; give it a ticket"
    if config.ticket and config.init:
        yield "init and ticket: a node founds a cluster, or joins one"
    for name in ("heartbeat_interval_ms", "election_timeout_min_ms", "election_timeout_max_ms"):
        if getattr(config, name) == 0:
            yield f"{name} must be greater than 0"
    if config.election_timeout_max_ms <= config.election_timeout_min_ms:
        yield (
            f"election_timeout_max_ms ({config.election_timeout_max_ms}) must be greater than "
            f"election_timeout_min_ms ({config.election_timeout_min_ms})"
        )
    if config.iroh.secret_key is not None:
        try:
            Identity.from_hex(config.iroh.secret_key)
        except IdentityError:
            yield "iroh.secret_key must be 64 hexadecimal digits"
    parent = config.data_path.absolute().parent
    if not parent.is_dir():
        yield f"data_dir: its parent directory {parent} does not exist"
    if config.control_backend is not ControlBackend.RAFT:
        yield "control_backend: only raft can run a node"
    yield from _address_errors(config)
    for origin in config.dns_server.all_origins:
        if not _is_domain_name(origin):
            yield f"dns_server.origins: {origin!r} is not a domain name"
    dns = config.dns_server
    for setting, networks in (("rrl_exempt", dns.rrl_exempt), ("query_acl", dns.query_acl)):
        for network in networks:
            if not _is_network(network):
                yield f"dns_server.{setting}: {network!r} is no address, and no network like 192.0.2.0/24"
    for setting, text in (("nsid", dns.nsid), ("identity", dns.identity), ("version", dns.version)):
        if text is not None and len(text.encode()) > DNS_STRING_BYTES:
            yield f"dns_server.{setting}: longer than {DNS_STRING_BYTES} octets, which DNS can't carry"
    if config.dns_server.https_config is not None:
        yield from _https_errors(config.dns_server.https_config)
    yield from _pkarr_errors(config)
    yield from _outside_errors(config)
    yield from _relay_errors(config)


def _relay_errors(config: ClusterBootstrapConfig) -> Iterator[str]:
    iroh = config.iroh
    given = [("relay_url", iroh.relay_url)] + [("relay_urls", url) for url in iroh.relay_urls]
    for setting, url in [*given, ("relay_server_url", iroh.relay_server_url)]:
        if url is not None and not _is_http_url(url, ("http", "https", "ws", "wss")):
            yield f"iroh.{setting}: {url!r} is not the URL of a relay, like https://relay.example.com"
    relays = {url for _, url in given if url is not None}
    if iroh.relay_mode is RelayMode.CUSTOM and not relays:
        yield 'iroh.relay_mode is "custom" but iroh.relay_urls is empty'
    if len(relays) > RELAY_URLS:
        yield f"iroh.relay_urls: a node uses {RELAY_URLS} relays at most, not {len(relays)}"
    if iroh.relay_server_url is not None and not iroh.relay_server:
        yield "iroh.relay_server_url is given but iroh.relay_server is off"


def _secret_errors(config: ClusterBootstrapConfig) -> Iterator[str]:
    if config.cookie or not config.ticket:  # who shows a signed ticket is told the cookie
        try:
            Cookie(config.cookie)
        except ConfigError as error:
            yield f"cookie: {error}"
    for setting in ("cookie_accepted", "admin_token_accepted"):
        if len(getattr(config, setting)) > SECRETS_ACCEPTED:
            yield f"{setting}: more than {SECRETS_ACCEPTED}; take out those that nobody uses any more"
    for number, cookie in enumerate(config.cookie_accepted, 1):
        try:
            Cookie(cookie)
        except ConfigError as error:
            yield f"cookie_accepted, number {number}: {error}"
    if config.admin_token is not None and not config.admin_token.strip():
        yield "admin_token is empty"
    if config.admin_token_accepted and not config.admin_token:
        yield "admin_token_accepted needs an admin_token, beside which they are accepted"
    if any(not token.strip() for token in config.admin_token_accepted):
        yield "admin_token_accepted: one of them is empty"


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _address_errors(config: ClusterBootstrapConfig) -> Iterator[str]:
    try:
        _ = config.http_listen
        admin = config.admin_listen
    except ConfigError as error:
        yield str(error)
    else:
        if admin is not None and not is_loopback(admin[0]) and not config.admin_token:
            yield f"admin_addr {config.admin_addr} is not loopback: set admin_token, or bind 127.0.0.1"
    seen: dict[int, EndpointId] = {}
    for text in config.peers:
        try:
            peer = parse_peer(text)
        except ConfigError as error:
            yield str(error)
        else:
            if seen.setdefault(peer.node_id, peer.endpoint_id) != peer.endpoint_id:
                yield f"peers: node {peer.node_id} is given with two endpoint ids"


def _outside_errors(config: ClusterBootstrapConfig) -> Iterator[str]:
    iroh = config.iroh
    for url in [iroh.pkarr_relay_url, *iroh.pkarr_relay_urls]:
        if url is not None and not _is_http_url(url):
            yield f"iroh.pkarr_relay_url: {url!r} is not an http or https URL"
    if iroh.enable_pkarr and iroh.pkarr_republish_delay_secs == 0:
        yield "iroh.pkarr_republish_delay_secs must be greater than 0"
    if len(iroh.bootstrap_nodes) > BOOTSTRAP_NODES:
        yield f"iroh.bootstrap_nodes: at most {BOOTSTRAP_NODES} hosts, not {len(iroh.bootstrap_nodes)}"
    origin = iroh.dns_discovery_origin
    if origin is not None and not _is_domain_name(origin.rstrip(".") or "."):
        yield f"iroh.dns_discovery_origin: {origin!r} is not a domain name"
    try:
        if iroh.dns_discovery_url is not None:
            DnsUrl.parse(iroh.dns_discovery_url)
    except ConfigError as error:
        yield str(error)
    try:
        _ = config.bootstrap_places
    except ConfigError as error:
        yield str(error)
    for text in config.dns_server.dht_bootstrap_nodes:
        try:
            parse_address("dns_server.dht_bootstrap_nodes", text)
        except ConfigError as error:
            yield str(error)


def _is_http_url(text: str, schemes: Collection[str] = ("http", "https")) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in schemes and bool(parts.hostname) and not (parts.query or parts.fragment)


def _https_errors(https: HttpsConfig) -> Iterator[str]:
    section = "dns_server.https_config"
    files = (https.cert_file, https.key_file)
    if https.mode is CertMode.MANUAL and None in files:
        yield f"{section}: cert_mode manual needs cert_file and key_file"
    if https.mode is not CertMode.MANUAL and files != (None, None):
        yield f"{section}: cert_file and key_file are for cert_mode manual, not {https.mode}"
    if https.enable_dot and https.dot_port == https.port != 0:
        yield f"{section}: port and dot_port are both {https.port}; HTTPS and DoT need one each"
    for domain in https.domains:
        if not (_is_domain_name(domain.rstrip(".")) or is_address(domain)) or domain == ".":
            yield f"{section}.domains: {domain!r} is not a domain name"
    if https.mode is CertMode.LETS_ENCRYPT:
        if not https.domains or any(is_address(domain) or "*" in domain for domain in https.domains):
            yield f"{section}: cert_mode lets_encrypt needs domains, which are names without a wildcard"
        if importlib.util.find_spec("acme") is None:
            yield f"{section}: cert_mode lets_encrypt needs the extra: pip install 'aspen-dns[acme]'"
        if not https.directory_url.startswith("https://"):
            yield f"{section}.acme_directory must be an https:// URL"


def _pkarr_errors(config: ClusterBootstrapConfig) -> Iterator[str]:
    for name in ("denied_keys", "allowed_keys"):
        for text in getattr(config.pkarr, name):
            try:
                decode_key(text)
            except IdentityError as error:
                yield f"pkarr.{name}: {text!r}: {error}"
    for text in config.trusted_proxies:
        try:
            ip_network(text)
        except ValueError as error:
            yield f"trusted_proxies: {error}"


def _warnings(config: ClusterBootstrapConfig) -> Iterator[str]:
    iroh = config.iroh
    if iroh.dns_discovery_url is not None and not iroh.enable_dns_discovery:
        yield "iroh.dns_discovery_url has no effect: iroh.enable_dns_discovery is off"
    if iroh.enable_pkarr and not (iroh.enable_pkarr_relay or iroh.enable_pkarr_dht):
        yield "iroh.enable_pkarr_relay and enable_pkarr_dht are both off: enable_pkarr publishes nothing"
    if (
        iroh.enable_pkarr
        and not iroh.include_pkarr_direct_addresses
        and not (iroh.relay_urls or iroh.relay_url)
    ):
        yield "iroh.include_pkarr_direct_addresses is off and iroh has no relay: there is nothing to publish"
    if iroh.relay_mode is RelayMode.DISABLED and (iroh.relay_urls or iroh.relay_url):
        yield 'iroh.relay_mode is "disabled": the relays named are not used'
    if iroh.relay_server and iroh.relay_server_url is None and is_loopback(config.http_listen[0]):
        yield (
            f"iroh.relay_server is on, but http_addr {config.http_addr} is loopback and "
            "iroh.relay_server_url isn't given: no other node is told of it"
        )
    minimum, maximum = config.election_timeout_min_ms, config.election_timeout_max_ms
    if config.heartbeat_interval_ms >= minimum:
        yield (
            f"heartbeat_interval_ms ({config.heartbeat_interval_ms}) is not below election_timeout_min_ms "
            f"({minimum}): followers will call elections under a healthy leader"
        )
    if minimum < 1_000 and config.profile is not Profile.LAN:
        yield f"election_timeout_min_ms ({minimum}) is below 1000 outside the lan profile"
    if maximum > 10_000:
        yield f"election_timeout_max_ms ({maximum}) is above 10000: a lost leader is missed for long"
    for name in ("http_addr", "admin_addr"):
        text = getattr(config, name)
        if text is not None and parse_address(name, text)[1] in (80, 443):
            yield f"{name} uses a well-known port ({text}): it needs privileges and may be taken"
    if not is_loopback(config.http_listen[0]) and config.admin_addr is None and not config.admin_token:
        yield (
            f"http_addr {config.http_addr} is not a loopback address and neither admin_addr nor admin_token "
            "is set: the kv and cluster routes are not served"
        )
    for setting, tokens in (
        ("admin_token", [config.admin_token] if config.admin_token else []),
        ("admin_token_accepted", config.admin_token_accepted),
    ):
        if any(len(token) < TOKEN_SHORT_CHARS for token in tokens):
            yield f"{setting} is shorter than {TOKEN_SHORT_CHARS} characters"
    for setting in ("cookie_file", "admin_token_file"):
        file = getattr(config, setting)
        if file is not None and (mode := _others_may_read(Path(file))):
            yield f"{setting}: others on this machine may read {file} (mode {mode:04o}): chmod 600 {file}"
    https = config.dns_server.https_config
    real = https is None or https.letsencrypt_prod or https.acme_directory is not None
    if https is not None and https.mode is CertMode.LETS_ENCRYPT and not real:
        yield (
            "dns_server.https_config: certificates of Let's Encrypt's staging authority are for tests; "
            "set letsencrypt_prod for real ones"
        )
    used = _disk_used_percent(config.data_path)
    if used > DISK_WARNING_PERCENT:
        yield f"data_dir: its disk is {used:.0f} % full"


# Accepted from files of the earlier documents, though nothing acts on them → what to write instead.
_WITHOUT_EFFECT: Final = {
    "ractor_port": "there are no actors; quic_port carries what the nodes say to each other (0: any port)",
    "dns_server.data_dir": "records are part of the replicated state and live in the node's data_dir",
}


def _without_effect(config: ClusterBootstrapConfig, given: frozenset[str]) -> Iterator[str]:
    """`given` names settings someone wrote down: those warn at their default too."""
    for path, value, default in settings(config):
        if path in _WITHOUT_EFFECT and value is not None and (value != default or path in given):
            yield f"{path} has no effect: {_WITHOUT_EFFECT[path]}"


def _is_domain_name(text: str) -> bool:
    labels = text.split(".") if text != "." else []
    return len(text) <= 253 and all(
        0 < len(label) <= 63 and label.isascii() and label.isprintable() and " " not in label
        for label in labels
    )


def _others_may_read(file: Path) -> int:
    """Its mode, if group or others may read it; else 0."""
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return 0
    return mode if mode & 0o077 else 0


def _disk_used_percent(path: Path) -> float:
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    usage = shutil.disk_usage(existing)
    return 100 * usage.used / usage.total
