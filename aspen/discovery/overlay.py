"""The overlay: which nodes a node talks to (HyParView, Leitão, Pereira and Rodrigues, DSN 2007).

Each node keeps a small *active view* of neighbours, symmetric: both know it. Messages go to
neighbours only, so their number doesn't grow with the cluster. A larger *passive view* of nodes
that could be neighbours is kept fresh by shuffling parts of it with others; when a neighbour
fails, one of these takes its place. Random walks spread those who join, so views are random
samples of the cluster and the overlay stays in one piece while most of its nodes fail.

Beyond the paper: a node with room in its active view goes on asking, so a cluster that fits into
the view becomes a full mesh by itself; and messages may be lost, so neighbours that fall silent
are given up, and whoever hears from a neighbour it doesn't have says so.

Sans-IO: time comes in, messages and changes of neighbours go out by calls to `OverlayPorts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol, TypeVar

from aspen.discovery.messages import (
    Disconnect,
    ForwardJoin,
    Join,
    Message,
    Neighbour,
    NeighbourReply,
    OverlayMessage,
    Peer,
    Shuffle,
    ShuffleReply,
)
from aspen.limits import (
    GOSSIP_ACTIVE_PEERS,
    GOSSIP_ASK_MS,
    GOSSIP_JOIN_HOPS,
    GOSSIP_KEEPALIVE_MS,
    GOSSIP_PASSIVE_HOPS,
    GOSSIP_PASSIVE_PEERS,
    GOSSIP_SHUFFLE_HOPS,
    GOSSIP_SHUFFLE_MS,
    GOSSIP_SHUFFLE_PEERS,
    GOSSIP_SILENT_MS,
)

EndpointId = bytes

_ACTIVE_SHARE: Final = 3
"""Neighbours in a shuffle; the rest of it are passive."""


_T = TypeVar("_T")


class RandomSource(Protocol):
    """A seeded generator, as `random.Random` is one."""

    def random(self) -> float: ...

    def choice(self, seq: Sequence[_T], /) -> _T: ...

    def sample(self, population: Sequence[_T], k: int) -> list[_T]: ...


class OverlayPorts(Protocol):
    """What the overlay needs of who holds it."""

    def send(self, to: EndpointId, message: Message) -> None: ...

    def neighbour_up(self, endpoint_id: EndpointId) -> None: ...

    def neighbour_down(self, endpoint_id: EndpointId) -> None: ...

    def heard_of(self, peer: Peer) -> None:
        """A node, and where others say it can be reached."""
        ...


class _Link:
    """What is known of a neighbour."""

    __slots__ = ("heard_at_ms", "peer", "spoke_at_ms")

    def __init__(self, peer: Peer, now_ms: int) -> None:
        self.peer = peer
        self.heard_at_ms = now_ms
        self.spoke_at_ms = now_ms


class Overlay:
    """One node's views."""

    def __init__(self, own_id: EndpointId, rng: RandomSource, ports: OverlayPorts) -> None:
        self._own_id = own_id
        self._own = Peer(own_id)
        self._rng = rng
        self._ports = ports
        self._active: dict[EndpointId, _Link] = {}
        self._passive: dict[EndpointId, Peer] = {}
        self._asked: dict[EndpointId, int] = {}
        """Nodes asked to be neighbours → when."""
        self._next_ask_ms = 0
        self._next_shuffle_ms = 0

    # --- what others may look at --------------------------------------------------------------

    @property
    def neighbours(self) -> list[EndpointId]:
        return list(self._active)

    @property
    def passive(self) -> list[Peer]:
        return list(self._passive.values())

    # --- from outside -------------------------------------------------------------------------

    def set_own_addresses(self, addresses: Iterable[tuple[str, int]]) -> None:
        self._own = Peer(self._own_id, tuple(addresses))

    def join(self, contact: Peer) -> None:
        """Enter the overlay by way of `contact`."""
        if contact.endpoint_id != self._own_id and contact.endpoint_id not in self._active:
            self._remember(contact)
            self._ports.send(contact.endpoint_id, Join(self._own))

    def learn(self, peer: Peer) -> None:
        """A node that could be a neighbour."""
        if peer.endpoint_id not in self._active:
            self._remember(peer)

    def spoke(self, to: EndpointId, now_ms: int) -> None:
        """Something was sent to a node."""
        link = self._active.get(to)
        if link is not None:
            link.spoke_at_ms = now_ms

    def heard(self, sender: EndpointId, now_ms: int) -> bool:
        """Something came from a node; whether it is a neighbour."""
        link = self._active.get(sender)
        if link is None:
            return False
        link.heard_at_ms = now_ms
        return True

    def failed(self, endpoint_id: EndpointId) -> None:
        """A node can't be reached."""
        self._passive.pop(endpoint_id, None)
        self._asked.pop(endpoint_id, None)
        if self._active.pop(endpoint_id, None) is not None:
            self._ports.neighbour_down(endpoint_id)
            self._next_ask_ms = 0

    def silent(self, now_ms: int) -> list[EndpointId]:
        """Neighbours that haven't been spoken to for so long that they might give us up."""
        return [i for i, link in self._active.items() if now_ms - link.spoke_at_ms >= GOSSIP_KEEPALIVE_MS]

    # --- time ---------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        for endpoint_id, link in list(self._active.items()):
            if now_ms - link.heard_at_ms > GOSSIP_SILENT_MS:
                self.failed(endpoint_id)
        for endpoint_id, asked_at_ms in list(self._asked.items()):
            if now_ms - asked_at_ms > 2 * GOSSIP_ASK_MS:
                self.failed(endpoint_id)
        if now_ms >= self._next_ask_ms:
            self._next_ask_ms = now_ms + GOSSIP_ASK_MS
            self._ask(now_ms)
        if now_ms >= self._next_shuffle_ms:
            # Not all nodes at once, were they started together.
            self._next_shuffle_ms = now_ms + int(GOSSIP_SHUFFLE_MS * (0.5 + self._rng.random()))
            self._shuffle()

    def _ask(self, now_ms: int) -> None:
        """Ask a passive node to be a neighbour, if there is room for one."""
        if len(self._active) + len(self._asked) >= GOSSIP_ACTIVE_PEERS:
            return
        candidates = [i for i in self._passive if i not in self._asked]
        if candidates:
            endpoint_id = self._rng.choice(candidates)
            self._asked[endpoint_id] = now_ms
            self._ports.send(endpoint_id, Neighbour(self._own, urgent=not self._active))

    def _shuffle(self) -> None:
        if not self._active:
            return
        peers = self._sample([link.peer for link in self._active.values()], _ACTIVE_SHARE)
        peers += self._sample(list(self._passive.values()), GOSSIP_SHUFFLE_PEERS - _ACTIVE_SHARE)
        to = self._rng.choice(list(self._active))
        self._ports.send(to, Shuffle(self._own, GOSSIP_SHUFFLE_HOPS, tuple(peers)))

    # --- messages -----------------------------------------------------------------------------

    def receive(self, sender: EndpointId, message: OverlayMessage, now_ms: int) -> None:
        match message:
            case Join(peer):
                self._joined(sender, peer, now_ms)
            case ForwardJoin(peer, hops_left):
                self._walk_join(sender, peer, hops_left, now_ms)
            case Neighbour(peer, urgent):
                if peer.endpoint_id == sender:
                    self._be_asked(peer, urgent, now_ms)
            case NeighbourReply(accepted):
                self._be_answered(sender, accepted, now_ms)
            case Disconnect():
                self._leave(sender)
            case Shuffle(origin, hops_left, peers):
                self._walk_shuffle(sender, origin, hops_left, peers)
            case ShuffleReply(peers):
                self._learn_all(peers)

    def _joined(self, sender: EndpointId, peer: Peer, now_ms: int) -> None:
        if peer.endpoint_id != sender:
            return
        self._add(peer, now_ms)
        self._ports.send(sender, NeighbourReply(True))
        for endpoint_id in self._active:
            if endpoint_id != sender:
                self._ports.send(endpoint_id, ForwardJoin(peer, GOSSIP_JOIN_HOPS))

    def _walk_join(self, sender: EndpointId, peer: Peer, hops_left: int, now_ms: int) -> None:
        if peer.endpoint_id == self._own_id:
            return
        onward = [i for i in self._active if i not in (sender, peer.endpoint_id)]
        if (hops_left == 0 or not onward) and peer.endpoint_id not in self._active:
            self._remember(peer)
            self._asked[peer.endpoint_id] = now_ms
            self._ports.send(peer.endpoint_id, Neighbour(self._own, urgent=True))
            return
        if hops_left == GOSSIP_PASSIVE_HOPS:
            self.learn(peer)
        if hops_left and onward:
            self._ports.send(
                self._rng.choice(onward), ForwardJoin(peer, min(hops_left, GOSSIP_JOIN_HOPS) - 1)
            )

    def _be_asked(self, peer: Peer, urgent: bool, now_ms: int) -> None:
        accepted = urgent or peer.endpoint_id in self._active or len(self._active) < GOSSIP_ACTIVE_PEERS
        if accepted:
            self._add(peer, now_ms)
        else:
            self.learn(peer)
        self._ports.send(peer.endpoint_id, NeighbourReply(accepted))

    def _be_answered(self, sender: EndpointId, accepted: bool, now_ms: int) -> None:
        self._asked.pop(sender, None)
        if sender in self._active:
            return
        if accepted:
            self._add(self._passive.get(sender, Peer(sender)), now_ms)
        elif not self._active:
            self._next_ask_ms = 0

    def _leave(self, sender: EndpointId) -> None:
        link = self._active.pop(sender, None)
        if link is not None:
            self._remember(link.peer)
            self._ports.neighbour_down(sender)

    def _walk_shuffle(
        self, sender: EndpointId, origin: Peer, hops_left: int, peers: tuple[Peer, ...]
    ) -> None:
        onward = [i for i in self._active if i not in (sender, origin.endpoint_id)]
        if hops_left and onward:
            hops_left = min(hops_left, GOSSIP_SHUFFLE_HOPS) - 1
            self._ports.send(self._rng.choice(onward), Shuffle(origin, hops_left, peers))
            return
        if origin.endpoint_id != self._own_id:
            sample = self._sample(list(self._passive.values()), len(peers))
            self._ports.send(origin.endpoint_id, ShuffleReply(tuple(sample)))
            self._learn_all((origin, *peers))

    # --- the views ----------------------------------------------------------------------------

    def _add(self, peer: Peer, now_ms: int) -> None:
        """Make a node a neighbour, at the cost of another one if need be."""
        endpoint_id = peer.endpoint_id
        self._passive.pop(endpoint_id, None)
        self._asked.pop(endpoint_id, None)
        if endpoint_id in self._active or endpoint_id == self._own_id:
            return
        self._ports.heard_of(peer)
        if len(self._active) >= GOSSIP_ACTIVE_PEERS:
            dropped = self._rng.choice(list(self._active))
            self._ports.send(dropped, Disconnect())
            self._leave(dropped)
        self._active[endpoint_id] = _Link(peer, now_ms)
        self._ports.neighbour_up(endpoint_id)

    def _remember(self, peer: Peer) -> None:
        endpoint_id = peer.endpoint_id
        if endpoint_id == self._own_id:
            return
        known = self._passive.pop(endpoint_id, None)
        if known is not None and not peer.addresses:
            peer = known
        if len(self._passive) >= GOSSIP_PASSIVE_PEERS:
            del self._passive[self._rng.choice(list(self._passive))]
        self._passive[endpoint_id] = peer
        self._ports.heard_of(peer)

    def _learn_all(self, peers: Iterable[Peer]) -> None:
        for peer in peers:
            self.learn(peer)

    def _sample(self, peers: list[Peer], count: int) -> list[Peer]:
        return self._rng.sample(peers, min(count, len(peers)))
