"""Authored zones as answers, transfers and updates see them (RFC 1034 §4.2, RFC 4034 §6).

A zone is a tree of nodes under its apex; a node maps types to RRsets and is empty where a name
exists only because names below it do (RFC 4592 §2.2.2). Names are folded wire names (RFC 4343), RDATA
is uncompressed with its case kept. The state keeps zones on disk behind `ZoneReader`; `MemoryZone`
keeps one in memory, for tests and for programs that embed Aspen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol

import msgspec

from aspen.dns.name import label_offsets, relative_to
from aspen.dns.rdata import NAME, PLAIN_NAME, read_rdata
from aspen.errors import DnsWireError

SOA: Final = 6
_SERIAL_BYTES: Final = 20  # SERIAL, REFRESH, RETRY, EXPIRE, MINIMUM end the SOA's RDATA
# Types younger than RFC 4034 (§6.2 as amended by RFC 6840 §5.1): their RDATA is compared as it stands.
_CASE_KEPT: Final = frozenset({47, 64, 65, 107})  # NSEC, SVCB, HTTPS, LP


class RRset(NamedTuple):
    """All records of one owner and type."""

    ttl: int
    """Seconds."""
    rdatas: tuple[bytes, ...]
    """Uncompressed RDATA, case kept, in canonical order (RFC 4034 §6.3), no duplicates; never empty."""


Node = Mapping[int, RRset]
"""Type → RRset of one name; empty for an empty non-terminal."""

Consistency = Literal["stale", "consistent", "leader"]


class ZoneSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator decides about one zone, beside its records.

    Addresses are CIDR texts (`192.0.2.0/24`, `::1/128`), names of keys as in the TSIG settings.
    """

    enabled: bool = True
    """A disabled zone is as if it were not there."""
    default_ttl_s: int = 3_600
    consistency: Consistency = "stale"
    query_acl: tuple[str, ...] = ()
    """Who may ask; empty: everybody."""
    transfer_acl: tuple[str, ...] = ()
    """Who may transfer the zone by address alone; empty: nobody."""
    transfer_keys: tuple[str, ...] = ()
    update_acl: tuple[str, ...] = ()
    """Who may update the zone by address alone; empty: nobody."""
    update_keys: tuple[str, ...] = ()
    notify: tuple[str, ...] = ()
    """`address` or `address:port` of the secondaries that are told of changes."""


class ZoneReader(Protocol):
    """One zone at one moment: it doesn't change while it is read."""

    @property
    def apex(self) -> bytes:
        """Folded wire name."""
        ...

    @property
    def settings(self) -> ZoneSettings: ...

    @property
    def serial(self) -> int: ...

    def node(self, owner: bytes) -> Node | None:
        """The node of a folded wire name at or under the apex: empty for an empty non-terminal, None
        for a name that does not exist."""
        ...

    def walk(self) -> Iterator[tuple[bytes, Node]]:
        """Every owner that has records, in canonical order (RFC 4034 §6.1), so the apex first."""
        ...


class Zones(Protocol):
    """The zones a server holds."""

    def find(self, name: bytes) -> ZoneReader | None:
        """The enabled zone with the longest apex that a folded wire name is at or under."""
        ...

    def get(self, apex: bytes) -> ZoneReader | None:
        """The zone of this apex, enabled or not."""
        ...

    def apexes(self) -> Sequence[bytes]:
        """Of all zones, enabled or not."""
        ...


class Announced(NamedTuple):
    """A zone with secondaries that are told of changes."""

    apex: bytes
    targets: tuple[str, ...]
    """As in its settings."""
    serial: int


class NoZones:
    """`Zones` of a server that has none."""

    def find(self, name: bytes) -> ZoneReader | None:
        return None

    def get(self, apex: bytes) -> ZoneReader | None:
        return None

    def apexes(self) -> Sequence[bytes]:
        return ()


def canonical_rdata(rrtype: int, rdata: bytes) -> bytes:
    """RDATA (uncompressed) with the names in it folded where RFC 4034 §6.2 says so: two records of one
    name and type are the same if this is the same. Raises `DnsWireError` for RDATA of wrong form."""
    if rrtype in _CASE_KEPT:
        return rdata
    fields = read_rdata(rdata, rrtype, 0, len(rdata))
    return b"".join(octets.lower() if kind in (NAME, PLAIN_NAME) else octets for kind, octets in fields)


