"""What a node can be told: the settings, their defaults, and whether they make sense together.

A `ClusterBootstrapConfig` is a value: embedders build one in Python, `aspen node run` builds one
from the environment, a TOML file and flags (`config_sources`). Building it fills in what follows
from other settings (timings from the profile, ports from `[dns_server]`); `validate` raises
`ConfigError` for what can't work or isn't safe, and returns warnings for what probably is a
mistake, a setting whose feature isn't built yet among them.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import msgspec

from aspen.config_iroh import IrohConfig as IrohConfig
from aspen.config_iroh import RelayMode as RelayMode
from aspen.config_pkarr import PkarrConfig
from aspen.errors import ConfigError, IdentityError
from aspen.identity import EndpointId, parse_endpoint_id
from aspen.limits import DNS_MAX_STALE_MS, DNS_WORKERS, RAFT_LOG_KEEP_BYTES, RAFT_LOG_KEEP_ENTRIES

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=3_600_000)]
NodeId = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

DEFAULT_DNS_PORT: Final = 5300
DEFAULT_HTTP_ADDR: Final = "127.0.0.1:8080"
DEFAULT_HTTPS_PORT: Final = 8443
DEFAULT_DOT_PORT: Final = 8853
DEFAULT_QUIC_PORT: Final = 7300
DEFAULT_ORIGIN: Final = "aspen.local"
FROM_PROFILE: Final = -1
"""A timing that was not given: the profile supplies it when the configuration is built."""

SECRET_SETTINGS: Final = frozenset(
    {"cookie", "admin_token", "ticket", "iroh.secret_key", "iroh.gossip_ticket"}
)


class ControlBackend(StrEnum):
    """What decides the cluster's state."""

    RAFT = "raft"
    DETERMINISTIC = "deterministic"

    @classmethod
    def _missing_(cls, value: object) -> ControlBackend | None:
        names = {
            "raft": cls.RAFT,
            "raftactor": cls.RAFT,  # the name before Aspen was one process without actors
            "deterministic": cls.DETERMINISTIC,
        }
        return names.get(str(value).lower().replace("_", "").replace("-", ""))


class Profile(StrEnum):
    """A set of timings."""

    DEFAULT = "default"
    LAN = "lan"


class CertMode(StrEnum):
    """Where the certificate of HTTPS, DoT and DoQ comes from."""

    MANUAL = "manual"
    """Files."""
    SELF_SIGNED = "self_signed"
    """Made by the node itself."""
    LETS_ENCRYPT = "lets_encrypt"
    """An authority that speaks ACME (RFC 8555)."""

    @classmethod
    def _missing_(cls, value: object) -> CertMode | None:
        names = {
            "manual": cls.MANUAL,
            "files": cls.MANUAL,
            "selfsigned": cls.SELF_SIGNED,
            "letsencrypt": cls.LETS_ENCRYPT,
            "acme": cls.LETS_ENCRYPT,
        }
        return names.get(str(value).lower().replace("_", "").replace("-", ""))


class LogFormat(StrEnum):
    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"
_LETS_ENCRYPT_STAGING: Final = "https://acme-staging-v02.api.letsencrypt.org/directory"

# heartbeat interval, election timeout minimum and maximum
_TIMINGS: Final = {
    Profile.DEFAULT: (500, 1_500, 3_000),
    Profile.LAN: (50, 150, 300),
}


@dataclass(frozen=True, slots=True)
class ManualPeer:
    """One entry of `peers`: a member whose address is given by hand."""

    node_id: int
    endpoint_id: EndpointId
    address: tuple[str, int] | None


