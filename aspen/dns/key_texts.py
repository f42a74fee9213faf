"""Keys of the key-value store as TXT records: the zone `kv.<origin>`, for clusters that ask for it (pure).

The key of a name is the configured prefix and the name's labels below the zone, the highest first, with
slashes between: `port.web.kv.<origin>` is `<prefix>web/port`. Names are folded, so only keys without
capitals are found. The value is one TXT record, cut into strings of 255 bytes; a key whose value is too
long has no data. A key `<prefix>web/*` is a wildcard, as any zone's (RFC 4592).

Authored zones of the same name or below it come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol

from aspen.dns.name import label_offsets
from aspen.dns.wire import TXT
from aspen.dns.zone import SOA, Node, RRset, ZoneReader, Zones, ZoneSettings, soa_serial
from aspen.limits import DNS_KV_TEXT_BYTES, DNS_KV_TTL_S, DNS_STRING_BYTES, KV_KEY_BYTES

_KV: Final = b"\x02kv"


class Texts(Protocol):
    """The keys of the local replica."""

    def value(self, key: bytes) -> bytes | None: ...

    def any_under(self, prefix: bytes) -> bool:
        """Whether any key begins with it."""
        ...


class KeyZone:
    """`kv.<origin>` (`ZoneReader`). It reads what is there when it is asked."""

    def __init__(self, origin: bytes, apex_node: Node, texts: Texts, prefix: bytes) -> None:
        """`apex_node` has the origin's SOA and NS, which are this zone's too."""
        self.apex = _KV + origin
        self.settings = ZoneSettings()
        self._apex_node = apex_node
        self._texts = texts
        self._prefix = prefix

    @property
    def serial(self) -> int:
        return soa_serial(self._apex_node[SOA].rdatas[0])

    def node(self, owner: bytes) -> Node | None:
        relative = owner[: len(owner) - len(self.apex)]
        if not relative:
            return self._apex_node
        offsets = label_offsets(relative + b"\x00")[:-1]
        labels = [relative[at + 1 : at + 1 + relative[at]] for at in offsets]
        key = self._prefix + b"/".join(reversed(labels))
        if len(key) > KV_KEY_BYTES:
            return None
        value = self._texts.value(key)
        if value is None:
            return {} if self._texts.any_under(key + b"/") else None
        if len(value) > DNS_KV_TEXT_BYTES:
            return {}
        return {TXT: RRset(DNS_KV_TTL_S, (_strings(value),))}

    def walk(self) -> Iterator[tuple[bytes, Node]]:
        """The apex alone: keys aren't transferred."""
        yield self.apex, self._apex_node


class ZonesAndKeys:
    """`Zones`, and a zone of keys under every origin."""

    def __init__(self, zones: Zones, apex_nodes: Mapping[bytes, Node], texts: Texts, prefix: bytes) -> None:
        """`apex_nodes`: origin → its SOA and NS."""
        made = (KeyZone(origin, node, texts, prefix) for origin, node in apex_nodes.items())
        self._keys = {zone.apex: zone for zone in made}
        self._zones = zones

    def find(self, name: bytes) -> ZoneReader | None:
        zone = self._zones.find(name)
        for offset in label_offsets(name):
            keys = self._keys.get(name[offset:])
            if keys is not None:
                return keys if zone is None or len(zone.apex) < len(keys.apex) else zone
        return zone

    def get(self, apex: bytes) -> ZoneReader | None:
        return self._zones.get(apex) or self._keys.get(apex)

    def apexes(self) -> Sequence[bytes]:
        return [*self._zones.apexes(), *self._keys]


def _strings(value: bytes) -> bytes:
    """The value as the RDATA of one TXT record (RFC 1035 §3.3.14)."""
    parts = [value[at : at + DNS_STRING_BYTES] for at in range(0, len(value), DNS_STRING_BYTES)] or [b""]
    return b"".join(bytes((len(part),)) + part for part in parts)
