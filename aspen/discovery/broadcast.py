"""Broadcast over the overlay (Plumtree, Leitão, Pereira and Rodrigues, SRDS 2007).

A message itself goes along the links of a tree (*eager*); over all other links goes only word of
which messages are to be had (*lazy*). The tree makes itself: the first copy of a message keeps
its link in the tree, a second one has its link pruned. A message that is heard of but doesn't
come is grafted from one who has it, which also mends the tree.

So each node gets about one copy of each message, however many neighbours it has, and loses none
as long as the overlay holds together. Sans-IO.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, Protocol

from aspen.discovery.messages import (
    MESSAGE_ID_BYTES,
    BroadcastMessage,
    Gossip,
    Graft,
    IHave,
    Message,
    Prune,
)
from aspen.limits import (
    GOSSIP_CACHED_MESSAGES,
    GOSSIP_GRAFT_AGAIN_MS,
    GOSSIP_GRAFT_MS,
    GOSSIP_IDS,
    GOSSIP_MISSING,
    GOSSIP_SEEN_MESSAGES,
)

EndpointId = bytes

_SOURCES: Final = 8
"""Neighbours remembered that have a message which is missing here."""


class BroadcastPorts(Protocol):
    """What the broadcast needs of who holds it."""

    def send(self, to: EndpointId, message: Message) -> None: ...

    def deliver(self, sender: EndpointId, payload: bytes) -> bool:
        """A message new to this node; whether it is worth passing on."""
        ...


def message_id(payload: bytes) -> bytes:
    return blake2b(payload, digest_size=MESSAGE_ID_BYTES).digest()


class _Missing:
    """A message heard of: who has it, and when to ask for it."""

    __slots__ = ("at_ms", "sources")

    def __init__(self, at_ms: int) -> None:
        self.at_ms = at_ms
        self.sources: deque[EndpointId] = deque(maxlen=_SOURCES)


class Broadcast:
    """One node's part in the trees."""

    def __init__(self, ports: BroadcastPorts) -> None:
        self._ports = ports
        self._eager: dict[EndpointId, None] = {}  # a set in the order of arrival
        self._lazy: dict[EndpointId, list[bytes]] = {}
        """Neighbours that are told which messages there are, and what they are still to be told."""
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._cached: OrderedDict[bytes, bytes] = OrderedDict()
        self._missing: OrderedDict[bytes, _Missing] = OrderedDict()

    @property
    def eager(self) -> frozenset[EndpointId]:
        return frozenset(self._eager)

    def neighbour_up(self, endpoint_id: EndpointId) -> None:
        self._lazy.pop(endpoint_id, None)
        self._eager[endpoint_id] = None

    def neighbour_down(self, endpoint_id: EndpointId) -> None:
        self._eager.pop(endpoint_id, None)
        self._lazy.pop(endpoint_id, None)

    def broadcast(self, payload: bytes) -> None:
        """Send a message of this node's own to everyone."""
        identifier = message_id(payload)
        if identifier not in self._seen:
            self._keep(identifier, payload)
            self._push(identifier, payload, None)

    # --- messages -----------------------------------------------------------------------------

    def receive(self, sender: EndpointId, message: BroadcastMessage, now_ms: int) -> None:
        """From a neighbour."""
        match message:
            case Gossip(identifier, payload):
                self._gossip(sender, identifier, payload)
            case IHave(identifiers):
                self._offered(sender, identifiers, now_ms)
            case Graft(identifiers):
                self.neighbour_up(sender)
                for identifier in identifiers:
                    payload = self._cached.get(identifier, b"")
                    if payload:
                        self._ports.send(sender, Gossip(identifier, payload))
            case Prune():
                self._prune(sender)

    def _gossip(self, sender: EndpointId, identifier: bytes, payload: bytes) -> None:
        if identifier in self._seen:
            self._prune(sender)
            self._ports.send(sender, Prune())
            return
        if identifier != message_id(payload):
            return
        self._missing.pop(identifier, None)
        worth_it = self._ports.deliver(sender, payload)
        self._keep(identifier, payload if worth_it else b"")
        self.neighbour_up(sender)
        if worth_it:
            self._push(identifier, payload, sender)

    def _offered(self, sender: EndpointId, identifiers: Iterable[bytes], now_ms: int) -> None:
        for identifier in identifiers:
            if identifier in self._seen:
                continue
            missing = self._missing.get(identifier)
            if missing is None:
                if len(self._missing) >= GOSSIP_MISSING:
                    self._missing.popitem(last=False)
                missing = self._missing[identifier] = _Missing(now_ms + GOSSIP_GRAFT_MS)
            missing.sources.append(sender)

    def _prune(self, endpoint_id: EndpointId) -> None:
        if endpoint_id in self._eager:
            del self._eager[endpoint_id]
            self._lazy[endpoint_id] = []

    def _push(self, identifier: bytes, payload: bytes, sender: EndpointId | None) -> None:
        message = Gossip(identifier, payload)
        for endpoint_id in self._eager:
            if endpoint_id != sender:
                self._ports.send(endpoint_id, message)
        for endpoint_id, waiting in self._lazy.items():
            if endpoint_id != sender:
                waiting.append(identifier)

    def _keep(self, identifier: bytes, payload: bytes) -> None:
        self._seen[identifier] = None
        if len(self._seen) > GOSSIP_SEEN_MESSAGES:
            self._seen.popitem(last=False)
        if payload:
            self._cached[identifier] = payload
            if len(self._cached) > GOSSIP_CACHED_MESSAGES:
                self._cached.popitem(last=False)

    # --- time ---------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Tell lazy neighbours what there is, and ask for what hasn't come."""
        for endpoint_id, waiting in self._lazy.items():
            for start in range(0, len(waiting), GOSSIP_IDS):
                self._ports.send(endpoint_id, IHave(tuple(waiting[start : start + GOSSIP_IDS])))
            waiting.clear()
        wanted: dict[EndpointId, list[bytes]] = {}
        for identifier, missing in list(self._missing.items()):
            if missing.at_ms > now_ms:
                continue
            source = self._next_source(missing)
            if source is None:
                del self._missing[identifier]
                continue
            missing.at_ms = now_ms + GOSSIP_GRAFT_AGAIN_MS
            wanted.setdefault(source, []).append(identifier)
        for source, identifiers in wanted.items():
            self.neighbour_up(source)
            for start in range(0, len(identifiers), GOSSIP_IDS):
                self._ports.send(source, Graft(tuple(identifiers[start : start + GOSSIP_IDS])))

    def _next_source(self, missing: _Missing) -> EndpointId | None:
        while missing.sources:
            source = missing.sources.popleft()
            if source in self._eager or source in self._lazy:
                return source
        return None
