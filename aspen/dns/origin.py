"""Origins: the names under which keys are answered, and what stands at them (RFC 1034 §4.2, RFC 2308).

An origin is the apex of a zone: it has SOA and NS, and its SOA goes into every negative answer
below it, those about keys included. Its own records are those of the authored zone of the same
name; where there is none, a small zone made of the operator's settings takes its place.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from aspen.dns.name import name_from_text, name_to_text, relative_to
from aspen.dns.rrl import RrlSettings
from aspen.dns.wire import AAAA, CLASS_IN, NS, SOA, A
from aspen.dns.zone import MemoryZone, RRset, ZoneReader, Zones, negative_ttl
from aspen.errors import ConfigError, DnsWireError
from aspen.limits import DNS_ORIGIN_BYTES, PKARR_RETENTION_MS

_SOA_NUMBERS: Final = struct.Struct(">IIIII")
_RR_FIXED: Final = struct.Struct(">HHIH")
_TTL_MAX: Final = 2**31 - 1


class CookiePolicy(StrEnum):
    """What becomes of DNS cookies (RFC 7873)."""

    OFF = "off"
    ON = "on"
    REQUIRED = "required"
    """Over UDP, who sends a cookie, but none of ours, is told ours and nothing else (BADCOOKIE)."""


class DnsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator says about DNS, in text; `compile_origins` checks it."""

    origins: tuple[str, ...] = ("aspen.local",)
    ask_elsewhere: bool = False
    """Whether a key unknown here is looked for elsewhere before it is denied (`fallback`)."""
    nameservers: tuple[str, ...] = ()
    """NS names of every origin; the first is the SOA's MNAME. Empty: `ns1.<origin>`."""
    nameserver_addresses: tuple[str, ...] = ()
    """Addresses of the nameservers whose names lie under an origin."""
    responsible: str = ""
    """The SOA's RNAME. Empty: `hostmaster.<origin>`."""
    serial: int = 1
    refresh_s: int = 3_600
    retry_s: int = 600
    expire_s: int = 604_800
    ttl_s: int = 3_600
    """TTL of the origins' own records."""
    negative_ttl_s: int = 60
    """How long "no such name" may be cached: short, as a key may be published at any moment."""
    nsid: str = ""
    """What this server calls itself in EDNS (RFC 5001). Empty: nothing."""
    version: str = "Aspen"
    """TXT of version.bind and version.server in class CHAOS. Empty: refused."""
    identity: str = ""
    """TXT of id.server and hostname.bind (RFC 4892). Empty: refused."""
    minimal_responses: bool = False
    """Leave out additional records that an answer can do without."""
    kv_prefix: str | None = None
    """Keys that begin with this are TXT records under `kv.<origin>` (`key_texts`); None: no such zone."""
    query_acl: tuple[str, ...] = ()
    """Networks that may ask; empty: everybody."""
    cookies: CookiePolicy = CookiePolicy.ON
    rrl: RrlSettings = RrlSettings()
    packet_retention_ms: int = PKARR_RETENTION_MS
    """A packet last seen longer ago is not answered from."""
    packet_ttl_strict: bool = False
    """A packet's record is not answered for longer than its TTL."""


class Origin:
    """One origin: its name, its zone as configured, and its SOA ready for negative answers."""

    __slots__ = ("name", "negative_soa", "soa", "zone")

    def __init__(self, name: bytes, zone: ZoneReader, soa: RRset | None = None) -> None:
        """`zone` is the configured zone of this name (folded); `soa` that of the authored one, if any."""
        self.name = name
        self.zone = zone
        soa = soa or (zone.node(name) or {})[SOA]
        rdata, ttl = soa.rdatas[0], negative_ttl(soa)
        self.soa = RRset(ttl, soa.rdatas)
        """As it stands in negative answers."""
        self.negative_soa = _RR_FIXED.pack(SOA, CLASS_IN, ttl, len(rdata)) + rdata

    def authority(self, origin_offset: int) -> bytes:
        """The SOA record for a negative answer; the origin stands at that offset in the message."""
        owner = (0xC000 | origin_offset).to_bytes(2, "big") if len(self.name) > 1 else b"\x00"
        return owner + self.negative_soa


