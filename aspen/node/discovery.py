"""A node's discovery, put together: what it says of itself, and whom it looks for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import structlog

from aspen.config import ClusterBootstrapConfig, format_address
from aspen.discovery.announcement import topology_hash
from aspen.discovery.gossip import GossipPorts, SelfDescription, Topology
from aspen.discovery.mdns import Mdns
from aspen.discovery.messages import Peer as GossipPeer
from aspen.discovery.service import TOPIC_CONTEXT, GossipService
from aspen.discovery.ticket import NONCE_BYTES, SignedTicket, Ticket, TicketNode, parse_ticket
from aspen.errors import JoinError, TicketError
from aspen.http.peers import PeerAddress, PeerConnection, PeersStatus, PeerStatus
from aspen.identity import Cookie, Cookies, EndpointId, Identity, verify
from aspen.limits import ADDRESSES_PER_PEER, TICKET_NODES
from aspen.net.address_book import Address, AddressBook
from aspen.net.endpoint import ALPN_GOSSIP, ConnectionStatus, Endpoint, Hello, Peer, Service
from aspen.net.reachable import reachable_addresses
from aspen.node.relay import NodeRelays
from aspen.raft.cluster import Consensus
from aspen.raft.roster import NO_CLUSTER, Roster, encode_roster
from aspen.z32 import encode_key

log = structlog.get_logger("aspen.discovery")


class Discovery:
    """How this node finds others and is found: `aspen.http.peers.PeersView` too."""

    def __init__(
        self,
        config: ClusterBootstrapConfig,
        identity: Identity,
        cookies: Cookies,
        address_book: AddressBook,
        consensus: Consensus,
        own_address: Callable[[], Address],
    ) -> None:
        self._config = config
        self._identity = identity
        self._address_book = address_book
        self.consensus = self._consensus = consensus
        self.on_behind: Callable[[bytes], None] = lambda endpoint_id: None
        """Hears of a node that knows a newer membership than this one."""
        self._own_address = own_address
        self._topics_of: tuple[Cookie, ...] = ()
        self._topics: tuple[bytes, ...] = ()
        self._roster: Roster | None = None
        self._topology: Topology
        self._cookies = cookies
        self._endpoint: Endpoint | None = None
        self._mdns: Mdns | None = None
        self.relays = NodeRelays(config, identity, cookies, lambda: consensus.roster)
        self.gossip = GossipService(
            GossipPorts(
                own_id=identity.endpoint_id,
                topics=self.topics,
                describe=self.describe,
                topology=self.topology,
                sign=identity.sign,
                verify=verify,
                bound_to=self._bound_to,
                contacts=self._contacts,
            ),
            address_book,
            on_behind=lambda endpoint_id, version: self.on_behind(endpoint_id),
        )

    def topics(self) -> tuple[bytes, ...]:
        """What tells this cluster's gossip from others', by the cookie in use and those accepted."""
        if self._topics_of is not self._cookies.all:
            self._topics_of = self._cookies.all
            self._topics = tuple(cookie.derive(TOPIC_CONTEXT) for cookie in self._topics_of)
        return self._topics

    def _ticket(self) -> Ticket:
        """Where the cluster is: this node, and the members whose addresses are known; others too if there is
        a relay, by which they may be reached.

        Raises `TicketError` on a node that belongs to no cluster.
        """
        roster = self._consensus.roster
        if not roster.members:
            raise TicketError("foreign", "this node belongs to no cluster yet")
        own_id = self._identity.endpoint_id
        nodes = [TicketNode(own_id, reachable_addresses(self._own_address()))]
        for member in roster.members:
            addresses = tuple(self._address_book.addresses(member.endpoint_id))
            if member.endpoint_id != own_id and (addresses or self.relays.pool.home):
                nodes.append(TicketNode(member.endpoint_id, addresses))
        nodes = sorted(nodes[:TICKET_NODES], key=lambda node: node.endpoint_id)
        return Ticket(self.topics()[0], roster.cluster_id, tuple(nodes))

    def ticket(self) -> str:
        """See `PeersView`."""
        return self._ticket().encode()

    def signed_ticket(self, life_s: int) -> tuple[str, int]:
        """See `PeersView`."""
        sign, own_id = self._identity.sign, self._identity.endpoint_id
        ticket = self._ticket().sign(own_id, sign, int(time.time()), os.urandom(NONCE_BYTES), life_s)
        log.info("a signed ticket was issued", expires_at_s=ticket.expires_at_s)
        return ticket.encode(), ticket.expires_at_s

    def _use_ticket(self, text_untrusted: str) -> None:
        """Look for the nodes that a ticket names, on a node that has joined: an old one will do.

        Raises `JoinError` for one that is of no use here.
        """
        try:
            read = parse_ticket(text_untrusted)
        except TicketError as error:
            raise JoinError(error.code, f"ticket: {error}") from None
        if isinstance(read, SignedTicket):
            read = read.ticket
        roster = self._consensus.roster
        own_cluster = roster.cluster_id
        if read.cluster_id in roster.former_clusters:
            log.warning("the ticket is of the cluster that this one was recovered from: it is of no use now")
            return
        if own_cluster not in (NO_CLUSTER, read.cluster_id):
            raise JoinError(
                "foreign",
                f"ticket: it is for the cluster {read.cluster_id.hex()}, and this node belongs to "
                f"{own_cluster.hex()}",
            )
        for node in read.nodes:
            for address in node.addresses:
                self._address_book.add(node.endpoint_id, address, "ticket")

    def services(self, hello: Callable[[], Hello]) -> list[Service]:
        """For the endpoint."""
        if not self._config.iroh.enable_gossip:
            return []
        return [
            Service(
                alpn=ALPN_GOSSIP,
                hello=hello,
                admit=self._admit,
                on_frame=self.gossip.frame_received,
                on_unreachable=self.gossip.peer_unreachable,
            )
        ]

    def start(self, endpoint: Endpoint) -> None:
        """Look for others and be found, over an endpoint that has been started. Raises `JoinError`."""
        config, self._endpoint = self._config, endpoint
        for peer in config.manual_peers:
            if peer.address is not None:
                self._address_book.add(peer.endpoint_id, peer.address, "manual")
        if config.ticket:
            self._use_ticket(config.ticket)
        self.relays.start(endpoint, self.gossip.core.known, moved=self.gossip.announce_soon)
        if config.iroh.enable_gossip:
            self.gossip.start(endpoint.channel(ALPN_GOSSIP))
        if config.iroh.enable_mdns:
            own_id = self._identity.endpoint_id
            addresses = lambda: self.describe().addresses  # noqa: E731
            self._mdns = Mdns(own_id, self.topics, self._address_book, addresses, config.quic_host)
            self._mdns.start()

    async def stop(self) -> None:
        if self._mdns is not None:
            await self._mdns.stop()
        await self.gossip.stop()

    def describe(self) -> SelfDescription:
        """What this node says of itself now."""
        roster = self._consensus.roster
        member = roster.by_endpoint(self._identity.endpoint_id)
        addresses = dict.fromkeys((*reachable_addresses(self._own_address()), *self.relays.observed))
        return SelfDescription(
            node_id=member.node_id if member is not None else 0,
            addresses=tuple(addresses)[:ADDRESSES_PER_PEER],
            relay_url=self.relays.announce(),
        )

    def addresses_of(self, endpoint_id: EndpointId) -> tuple[Address, ...]:
        """Where a node says that it is, if it has said so lately; else all that is known of it."""
        if endpoint_id == self._identity.endpoint_id:
            return self.describe().addresses
        heard = self.gossip.core.known.get(endpoint_id)
        if heard is not None and heard[0].addresses:
            return heard[0].addresses
        known = self._address_book.known(endpoint_id)
        return tuple(each.address for each in known if each.sources != ("inbound",))

    def topology(self) -> Topology:
        """The membership this node knows; worked out anew only when it has changed."""
        roster = self._consensus.roster
        if roster is not self._roster:
            self._roster = roster
            self._topology = Topology(roster.version, topology_hash(encode_roster(roster)))
            self.gossip.announce_soon()
        return self._topology

    def members_changed(self, roster: Roster) -> None:
        """Look for members where they were added, and for those that were removed no more."""
        for member in roster.members:
            for address in member.addresses:
                self._address_book.add(member.endpoint_id, address, "membership")
        for former in roster.removed:
            self._address_book.remove(former.endpoint_id)

    def peers(self) -> PeersStatus:
        """Every node known here, for people, but for those that were removed from the cluster."""
        roster, book, core = self._consensus.roster, self._address_book, self.gossip.core
        connections = [] if self._endpoint is None else self._endpoint.connections()
        ids = dict.fromkeys(member.endpoint_id for member in roster.members)
        ids.update(dict.fromkeys((*book.peers(), *core.known, *(c.endpoint_id for c in connections))))
        ids.pop(self._identity.endpoint_id, None)
        for former in roster.removed:
            ids.pop(former.endpoint_id, None)
        by_peer: dict[bytes, list[ConnectionStatus]] = {}
        for connection in connections:
            by_peer.setdefault(connection.endpoint_id, []).append(connection)
        return PeersStatus(
            endpoint_id=self._identity.z32,
            neighbours=len(core.overlay.neighbours),
            refused=dict(sorted(core.refused.items())),
            peers=tuple(self._peer(endpoint_id, by_peer.get(endpoint_id, [])) for endpoint_id in ids),
        )

    def _peer(self, endpoint_id: bytes, connections: Sequence[ConnectionStatus]) -> PeerStatus:
        member = self._consensus.roster.by_endpoint(endpoint_id)
        known = self.gossip.core.known.get(endpoint_id)
        claims = [member.node_id if member else 0, *(c.node_id for c in connections)]
        if known is not None:
            claims.append(known[0].node_id)
        now = time.monotonic()
        return PeerStatus(
            endpoint_id=encode_key(endpoint_id),
            node_id=next((node_id for node_id in claims if node_id), 0),
            member=member is not None,
            path=_path(connections),
            addresses=tuple(
                PeerAddress(
                    format_address(known.address),
                    known.source,
                    known.sources,
                    int((now - known.seen_at) * 1000),
                )
                for known in self._address_book.known(endpoint_id)
            ),
            connections=tuple(
                PeerConnection(
                    c.alpn,
                    c.dialled,
                    c.relay or format_address(c.address),
                    round(c.rtt_ms, 2),
                    int(c.age_s * 1000),
                )
                for c in connections
            ),
            announced_ms_ago=-1 if known is None else time.time_ns() // 1_000_000 - known[1],
        )

    def _admit(self, peer: Peer) -> str | None:
        """Whoever proved the cookie, but for nodes of another cluster and those sent away."""
        roster = self._consensus.roster
        if NO_CLUSTER not in (roster.cluster_id, peer.cluster_id) and roster.cluster_id != peer.cluster_id:
            return "foreign_cluster"
        return "removed" if roster.has_removed(peer.endpoint_id) else None

    def _bound_to(self, node_id: int) -> bytes | None:
        member = self._consensus.roster.member(node_id)
        return None if member is None else member.endpoint_id

    def _contacts(self) -> list[GossipPeer]:
        """Members, and everyone else whose address is known and who wasn't removed."""
        own_id, roster = self._identity.endpoint_id, self._consensus.roster
        known = dict.fromkeys(member.endpoint_id for member in roster.members)
        known.update(dict.fromkeys(self._address_book.peers()))
        for former in roster.removed:  # who still runs may tell of itself
            known.pop(former.endpoint_id, None)
        return [
            GossipPeer(endpoint_id, tuple(self._address_book.addresses(endpoint_id)))
            for endpoint_id in known
            if endpoint_id != own_id
        ]


def _path(connections: Sequence[ConnectionStatus]) -> str:
    """How the peer is reached: the best way there is."""
    if not connections:
        return "none"
    return "relay" if all(connection.relay for connection in connections) else "direct"
