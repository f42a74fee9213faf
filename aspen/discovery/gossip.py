"""Gossip: who is there, and where, told by everyone to everyone (core).

Each node announces itself every `GOSSIP_ANNOUNCE_MS`, signed, over the broadcast trees. What others
announce is believed if it is of this cluster, fresh, newer than what the node said before, signed,
and of a node id that isn't another key's. So a replayed announcement changes nothing, and whoever
has the cookie can speak for itself only.

A flood is stopped where it starts: an author has a budget of announcements, charged before the
budget of all together, so that it drains its own first; a neighbour that passes on what can't be
believed is cut off. What isn't believed isn't passed on.

Time, randomness, signatures and the membership come from outside; messages and events leave by
`drain` and `events`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from aspen.discovery.announcement import Announcement, Sealed, Sign, Verify, seal
from aspen.discovery.broadcast import Broadcast
from aspen.discovery.messages import (
    BroadcastMessage,
    Disconnect,
    IHave,
    Message,
    Peer,
)
from aspen.discovery.overlay import Overlay, RandomSource
from aspen.errors import GossipError
from aspen.limits import (
    GOSSIP_ALL_A_MINUTE,
    GOSSIP_ANNOUNCE_MAX_MS,
    GOSSIP_ANNOUNCE_MS,
    GOSSIP_ASK_MS,
    GOSSIP_FAILURES,
    GOSSIP_INVALID_A_MINUTE,
    GOSSIP_KNOWN_MS,
    GOSSIP_KNOWN_PEERS,
    GOSSIP_OUTBOX,
    GOSSIP_PEER_A_MINUTE,
    GOSSIP_SEEK_MS,
)
from aspen.ratelimit import Rate, RateLimiter

EndpointId = bytes
_BROADCAST: Final = BroadcastMessage
_MINUTE_MS: Final = 60_000
_SOON_MS: Final = 500
_PACE_MS: Final = 2 * _MINUTE_MS // GOSSIP_PEER_A_MINUTE
"""Between two announcements at least; half the budget stays for those that come late."""


@dataclass(frozen=True, slots=True)
class Topology:
    """The membership a node knows: a version that grows with each change, and its hash (32 bytes)."""

    version: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class SelfDescription:
    """What a node says of itself, read anew for every announcement of its own."""

    node_id: int
    addresses: tuple[tuple[str, int], ...]
    relay_url: str | None


@dataclass(frozen=True, slots=True)
class GossipPorts:
    """What gossip is given."""

    own_id: EndpointId
    topics: Callable[[], Sequence[bytes]]
    """Of this cluster's announcements; the first is that of this node's own, and while the cookie is being
    changed there are others. Asked with every announcement that comes."""
    describe: Callable[[], SelfDescription]
    topology: Callable[[], Topology]
    """Asked with every announcement that comes: it must cost little."""
    sign: Sign
    verify: Verify
    bound_to: Callable[[int], EndpointId | None]
    """The key that a node id belongs to in the membership, if it is known."""
    contacts: Callable[[], Sequence[Peer]]
    """Nodes that might be there: members, and whoever a ticket or an operator named."""


@dataclass(frozen=True, slots=True)
class Heard:
    """An announcement was believed."""

    announcement: Announcement


@dataclass(frozen=True, slots=True)
class Told:
    """A node told where another one may be reached: hearsay."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Behind:
    """Another node knows a newer membership, or another one of the same version."""

    endpoint_id: EndpointId
    version: int


Event = Heard | Told | Behind


class _Budget:
    """A token bucket whose rate changes from one use to the next (`RateLimiter` has one for good)."""

    __slots__ = ("_at_ms", "_left")

    def __init__(self, left: float) -> None:
        self._left = left
        self._at_ms = 0

    def take(self, a_minute: int, now_ms: int) -> bool:
        self._left = min(a_minute, self._left + (now_ms - self._at_ms) * a_minute / _MINUTE_MS)
        self._at_ms = now_ms
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _a_minute(count: int) -> Rate:
    return Rate(count / 60, count)


