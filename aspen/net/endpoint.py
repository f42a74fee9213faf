"""The node's QUIC endpoint: one UDP port for all that nodes say to each other (shell).

It dials from the port it listens on, so a peer learns from an accepted connection where to dial back.
Several protocols share it, told apart by ALPN (RFC 7301): each is a `Channel` with its own connections and
its own idea of who may speak, so that a newcomer that may gossip is no member yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aspen.errors import invariant
from aspen.identity import Cookies, EndpointId, Identity
from aspen.limits import NET_IDLE_MS
from aspen.net.address_book import Address, AddressBook
from aspen.net.channel import Channel, Service
from aspen.net.connection import Connection
from aspen.net.handshake import Credentials, Hello, Peer
from aspen.net.refusals import Refusals
from aspen.net.relayed import NoRelays, Relays, relay_of
from aspen.net.streams import FrameStream
from aspen.net.transceiver import Transceiver
from aspen.net.udp import SocketAddress, numeric, plain

__all__ = [
    "ALPN_FOUND",
    "ALPN_GOSSIP",
    "ALPN_JOIN",
    "ALPN_PROFILE",
    "ALPN_RAFT",
    "ALPN_TICKET",
    "AddressBook",
    "Channel",
    "ConnectionStatus",
    "Endpoint",
    "FrameStream",
    "Hello",
    "Peer",
    "Service",
]

ALPN_RAFT: Final = "aspen-raft/1"
ALPN_GOSSIP: Final = "aspen-gossip/1"
ALPN_FOUND: Final = "aspen-found/1"
ALPN_JOIN: Final = "aspen-join/1"
ALPN_PROFILE: Final = "aspen-profile/1"
ALPN_TICKET: Final = "aspen-ticket/1"
"""To join without knowing the cookie; open to strangers."""


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """One proven connection, for people."""

    endpoint_id: EndpointId
    node_id: int
    dialled: bool
    address: Address
    """Of no use if there is a `relay`."""
    relay: str
    """URL of the relay it goes through; empty if it is direct."""
    rtt_ms: float
    age_s: float
    alpn: str


class Endpoint:
    """See the module's docstring. Use from one event loop."""

    def __init__(
        self,
        *,
        identity: Identity,
        cookies: Cookies | None,
        services: Sequence[Service],
        address_book: AddressBook,
        idle_ms: int = NET_IDLE_MS,
        max_datagram_bytes: int | None = None,
        refusals: Refusals | None = None,
        relays: Relays | None = None,
    ) -> None:
        """`max_datagram_bytes` None means what fits every path (1200), and much more on loopback. Without
        `cookies`, all services must be open to strangers."""
        invariant(
            cookies is not None or all(service.open_to_strangers for service in services),
            "a service that needs the cookie, and no cookie",
        )
        relays = relays or NoRelays()
        self.identity = identity
        self.address_book = address_book
        self._refusals = refusals or Refusals(lambda: self._transceiver.now())
        credentials = {
            service.alpn: Credentials(
                identity, None if service.open_to_strangers else cookies, service.hello, service.admit
            )
            for service in services
        }
        self._transceiver = Transceiver(self, identity, credentials, idle_ms, max_datagram_bytes, relays)
        self._channels = {
            service.alpn: Channel(
                service, self._transceiver, address_book, relays, self._refusals, identity.endpoint_id
            )
            for service in services
        }

    def channel(self, alpn: str) -> Channel:
        """The way to speak one of the protocols."""
        return self._channels[alpn]

    @property
    def refusals(self) -> Counter[str]:
        """Refused peers by code."""
        return self._refusals.counts

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Bind and serve; the bound address. Raises `OSError`."""
        return self._transceiver.start(host, port)

    async def close(self) -> None:
        """Say goodbye to every peer and release the port."""
        for channel in self._channels.values():
            await channel.stop_tasks()
        self._transceiver.stop()
        for channel in self._channels.values():
            channel.forget_all()

    def relayed(self, relay: str, endpoint_id: EndpointId, datagram_untrusted: bytes) -> None:
        """A relay has brought a datagram, as it says from that peer."""
        self._transceiver.relayed(relay, endpoint_id, datagram_untrusted)

    def send_bare(self, datagram: bytes, address: Address) -> None:
        """Send something that isn't QUIC from the endpoint's port, to a numeric address."""
        resolved = numeric(self._transceiver.family, address)
        if resolved is not None:
            self._transceiver.send_bare(datagram, resolved)

    def relays_changed(self) -> None:
        """A relay is connected that was not."""
        for channel in self._channels.values():
            channel.relays_changed()

    def reaches(self, endpoint_id: EndpointId) -> bool:
        """Whether there is a proven connection with that node."""
        return any(connection.endpoint_id == endpoint_id for connection in self.connections())

    def connections(self) -> list[ConnectionStatus]:
        """Every proven connection."""
        if not self._transceiver.is_running:
            return []
        now = self._transceiver.now()
        return [
            ConnectionStatus(
                endpoint_id=peer.endpoint_id,
                node_id=peer.node_id,
                dialled=connection.dialled,
                address=plain(connection.address),
                relay=connection.relay,
                rtt_ms=connection.quic.rtt_s * 1000,
                age_s=now - connection.opened_at,
                alpn=connection.alpn,
            )
            for connection in self._transceiver.connections
            if (peer := connection.peer) is not None
        ]

    # --- what the transceiver tells ------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        self._channels[connection.alpn].opened(connection)

    def moved(self, connection: Connection) -> None:
        self._channels[connection.alpn].moved(connection)

    def received(self, connection: Connection, frames: list[bytes]) -> None:
        self._channels[connection.alpn].received(connection, frames)

    def accepted(self, connection: Connection, stream: FrameStream) -> None:
        self._channels[connection.alpn].accepted(connection, stream)

    def closed(self, connection: Connection) -> None:
        if connection.refusal is not None:
            code, reason = connection.refusal
            self._refusals.note(code, reason, peer=_peer(connection.address), dialled=connection.dialled)
        channel = self._channels.get(connection.alpn)
        if channel is not None:  # else it ended before it said what it wanted
            channel.closed(connection)

    def turned_away(self, code: str, address: SocketAddress) -> None:
        self._refusals.note(code, "too many connections", peer=_peer(address), dialled=False)

    def flushing(self) -> None:
        for channel in self._channels.values():
            channel.flushing()


def _peer(address: SocketAddress) -> str:
    """For people."""
    host, port = plain(address)
    return relay_of(address) or f"{host}:{port}"
