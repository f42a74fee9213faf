"""Announcements: what a node says of itself to the whole cluster, signed with its identity key.

::

    announcement = MessagePack [body, signature (64)]
    body         = MessagePack [topic (32), endpoint id (32), node id, addresses, relay URL or nil,
                                timestamp µs, topology version, topology hash (32)]

The signature is of a context string and the body. The topic is derived from the cluster's cookie, so
an announcement of another cluster isn't taken for one of this. The topology is the version (the log
index) and hash of the membership that the sender knows: whoever knows an older one is behind.

`Announcement` objects from outside exist only if their signature was verified.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Final

import msgspec

from aspen.decoding import UNDECODABLE
from aspen.discovery.messages import Addresses, Key
from aspen.errors import GossipError
from aspen.limits import (
    GOSSIP_ANNOUNCEMENT_BYTES,
    GOSSIP_FUTURE_MS,
    GOSSIP_PAST_MS,
    RAFT_NODE_ID,
    RELAY_URL_CHARS,
)

SIGNATURE_BYTES: Final = 64
_SIGNED: Final = b"aspen 2026 gossip announcement v1\0"

Sign = Callable[[bytes], bytes]
Verify = Callable[[bytes, bytes, bytes], bool]
"""(endpoint id, message, signature) → whether it is that key's."""


class Announcement(msgspec.Struct, frozen=True, array_like=True):
    """A node as it says it is."""

    topic: Key
    endpoint_id: Key
    node_id: Annotated[int, msgspec.Meta(ge=0, le=RAFT_NODE_ID)]
    """0 for a node that is no member yet."""
    addresses: Addresses
    relay_url: Annotated[str, msgspec.Meta(max_length=RELAY_URL_CHARS)] | None
    timestamp_us: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    topology_version: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    topology_hash: Key


class _Signed(msgspec.Struct, frozen=True, array_like=True):
    body: bytes
    signature: Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


_ENCODER: Final = msgspec.msgpack.Encoder()
_SIGNED_DECODER: Final = msgspec.msgpack.Decoder(_Signed)
_BODY_DECODER: Final = msgspec.msgpack.Decoder(Announcement)


def topology_hash(members: bytes) -> bytes:
    """The hash of a membership in its encoded form."""
    return hashlib.blake2b(members, digest_size=32).digest()


def seal(announcement: Announcement, sign: Sign) -> bytes:
    """Sign and encode."""
    body = _ENCODER.encode(announcement)
    return _ENCODER.encode(_Signed(body, sign(_SIGNED + body)))


class Sealed:
    """An announcement that was parsed and not verified yet: enough to know whether it is worth it."""

    __slots__ = ("_body", "_signature", "claim")

    def __init__(self, payload_untrusted: bytes) -> None:
        """Raises `GossipError` (`malformed`)."""
        if len(payload_untrusted) > GOSSIP_ANNOUNCEMENT_BYTES:
            raise GossipError("malformed", f"an announcement of {len(payload_untrusted)} bytes")
        try:
            signed = _SIGNED_DECODER.decode(payload_untrusted)
            self.claim = _BODY_DECODER.decode(signed.body)
        except UNDECODABLE as error:
            raise GossipError("malformed", f"not an announcement: {error}") from None
        self._body, self._signature = signed.body, signed.signature

    def check_time(self, now_us: int) -> None:
        """Raises `GossipError` (`stale` or `future`)."""
        age_ms = (now_us - self.claim.timestamp_us) // 1_000
        if age_ms > GOSSIP_PAST_MS:
            raise GossipError("stale", f"an announcement {age_ms} ms old")
        if age_ms < -GOSSIP_FUTURE_MS:
            raise GossipError("future", f"an announcement {-age_ms} ms ahead of this node's clock")

    def open(self, verify: Verify) -> Announcement:
        """Raises `GossipError` (`signature`)."""
        if not verify(self.claim.endpoint_id, _SIGNED + self._body, self._signature):
            raise GossipError("signature", "an announcement that its sender has not signed")
        return self.claim
