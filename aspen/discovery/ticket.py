"""Tickets: what a new node needs to find a cluster, and to be let in (core).

A plain ticket (`aspen…`) tells where the cluster is: its topic, its id, some of its nodes with their
addresses. It holds no secret; whoever joins with it must know the cookie.

A signed ticket (`aspensigned…`) lets its holder in, for a day unless its issuer says otherwise: a member
has signed it, and any member answers to it while the cluster still has its issuer for one. The holder dials
the nodes named in it by their keys, so nobody else can take their place; it shows the ticket inside that
connection and is given what it needs. So treat it as a password: the cookie itself is never in it.

Encoding: the prefix, then base32 (RFC 4648 §6, lower case, no padding) of::

    version u8 ‖ topic (32) ‖ cluster id (16) ‖ count of nodes u8 ‖ nodes, by endpoint id
    node:   endpoint id (32) ‖ count of addresses u8 ‖ addresses: length u8 ‖ host ‖ port u16
    signed: … ‖ issued at u64 s ‖ expires at u64 s ‖ nonce (16) ‖ issuer (32) ‖ signature (64)
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from aspen.errors import TicketError
from aspen.limits import (
    ADDRESSES_PER_PEER,
    HOST_CHARS,
    TICKET_CHARS,
    TICKET_LIFE_MAX_S,
    TICKET_LIFE_MIN_S,
    TICKET_LIFE_S,
    TICKET_NODES,
    TICKET_SKEW_S,
)

PREFIX: Final = "aspen"
SIGNED_PREFIX: Final = "aspensigned"
TOPIC_BYTES: Final = 32
CLUSTER_ID_BYTES: Final = 16
NONCE_BYTES: Final = 16
_KEY_BYTES: Final = 32
_VERSION: Final = 1
_TERM: Final = struct.Struct(">QQ16s32s")
_SIGNATURE_BYTES: Final = 64
_CONTEXT: Final = b"aspen 2026 signed ticket v1\0"

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class TicketNode:
    """A node of the cluster."""

    endpoint_id: bytes
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Ticket:
    """Where a cluster is."""

    topic: bytes
    cluster_id: bytes
    nodes: tuple[TicketNode, ...]

    def encode(self) -> str:
        """Raises `TicketError` if it holds more than a ticket may."""
        return PREFIX + _base32(self._body())

    def sign(
        self,
        issuer: bytes,
        sign: Callable[[bytes], bytes],
        now_s: int,
        nonce: bytes,
        life_s: int = TICKET_LIFE_S,
    ) -> SignedTicket:
        """Make it one that lets its holder in, for `life_s` from `now_s`.

        Raises `TicketError` for a life that no ticket has.
        """
        if not TICKET_LIFE_MIN_S <= life_s <= TICKET_LIFE_MAX_S:
            raise TicketError(
                "malformed", f"a ticket lives {TICKET_LIFE_MIN_S} to {TICKET_LIFE_MAX_S} s, not {life_s}"
            )
        unsigned = SignedTicket(self, now_s, now_s + life_s, nonce, issuer, b"")
        return replace(unsigned, signature=sign(unsigned._signed()))

    def _body(self) -> bytes:
        if not 1 <= len(self.nodes) <= TICKET_NODES:
            raise TicketError("malformed", f"a ticket names 1 to {TICKET_NODES} nodes, not {len(self.nodes)}")
        body = bytes((_VERSION,)) + self.topic + self.cluster_id + bytes((len(self.nodes),))
        for node in sorted(self.nodes, key=lambda node: node.endpoint_id):
            addresses = node.addresses[:ADDRESSES_PER_PEER]
            body += node.endpoint_id + bytes((len(addresses),))
            for host, port in addresses:
                octets = host.encode()
                if not 1 <= len(octets) <= HOST_CHARS:
                    raise TicketError("malformed", f"not a host: {host!r}")
                body += bytes((len(octets),)) + octets + port.to_bytes(2, "big")
        return body


@dataclass(frozen=True, slots=True)
class SignedTicket:
    """A ticket that lets its holder in until it expires. Shown by nobody but its holder."""

    ticket: Ticket
    issued_at_s: int
    expires_at_s: int
    nonce: bytes
    issuer: bytes
    signature: bytes

    def encode(self) -> str:
        return SIGNED_PREFIX + _base32(self._signed()[len(_CONTEXT) :] + self.signature)

    def check(self, verify: Callable[[bytes, bytes, bytes], bool], now_s: int) -> None:
        """Whether it holds now. Raises `TicketError` (`forged`, `expired`, `not_yet`).

        Whether its issuer is a member, only the cluster can tell.
        """
        if not verify(self.issuer, self._signed(), self.signature):
            raise TicketError("forged", "the ticket's signature isn't its issuer's")
        if self.expires_at_s - self.issued_at_s > TICKET_LIFE_MAX_S:
            raise TicketError("forged", "the ticket claims a longer life than tickets have")
        if now_s > self.expires_at_s + TICKET_SKEW_S:
            raise TicketError(
                "expired", f"the ticket expired {now_s - self.expires_at_s} s ago: ask for a new one"
            )
        if now_s < self.issued_at_s - TICKET_SKEW_S:
            ahead_s = self.issued_at_s - now_s
            raise TicketError(
                "not_yet", f"the ticket is of {ahead_s} s from now: compare the machines' clocks"
            )

    def _signed(self) -> bytes:
        term = _TERM.pack(self.issued_at_s, self.expires_at_s, self.nonce, self.issuer)
        return _CONTEXT + self.ticket._body() + term


def parse_ticket(text_untrusted: str) -> Ticket | SignedTicket:
    """Read a ticket of either kind; a signed one is not checked yet. Raises `TicketError` (`malformed`)."""
    text = "".join(text_untrusted.split())
    if len(text) > TICKET_CHARS:
        raise TicketError("malformed", f"a ticket has at most {TICKET_CHARS} characters")
    if text.startswith(SIGNED_PREFIX):
        reader = _Reader(_octets(text[len(SIGNED_PREFIX) :]))
        ticket = reader.ticket()
        issued_at_s, expires_at_s, nonce, issuer = _TERM.unpack(reader.take(_TERM.size, "the ticket's term"))
        signature = reader.take(_SIGNATURE_BYTES, "the signature")
        reader.end()
        return SignedTicket(ticket, issued_at_s, expires_at_s, nonce, issuer, signature)
    if text.startswith(PREFIX):
        reader = _Reader(_octets(text[len(PREFIX) :]))
        ticket = reader.ticket()
        reader.end()
        return ticket
    raise TicketError("malformed", f'a ticket begins with "{PREFIX}" or "{SIGNED_PREFIX}"')


class _Reader:
    """Takes a ticket's octets apart; every error says what was being read."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    def take(self, count: int, what: str) -> bytes:
        taken = self._octets[self._at : self._at + count]
        if len(taken) < count:
            raise TicketError("malformed", f"the ticket ends inside {what}: it was cut off")
        self._at += count
        return taken

    def ticket(self) -> Ticket:
        version = self.take(1, "its version")[0]
        if version != _VERSION:
            raise TicketError(
                "malformed", f"a ticket of version {version}; this program reads version {_VERSION}"
            )
        topic = self.take(TOPIC_BYTES, "the topic")
        cluster_id = self.take(CLUSTER_ID_BYTES, "the cluster id")
        count = self.take(1, "the number of nodes")[0]
        if not 1 <= count <= TICKET_NODES:
            raise TicketError("malformed", f"a ticket names 1 to {TICKET_NODES} nodes, not {count}")
        nodes = tuple(self._node() for _ in range(count))
        if any(a.endpoint_id >= b.endpoint_id for a, b in pairwise(nodes)):
            raise TicketError("malformed", "the ticket's nodes are not in order")
        return Ticket(topic, cluster_id, nodes)

    def _node(self) -> TicketNode:
        endpoint_id = self.take(_KEY_BYTES, "an endpoint id")
        count = self.take(1, "the number of addresses")[0]
        if count > ADDRESSES_PER_PEER:
            raise TicketError(
                "malformed", f"a node with {count} addresses; at most {ADDRESSES_PER_PEER} are read"
            )
        return TicketNode(endpoint_id, tuple(self._address() for _ in range(count)))

    def _address(self) -> Address:
        octets = self.take(self.take(1, "an address")[0], "an address")
        port = int.from_bytes(self.take(2, "a port"), "big")
        try:
            host = octets.decode("ascii")
        except UnicodeDecodeError:
            host = ""
        if not host or not host.isprintable() or " " in host or not port:
            raise TicketError("malformed", f"not an address: {octets!r} port {port}")
        return host, port

    def end(self) -> None:
        if self._at != len(self._octets):
            raise TicketError(
                "malformed", f"{len(self._octets) - self._at} octets too many behind the ticket"
            )


def _base32(octets: bytes) -> str:
    return base64.b32encode(octets).decode().lower().rstrip("=")


def _octets(text: str) -> bytes:
    padded = text.upper() + "=" * (-len(text) % 8)
    try:
        octets = base64.b32decode(padded)
    except (binascii.Error, ValueError):
        raise TicketError("malformed", "the ticket isn't base32: was it copied whole?") from None
    if _base32(octets) != text.lower():
        raise TicketError("malformed", "the ticket's last character can't be right: was it copied whole?")
    return octets
