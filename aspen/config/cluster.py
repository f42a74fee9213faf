"""What a node can be told: the settings, their defaults, and whether they make sense together.

A `ClusterBootstrapConfig` is a value: embedders build one in Python, `aspen node run` builds one
from the environment, a TOML file and flags (`config_sources`). Building it fills in what follows
from other settings (timings from the profile, ports from `[dns_server]`); `validate` raises
`ConfigError` for what can't work or isn't safe, and returns warnings for what probably is a
mistake, a setting whose feature isn't built yet among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Self, Union, get_args, get_origin, get_type_hints

import msgspec

from aspen.config.dns import DEFAULT_ORIGIN as DEFAULT_ORIGIN
from aspen.config.dns import CertMode as CertMode
from aspen.config.dns import DnsServerConfig as DnsServerConfig
from aspen.config.dns import HttpsConfig as HttpsConfig
from aspen.config.dns import Port
from aspen.config.iroh import IrohConfig as IrohConfig
from aspen.config.iroh import RelayMode as RelayMode
from aspen.config.pkarr import PkarrConfig
from aspen.errors import ConfigError, IdentityError
from aspen.identity import EndpointId, parse_endpoint_id
from aspen.limits import (
    RAFT_LOG_KEEP_BYTES,
    RAFT_LOG_KEEP_ENTRIES,
    RAFT_MEMBERS,
    RAFT_NODE_ID,
    SLOW_OPERATION_MS,
)

Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=3_600_000)]
NodeId = Annotated[int, msgspec.Meta(ge=0, le=RAFT_NODE_ID)]

DEFAULT_HOST: Final = "127.0.0.1"
ALL_ADDRESSES: Final = "0.0.0.0"  # noqa: S104
DEFAULT_DNS_PORT: Final = 5300
DEFAULT_HTTP_ADDR: Final = "127.0.0.1:8080"
DEFAULT_QUIC_PORT: Final = 7300
NOT_GIVEN: Final = ""
"""A host that follows from others when the configuration is built."""
FROM_PROFILE: Final = -1
"""A timing that was not given: the profile supplies it when the configuration is built."""

SECRET_SETTINGS: Final = frozenset(
    {
        "cookie",
        "cookie_accepted",
        "admin_token",
        "admin_token_accepted",
        "ticket",
        "iroh.secret_key",
        "iroh.gossip_ticket",
    }
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


class LogFormat(StrEnum):
    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


TIMINGS: Final = ("heartbeat_interval_ms", "election_timeout_min_ms", "election_timeout_max_ms")
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


class ClusterBootstrapConfig(msgspec.Struct, kw_only=True):
    """Everything `bootstrap_node` needs to start a node."""

    node_id: NodeId = 0
    """Which node of the cluster this is, from 1; never another one's."""
    data_dir: Path | str | None = None
    """Where the node keeps its state; if not given `aspen-node-<node_id>` in the working directory, or
    `aspen-node` on one that is to be given its id."""
    host: str = NOT_GIVEN
    """Address that DNS and QUIC bind. If it isn't given, DNS binds 127.0.0.1, and QUIC all addresses: whoever
    dials there has to prove the cookie."""
    cookie: str = ""
    """The cluster's shared secret; the same on every node. There is no default."""
    cookie_file: str | None = None
    """A file whose first line is the cookie; each further line is a cookie that is accepted too. SIGHUP
    has it read again."""
    cookie_accepted: list[str] = []
    """Cookies that are accepted from other nodes beside `cookie`, while it is being changed."""
    dns_port: Port = DEFAULT_DNS_PORT
    """UDP and TCP port of DNS; 0: any. The registered port is 53."""
    http_addr: str = DEFAULT_HTTP_ADDR
    """Listener of the pkarr relay and, if it is a loopback address or a token is set, of the admin routes."""
    admin_addr: str | None = None
    """A listener of their own for the admin routes (kv, cluster)."""
    admin_token: str | None = None
    """Bearer token of the admin routes; required to serve them on an address that isn't loopback."""
    admin_token_file: str | None = None
    """A file whose first line is the admin token; each further line is a token that is accepted too.
    SIGHUP has it read again."""
    admin_token_accepted: list[str] = []
    """Tokens that are accepted beside `admin_token`, while it is being changed."""
    trusted_proxies: list[str] = []
    """Networks (CIDR) whose `Forwarded` and `X-Forwarded-For` headers are believed."""
    quic_host: str = NOT_GIVEN
    """Address that QUIC binds, if it isn't to be `host`."""
    quic_port: Port = DEFAULT_QUIC_PORT
    """UDP port for the other nodes; 0: any."""
    ractor_port: Port | None = None
    """Of the earlier documents; has no effect. `quic_port` is the port between nodes."""
    peers: list[str] = []
    """Other members: `2@<endpoint id>` or `2@<endpoint id>@host:port`."""
    ticket: str | None = None
    """A ticket of `aspen cluster ticket`: this node joins that cluster, unless it belongs to it already."""
    learner: bool = False
    """Join without a vote, as a read replica."""
    auto_cluster: Annotated[int, msgspec.Meta(ge=0, le=RAFT_MEMBERS)] = 0
    """Found a cluster with so many nodes, this one among them, that say the same and find each other."""
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
    """A set of timings: `default`, or `lan` for a fast network."""
    control_backend: ControlBackend = ControlBackend.RAFT
    """What decides the cluster's state; `deterministic` is a cluster in memory, for tests."""
    log_format: LogFormat = LogFormat.AUTO
    """`auto`: for people on a terminal, JSON lines otherwise."""
    log_level: LogLevel = LogLevel.INFO
    """The least of what is logged."""
    slow_operation_ms: Annotated[int, msgspec.Meta(ge=0)] = SLOW_OPERATION_MS
    """Requests, commits and DNS answers over connections that take longer are logged; 0: none are."""
    iroh: IrohConfig = msgspec.field(default_factory=IrohConfig)
    dns_server: DnsServerConfig = msgspec.field(default_factory=DnsServerConfig)
    pkarr: PkarrConfig = msgspec.field(default_factory=PkarrConfig)

    def __post_init__(self) -> None:
        self.profile = Profile(self.profile)  # in Python, plain strings will do
        self.control_backend = ControlBackend(self.control_backend)
        self.log_format, self.log_level = LogFormat(self.log_format), LogLevel(self.log_level)
        self.quic_host = self.quic_host or self.host or ALL_ADDRESSES
        self.host = self.host or DEFAULT_HOST
        for name, from_profile in zip(TIMINGS, _TIMINGS[self.profile], strict=True):
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
        default = f"aspen-node-{self.node_id}" if self.node_id else "aspen-node"
        return Path(self.data_dir if self.data_dir is not None else default)

    @property
    def all_cookies(self) -> tuple[str, ...]:
        """The cookie, then those that are accepted beside it."""
        return tuple(dict.fromkeys([self.cookie, *self.cookie_accepted]))

    @property
    def admin_tokens(self) -> tuple[str, ...]:
        """Every token the admin routes take; none if they need none."""
        given = [self.admin_token] if self.admin_token else []
        return tuple(dict.fromkeys([*given, *self.admin_token_accepted]))

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

    @property
    def bootstrap_places(self) -> tuple[tuple[str, int], ...]:
        """`iroh.bootstrap_nodes`, read. Raises `ConfigError`."""
        port = self.quic_port or DEFAULT_QUIC_PORT
        return tuple(parse_place("iroh.bootstrap_nodes", text, port) for text in self.iroh.bootstrap_nodes)

    def validate(self) -> list[str]:
        """Raise `ConfigError` naming every setting that can't be used; return the warnings."""
        from aspen.config.checks import check  # it imports this module

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