class HttpsConfig(msgspec.Struct, kw_only=True):
    """What is served under a certificate: HTTPS (pkarr relay, DoH), DNS over TLS and over QUIC."""

    port: Port = DEFAULT_HTTPS_PORT
    """HTTPS, TCP."""
    host: str | None = None
    """Address to bind; if not given, HTTPS binds that of `http_addr`, DoT and DoQ that of DNS."""
    domains: list[str] = []
    """Names the certificate is for (IP addresses only if it is self-signed)."""
    cert_mode: CertMode | None = None
    """`manual` (files), `self_signed` or `lets_encrypt`; if not given, `manual` with a `cert_file`, else
    `self_signed`."""
    cert_file: str | None = None
    """PEM: the certificate, then those that vouch for it. Read again when it changes."""
    key_file: str | None = None
    """PEM: the private key."""
    letsencrypt_contact: str | None = None
    """E-mail address given to the authority."""
    letsencrypt_prod: bool = False
    """False asks Let's Encrypt's staging authority, whose certificates browsers don't trust."""
    acme_directory: str | None = None
    """URL of another ACME authority's directory (RFC 8555 §7.1.1)."""
    acme_ca_file: str | None = None
    """PEM: whom to trust when speaking to that authority, if it isn't publicly trusted."""
    enable_dot: bool = True
    dot_port: Port = DEFAULT_DOT_PORT
    """DNS over TLS, TCP. The registered port is 853."""
    enable_doq: bool = True
    doq_port: Port = DEFAULT_DOT_PORT
    """DNS over QUIC, UDP. The registered port is 853."""

    def __post_init__(self) -> None:
        if self.cert_mode is not None:
            self.cert_mode = CertMode(self.cert_mode)

    @property
    def mode(self) -> CertMode:
        if self.cert_mode is not None:
            return self.cert_mode
        return CertMode.MANUAL if self.cert_file is not None else CertMode.SELF_SIGNED

    @property
    def directory_url(self) -> str:
        """The ACME authority's."""
        if self.acme_directory is not None:
            return self.acme_directory
        return _LETS_ENCRYPT if self.letsencrypt_prod else _LETS_ENCRYPT_STAGING


class DnsServerConfig(msgspec.Struct, kw_only=True):
    """The DNS server and the pkarr relay."""

    enable: bool = True
    dns_port: Port | None = None
    """UDP and TCP port; the same setting as the top-level `dns_port`."""
    port: Port | None = None
    """Another spelling of `dns_port`."""
    host: str | None = None
    """Address to bind; the top-level `host` if not given."""
    http_addr: str | None = None
    """The same setting as the top-level `http_addr`."""
    https_config: HttpsConfig | None = None
    """HTTPS, DNS over TLS and DNS over QUIC; none of them if the section is absent."""
    origin: str | None = None
    origins: list[str] = []
    """Names under which keys are answered: `<sub>.<z32>.<origin>`. `.` is allowed."""
    data_dir: str | None = None
    enable_dht_fallback: bool = False
    """Look keys up in the BitTorrent DHT that are unknown here, for DNS and for HTTP."""
    enable_dht_publish: bool | None = None
    """Publish accepted packets there; not given: if `iroh.enable_pkarr` and `enable_pkarr_dht` are on."""
    dht_bootstrap_nodes: list[str] = []
    """Nodes of the DHT to begin at, `host:port`; well-known ones if none is given."""
    dht_port: Port = 0
    """UDP port from which the DHT is asked; 0: any."""
    store_dht_results: bool = False
    """Replicate what was found there, as if it had been published here."""
    workers: Annotated[int, msgspec.Meta(ge=0, le=DNS_WORKERS)] = 0
    """UDP worker processes; 0 answers inside the node's own process."""
    cookies: Literal["off", "on", "required"] = "on"
    """DNS cookies (RFC 7873). `required`: a UDP client that sends a cookie must show one of ours."""
    rrl_rate: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    """Response rate limiting: answers of one kind a second for one network (/24, /56); 0 = none."""
    rrl_slip: Annotated[int, msgspec.Meta(ge=0, le=100)] = 2
    """Every so many limited answers, one goes out truncated; 0 = none."""
    rrl_exempt: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.0/8", "::1"])
    """Networks that are never limited."""
    nsid: str | None = None
    """What the node calls itself to who asks by EDNS (RFC 5001); `node-<id>` if not given, "" is nothing."""
    identity: str | None = None
    """TXT of id.server and hostname.bind in class CHAOS; `node-<id>` if not given, "" refuses."""
    version: str = "Aspen"
    """TXT of version.bind and version.server in class CHAOS; "" refuses."""
    minimal_responses: bool = False
    """Leave out additional records that an answer can do without."""
    query_acl: list[str] = []
    """Networks that may ask; empty: everybody. Zones may have narrower lists of their own."""
    kv_prefix: str | None = None
    """TXT for `b.a.kv.<origin>` is the value of the key `<kv_prefix>a/b`; not given: no such zone."""
    max_stale_ms: Annotated[int, msgspec.Meta(ge=0)] = DNS_MAX_STALE_MS
    """A node out of touch with its cluster for longer says so in its answers; 0 = never."""
    stale_answers: Literal["mark", "refuse"] = "mark"
    """How it says so: EDE 3 (RFC 8914) beside the answer, or SERVFAIL with EDE 22 instead of it."""

    @property
    def all_origins(self) -> tuple[str, ...]:
        """Every origin, lower-case and without the final dot (`.` stays); `aspen.local` if none is set."""
        given = ([self.origin] if self.origin is not None else []) + self.origins
        cleaned = [name.lower().rstrip(".") or "." for name in given]
        return tuple(dict.fromkeys(cleaned)) or (DEFAULT_ORIGIN,)


