"""A peer behind a relay, as an address like any other.

QUIC doesn't ask what carries its datagrams: a relayed path is an address that the transceiver doesn't
give to the socket, but to whoever keeps the connections to relays. TLS between the two nodes goes on
end to end, so a relay carries what it can't read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final, NamedTuple, Protocol

from aspen.identity import EndpointId
from aspen.net.udp import SocketAddress

_PREFIX: Final = bytes.fromhex("fd61737065")  # a unique local prefix (RFC 4193)
_CACHED: Final = 4_096

Receive = Callable[[str, EndpointId, bytes], None]
"""(relay, sender, datagram)."""


class RelayAddress(NamedTuple):
    """Looks like a socket's address, for whoever must have one, and names the way."""

    host: str
    """An IPv6 address of the pair, which no packet is ever sent to."""
    port: int
    relay: str
    """The relay's URL."""
    endpoint_id: EndpointId
    """The peer's."""


class Relays(Protocol):
    """The relays this node is connected to."""

    def ways_to(self, endpoint_id: EndpointId) -> Sequence[str]:
        """Relays by which a peer may be reached now, the likeliest first."""
        ...

    def send(self, relay: str, endpoint_id: EndpointId, datagram: bytes) -> None:
        """Never blocks; drops what it can't send."""
        ...


class NoRelays:
    """Of a node that uses none."""

    def ways_to(self, endpoint_id: EndpointId) -> Sequence[str]:
        return ()

    def send(self, relay: str, endpoint_id: EndpointId, datagram: bytes) -> None:
        pass


@lru_cache(_CACHED)
def relay_address(relay: str, endpoint_id: EndpointId) -> RelayAddress:
    """The address of a peer behind a relay; always the same for the two."""
    digest = hashlib.blake2b(relay.encode() + b"\0" + endpoint_id, digest_size=16 - len(_PREFIX)).digest()
    return RelayAddress(str(IPv6Address(_PREFIX + digest)), 0, relay, endpoint_id)


def relay_of(address: SocketAddress) -> str:
    """The relay that an address leads through; empty if it leads straight to the peer."""
    return address.relay if isinstance(address, RelayAddress) else ""
