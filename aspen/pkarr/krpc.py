"""The DHT's messages (BEP 5 "KRPC", BEP 43, BEP 44): one datagram each, bencoded.

Aspen asks and does not serve (BEP 43, `ro`): it keeps no routing table that others count on, so it can be
behind any firewall, and nobody can make it store anything. Who asks it nonetheless (some nodes remember
whoever has stored something with them) is told so, by an error shorter than the question.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from typing import Final, NamedTuple

from aspen.errors import InputError
from aspen.pkarr.bencode import Value, decode, encode

ID_BYTES: Final = 20
_CONTACT: Final = struct.Struct(">20s4sH")
_TOKEN_BYTES: Final = 256
_TRANSACTION_BYTES: Final = 32
_SERVER_ERROR: Final = 202

Address = tuple[str, int]
"""IPv4 address and port."""


class Contact(NamedTuple):
    """A node of the DHT, as another one named it or as it named itself."""

    node_id: bytes
    address: Address


class Answer(NamedTuple):
    """A node's answer to a query."""

    transaction: bytes
    node_id: bytes
    contacts: tuple[Contact, ...]
    """Nodes closer to the target, as far as it knows."""
    token: bytes | None
    """What a `put` to this node must show."""
    fields: Mapping[bytes, Value]
    """All of the answer: an item, if it has one (`bep44.read_item`)."""


class Refusal(NamedTuple):
    """A node's error. Codes: BEP 5 201–204; BEP 44 205 too big, 206 signature, 301 CAS, 302 too old."""

    transaction: bytes
    code: int
    text: str


class Query(NamedTuple):
    """Somebody asks us."""

    transaction: bytes


TOO_OLD: Final = 302
"""The node has an item with a higher sequence number."""


def get_query(transaction: bytes, own_id: bytes, target: bytes) -> bytes:
    """Ask for an item and for nodes closer to it."""
    return _query(transaction, b"get", {b"id": own_id, b"target": target})


def put_query(transaction: bytes, own_id: bytes, token: bytes, item: Mapping[bytes, Value]) -> bytes:
    """Ask a node, whose token this is, to store an item."""
    return _query(transaction, b"put", {b"id": own_id, b"token": token, **item})


def refuse(query: Query) -> bytes:
    """What a node that only asks says to who asks it."""
    return encode({b"t": query.transaction, b"y": b"e", b"e": [_SERVER_ERROR, b"read-only"]})


def _query(transaction: bytes, method: bytes, arguments: dict[bytes, Value]) -> bytes:
    return encode({b"t": transaction, b"y": b"q", b"q": method, b"a": arguments, b"ro": 1})


def parse(datagram_untrusted: bytes) -> Answer | Refusal | Query:
    """What a datagram says. Raises `InputError` for what is no message of the DHT."""
    message = decode(datagram_untrusted)
    if not isinstance(message, Mapping):
        raise InputError("not a KRPC message: no dictionary")
    transaction, kind = message.get(b"t"), message.get(b"y")
    if not isinstance(transaction, bytes) or len(transaction) > _TRANSACTION_BYTES:
        raise InputError("not a KRPC message: no transaction id")
    if kind == b"q":
        return Query(transaction)
    if kind == b"e":
        return _refusal(transaction, message.get(b"e"))
    fields = message.get(b"r")
    if kind != b"r" or not isinstance(fields, Mapping):
        raise InputError("not a KRPC message: neither query, answer nor error")
    node_id = fields.get(b"id")
    if not isinstance(node_id, bytes) or len(node_id) != ID_BYTES:
        raise InputError("an answer without a node id")
    token = fields.get(b"token")
    if not isinstance(token, bytes) or len(token) > _TOKEN_BYTES:
        token = None
    nodes = fields.get(b"nodes")
    contacts = tuple(_contacts(nodes)) if isinstance(nodes, bytes) else ()
    return Answer(transaction, node_id, contacts, token, fields)


def _refusal(transaction: bytes, error: Value | None) -> Refusal:
    match error:
        case [int(code), bytes(text), *_]:
            return Refusal(transaction, code, text.decode("utf-8", "replace")[:200])
        case _:
            return Refusal(transaction, 0, "")


def _contacts(compact: bytes) -> Iterator[Contact]:
    """BEP 5 "compact node info"; a rest that is no contact is left."""
    whole = len(compact) - len(compact) % _CONTACT.size
    for node_id, host, port in _CONTACT.iter_unpack(compact[:whole]):
        if port:
            yield Contact(node_id, (str(IPv4Address(host)), port))