Origins = Mapping[bytes, Origin]
"""By name; the longest that ends a name is found by trying the name's own ends, longest first."""


def _configured_zone(name: bytes, settings: DnsSettings, others: Iterable[bytes]) -> MemoryZone:
    """The zone of an origin nobody has authored: SOA, NS, addresses of nameservers under it, and the
    names between it and the origins below. Raises `DnsWireError`, `ValueError`."""
    servers = [name_from_text(text) for text in settings.nameservers] or [_below("ns1", name)]
    responsible = name_from_text(settings.responsible or name_to_text(_below("hostmaster", name)))
    numbers = _SOA_NUMBERS.pack(
        settings.serial, settings.refresh_s, settings.retry_s, settings.expire_s, settings.negative_ttl_s
    )
    records = [(name, SOA, servers[0] + responsible + numbers)]
    for server in servers:
        records.append((name, NS, server))
        for text in settings.nameserver_addresses:
            address = ipaddress.ip_address(text)
            records.append((server, A if address.version == 4 else AAAA, address.packed))
    inside = [record for record in records if relative_to(record[0].lower(), name) is not None]
    below = [other.lower() for other in (*servers, *others)]
    return MemoryZone(
        name,
        [(owner, rrtype, settings.ttl_s, rdata) for owner, rrtype, rdata in inside],
        empty_names=[other for other in below if relative_to(other, name) is not None],
    )


def _below(label: str, origin: bytes) -> bytes:
    return bytes((len(label),)) + label.encode() + origin


def compile_origins(settings: DnsSettings) -> Origins:
    """Check settings and compile their origins. Raises `ConfigError` naming what won't do."""
    if not settings.origins:
        raise ConfigError("DNS needs at least one origin")
    for field in ("ttl_s", "negative_ttl_s", "refresh_s", "retry_s", "expire_s"):
        if not 0 <= getattr(settings, field) <= _TTL_MAX:
            raise ConfigError(f"DNS {field} is not between 0 and {_TTL_MAX}")
    if not 0 <= settings.serial < 2**32:
        raise ConfigError("the DNS serial is not a 32-bit number")
    names = {text: _origin_name(text) for text in settings.origins}
    try:
        return {
            name: Origin(name, _configured_zone(name, settings, names.values())) for name in names.values()
        }
    except (DnsWireError, ValueError) as error:
        raise ConfigError(f"the DNS nameservers, their addresses or RNAME can't be used: {error}") from None


def with_zones(origins: Origins, zones: Zones) -> dict[bytes, Origin]:
    """The origins with the SOA of the authored zones of their names, as of now."""
    authored: dict[bytes, Origin] = {}
    for name, origin in origins.items():
        zone = zones.get(name)
        node = zone.node(name) if zone is not None and zone.settings.enabled else None
        soa = node.get(SOA) if node is not None else None
        # Of the zone only its SOA is kept: a reader must not outlive its answer.
        authored[name] = origin if soa is None else Origin(name, origin.zone, soa)
    return authored


def _origin_name(text: str) -> bytes:
    try:
        name = name_from_text(text).lower()
    except DnsWireError as error:
        raise ConfigError(f"the DNS origin {text!r} can't be used: {error}") from None
    if len(name) > DNS_ORIGIN_BYTES:
        raise ConfigError(f"the DNS origin {text!r} is longer than {DNS_ORIGIN_BYTES} octets")
    return name


def origin_texts(origins: Origins) -> list[str]:
    """The origins as text, longest first: for people and logs."""
    return [name_to_text(name) for name in sorted(origins, key=lambda name: (-len(name), name))]
