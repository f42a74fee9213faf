"""Finding the nodes closest to a target (Kademlia, Maymounkov and Mazières 2002, §2.3; BEP 5).

Ask the closest nodes known for nodes closer still, a few at a time, until the `DHT_CLOSEST` closest that
are alive have all answered. Whoever answers a `get` also says whether it has the item, so looking up and
finding the place to store are the same walk.

The walk is not steered by strangers further than it must: what a node names is bounded, and a node at a
public address can't send us to a private one.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from ipaddress import IPv4Address

from aspen.limits import DHT_CLOSEST, DHT_CONTACTS_PER_ANSWER, DHT_LOOKUP_CANDIDATES, DHT_LOOKUP_QUERIES
from aspen.pkarr.krpc import Address, Contact


class _State(Enum):
    NEW = 1
    ASKED = 2
    ANSWERED = 3
    FAILED = 4


class Candidate:
    """A node that may be asked, or was."""

    __slots__ = ("address", "distance", "node_id", "state", "token")

    def __init__(self, address: Address, node_id: bytes | None, distance: int) -> None:
        self.address = address
        self.node_id = node_id
        """None: the node is known by its address alone."""
        self.distance = distance
        self.state = _State.NEW
        self.token: bytes | None = None


class Lookup:
    """One walk towards a target. Ask whom `next_to_ask` names, tell what came of it, until `done`."""

    def __init__(self, target: bytes, seeds: Iterable[Contact], bootstrap: Iterable[Address]) -> None:
        """`bootstrap`: addresses of nodes whose ids aren't known; they are asked first."""
        self._target = int.from_bytes(target, "big")
        self._candidates: dict[Address, Candidate] = {}
        self._in_flight = 0
        self.asked = 0
        self.answers = 0
        for contact in seeds:
            self._add(contact)
        for address in bootstrap:
            # Nearer than all: they lead to the others, and are judged by their id once they answer.
            self._candidates.setdefault(address, Candidate(address, None, -1))

    def next_to_ask(self, at_once: int) -> list[Address]:
        """Nodes to ask now, so that at most `at_once` are being asked; they count as asked."""
        if self.asked >= DHT_LOOKUP_QUERIES:
            return []
        chosen = [each for each in self._closest_alive() if each.state is _State.NEW]
        chosen = chosen[: max(0, min(at_once - self._in_flight, DHT_LOOKUP_QUERIES - self.asked))]
        for candidate in chosen:
            candidate.state = _State.ASKED
        self._in_flight += len(chosen)
        self.asked += len(chosen)
        return [candidate.address for candidate in chosen]

    def answered(
        self, address: Address, node_id: bytes, contacts: Iterable[Contact], token: bytes | None
    ) -> None:
        """A node that was asked has answered."""
        candidate = self._settle(address, _State.ANSWERED)
        if candidate is None:
            return
        self.answers += 1
        if candidate.node_id is not None and candidate.node_id != node_id:
            candidate.state = _State.FAILED  # it is not who it was said to be, whatever it says
            return
        candidate.node_id, candidate.distance = node_id, self._distance(node_id)
        candidate.token = token
        for contact in list(contacts)[:DHT_CONTACTS_PER_ANSWER]:
            if _may_lead_to(address, contact.address):
                self._add(contact)

    def failed(self, address: Address) -> None:
        """A node that was asked has not answered in time, or with an error."""
        self._settle(address, _State.FAILED)

    @property
    def done(self) -> bool:
        """Whether asking on would bring nobody closer."""
        deciding = {each.state for each in self._closest_alive()}
        if _State.ASKED in deciding:
            return False
        return _State.NEW not in deciding or self.asked >= DHT_LOOKUP_QUERIES

    @property
    def closest(self) -> list[Candidate]:
        """The closest nodes that answered, closest first."""
        answered = (each for each in self._candidates.values() if each.state is _State.ANSWERED)
        return sorted(answered, key=lambda each: each.distance)[:DHT_CLOSEST]

    def _closest_alive(self) -> list[Candidate]:
        """Those that decide: the closest that haven't failed, and whoever is known by address alone."""
        alive = [each for each in self._candidates.values() if each.state is not _State.FAILED]
        alive.sort(key=lambda each: each.distance)
        unnamed = sum(each.node_id is None for each in alive)
        return alive[: DHT_CLOSEST + unnamed]

    def _settle(self, address: Address, state: _State) -> Candidate | None:
        candidate = self._candidates.get(address)
        if candidate is None or candidate.state is not _State.ASKED:
            return None
        candidate.state = state
        self._in_flight -= 1
        return candidate

    def _add(self, contact: Contact) -> None:
        if contact.address in self._candidates:
            return
        distance = self._distance(contact.node_id)
        if len(self._candidates) >= DHT_LOOKUP_CANDIDATES:
            # Make room by the farthest that nobody has asked yet, if this one is closer.
            idle = [each for each in self._candidates.values() if each.state is _State.NEW]
            farthest = max(idle, key=lambda each: each.distance, default=None)
            if farthest is None or farthest.distance <= distance:
                return
            del self._candidates[farthest.address]
        self._candidates[contact.address] = Candidate(contact.address, contact.node_id, distance)

    def _distance(self, node_id: bytes) -> int:
        return int.from_bytes(node_id, "big") ^ self._target


def _may_lead_to(teller: Address, named: Address) -> bool:
    """Whether a node may send us to an address: into private networks only from within."""
    there = IPv4Address(named[0])
    if there.is_multicast or there.is_reserved or there.is_unspecified:
        return False
    return there.is_global or not IPv4Address(teller[0]).is_global
