"""Finding the data for a name (RFC 1034 §4.3.2): which zone, which source, what it says.

Sources of data: the packet of the key whose label stands directly below an origin, and zones,
authored or made of an origin's settings. The longest origin or apex that a name is under wins; but
a name under a key is the key's, whatever zones there are, so that the query we see most costs no
more than one read. What a packet says goes out as it is. Whatever leads out of it, and all that
zones say, is gathered record by record (`resolve`), through all the data we hold.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from aspen.dns.key_texts import Texts, ZonesAndKeys
from aspen.dns.members import LiveNodes, Overlay, ServedZone, WithNodes
from aspen.dns.origin import DnsSettings, Origin, Origins, compile_origins, with_zones
from aspen.dns.packet_zone import ZONE_VERSION
from aspen.dns.policy import Policy, Staleness, Touch, compile_policy
from aspen.dns.ready import NO_SUCH_NAME, Outcome, ReadyAnswer, find_answer, find_any
from aspen.dns.search import parent_of
from aspen.dns.wire import ANY, DS, NS, SOA
from aspen.dns.zone import NoZones, Zones
from aspen.errors import IdentityError
from aspen.z32 import KEY_CHARS, decode_key

__all__ = ["DnsSettings", "Found", "KeySource", "Outcome", "Records", "View", "find_in_packet", "locate"]

NO_ZONES: Final = NoZones()


class Records(Protocol):
    """What DNS reads of the replicated state, beside zones."""

    def packet_answers(self, public_key: bytes) -> bytes | None:
        """The ready-made answers of a key's live packet; None if there is none."""
        ...


class View(NamedTuple):
    """What answers are made from: the replica, the origins it is seen under, and how to answer."""

    records: Records
    origins: dict[bytes, Origin]
    """As of now: `renew` when a zone has changed. Shared by all copies of a view."""
    zones: Zones = NO_ZONES
    policy: Policy = Policy()
    touch: Touch = Touch()
    """Shared by all copies of a view."""
    configured: Origins | None = None
    """The origins without authored zones."""
    live: LiveNodes | None = None
    """The cluster's own nodes. Shared by all copies of a view."""

    @classmethod
    def build(
        cls,
        records: Records,
        settings: DnsSettings,
        zones: Zones = NO_ZONES,
        live: LiveNodes | None = None,
        texts: Texts | None = None,
    ) -> View:
        """`texts` are the keys of the key-value store, if the settings have them shown.

        Raises `ConfigError`.
        """
        if live is not None:
            records = WithNodes(records, live)
        origins = compile_origins(settings)
        if texts is not None and settings.kv_prefix is not None:
            nodes = {name: origin.zone.node(name) or {} for name, origin in origins.items()}
            apexes = {name: {SOA: node[SOA], NS: node[NS]} for name, node in nodes.items()}
            zones = ZonesAndKeys(zones, apexes, texts, settings.kv_prefix.encode())
        policy = compile_policy(
            nsid=settings.nsid,
            version=settings.version,
            identity=settings.identity,
            minimal_responses=settings.minimal_responses,
            query_acl=settings.query_acl,
        )
        return cls(records, with_zones(origins, zones), zones, policy, Touch(), origins, live)

    @property
    def staleness(self) -> Staleness:
        return self.touch.staleness

    def renew(self) -> bool:
        """Take up the zones as they are now: origins have the SOA of zones of their name. For this view
        and all its copies; whether any origin's SOA is another now."""
        changed = False
        for name, origin in with_zones(self.configured or self.origins, self.zones).items():
            if origin.negative_soa != self.origins[name].negative_soa:
                self.origins[name] = origin
                changed = True
        return changed


class Found(NamedTuple):
    """What a packet says of a name."""

    answer: ReadyAnswer
    origin: Origin
    origin_offset: int
    """Where the origin begins in the name."""


class KeySource(NamedTuple):
    """A name under a key: its packet is asked."""

    public_key: bytes
    origin: Origin
    key_offset: int
    """Where the key's label begins in the name: what is before it is the relative name."""
    origin_offset: int


def locate(view: View, name: bytes, qtype: int) -> KeySource | ServedZone | None:
    """The source that answers for a folded wire name; None if it is in nothing of ours."""
    origins = view.origins
    offset = key_offset = 0
    while (origin := origins.get(name[offset:])) is None:
        length = name[offset]
        if not length:
            return _zone_of(view, name, qtype, None)
        key_offset = offset
        offset += 1 + length
    if offset and name[key_offset] == KEY_CHARS:
        try:
            public_key = decode_key(name[key_offset + 1 : offset])
        except IdentityError:
            pass  # 52 characters, but not a key: a name like any other
        else:
            return KeySource(public_key, origin, key_offset, offset)
    return _zone_of(view, name, qtype, origin)


def _zone_of(view: View, name: bytes, qtype: int, origin: Origin | None) -> ServedZone | None:
    """The authored zone of a name, or its origin's own zone, whichever is longer."""
    zone = view.zones.find(name)
    found: ServedZone | None = zone
    if origin is not None and (zone is None or len(zone.apex) <= len(origin.name)):
        found = zone if zone is not None and len(zone.apex) == len(origin.name) else origin.zone
        if view.live is not None:
            found = Overlay(found, view.live.names(origin.name))
    if qtype == DS and found is not None and found.apex == name and len(name) > 1:
        # DS belongs to the parent's side of a cut (RFC 4035 §3.1.4.1); if we hold it, it answers.
        parent = locate(view, parent_of(name), 0)
        if parent is not None and not isinstance(parent, KeySource):
            return parent
    return found


def find_in_packet(block: bytes | None, source: KeySource, name: bytes, qtype: int) -> Found | None:
    """What the packet of a name's key says of the name (folded) and type; None if the packet is kept
    as a zone."""
    if block is None:
        return Found(NO_SUCH_NAME, source.origin, source.origin_offset)
    if block[0] == ZONE_VERSION:
        return None
    relative = name[: source.key_offset]
    answer = find_any(block, relative) if qtype == ANY else find_answer(block, relative, qtype)
    return Found(answer, source.origin, source.origin_offset)
