"""How nodes that know nothing but the cookie found one cluster, and never two (core).

Every node says again and again that it is `Here`, to all it knows of. Who hears as many as are wanted, and
is the lowest of them by endpoint id, proposes a cluster of so many; each of the others promises itself to
that proposal, if it hears all of its members too; with the promises of all, the proposer decides and founds.
The others ask on and are told by whoever `Belongs` to the cluster, the proposer first.

A promise is to one proposal, is on disk before it is given, and only its proposer can release it: by
withdrawing what it has not decided and, by then, can't decide any more. So no node is in two clusters that
were decided, and of fewer than twice as many nodes as a cluster is to have, any two clusters would share
one. It is two-phase commit (Gray, "Notes on Data Base Operating Systems", 1978, §5.8.3.3) with its price: who
has promised itself waits for its proposer, and a proposer that is lost for good takes an operator to forget.

Time and contacts come from outside. `record` must be durable before what `drain` gives is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from aspen.decoding import UNDECODABLE
from aspen.discovery.messages import KEY_BYTES, Addresses, Key
from aspen.discovery.ticket import CLUSTER_ID_BYTES
from aspen.errors import InputError
from aspen.limits import (
    FOUNDING_ALIVE_MS,
    FOUNDING_BALLOT,
    FOUNDING_FRAME_BYTES,
    FOUNDING_PATIENCE_MS,
    FOUNDING_SEEN,
    FOUNDING_SETTLE_MS,
    RAFT_MEMBERS,
    RAFT_NODE_ID,
)

EndpointId = bytes
NodeId = Annotated[int, msgspec.Meta(ge=1, le=RAFT_NODE_ID)]
Ballot = Annotated[int, msgspec.Meta(ge=1, le=FOUNDING_BALLOT)]
ClusterId = Annotated[bytes, msgspec.Meta(min_length=CLUSTER_ID_BYTES, max_length=CLUSTER_ID_BYTES)]


class Contact(msgspec.Struct, frozen=True, array_like=True):
    """A node that may be there."""

    endpoint_id: Key
    addresses: Addresses


class Seat(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A member of a cluster, or one to be."""

    node_id: NodeId
    endpoint_id: Key


Seats = Annotated[tuple[Seat, ...], msgspec.Meta(max_length=RAFT_MEMBERS)]


class Here(msgspec.Struct, frozen=True, array_like=True, tag="here"):
    """I belong to no cluster."""

    size: Annotated[int, msgspec.Meta(ge=1, le=RAFT_MEMBERS)]
    """Of the cluster that the sender waits for."""
    node_id: Annotated[int, msgspec.Meta(ge=0, le=RAFT_NODE_ID)]
    """The one it is to have, or 0."""
    seen: Annotated[tuple[Contact, ...], msgspec.Meta(max_length=FOUNDING_SEEN)]
    """Others it knows of."""


class Propose(msgspec.Struct, frozen=True, array_like=True, tag="propose"):
    """Let these be a cluster."""

    ballot: Ballot
    seats: Seats


class Promise(msgspec.Struct, frozen=True, array_like=True, tag="promise"):
    """I am in no other proposal than your one of that ballot, until you release me."""

    ballot: Ballot


class Withdraw(msgspec.Struct, frozen=True, array_like=True, tag="withdraw"):
    """That ballot of mine is not decided and never will be."""

    ballot: Ballot


class Belongs(msgspec.Struct, frozen=True, array_like=True, tag="belongs"):
    """I belong to a cluster, and these are its members."""

    cluster_id: ClusterId
    seats: Seats


Message = Here | Propose | Promise | Withdraw | Belongs


class Record(msgspec.Struct, frozen=True):
    """What a node must not forget when it is restarted."""

    ballot: Annotated[int, msgspec.Meta(ge=0, le=FOUNDING_BALLOT)] = 0
    """The last one of its own."""
    promised_to: Annotated[EndpointId, msgspec.Meta(max_length=KEY_BYTES)] = b""
    promised_ballot: Annotated[int, msgspec.Meta(ge=0, le=FOUNDING_BALLOT)] = 0


@dataclass(frozen=True, slots=True)
class Decided:
    """This node is one of those who begin; the lowest of them founds."""

    seats: tuple[Seat, ...]
    founds: bool
    cluster_id: bytes = b""
    """Known to those who don't found."""


@dataclass(frozen=True, slots=True)
class TooLate:
    """A cluster is there, and this node is none of its members: it has to ask to be let in."""

    cluster_id: bytes
    members: tuple[EndpointId, ...]


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[Message]] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    return _ENCODER.encode(message)


def decode(frame_untrusted: bytes) -> Message:
    """Raises `InputError`."""
    if len(frame_untrusted) > FOUNDING_FRAME_BYTES:
        raise InputError(f"a message of {len(frame_untrusted)} bytes, over {FOUNDING_FRAME_BYTES}")
    try:
        return _DECODER.decode(frame_untrusted)
    except UNDECODABLE as error:
        raise InputError(f"not a message about founding: {error}") from None


