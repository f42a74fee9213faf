"""The section `[dns_server]` of a node's configuration, and what is served under a certificate."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec

from aspen.limits import DNS_MAX_STALE_MS, DNS_WORKERS

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]

DEFAULT_HTTPS_PORT: Final = 8443
DEFAULT_DOT_PORT: Final = 8853
DEFAULT_ORIGIN: Final = "aspen.local"
_LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"
_LETS_ENCRYPT_STAGING: Final = "https://acme-staging-v02.api.letsencrypt.org/directory"


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
    """Serve DNS over TLS."""
    dot_port: Port = DEFAULT_DOT_PORT
    """DNS over TLS, TCP. The registered port is 853."""
    enable_doq: bool = True
    """Serve DNS over QUIC."""
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
    """False: the node answers no DNS. It serves the pkarr relay all the same."""
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
    """One of `origins`."""
    origins: list[str] = []
    """Names under which keys are answered: `<sub>.<z32>.<origin>`. `.` is allowed."""
    data_dir: str | None = None
    """Of the earlier documents; has no effect. Records live in the node's own `data_dir`."""
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
