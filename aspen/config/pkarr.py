"""The section `[pkarr]` of a node's configuration."""

from __future__ import annotations

from typing import Annotated

import msgspec

from aspen.limits import PKARR_FUTURE_MS, PKARR_RETENTION_MS


class PkarrConfig(msgspec.Struct, kw_only=True):
    """The pkarr relay. Give all members the same, since any of them may lead."""

    retention_secs: Annotated[int, msgspec.Meta(ge=1)] = PKARR_RETENTION_MS // 1_000
    """A packet is kept for so long after it was last published."""
    strict_ttl: bool = False
    """Serve each record only for its own TTL after its packet was last published."""
    tombstone_secs: Annotated[int, msgspec.Meta(ge=1)] = PKARR_RETENTION_MS // 1_000
    """So long after a packet was unpublished or deleted, older ones are kept off."""
    future_secs: Annotated[int, msgspec.Meta(ge=0)] = PKARR_FUTURE_MS // 1_000
    """How far ahead of this node's clock a packet's timestamp may be."""
    max_packets: Annotated[int, msgspec.Meta(ge=0)] = 0
    """A packet under a new key is refused beyond so many; 0: no limit."""
    max_mib: Annotated[int, msgspec.Meta(ge=0)] = 0
    """The same by what the packets take on disk."""
    denied_keys: list[str] = []
    """Keys (z-base-32) under which nothing can be published."""
    allowed_keys: list[str] = []
    """If not empty, nothing can be published under other keys."""
    puts_per_address: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    """Packets a second from one address (a /64 of IPv6); 0: no limit."""
    puts_per_address_burst: Annotated[int, msgspec.Meta(ge=1)] = 20
    """So many at once."""
    puts_per_key: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """Packets a second under one key; 0: no limit."""
    puts_per_key_burst: Annotated[int, msgspec.Meta(ge=1)] = 10
    """So many at once."""
    puts_in_all: Annotated[float, msgspec.Meta(ge=0)] = 2_000.0
    """Packets a second that this node takes from all clients together."""
    puts_in_all_burst: Annotated[int, msgspec.Meta(ge=1)] = 4_000
    """So many at once."""
    gets_per_address: Annotated[float, msgspec.Meta(ge=0)] = 100.0
    """Packets that one address may ask for in a second; 0: no limit."""
    gets_per_address_burst: Annotated[int, msgspec.Meta(ge=1)] = 500
    """So many at once."""
    limit_loopback: bool = False
    """Limit clients on this machine too."""