class ClusterBootstrapConfig(msgspec.Struct, kw_only=True):
    """Everything `bootstrap_node` needs to start a node."""

    node_id: NodeId = 0
    data_dir: Path | str | None = None
    """Where the node keeps its state; `aspen-node-<node_id>` in the working directory if not given."""
    host: str = "127.0.0.1"
    """Address that QUIC and DNS bind."""
    cookie: str = ""
    """The cluster's shared secret; the same on every node. There is no default."""
    dns_port: Port = DEFAULT_DNS_PORT
    http_addr: str = DEFAULT_HTTP_ADDR
    """Listener of the pkarr relay and, if it is a loopback address or a token is set, of the admin routes."""
    admin_addr: str | None = None
    """A listener of their own for the admin routes (kv, cluster)."""
    admin_token: str | None = None
    """Bearer token of the admin routes; required to serve them on an address that isn't loopback."""
    trusted_proxies: list[str] = []
    """Networks (CIDR) whose `Forwarded` and `X-Forwarded-For` headers are believed."""
    quic_port: Port = DEFAULT_QUIC_PORT
    ractor_port: Port | None = None
    peers: list[str] = []
    """Other members: `2@<endpoint id>` or `2@<endpoint id>@host:port`."""
    ticket: str | None = None
    init: bool = False
    """Make this node (with its `peers`) a new cluster, unless it already belongs to one."""
    heartbeat_interval_ms: Milliseconds = FROM_PROFILE
    """500 by default, 50 in the `lan` profile."""
    election_timeout_min_ms: Milliseconds = FROM_PROFILE
    """1500 by default, 150 in the `lan` profile."""
    election_timeout_max_ms: Milliseconds = FROM_PROFILE
    """3000 by default, 300 in the `lan` profile."""
    log_keep_entries: Annotated[int, msgspec.Meta(ge=1)] = RAFT_LOG_KEEP_ENTRIES
    """Applied log entries kept for members that lag; one further behind is sent a snapshot."""
    log_keep_mib: Annotated[int, msgspec.Meta(ge=1)] = RAFT_LOG_KEEP_BYTES // 1_048_576
    """The log is cut shorter than that when it takes more on disk."""
    profile: Profile = Profile.DEFAULT
    control_backend: ControlBackend = ControlBackend.RAFT
    log_format: LogFormat = LogFormat.AUTO
    log_level: LogLevel = LogLevel.INFO
    iroh: IrohConfig = msgspec.field(default_factory=IrohConfig)
    dns_server: DnsServerConfig = msgspec.field(default_factory=DnsServerConfig)
    pkarr: PkarrConfig = msgspec.field(default_factory=PkarrConfig)

    def __post_init__(self) -> None:
        self.profile = Profile(self.profile)  # in Python, plain strings will do
        self.control_backend = ControlBackend(self.control_backend)
        self.log_format, self.log_level = LogFormat(self.log_format), LogLevel(self.log_level)
        timings = _TIMINGS[self.profile]
        names = ("heartbeat_interval_ms", "election_timeout_min_ms", "election_timeout_max_ms")
        for name, from_profile in zip(names, timings, strict=True):
            if getattr(self, name) == FROM_PROFILE:
                setattr(self, name, from_profile)
        dns = self.dns_server
        self.dns_port = _one("dns_port", self.dns_port, DEFAULT_DNS_PORT, dns.dns_port, dns.port)
        self.http_addr = _one("http_addr", self.http_addr, DEFAULT_HTTP_ADDR, dns.http_addr)
        if self.ticket is None:
            self.ticket = self.iroh.gossip_ticket

    def __repr__(self) -> str:
        shown = (
            f"{path}={'…' if path in SECRET_SETTINGS and value else repr(value)}"
            for path, value, default in settings(self)
            if value != default
        )
        return f"ClusterBootstrapConfig({', '.join(shown)})"

    @property
    def data_path(self) -> Path:
        return Path(self.data_dir) if self.data_dir is not None else Path(f"aspen-node-{self.node_id}")

    @property
    def http_listen(self) -> tuple[str, int]:
        return parse_address("http_addr", self.http_addr)

    @property
    def admin_listen(self) -> tuple[str, int] | None:
        """The admin routes' own listener, if they have one."""
        return parse_address("admin_addr", self.admin_addr) if self.admin_addr is not None else None

    @property
    def publishes_to_dht(self) -> bool:
        """Whether accepted packets go to the DHT."""
        given = self.dns_server.enable_dht_publish
        return given if given is not None else self.iroh.enable_pkarr and self.iroh.enable_pkarr_dht

    @property
    def dns_host(self) -> str:
        return self.dns_server.host if self.dns_server.host is not None else self.host

    @property
    def https_host(self) -> str:
        """The address HTTPS binds."""
        https = self.dns_server.https_config
        return https.host if https is not None and https.host is not None else self.http_listen[0]

    @property
    def encrypted_dns_host(self) -> str:
        """The address DoT and DoQ bind."""
        https = self.dns_server.https_config
        return https.host if https is not None and https.host is not None else self.dns_host

    @property
    def manual_peers(self) -> tuple[ManualPeer, ...]:
        """`peers`, read; an entry for this node itself is left out, so that one list serves all."""
        read = (parse_peer(text) for text in self.peers)
        return tuple(peer for peer in read if peer.node_id != self.node_id)

    def validate(self) -> list[str]:
        """Raise `ConfigError` naming every setting that can't be used; return the warnings."""
        from aspen.config_checks import check  # it imports this module

        return check(self)

    def replace(self, **changes: Any) -> Self:
        """A copy with some settings changed."""
        return msgspec.structs.replace(self, **changes)