def canonical_order(name: bytes) -> tuple[bytes, ...]:
    """What to sort folded wire names by (RFC 4034 §6.1): their labels from the root down."""
    offsets = label_offsets(name)
    return tuple(name[offset + 1 : offset + 1 + name[offset]] for offset in reversed(offsets[:-1]))


def make_rrset(rrtype: int, ttl: int, rdatas: Iterable[bytes]) -> RRset:
    """An RRset in canonical order without duplicates; of two that differ in case, the first stays.

    Raises `DnsWireError` for RDATA of wrong form.
    """
    unique: dict[bytes, bytes] = {}
    for rdata in rdatas:
        unique.setdefault(canonical_rdata(rrtype, rdata), rdata)
    return RRset(ttl, tuple(rdata for _, rdata in sorted(unique.items())))


def soa_serial(rdata: bytes) -> int:
    """SERIAL of an SOA's RDATA."""
    return int.from_bytes(rdata[-_SERIAL_BYTES:][:4], "big")


def negative_ttl(soa: RRset) -> int:
    """TTL of an SOA in a negative answer: its own or its MINIMUM, the lower (RFC 2308 §3)."""
    return min(soa.ttl, int.from_bytes(soa.rdatas[0][-4:], "big"))


class MemoryZone:
    """A zone in memory (`ZoneReader`). It takes what it is given: the rules of what may stand in a
    zone are the state's business."""

    __slots__ = ("_nodes", "apex", "settings")

    def __init__(
        self,
        apex: bytes,
        records: Iterable[tuple[bytes, int, int, bytes]],
        settings: ZoneSettings | None = None,
        *,
        empty_names: Iterable[bytes] = (),
    ) -> None:
        """`records` are (owner, type, TTL, uncompressed RDATA); an RRset's TTL is its lowest. Names in
        `empty_names` (folded, in the zone) exist even without records.

        Raises `DnsWireError` for an owner outside the zone, RDATA of wrong form, or no SOA at the apex.
        """
        self.apex = apex.lower()
        self.settings = settings or ZoneSettings()
        gathered: dict[bytes, dict[int, tuple[int, list[bytes]]]] = {}
        for owner, rrtype, ttl, rdata in records:
            name = owner.lower()
            if relative_to(name, self.apex) is None:
                raise DnsWireError("an owner outside its zone")
            rrsets = gathered.setdefault(name, {})
            lowest, rdatas = rrsets.get(rrtype, (ttl, []))
            rrsets[rrtype] = (min(lowest, ttl), [*rdatas, rdata])
        nodes: dict[bytes, dict[int, RRset]] = {}
        for name, rrsets in gathered.items():
            nodes[name] = {
                rrtype: make_rrset(rrtype, ttl, rdatas) for rrtype, (ttl, rdatas) in rrsets.items()
            }
        for name in (*gathered, *empty_names):
            for offset in label_offsets(name[: len(name) - len(self.apex)] + b"\x00"):
                nodes.setdefault(name[offset:], {})
        if SOA not in nodes.get(self.apex, {}):
            raise DnsWireError("a zone without SOA")
        self._nodes = nodes

    @property
    def serial(self) -> int:
        return soa_serial(self._nodes[self.apex][SOA].rdatas[0])

    def node(self, owner: bytes) -> Node | None:
        return self._nodes.get(owner)

    def walk(self) -> Iterator[tuple[bytes, Node]]:
        for owner in sorted(self._nodes, key=canonical_order):
            if self._nodes[owner]:
                yield owner, self._nodes[owner]


class MemoryZones:
    """Zones in memory (`Zones`)."""

    __slots__ = ("_zones",)

    def __init__(self, zones: Iterable[ZoneReader] = ()) -> None:
        self._zones = {zone.apex: zone for zone in zones}

    def find(self, name: bytes) -> ZoneReader | None:
        for offset in label_offsets(name):
            zone = self._zones.get(name[offset:])
            if zone is not None and zone.settings.enabled:
                return zone
        return None

    def get(self, apex: bytes) -> ZoneReader | None:
        return self._zones.get(apex)

    def apexes(self) -> Sequence[bytes]:
        return list(self._zones)
