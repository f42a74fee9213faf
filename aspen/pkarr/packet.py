"""Signed packets (https://pkarr.org; the signature is that of BEP 44's mutable items).

A packet is a DNS message signed by the key under which it is published. On the wire, as relays
exchange it, the key stands in the URL and the payload is::

    signature (64) ‖ timestamp u64 BE, microseconds (8) ‖ DNS message (at most 1000)

Signed is BEP 44's buffer without a salt: `3:seqi<timestamp>e1:v<length>:<message>`. Of two
packets under one key the more recent is the one with the higher timestamp and, if those are
equal, with the lexicographically larger message.

A `SignedPacket` exists only if all of it was checked: there is no way to make one from parts.
"""

from __future__ import annotations

from typing import Final, Self, final

from nacl.bindings import crypto_core_ed25519_is_valid_point, crypto_sign_open
from nacl.exceptions import BadSignatureError

from aspen.dns.message import validate_message
from aspen.errors import DnsWireError, IdentityError, PacketError
from aspen.identity import Identity
from aspen.limits import PKARR_PACKET_BYTES, PKARR_PAYLOAD_BYTES
from aspen.z32 import decode_key, encode_key

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
MESSAGE_START: Final = 72
"""Where the DNS message begins in a payload."""
TIMESTAMP_MAX_US: Final = 2**63 - 1
"""BEP 44's sequence number is a signed 64-bit integer."""


@final
class SignedPacket:
    """A verified packet. Compare with `more_recent_than`; send `payload`."""

    __slots__ = ("payload", "public_key", "timestamp_us")

    public_key: bytes
    payload: bytes
    """Signature ‖ timestamp ‖ message: the body of a relay's PUT and GET."""
    timestamp_us: int

    def __init__(self, public_key: bytes, payload_untrusted: bytes) -> None:
        """Raises `PacketError`."""
        if len(public_key) != KEY_BYTES:
            raise PacketError("key", f"a public key is {KEY_BYTES} bytes, not {len(public_key)}")
        size = len(payload_untrusted)
        if not MESSAGE_START < size <= PKARR_PAYLOAD_BYTES:
            raise PacketError(
                "size",
                f"a payload is {MESSAGE_START + 1} to {PKARR_PAYLOAD_BYTES} bytes "
                f"(signature 64, timestamp 8, DNS message up to {PKARR_PACKET_BYTES}), not {size}",
            )
        timestamp_us = int.from_bytes(payload_untrusted[SIGNATURE_BYTES:MESSAGE_START], "big")
        if not 0 < timestamp_us <= TIMESTAMP_MAX_US:
            raise PacketError(
                "timestamp", f"a timestamp is 1 to 2^63 - 1 microseconds since 1970, not {timestamp_us}"
            )
        message = payload_untrusted[MESSAGE_START:]
        signed = payload_untrusted[:SIGNATURE_BYTES] + signable(timestamp_us, message)
        try:
            crypto_sign_open(signed, public_key)
        except BadSignatureError:
            raise _refusal(public_key) from None
        try:
            validate_message(message)
        except DnsWireError as error:
            raise PacketError("dns", f"not a DNS message: {error}") from None
        self.public_key = public_key
        self.payload = payload_untrusted
        self.timestamp_us = timestamp_us

    @classmethod
    def parse(cls, public_key: bytes, payload_untrusted: bytes) -> Self:
        """Verify a payload under a key.

        Raises `PacketError` with the code of the check that failed: `key`, `size`, `timestamp`,
        `signature`, `dns`, in this order.
        """
        return cls(public_key, payload_untrusted)

    @classmethod
    def sign(cls, identity: Identity, message: bytes, timestamp_us: int) -> Self:
        """Sign a DNS message. Raises `PacketError` if it couldn't be published."""
        if not 0 < timestamp_us <= TIMESTAMP_MAX_US:
            raise PacketError("timestamp", "a timestamp is 1 to 2^63 - 1 microseconds since 1970")
        signature = identity.sign(signable(timestamp_us, message))
        return cls(identity.endpoint_id, signature + timestamp_us.to_bytes(8, "big") + message)

    @property
    def signature(self) -> bytes:
        return self.payload[:SIGNATURE_BYTES]

    @property
    def message(self) -> bytes:
        """The DNS message."""
        return self.payload[MESSAGE_START:]

    @property
    def z32(self) -> str:
        return encode_key(self.public_key)

    def more_recent_than(self, other: SignedPacket) -> bool:
        return order(self.payload) > order(other.payload)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SignedPacket):
            return NotImplemented
        return self.public_key == other.public_key and self.payload == other.payload

    def __hash__(self) -> int:
        return hash((self.public_key, self.payload))

    def __repr__(self) -> str:
        return f"SignedPacket({self.z32}, timestamp_us={self.timestamp_us}, {len(self.message)} bytes)"


def parse_key(text_untrusted: str) -> bytes:
    """The public key spelled in z-base-32, lower case. Raises `PacketError`."""
    try:
        return decode_key(text_untrusted)
    except IdentityError as error:
        raise PacketError("key", str(error)) from None


def signable(timestamp_us: int, message: bytes) -> bytes:
    """The bytes that are signed (BEP 44, "Mutable items", no salt)."""
    return b"3:seqi%de1:v%d:%b" % (timestamp_us, len(message), message)


def order(payload: bytes) -> bytes:
    """What decides which of two payloads under one key is more recent: the larger order."""
    # A big-endian timestamp sorts as its number does, so timestamp ‖ message compares as a whole.
    return payload[SIGNATURE_BYTES:]


def _refusal(public_key: bytes) -> PacketError:
    """Why a signature didn't verify: libsodium reports a key that is no curve point alike."""
    if not crypto_core_ed25519_is_valid_point(public_key):
        return PacketError("key", "the key is not an Ed25519 public key (no point of the main subgroup)")
    return PacketError("signature", "the signature is not this key's over this timestamp and message")
