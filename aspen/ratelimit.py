"""Token buckets: how often somebody may do something.

A bucket holds up to `burst` tokens and gains `rate` a second; what is done takes one. Stored is not
the level but the time at which the bucket would be full again (the "theoretical arrival time" of the
generic cell rate algorithm, ITU-T I.371): one number, and a bucket that is full needs none, so it can
be forgotten. Time is an argument, seconds on any monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from math import ceil
from typing import Final

from aspen.limits import RATE_LIMIT_PEERS

_V6_HOST_BITS: Final = 64


@dataclass(frozen=True, slots=True)
class Rate:
    """What is allowed. A rate of 0 allows everything."""

    per_s: float
    burst: int

    @property
    def unlimited(self) -> bool:
        return self.per_s <= 0


class RateLimiter:
    """One bucket for each of many peers.

    Of more peers than the table holds, the one not heard of for longest is forgotten: it has a
    full bucket then. So a flood of new peers can empty nobody's bucket, at worst refill it.
    """

    def __init__(self, rate: Rate, peers: int = RATE_LIMIT_PEERS) -> None:
        self.rate = rate
        self._peers = peers
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, peer: Hashable, now_s: float, count: int = 1) -> float:
        """Take tokens from a peer's bucket: 0, or the seconds after which there will be as many."""
        rate = self.rate
        if rate.unlimited:
            return 0.0
        step_s = 1 / rate.per_s
        full_at = max(self._full_at.get(peer, now_s), now_s) + count * step_s
        wait_s = full_at - now_s - step_s * max(1, rate.burst)
        if wait_s > 1e-9:  # whole numbers of tokens don't always add up in binary
            return wait_s
        self._full_at[peer] = full_at
        self._full_at.move_to_end(peer)
        if len(self._full_at) > self._peers:
            self._full_at.popitem(last=False)
        return 0.0


def retry_after(wait_s: float) -> str:
    """The value of a `Retry-After` header (RFC 9110 §10.2.3): whole seconds, at least one."""
    return str(max(1, ceil(wait_s)))


def peer_of(address: str) -> str:
    """Whose bucket an IP address draws from: its own, or that of its /64, which one host has for itself.

    An IPv4 address in IPv6 dress (RFC 4291 §2.5.5.2) is that address. Raises `ValueError`.
    """
    ip = ip_address(address.partition("%")[0])
    if not isinstance(ip, IPv6Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return f"{IPv6Address(int(ip) >> _V6_HOST_BITS << _V6_HOST_BITS)}/64"
