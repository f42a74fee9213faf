"""What is counted of answers, for metrics: how many by response code, and how long they took.

A time counts in the first bucket whose bound it doesn't exceed. The bounds are the same for all transports,
and for the words that UDP workers keep on the status page.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

RCODES: Final = 16
"""Response codes are told apart by the four bits in the header; BADVERS and BADCOOKIE need EDNS's as well."""
LATENCY_BOUNDS_NS: Final = (
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
)
"""Upper bounds, inclusive; one more bucket is for what took longer."""
LATENCY_BUCKETS: Final = len(LATENCY_BOUNDS_NS) + 1


class ResponseTally:
    """The answers of one transport since the node started."""

    __slots__ = ("buckets", "rcodes", "sum_ns")

    def __init__(self) -> None:
        self.rcodes = [0] * RCODES
        self.buckets = [0] * LATENCY_BUCKETS
        """Each by itself, not cumulative."""
        self.sum_ns = 0

    def note(self, reply: bytes, elapsed_ns: int) -> None:
        """Count a whole message that answers a query."""
        self.rcodes[reply[3] & 0x0F] += 1
        self.buckets[bisect_left(LATENCY_BOUNDS_NS, elapsed_ns)] += 1
        self.sum_ns += elapsed_ns
