"""Signed packets as items of the BitTorrent DHT (BEP 44, mutable items without salt).

A packet *is* such an item: its DNS message is the value `v`, its timestamp the sequence number `seq`,
its signature that of BEP 44. The item lies with the nodes whose ids are closest to its *target*, the
SHA-1 of the public key. So nothing is signed anew: whoever has a packet can publish it, the secret key
stays with its owner.

Nodes accept a value of at most 1000 octets *bencoded*: a packet of more than 996 octets is not for the DHT.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from aspen.errors import PacketError
from aspen.pkarr.bencode import Value, encode
from aspen.pkarr.packet import SignedPacket

VALUE_BYTES: Final = 1_000
"""Of a bencoded value ("Messages", error 205)."""


def target(public_key: bytes) -> bytes:
    """Where a key's item lies: 20 octets, compared with node ids by XOR."""
    return hashlib.sha1(public_key, usedforsecurity=False).digest()


def fits(packet: SignedPacket) -> bool:
    """Whether nodes of the DHT take the packet."""
    return len(encode(packet.message)) <= VALUE_BYTES


def item_fields(packet: SignedPacket) -> dict[bytes, Value]:
    """The fields of a `put` that are the item itself."""
    return {
        b"k": packet.public_key,
        b"seq": packet.timestamp_us,
        b"sig": packet.signature,
        b"v": packet.message,
    }


def read_item(public_key: bytes, fields_untrusted: Mapping[bytes, Value]) -> SignedPacket | None:
    """The packet in the answer to a `get`, verified; None if it holds no item.

    Raises `PacketError` if there is one and it isn't the key's, or holds no DNS message.
    """
    fields = fields_untrusted
    if b"v" not in fields:
        return None
    value, signature, sequence = fields[b"v"], fields.get(b"sig"), fields.get(b"seq")
    if fields.get(b"k", public_key) != public_key:
        raise PacketError("key", "the item is another key's")
    if not isinstance(value, bytes):
        raise PacketError("dns", "the item's value is not a string")
    if not isinstance(signature, bytes) or len(signature) != 64:
        raise PacketError("signature", "the item has no signature of 64 octets")
    if not isinstance(sequence, int) or not 0 < sequence < 2**63:
        raise PacketError("timestamp", "the item's sequence number is no timestamp")
    return SignedPacket.parse(public_key, signature + sequence.to_bytes(8, "big") + value)
