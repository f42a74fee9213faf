"""How a new node asks a member to let it in, and what that member makes of it (core).

The newcomer opens a stream on a connection that has proven its identity key, and the member's. It sends
one `JoinRequest` and gets one answer, `Admitted` or `Declined`. What entitles it is one of two:

- it has proven the cluster's cookie in the handshake (`ALPN_JOIN`), or
- it has not (`ALPN_TICKET`) and shows a signed ticket: issued by one whom the cluster has for a member,
  for this cluster, and not expired. Then the answer tells it the cookie.

The answer comes after the membership names the newcomer, as a learner: a node id is bound to its key before
it uses it. Whoever asks again, after a crash on either side, finds itself a member and is told the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from aspen.decoding import UNDECODABLE
from aspen.discovery.ticket import SignedTicket, parse_ticket
from aspen.errors import InputError, TicketError
from aspen.limits import (
    ADDRESSES_PER_PEER,
    HOST_CHARS,
    JOIN_FRAME_BYTES,
    RAFT_MEMBERS,
    RAFT_NODE_ID,
    TICKET_CHARS,
)
from aspen.z32 import encode_key

Address = tuple[str, int]

FINAL_CODES: Final = frozenset(
    {"malformed", "forged", "expired", "not_yet", "foreign", "node_id_taken", "removed", "full"}
)
"""Reasons of `Declined` that no other member would see otherwise. `unavailable` may heal."""
OUTCOME_UNKNOWN: Final = "outcome_unknown"
"""As `unavailable`, but the newcomer may be a member."""


class JoinRequest(msgspec.Struct, frozen=True, array_like=True, tag="join"):
    """A node wants to be a member."""

    ticket: str
    """Signed; empty from one that has proven the cookie."""
    node_id: int
    """The node id it wants, or 0."""
    addresses: tuple[Address, ...]
    """Where its QUIC endpoint can be reached."""


class JoinMember(msgspec.Struct, frozen=True, array_like=True):
    """A member of the cluster, for the newcomer to begin with."""

    node_id: int
    endpoint_id: bytes
    addresses: tuple[Address, ...]


class Admitted(msgspec.Struct, frozen=True, array_like=True, tag="admitted"):
    """It is a member now."""

    cluster_id: bytes
    node_id: int
    cookie: str
    """Empty for one that has proven to know it."""
    members: tuple[JoinMember, ...]


class Declined(msgspec.Struct, frozen=True, array_like=True, tag="declined"):
    """It is not, by this answer."""

    code: str
    reason: str


_ENCODER: Final = msgspec.msgpack.Encoder()
_REQUEST: Final = msgspec.msgpack.Decoder(JoinRequest)
_ANSWER: Final[msgspec.msgpack.Decoder[Admitted | Declined]] = msgspec.msgpack.Decoder(Admitted | Declined)


def encode(message: JoinRequest | Admitted | Declined) -> bytes:
    return _ENCODER.encode(message)


def decode_request(frame_untrusted: bytes) -> JoinRequest:
    """Raises `InputError`."""
    try:
        if len(frame_untrusted) > JOIN_FRAME_BYTES:
            raise InputError(f"a request of {len(frame_untrusted)} bytes, over {JOIN_FRAME_BYTES}")
        request = _REQUEST.decode(frame_untrusted)
    except UNDECODABLE as error:
        raise InputError(f"not a request to join: {error}") from None
    addresses_ok = len(request.addresses) <= ADDRESSES_PER_PEER and all(
        0 < len(host) <= HOST_CHARS and host.isprintable() and 0 < port < 65_536
        for host, port in request.addresses
    )
    if not addresses_ok or not 0 <= request.node_id <= RAFT_NODE_ID or len(request.ticket) > TICKET_CHARS:
        raise InputError("not a request to join: a field is out of bounds")
    return request


def decode_answer(frame_untrusted: bytes) -> Admitted | Declined:
    """Raises `InputError`."""
    try:
        return _ANSWER.decode(frame_untrusted)
    except UNDECODABLE as error:
        raise InputError(f"not an answer to a request to join: {error}") from None


def check_term(
    text_untrusted: str, cluster_id: bytes, verify: Callable[[bytes, bytes, bytes], bool], now_s: int
) -> SignedTicket:
    """What a ticket by itself tells a member of `cluster_id`. Raises `TicketError`."""
    ticket = parse_ticket(text_untrusted)
    if not isinstance(ticket, SignedTicket):
        raise TicketError("malformed", "a plain ticket lets nobody in: this node must know the cookie")
    if ticket.ticket.cluster_id != cluster_id:
        raise TicketError(
            "foreign",
            f"the ticket is for the cluster {ticket.ticket.cluster_id.hex()}, and this is {cluster_id.hex()}",
        )
    ticket.check(verify, now_s)
    return ticket


def check_issuer(ticket: SignedTicket, members: Iterable[bytes]) -> None:
    """Whether the cluster has the ticket's issuer for a member. Raises `TicketError`."""
    if ticket.issuer not in members:
        raise TicketError(
            "forged",
            f"the ticket's issuer {encode_key(ticket.issuer)} is no member of this cluster: "
            "ask for a ticket from one that is",
        )


def check_nodes(ticket: SignedTicket, has_removed: Callable[[bytes], bool]) -> None:
    """Whether all nodes that the ticket sent its holder to can still be trusted with it: whoever of them
    was removed may have been shown it, and could get back in by it. Raises `TicketError`."""
    gone = [node.endpoint_id for node in ticket.ticket.nodes if has_removed(node.endpoint_id)]
    if gone:
        raise TicketError(
            "forged",
            f"the ticket names a node that was removed since, {encode_key(gone[0])}: ask for a new one",
        )


def free_node_id(taken: Iterable[int]) -> int:
    """The node id after all that are or were in use, so that none gets a predecessor's by accident; the
    lowest that is free, where the highest there can be is in use."""
    used = set(taken)
    after = max(used, default=0) + 1
    if after <= RAFT_NODE_ID:
        return after
    return next(node_id for node_id in range(1, len(used) + 2) if node_id not in used)


def is_full(members: int) -> bool:
    return members >= RAFT_MEMBERS