@dataclass(slots=True)
class _Heard:
    """Another node that waits."""

    node_id: int
    at_ms: int


class Founding:
    """One node, until `outcome` is set."""

    def __init__(self, own_id: EndpointId, size: int, node_id: int = 0, record: Record | None = None) -> None:
        """`node_id` 0: any."""
        self.outcome: Decided | TooLate | None = None
        self.record = record or Record()
        self.told: dict[EndpointId, Contact] = {}
        """Contacts that others named; the owner takes them."""
        self.in_the_way = ""
        """Why there is no proposal although enough are here, for people."""
        self._own_id = own_id
        self._size = size
        self._node_id = node_id
        self._now_ms = 0
        self._turn = 0
        self._told_at: dict[EndpointId, int] = {}
        """The turn in which each contact was told last that this node is here."""
        self._heard: dict[EndpointId, _Heard] = {}
        self._settled_at_ms = 0
        self._proposal: Propose | None = None
        self._proposed_at_ms = 0
        self._promised: set[EndpointId] = set()
        self._unwilling: set[EndpointId] = set()
        """Who did not promise in time, last time."""
        self._outbox: list[tuple[EndpointId, Message]] = []

    @property
    def here(self) -> int:
        """Nodes that wait, this one included."""
        return 1 + len(self._alive())

    @property
    def waits_for(self) -> EndpointId | None:
        """The node whose word this one is bound to."""
        return self.record.promised_to or None

    def drain(self) -> list[tuple[EndpointId, Message]]:
        """What to send, once `record` is durable."""
        outbox, self._outbox = self._outbox, []
        return outbox

    # --- what happens -------------------------------------------------------------------------

    def tick(self, now_ms: int, contacts: Iterable[Contact]) -> None:
        """Call every `FOUNDING_TICK_MS`; `contacts` are all nodes that may be there."""
        self._now_ms = now_ms
        if self.outcome is not None:
            return
        now_told = self._now_told(contacts)
        here = Here(self._size, self._node_id, tuple(now_told))
        for contact in now_told:
            self._send(contact.endpoint_id, here)
        if self.record.promised_to:
            self._send(self.record.promised_to, Promise(self.record.promised_ballot))
        elif self._proposal is None:
            self._propose()
        elif self._is_hopeless():
            self._withdraw()
        else:
            self._ask(self._proposal)

    def _now_told(self, contacts: Iterable[Contact]) -> list[Contact]:
        """Whom to tell that this node is here, and of whom: a cluster's worth of those who answer, each time;
        all others in turn, for those who are needed may be the last of many who never will."""
        known = {contact.endpoint_id: contact for contact in contacts if contact.endpoint_id != self._own_id}
        told_at = {endpoint_id: self._told_at.get(endpoint_id, 0) for endpoint_id in known}
        always = sorted(self._alive().keys() & known.keys())[:RAFT_MEMBERS]
        others = sorted(
            known.keys() - set(always), key=lambda endpoint_id: (told_at[endpoint_id], endpoint_id)
        )
        now = [*always, *others[: FOUNDING_SEEN - len(always)]]
        self._turn += 1
        self._told_at = told_at | dict.fromkeys(now, self._turn)
        return [known[endpoint_id] for endpoint_id in now]

    def receive(self, sender: EndpointId, message: Message, now_ms: int) -> None:
        """A message from a node that has proven the cookie and its key."""
        self._now_ms = now_ms
        if self.outcome is not None or sender == self._own_id:
            return
        match message:
            case Here():
                self._hear(sender, message)
            case Propose():
                self._consider(sender, message)
            case Promise(ballot):
                self._count(sender, ballot)
            case Withdraw(ballot):
                if (sender, ballot) == (self.record.promised_to, self.record.promised_ballot):
                    self.record = msgspec.structs.replace(self.record, promised_to=b"", promised_ballot=0)
            case Belongs():
                self._learn(sender, message)

    def _hear(self, sender: EndpointId, message: Here) -> None:
        for contact in message.seen:
            if len(self.told) < FOUNDING_SEEN:
                self.told[contact.endpoint_id] = contact
        if message.size != self._size:
            self.in_the_way = f"a node here waits for a cluster of {message.size}, this one for {self._size}"
            return
        alive = self._alive()
        if sender not in alive:
            if len(alive) >= FOUNDING_SEEN:
                # More than a cluster can have. All keep the lowest, so they agree on who these are.
                highest = max(alive)
                if sender > highest:
                    return
                del alive[highest]
            self._settled_at_ms = self._now_ms + FOUNDING_SETTLE_MS
        self._heard = alive | {sender: _Heard(message.node_id, self._now_ms)}
        if self._proposal is not None and sender < self._own_id:
            self._withdraw()  # the lowest is to propose

    def _alive(self) -> dict[EndpointId, _Heard]:
        since_ms = self._now_ms - FOUNDING_ALIVE_MS
        return {endpoint_id: heard for endpoint_id, heard in self._heard.items() if heard.at_ms >= since_ms}

    # --- the one that proposes ----------------------------------------------------------------

    def _propose(self) -> None:
        alive = self._alive()
        if len(alive) + 1 < self._size or any(endpoint_id < self._own_id for endpoint_id in alive):
            return
        if self._now_ms < self._settled_at_ms:
            return  # others may be about to be heard, a lower one among them
        others = sorted(alive, key=lambda endpoint_id: (endpoint_id in self._unwilling, endpoint_id))
        seats = self._seats([self._own_id, *others[: self._size - 1]], alive)
        if seats is None:
            return
        self.record = msgspec.structs.replace(self.record, ballot=self.record.ballot + 1)
        self._proposal = Propose(self.record.ballot, seats)
        self._proposed_at_ms = self._now_ms
        self._promised = {self._own_id}
        self._ask(self._proposal)
        self._decide_if_all(self._proposal)

    def _seats(
        self, endpoint_ids: list[EndpointId], alive: dict[EndpointId, _Heard]
    ) -> tuple[Seat, ...] | None:
        """Node ids as given, the others by the order of endpoint ids."""
        given = {
            endpoint_id: self._node_id if endpoint_id == self._own_id else alive[endpoint_id].node_id
            for endpoint_id in endpoint_ids
        }
        taken = [node_id for node_id in given.values() if node_id]
        if len(set(taken)) != len(taken):
            self.in_the_way = "two of the nodes here are given the same node id"
            return None
        free = (node_id for node_id in range(1, 2 * len(given) + 1) if node_id not in taken)
        return tuple(sorted(Seat(given[key] or next(free), key) for key in sorted(given)))

    def _ask(self, proposal: Propose) -> None:
        for seat in proposal.seats:
            if seat.endpoint_id not in self._promised:
                self._send(seat.endpoint_id, proposal)

    def _is_hopeless(self) -> bool:
        return self._now_ms - self._proposed_at_ms > FOUNDING_PATIENCE_MS

    def _withdraw(self) -> None:
        proposal, self._proposal = self._proposal, None
        if proposal is None:
            return
        asked = {seat.endpoint_id for seat in proposal.seats}
        self._unwilling = asked - self._promised
        for endpoint_id in sorted(asked - {self._own_id}):
            self._send(endpoint_id, Withdraw(proposal.ballot))

    def _count(self, sender: EndpointId, ballot: int) -> None:
        """A promise; one to a ballot that is not this node's last is given back."""
        proposal = self._proposal
        if proposal is None or proposal.ballot != ballot:
            self._send(sender, Withdraw(ballot))
        elif any(seat.endpoint_id == sender for seat in proposal.seats):
            self._promised.add(sender)
            self._decide_if_all(proposal)

    def _decide_if_all(self, proposal: Propose) -> None:
        if len(self._promised) == len(proposal.seats):
            self.outcome = Decided(proposal.seats, founds=True)

    # --- the others ---------------------------------------------------------------------------

    def _consider(self, sender: EndpointId, proposal: Propose) -> None:
        record = self.record
        if record.promised_to not in (b"", sender) or self._proposal is not None:
            return  # it asks again
        if proposal.ballot <= record.promised_ballot or not self._is_acceptable(sender, proposal.seats):
            return
        self.record = msgspec.structs.replace(record, promised_to=sender, promised_ballot=proposal.ballot)
        self._send(sender, Promise(proposal.ballot))

    def _is_acceptable(self, sender: EndpointId, seats: tuple[Seat, ...]) -> bool:
        members = {seat.endpoint_id for seat in seats}
        own = [seat for seat in seats if seat.endpoint_id == self._own_id]
        return (
            len(own) == 1
            and own[0].node_id == (self._node_id or own[0].node_id)
            and len(members) == len(seats) == self._size
            and min(members) == sender
            and members - {self._own_id} <= self._alive().keys()
        )

    def _learn(self, sender: EndpointId, message: Belongs) -> None:
        if not message.seats:
            return
        members = {seat.endpoint_id for seat in message.seats}
        if self._own_id in members and self.record.promised_to in members:
            # What it promised itself to was decided. (A member without a promise, or with one to somebody
            # else, has lost its memory: as a voter it must not begin anew, and its proposer may yet found.)
            self.outcome = Decided(message.seats, founds=False, cluster_id=message.cluster_id)
            return
        self._withdraw()
        # Whom this node is bound to will decide nothing any more, if it belongs to a cluster without it.
        if self.record.promised_to in (b"", sender):
            self.outcome = TooLate(message.cluster_id, tuple(seat.endpoint_id for seat in message.seats))

    def _send(self, to: EndpointId, message: Message) -> None:
        self._outbox.append((to, message))
