"""The cluster's own nodes in DNS: what is known of them now, rather than what anybody has published.

Under every origin stand, unless somebody has published or authored them otherwise,

* `_iroh.<endpoint id>`, TXT as iroh endpoints publish it (`addr=<ip>:<port>`, one record each), so that
  a node is found by its endpoint id like any endpoint;
* `_aspen._udp`, SRV and TXT for every node, for those who want to join (RFC 2782, RFC 6763 §6): TXT says
  `node=<id>`, `id=<endpoint id>`, `addr=<ip>:<port>`; SRV points to `node-<id>._aspen._udp`.

These are not records of the state: each node tells them from what it hears.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple, Protocol

import msgspec

from aspen.dns.ready import CutRRset, add_record, pack_answers
from aspen.dns.wire import AAAA, SRV, TXT, A
from aspen.dns.zone import Node, ZoneSettings, make_rrset
from aspen.limits import DNS_MEMBERS_TTL_S, DNS_STRING_BYTES
from aspen.z32 import encode_key

_IROH: Final = b"\x05_iroh"
_SERVICE: Final = b"\x06_aspen\x04_udp"
_UDP: Final = b"\x04_udp"


class ClusterNode(msgspec.Struct, frozen=True, array_like=True):
    """A node of the cluster, as known now. Addresses that are names, not numbers, are left out."""

    node_id: int
    public_key: bytes
    addresses: tuple[tuple[str, int], ...]
    """Of its QUIC endpoint."""

    @property
    def sockets(self) -> Iterator[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
        for host, port in self.addresses:
            try:
                address = ipaddress.ip_address(host.partition("%")[0])
            except ValueError:
                continue
            if not address.is_unspecified:
                yield address, port


class PacketSource(Protocol):
    """`lookup.Records`."""

    def packet_answers(self, public_key: bytes) -> bytes | None: ...


class LiveNodes:
    """The nodes, for all who answer from one view; `replace` them when they have changed."""

    def __init__(self) -> None:
        self.nodes: tuple[ClusterNode, ...] = ()
        self.blocks: dict[bytes, bytes] = {}
        """Endpoint id → ready-made answers, like those of a packet. Always this same dict."""
        self._names: dict[bytes, dict[bytes, Node]] = {}

    def replace(self, nodes: Iterable[ClusterNode]) -> bool:
        """Whether anything is new."""
        found = tuple(sorted(nodes, key=lambda node: node.node_id))
        if found == self.nodes:
            return False
        self.nodes = found
        self.blocks.clear()
        self.blocks.update((node.public_key, _iroh_block(node)) for node in found if any(node.sockets))
        self._names = {}
        return True

    def names(self, origin: bytes) -> Mapping[bytes, Node]:
        """Owners under an origin (folded) and what stands there."""
        names = self._names.get(origin)
        if names is None:
            names = self._names[origin] = dict(_service_names(self.nodes, origin))
        return names


class WithNodes:
    """Packets, and for nodes nobody has published a packet of, what is known of them."""

    __slots__ = ("blocks", "records")

    def __init__(self, records: PacketSource, live: LiveNodes) -> None:
        self.records = records
        self.blocks = live.blocks

    def packet_answers(self, public_key: bytes) -> bytes | None:
        block = self.records.packet_answers(public_key)
        return self.blocks.get(public_key) if block is None else block


def split(records: PacketSource) -> tuple[PacketSource, Mapping[bytes, bytes]]:
    """The packets, and what stands for those that aren't there."""
    return (records.records, records.blocks) if isinstance(records, WithNodes) else (records, {})


class ServedZone(Protocol):
    """What answers need of a zone (`ZoneReader` is one)."""

    @property
    def apex(self) -> bytes: ...

    @property
    def settings(self) -> ZoneSettings: ...

    def node(self, owner: bytes) -> Node | None: ...


class Overlay(NamedTuple):
    """A zone with names laid over it where it has none of its own."""

    zone: ServedZone
    names: Mapping[bytes, Node]

    @property
    def apex(self) -> bytes:
        return self.zone.apex

    @property
    def settings(self) -> ZoneSettings:
        return self.zone.settings

    def node(self, owner: bytes) -> Node | None:
        node = self.zone.node(owner)
        return node or self.names.get(owner, node)


def _texts(*texts: str) -> bytes:
    octets = [text.encode()[:DNS_STRING_BYTES] for text in texts]
    return b"".join(bytes((len(text),)) + text for text in octets)


def _socket_text(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> str:
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def _iroh_block(node: ClusterNode) -> bytes:
    names: dict[bytes, dict[int, CutRRset]] = {}
    for address, port in node.sockets:
        text = _texts(f"addr={_socket_text(address, port)}")
        add_record(names, _IROH, TXT, DNS_MEMBERS_TTL_S, (text,))
    return pack_answers(names)


def _service_names(nodes: Iterable[ClusterNode], origin: bytes) -> Iterator[tuple[bytes, Node]]:
    service = _SERVICE + origin
    srv, txt = [], []
    for node in nodes:
        sockets = list(node.sockets)
        if not sockets:
            continue
        label = f"node-{node.node_id}".encode()
        host = bytes((len(label),)) + label + service
        identity = (f"node={node.node_id}", f"id={encode_key(node.public_key)}")
        txt.append(_texts(*identity, *(f"addr={_socket_text(*socket)}" for socket in sockets)))
        for port in sorted({port for _, port in sockets}):
            srv.append(bytes(4) + port.to_bytes(2, "big") + host)
        addresses: dict[int, list[bytes]] = {}
        for address, _ in sockets:
            addresses.setdefault(A if address.version == 4 else AAAA, []).append(address.packed)
        yield host, {rrtype: make_rrset(rrtype, DNS_MEMBERS_TTL_S, of) for rrtype, of in addresses.items()}
    if srv:
        yield (
            service,
            {SRV: make_rrset(SRV, DNS_MEMBERS_TTL_S, srv), TXT: make_rrset(TXT, DNS_MEMBERS_TTL_S, txt)},
        )
        yield _UDP + origin, {}
