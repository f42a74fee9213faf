"""What is counted of answers, for metrics: how many by response code, and how long they took.

A time counts in the first bucket whose bound it doesn't exceed. The bounds are the same for all transports,
and for the words that UDP workers keep on the status page.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from aspen.dns.wire import Rcode

RCODES: Final = 16
"""Codes that the header's four bits tell apart."""
EXTENDED_RCODES: Final = 24
"""With EDNS's eight bits more (RFC 6891 §6.1.3), the codes up to BADCOOKIE."""
_OPT: Final = b"\0\0\x29"
_NOTHING_FOUND: Final = bytes(4)
_EXTENDED_PARTS: Final = (Rcode.NOERROR, Rcode.YXRRSET)
"""What the header says under BADVERS and under BADCOOKIE."""
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

    __slots__ = ("buckets", "rcodes", "sums_ns")

    def __init__(self) -> None:
        self.rcodes = [0] * EXTENDED_RCODES
        self.buckets = [[0] * LATENCY_BUCKETS for _ in self.rcodes]
        """By response code; each by itself, not cumulative."""
        self.sums_ns = [0] * EXTENDED_RCODES

    def note(self, reply: bytes, elapsed_ns: int) -> int:
        """Count a whole message that answers a query; its response code."""
        rcode = response_code(reply)
        self.rcodes[rcode] += 1
        self.buckets[rcode][bisect_left(LATENCY_BOUNDS_NS, elapsed_ns)] += 1
        self.sums_ns[rcode] += elapsed_ns
        return rcode

    def add(self, other: ResponseTally) -> None:
        """Count what another has counted, too."""
        for rcode, count in enumerate(other.rcodes):
            self.rcodes[rcode] += count
            self.sums_ns[rcode] += other.sums_ns[rcode]
            self.buckets[rcode] = [
                a + b for a, b in zip(self.buckets[rcode], other.buckets[rcode], strict=True)
            ]


def response_code(reply: bytes) -> int:
    """A reply's whole response code; of one that isn't counted by itself, the header's part.

    We send extended codes with nothing but OPT and a question, if one was asked: so nearly all other replies
    cost a glance.
    """
    code = reply[3] & 0x0F
    if code not in _EXTENDED_PARTS or reply[6:10] != _NOTHING_FOUND:
        return code
    at = 12
    if reply[5]:
        while (length := reply[at]) != 0:
            at += 1 + length
        at += 5  # the root label, type and class
    if reply[at : at + 3] != _OPT:
        return code
    extended = reply[at + 5] << 4 | code
    return extended if extended < EXTENDED_RCODES else code
