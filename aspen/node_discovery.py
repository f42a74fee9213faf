"""A node's discovery, put together: what it says of itself, and whom it looks for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from aspen.discovery.announcement import topology_hash
from aspen.discovery.gossip import GossipPorts, SelfDescription, Topology
from aspen.discovery.mdns import Mdns
from aspen.discovery.messages import Peer as GossipPeer
from aspen.discovery.service import TOPIC_CONTEXT, GossipService
from aspen.discovery.ticket import SignedTicket, Ticket, TicketNode, parse_ticket
from aspen.errors import ConfigError, TicketError
from aspen.http.peers import PeerAddress, PeerConnection, PeersStatus, PeerStatus
from aspen.identity import Cookie, Cookies, Identity, verify
from aspen.limits import TICKET_NODES
from aspen.net.address_book import Address, AddressBook
from aspen.net.endpoint import ALPN_GOSSIP, ConnectionStatus, Hello, Peer, Service
from aspen.net.reachable import reachable_addresses
from aspen.raft.cluster import Consensus
from aspen.raft.roster import NO_CLUSTER, Roster, encode_roster
from aspen.z32 import encode_key


class Discovery:
    """How this node finds others and is found."""

    def __init__(
        self,
        identity: Identity,
        cookies: Cookies,
        address_book: AddressBook,
        consensus: Consensus,
        own_address: Callable[[], Address],
        relay_url: str | None,
    ) -> None:
        self._identity = identity
        self._address_book = address_book
        self._consensus = consensus
        self._own_address = own_address
        self._relay_url = relay_url
        self._topics_of: tuple[Cookie, ...] = ()
        self._topics: tuple[bytes, ...] = ()
        self._roster: Roster | None = None
        self._topology: Topology
        self._cookies = cookies
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
        )

    def topics(self) -> tuple[bytes, ...]:
        """What tells this cluster's gossip from others', by the cookie in use and those accepted."""
        if self._topics_of is not self._cookies.all:
            self._topics_of = self._cookies.all
            self._topics = tuple(cookie.derive(TOPIC_CONTEXT) for cookie in self._topics_of)
        return self._topics

    def ticket(self) -> Ticket:
        """Where the cluster is: this node, and the members whose addresses are known.

        Raises `TicketError` on a node that belongs to no cluster.
        """
        roster = self._consensus.roster
        if not roster.members:
            raise TicketError("foreign", "this node belongs to no cluster yet")
        own_id = self._identity.endpoint_id
        nodes = [TicketNode(own_id, reachable_addresses(self._own_address()))]
        for member in roster.members:
            addresses = tuple(self._address_book.addresses(member.endpoint_id))
            if member.endpoint_id != own_id and addresses:
                nodes.append(TicketNode(member.endpoint_id, addresses))
        nodes = sorted(nodes[:TICKET_NODES], key=lambda node: node.endpoint_id)
        return Ticket(self.topics()[0], roster.cluster_id, tuple(nodes))

    def use_ticket(self, text_untrusted: str) -> None:
        """Look for the nodes that a ticket names. Raises `ConfigError` for one that is of no use here."""
        try:
            read = parse_ticket(text_untrusted)
            if isinstance(read, SignedTicket):
                read.check(verify, int(time.time()))
                read = read.ticket
        except TicketError as error:
            raise ConfigError(f"ticket: {error}") from None
        if read.topic not in self.topics():
            raise ConfigError("ticket: it is of a cluster with another cookie than this node's")
        own_cluster = self._consensus.roster.cluster_id
        if own_cluster not in (NO_CLUSTER, read.cluster_id):
            raise ConfigError("ticket: it is of another cluster than the one this node belongs to")
        for node in read.nodes:
            for address in node.addresses:
                self._address_book.add(node.endpoint_id, address, "ticket")

    def mdns(self, host: str) -> Mdns:
        """Discovery on the link, for a node bound to `host`."""
        own = self._identity.endpoint_id
        return Mdns(own, self.topics, self._address_book, lambda: self.describe().addresses, host)

    def service(self, hello: Callable[[], Hello]) -> Service:
        """For the endpoint."""
        return Service(
            alpn=ALPN_GOSSIP,
            hello=hello,
            admit=self._admit,
            on_frame=self.gossip.frame_received,
            on_unreachable=self.gossip.peer_unreachable,
        )

    def describe(self) -> SelfDescription:
        """What this node says of itself now."""
        roster = self._consensus.roster
        member = roster.by_endpoint(self._identity.endpoint_id)
        return SelfDescription(
            node_id=member.node_id if member is not None else 0,
            addresses=reachable_addresses(self._own_address()),
            relay_url=self._relay_url,
        )

    def topology(self) -> Topology:
        """The membership this node knows; worked out anew only when it has changed."""
        roster = self._consensus.roster
        if roster is not self._roster:
            self._roster = roster
            self._topology = Topology(roster.version, topology_hash(encode_roster(roster)))
        return self._topology

    def peers(self, connections: Sequence[ConnectionStatus]) -> PeersStatus:
        """Every node known here, for people."""
        roster, book, core = self._consensus.roster, self._address_book, self.gossip.core
        ids = dict.fromkeys(member.endpoint_id for member in roster.members)
        ids.update(dict.fromkeys((*book.peers(), *core.known, *(c.endpoint_id for c in connections))))
        ids.pop(self._identity.endpoint_id, None)
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
            path="direct" if connections else "none",
            addresses=tuple(
                PeerAddress(_text(known.address), known.source, int((now - known.seen_at) * 1000))
                for known in self._address_book.known(endpoint_id)
            ),
            connections=tuple(
                PeerConnection(c.alpn, c.dialled, _text(c.address), round(c.rtt_ms, 2), int(c.age_s * 1000))
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
        """Members, and everyone else whose address is known."""
        own_id = self._identity.endpoint_id
        known = dict.fromkeys(member.endpoint_id for member in self._consensus.roster.members)
        known.update(dict.fromkeys(self._address_book.peers()))
        return [
            GossipPeer(endpoint_id, tuple(self._address_book.addresses(endpoint_id)))
            for endpoint_id in known
            if endpoint_id != own_id
        ]


def _text(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
