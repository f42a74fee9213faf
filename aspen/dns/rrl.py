"""Response rate limiting: no network gets more answers of a kind than it can have asked for itself.

A datagram's sender may be anyone: whoever writes a victim's address on his questions has us answer
the victim. So answers over UDP are counted for each network (IPv4 /24, IPv6 /56) and kind of answer
(one name's data; no data; no such name; errors), and what goes over the rate is not sent. Every
`slip`-th of those is sent as an empty answer under TC instead, so that a real client in that network
comes back over TCP, which can't be forged. Who shows a good cookie (RFC 7873) is never limited.

What costs nothing is done always, what costs something only against those who earn it. All answers
are sampled: one in `stride` adds to its network's count of this second, and a network whose count
says that it is over the rate is *watched*. Only answers to watched networks go through the token
buckets. The buckets are an array of fixed size under a keyed hash, so a flood from many addresses
can neither fill it up nor choose whose bucket it shares.
"""

from __future__ import annotations

import ipaddress
from enum import Enum
from typing import Final

import msgspec

from aspen.dns.name import HEADER_BYTES
from aspen.dns.wire import FLAG_TC
from aspen.errors import ConfigError
from aspen.limits import DNS_RRL_BUCKETS, DNS_RRL_PREFIXES, DNS_RRL_WINDOW_S

RRL_STRIDE: Final = 16
_SAMPLES_PER_RATE: Final = 8  # at least so many samples before a network counts as over the rate
_V6_PREFIX_BYTES: Final = 7
_QUESTION: Final = HEADER_BYTES - 2  # in a reply without its id


class RrlSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator says about response rate limiting."""

    rate: int = 0
    """Answers of one kind a second for one network; 0 = no limit."""
    slip: int = 2
    """Every so many limited answers, one goes out empty under TC; 0 = none does, 1 = all do."""
    exempt: tuple[str, ...] = ("127.0.0.0/8", "::1")
    """Networks that are never limited."""


class Verdict(Enum):
    SEND = 0
    SLIP = 1
    """Send an empty answer under TC."""
    DROP = 2


class RateLimiter:
    """Counts the answers of one process. `sample` is for some answers, `judge` for those to watched
    networks; `tick` once a second or so."""

    __slots__ = (
        "_exempt",
        "_last",
        "_limit",
        "_limited",
        "_samples",
        "_slip",
        "_tokens",
        "rate",
        "stride",
        "watched",
    )

    def __init__(self, settings: RrlSettings, processes: int = 1, stride: int = RRL_STRIDE) -> None:
        """`processes` share the rate. Raises `ConfigError` for an exempt network that is none."""
        self.rate = -(-settings.rate // processes)
        self._slip = settings.slip
        self._exempt = [_network(text) for text in settings.exempt]
        self.stride = max(1, min(stride, self.rate // _SAMPLES_PER_RATE))
        self._limit = max(1, self.rate // self.stride) if self.rate else 0  # 0 is never reached
        self._samples: dict[str, int] = {}
        self.watched: set[str] = set()
        """Networks over the rate, by `prefix_of`. Empty nearly always: look at this first."""
        self._tokens = [0.0] * DNS_RRL_BUCKETS
        self._last = [0.0] * DNS_RRL_BUCKETS
        self._limited = 0

    def sample(self, host: str) -> None:
        """Note one answer of `stride` to an address, as sockets spell it."""
        samples = self._samples
        prefix = prefix_of(host)
        count = samples.get(prefix, 0) + 1
        if count > 1 or len(samples) < DNS_RRL_PREFIXES:
            samples[prefix] = count
        if count == self._limit and not self._is_exempt(host) and len(self.watched) < DNS_RRL_PREFIXES:
            self.watched.add(prefix)

    def judge(self, host: str, reply: bytes, now_s: float) -> Verdict:
        """Whether a reply (without its id) to an address may go; `now_s` is monotonic.

        Every answer to a watched network is to pass here, and takes its token.
        """
        prefix = prefix_of(host)
        if prefix not in self.watched:
            return Verdict.SEND
        bucket = hash((prefix, *kind_of(reply))) % DNS_RRL_BUCKETS
        rate = self.rate
        tokens = min(self._tokens[bucket] + (now_s - self._last[bucket]) * rate, rate * DNS_RRL_WINDOW_S)
        self._last[bucket] = now_s
        if tokens >= 1:
            self._tokens[bucket] = tokens - 1
            return Verdict.SEND
        self._tokens[bucket] = tokens
        self._limited += 1
        if self._slip and self._limited % self._slip == 0:
            return Verdict.SLIP
        return Verdict.DROP

    def tick(self) -> None:
        """Begin the next second: networks that have calmed down are watched no more."""
        samples, half = self._samples, self._limit / 2
        # In place: loops hold on to this very set.
        self.watched.intersection_update([p for p in self.watched if samples.get(p, 0) >= half])
        self._samples = {}

    def _is_exempt(self, host: str) -> bool:
        address = _address(host)
        return any(address in network for network in self._exempt)


def kind_of(reply: bytes) -> tuple[int, bytes]:
    """What replies (without their id) count together: the data of one name, else one kind of no."""
    rcode = reply[1] & 0x0F
    if rcode or reply[4:6] == b"\x00\x00":
        return rcode, b""
    return 0, reply[_QUESTION : _question_end(reply)].lower()


def prefix_of(host: str) -> str:
    """The network that an address, as sockets spell it, counts with."""
    if ":" not in host:
        return host[: host.rfind(".")]
    address = _address(host)
    if address.version == 4:
        return prefix_of(str(address))
    return address.packed[:_V6_PREFIX_BYTES].hex()


def truncated(reply: bytes) -> bytes:
    """A reply (without its id) as a slip: header and question alone, under TC."""
    end = _question_end(reply)
    return bytes((reply[0] | FLAG_TC, reply[1])) + reply[2:4] + bytes(6) + reply[_QUESTION:end]


def _question_end(reply: bytes) -> int:
    offset = _QUESTION
    if reply[2:4] == b"\x00\x00":
        return offset
    while length := reply[offset]:
        offset += 1 + length
    return offset + 5


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(host.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(f"{text!r} is neither an address nor a network like 192.0.2.0/24") from None