def parse_place(setting: str, text_untrusted: str, default_port: int) -> tuple[str, int]:
    """Read `host` or `host:port`. Raises `ConfigError`."""
    text = text_untrusted.strip()
    has_port = text.rpartition("]")[2].count(":") == 1
    if not has_port:
        text = f"[{text}]:{default_port}" if text.count(":") and text[:1] != "[" else f"{text}:{default_port}"
    try:
        host, port = parse_address(setting, text)
    except ConfigError:
        host, port = "", 0
    if not port or not host.isascii() or not host.isprintable() or set(host) & set(" /@"):
        raise ConfigError(f"{setting}: {text_untrusted!r} is not a host, or host:port")
    return host, port


def is_address(text: str) -> bool:
    """Whether a host is an IPv4 or IPv6 address, and not a name."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def format_address(address: tuple[str, int]) -> str:
    """As `parse_address` reads it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. Names other than `localhost` are not trusted to be."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def parse_peer(text_untrusted: str, setting: str = "peers") -> ManualPeer:
    """Read `2@<endpoint id>` or `2@<endpoint id>@host:port`. Raises `ConfigError`."""
    parts = text_untrusted.strip().split("@")
    if len(parts) not in (2, 3) or not parts[0].isascii() or not parts[0].isdigit():
        raise ConfigError(f"{setting}: {text_untrusted!r} is not <node id>@<endpoint id>[@host:port]")
    node_id = int(parts[0])
    if not 0 < node_id <= RAFT_NODE_ID:
        raise ConfigError(f"{setting}: {text_untrusted!r}: a node id is from 1 to {RAFT_NODE_ID}")
    try:
        endpoint_id = parse_endpoint_id(parts[1])
    except IdentityError as error:
        raise ConfigError(f"{setting}: {text_untrusted!r}: {error}") from None
    return ManualPeer(node_id, endpoint_id, parse_address(setting, parts[2]) if len(parts) == 3 else None)


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
    for name, hint in get_type_hints(struct, include_extras=True).items():
        members = get_args(hint) if get_origin(hint) is not Annotated else ()
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


def expected(hint: Any) -> str:
    """What a setting of this type takes, for people."""
    if get_origin(hint) is Annotated:
        kind, meta = get_args(hint)[0], get_args(hint)[1]
        low, high = getattr(meta, "ge", None), getattr(meta, "le", None)
        if low is None:
            return expected(kind)
        upto = f"from {low} on" if high is None else f"from {low} to {high}"
        return f"a {'whole ' if kind is int else ''}number {upto}"
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(expected(member) for member in get_args(hint) if member is not type(None))
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is list:
        return "a list of texts"
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return f"one of {', '.join(hint)}"
    return {bool: "true or false", str: "a text"}[hint]