class GossipCore:
    """One node's gossip."""

    def __init__(self, ports: GossipPorts, rng: RandomSource) -> None:
        self._ports = ports
        self._rng = rng
        self._now_ms = 0
        self.overlay = Overlay(ports.own_id, rng, self)
        self.broadcast = Broadcast(self)
        self.known: OrderedDict[EndpointId, tuple[Announcement, int]] = OrderedDict()
        """Of each node heard in the last while: its newest announcement, and when it came."""
        self.refused: Counter[str] = Counter()
        """Announcements not believed, by reason."""
        self.sent: Counter[type[Message]] = Counter()
        self.received: Counter[type[Message]] = Counter()
        self._latest_us: OrderedDict[EndpointId, int] = OrderedDict()
        """Timestamps outlive what is known, so that what was heard once isn't heard again."""
        self._outbox: deque[tuple[EndpointId, Message]] = deque(maxlen=GOSSIP_OUTBOX)
        self._events: list[Event] = []
        self._authors = RateLimiter(_a_minute(GOSSIP_PEER_A_MINUTE), GOSSIP_KNOWN_PEERS)
        self._all = _Budget(GOSSIP_ALL_A_MINUTE)
        self._invalid = RateLimiter(_a_minute(GOSSIP_INVALID_A_MINUTE))
        self._next_seek_ms = 0
        self._next_announcement_ms = 0
        self._announced_at_ms = -_PACE_MS
        self._failures = 0
        self._last_us = 0

    # --- from outside -------------------------------------------------------------------------

    def join(self, contact: Peer) -> None:
        """Enter the overlay by way of a node that may be there."""
        self.overlay.join(contact)

    def receive(self, sender: EndpointId, message: Message, now_ms: int) -> None:
        """A message from an authenticated peer."""
        self._now_ms = now_ms
        self.received[type(message)] += 1
        known = self.overlay.heard(sender, now_ms)
        if not isinstance(message, _BROADCAST):
            self.overlay.receive(sender, message, now_ms)
        elif known:
            self.broadcast.receive(sender, message, now_ms)
        else:
            self.send(sender, Disconnect())  # it takes us for a neighbour

    def unreachable(self, endpoint_id: EndpointId) -> None:
        self.overlay.failed(endpoint_id)

    def tick(self, now_ms: int) -> None:
        """Call every few hundred milliseconds."""
        self._now_ms = now_ms
        self.overlay.tick(now_ms)
        if now_ms >= self._next_seek_ms:
            self._seek()
        if now_ms >= self._next_announcement_ms:
            self._announce()
        self.broadcast.tick(now_ms)
        for endpoint_id in self.overlay.silent(now_ms):
            self.send(endpoint_id, IHave())
        while self.known:
            endpoint_id, (_, at_ms) = next(iter(self.known.items()))
            if now_ms - at_ms <= GOSSIP_KNOWN_MS and len(self.known) <= GOSSIP_KNOWN_PEERS:
                break
            del self.known[endpoint_id]

    def announce_soon(self) -> None:
        """Something about this node has changed."""
        self._next_announcement_ms = min(self._next_announcement_ms, self._announced_at_ms + _PACE_MS)

    def drain(self) -> list[tuple[EndpointId, Message]]:
        """The messages to send, in order."""
        messages = list(self._outbox)
        self._outbox.clear()
        return messages

    def events(self) -> list[Event]:
        """What has happened since the last call."""
        events, self._events = self._events, []
        return events

    def _seek(self) -> None:
        """Knock at a node that should be there and isn't heard: so those who were parted meet again."""
        wait_ms = GOSSIP_SEEK_MS if self.overlay.neighbours else GOSSIP_ASK_MS
        self._next_seek_ms = self._now_ms + int(wait_ms * (0.5 + self._rng.random()))
        own_id = self._ports.own_id
        missing = [
            peer
            for peer in self._ports.contacts()
            if peer.endpoint_id not in self.known and peer.endpoint_id != own_id
        ]
        if missing:
            self.overlay.join(self._rng.choice(missing))

    # --- announcing ---------------------------------------------------------------------------

    def _announce(self) -> None:
        if self.overlay.neighbours:
            self._failures = 0
        else:
            self._failures += 1
        self._announced_at_ms = self._now_ms
        doublings = max(0, self._failures - GOSSIP_FAILURES)
        interval_ms = min(GOSSIP_ANNOUNCE_MS << min(doublings, 8), GOSSIP_ANNOUNCE_MAX_MS)
        # A tenth sooner or later, so that nodes started together don't speak together for ever.
        self._next_announcement_ms = self._now_ms + int(interval_ms * (0.9 + 0.2 * self._rng.random()))
        described, topology = self._ports.describe(), self._ports.topology()
        self.overlay.set_own_addresses(described.addresses)
        self._last_us = max(self._now_ms * 1_000, self._last_us + 1)
        announcement = Announcement(
            topic=self._ports.topics()[0],
            endpoint_id=self._ports.own_id,
            node_id=described.node_id,
            addresses=described.addresses,
            relay_url=described.relay_url,
            timestamp_us=self._last_us,
            topology_version=topology.version,
            topology_hash=topology.digest,
        )
        self.broadcast.broadcast(seal(announcement, self._ports.sign))

    # --- what the overlay and the broadcast ask for -------------------------------------------

    def send(self, to: EndpointId, message: Message) -> None:
        self.overlay.spoke(to, self._now_ms)
        self.sent[type(message)] += 1
        self._outbox.append((to, message))

    def neighbour_up(self, endpoint_id: EndpointId) -> None:
        self.broadcast.neighbour_up(endpoint_id)
        # It may not have heard of this node: have it hear soon, within the budget that others grant.
        soon_ms = max(self._now_ms + _SOON_MS, self._announced_at_ms + _PACE_MS)
        self._next_announcement_ms = min(self._next_announcement_ms, soon_ms)

    def neighbour_down(self, endpoint_id: EndpointId) -> None:
        self.broadcast.neighbour_down(endpoint_id)

    def heard_of(self, peer: Peer) -> None:
        if peer.addresses:
            self._events.append(Told(peer))

    def deliver(self, sender: EndpointId, payload: bytes) -> bool:
        """Whether an announcement is to be believed, and so passed on."""
        try:
            announcement = self._believe(payload)
        except GossipError as error:
            self.refused[error.code] += 1
            if error.code in ("malformed", "signature", "topic"):
                self._blame(sender)
            return False
        endpoint_id = announcement.endpoint_id
        self.known[endpoint_id] = (announcement, self._now_ms)
        self.known.move_to_end(endpoint_id)
        self.overlay.learn(Peer(endpoint_id, announcement.addresses))
        self._events.append(Heard(announcement))
        self._compare(announcement)
        return True

    def _believe(self, payload: bytes) -> Announcement:
        """The cheap questions first: a signature costs most to check. Raises `GossipError`."""
        sealed = Sealed(payload)
        claim = sealed.claim
        endpoint_id = claim.endpoint_id
        if claim.topic not in self._ports.topics():
            raise GossipError("topic", "an announcement of another cluster")
        if endpoint_id == self._ports.own_id:
            raise GossipError("own", "an announcement of this node's own")
        sealed.check_time(self._now_ms * 1_000)
        if claim.timestamp_us <= self._latest_us.get(endpoint_id, -1):
            raise GossipError("replayed", "an announcement no newer than the last")
        if claim.node_id:
            bound = self._ports.bound_to(claim.node_id)
            if bound is not None and bound != endpoint_id:
                raise GossipError("node_id", f"node id {claim.node_id} is another key's")
        announcement = sealed.open(self._ports.verify)
        self._charge(endpoint_id)
        self._latest_us[endpoint_id] = claim.timestamp_us
        self._latest_us.move_to_end(endpoint_id)
        if len(self._latest_us) > GOSSIP_KNOWN_PEERS:
            self._latest_us.popitem(last=False)
        return announcement

    def _charge(self, author: EndpointId) -> None:
        """The author's budget, then that of all. Raises `GossipError` (`peer_rate` or `rate`)."""
        if self._authors.take(author, self._now_ms / 1_000):
            raise GossipError("peer_rate", "a node announces itself too often")
        # All nodes known may use their budgets up: a large cluster isn't starved.
        a_minute = max(GOSSIP_ALL_A_MINUTE, GOSSIP_PEER_A_MINUTE * len(self.known))
        if not self._all.take(a_minute, self._now_ms):
            raise GossipError("rate", "too many announcements in all")

    def _blame(self, sender: EndpointId) -> None:
        if self._invalid.take(sender, self._now_ms / 1_000):
            self.send(sender, Disconnect())
            self.overlay.failed(sender)

    def _compare(self, announcement: Announcement) -> None:
        ours = self._ports.topology()
        theirs = announcement.topology_version
        if theirs > ours.version or (theirs == ours.version and announcement.topology_hash != ours.digest):
            self._events.append(Behind(announcement.endpoint_id, theirs))
