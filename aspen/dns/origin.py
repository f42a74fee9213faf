"""Origins: the names under which keys are answered, and what stands at them (RFC 1034 §4.2, RFC 2308).

An origin is the apex of a zone: it has SOA and NS, and its SOA goes into every negative answer
below it. Its own records are a block of ready-made answers like a packet's, with the origin in the
place of the key's label.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from aspen.dns.name import name_from_text, name_to_text, relative_to
from aspen.dns.rdata import NAME
from aspen.dns.ready import Rdata, RRset, add_record, cut_rdata, pack_answers
from aspen.dns.wire import CLASS_IN
from aspen.errors import ConfigError, DnsWireError
from aspen.limits import DNS_ORIGIN_BYTES

A: Final = 1
NS: Final = 2
SOA: Final = 6
AAAA: Final = 28

_SOA_NUMBERS: Final = struct.Struct(">IIIII")
_RR_FIXED: Final = struct.Struct(">HHIH")
_TTL_MAX: Final = 2**31 - 1


class DnsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator says about DNS, in text; `compile_origins` checks it."""

    origins: tuple[str, ...] = ("aspen.local",)
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


class Origin:
    """One origin, compiled."""

    __slots__ = ("answers", "name", "negative_soa")

    def __init__(self, name: bytes, settings: DnsSettings, others: Iterable[bytes] = ()) -> None:
        """`name` and the `others` are folded wire names. Raises `DnsWireError`."""
        self.name = name
        records = _Records(name, settings.ttl_s)
        servers = [name_from_text(text) for text in settings.nameservers] or [_below("ns1", name)]
        responsible = (
            name_from_text(settings.responsible) if settings.responsible else _below("hostmaster", name)
        )
        numbers = _SOA_NUMBERS.pack(
            settings.serial, settings.refresh_s, settings.retry_s, settings.expire_s, settings.negative_ttl_s
        )
        soa = [(NAME, servers[0]), (NAME, responsible), (0, numbers)]
        records.add(name, SOA, soa)
        for server in servers:
            records.add(name, NS, [(NAME, server)])
            for text in settings.nameserver_addresses:
                address = ipaddress.ip_address(text)
                records.add(server, A if address.version == 4 else AAAA, [(0, address.packed)])
        # Names that exist though they have no records here: nameservers, and whatever lies between
        # this origin and another one below it.
        below = [relative_to(other.lower(), name) for other in (*servers, *others)]
        self.answers = pack_answers(records.names, [relative for relative in below if relative is not None])
        rdata = b"".join(octets for _, octets in soa)
        ttl = min(settings.ttl_s, settings.negative_ttl_s)  # RFC 2308 §3
        self.negative_soa = _RR_FIXED.pack(SOA, CLASS_IN, ttl, len(rdata)) + rdata

    def authority(self, origin_offset: int) -> bytes:
        """The SOA record for a negative answer; the origin stands at that offset in the message."""
        owner = (0xC000 | origin_offset).to_bytes(2, "big") if len(self.name) > 1 else b"\x00"
        return owner + self.negative_soa


Origins = Mapping[bytes, Origin]
"""By name; the longest that ends a name is found by trying the name's own ends, longest first."""


class _Records:
    """Gathers an origin's own records; those outside the origin fall away."""

    def __init__(self, origin: bytes, ttl: int) -> None:
        self.names: dict[bytes, dict[int, RRset]] = {}
        self._origin = origin
        self._ttl = ttl

    def add(self, owner: bytes, rrtype: int, fields: list[tuple[int, bytes]]) -> None:
        relative = relative_to(owner.lower(), self._origin)
        if relative is None:
            return
        # A pointer to the root would save nothing, so names under the root origin stand whole.
        whole: Rdata = (b"".join(octets for _, octets in fields),)
        rdata = cut_rdata(fields, self._origin) if len(self._origin) > 1 else whole
        add_record(self.names, relative, rrtype, self._ttl, rdata)


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
        return {name: Origin(name, settings, names.values()) for name in names.values()}
    except (DnsWireError, ValueError) as error:
        raise ConfigError(f"the DNS nameservers, their addresses or RNAME can't be used: {error}") from None


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