def parse_address(setting: str, text_untrusted: str) -> tuple[str, int]:
    """Read `host:port` (`[::1]:8080` for IPv6). Raises `ConfigError`."""
    host, colon, port = text_untrusted.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""  # a bare IPv6 address: which colon begins the port can't be told
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(f"{setting}: {text_untrusted!r} is not host:port (or [v6]:port)")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. Names other than `localhost` are not trusted to be."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def parse_peer(text_untrusted: str) -> ManualPeer:
    """Read `2@<endpoint id>` or `2@<endpoint id>@host:port`. Raises `ConfigError`."""
    parts = text_untrusted.strip().split("@")
    if len(parts) not in (2, 3) or not parts[0].isascii() or not parts[0].isdigit():
        raise ConfigError(f"peers: {text_untrusted!r} is not <node id>@<endpoint id>[@host:port]")
    node_id = int(parts[0])
    if not 0 < node_id < 2**63:
        raise ConfigError(f"peers: {text_untrusted!r}: a node id is from 1 to 2^63 - 1")
    try:
        endpoint_id = parse_endpoint_id(parts[1])
    except IdentityError as error:
        raise ConfigError(f"peers: {text_untrusted!r}: {error}") from None
    return ManualPeer(node_id, endpoint_id, parse_address("peers", parts[2]) if len(parts) == 3 else None)


def _one(setting: str, value: Any, default: Any, *other_spellings: Any) -> Any:
    """The value of a setting that has several names, at most one value of which may be given."""
    given = [v for v in ((value if value != default else None), *other_spellings) if v is not None]
    if any(v != given[0] for v in given):
        raise ConfigError(
            f"{setting} is given as {' and as '.join(map(repr, given))} "
            f"(at the top level and in [dns_server]): they are one setting"
        )
    return given[0] if given else default


# --- the settings as a flat table: `iroh.secret_key` ------------------------------------------


def setting_types(struct: type[msgspec.Struct] = ClusterBootstrapConfig, prefix: str = "") -> dict[str, Any]:
    """Dotted name → type of every setting."""
    types: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(struct, include_extras=True).items():
        members = typing.get_args(hint) if typing.get_origin(hint) is not Annotated else ()
        nested = next(
            (t for t in (hint, *members) if isinstance(t, type) and issubclass(t, msgspec.Struct)), None
        )
        if nested is not None:
            types |= setting_types(nested, f"{prefix}{name}.")
        else:
            types[prefix + name] = str | None if prefix + name == "data_dir" else hint
    return types


def settings(struct: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, value, default) of every setting; an absent section has none."""
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        if isinstance(value, msgspec.Struct):
            yield from settings(value, f"{prefix}{field.name}.")
        else:
            default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
            yield prefix + field.name, value, default
