"""Who may ask: lists of networks (CIDR, RFC 4632), compiled for a quick yes or no.

An address is its 4 or 16 octets; an IPv4 address mapped into IPv6 (RFC 4291 §2.5.5.2), as a socket for both
families shows it, counts as the IPv4 address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from aspen.errors import ConfigError

_MAPPED: Final = bytes(10) + b"\xff\xff"
UNKNOWN: Final = b""
"""The address of a client that has none: a program that embeds Aspen."""


class Networks:
    """A set of networks. Empty, it holds nobody."""

    __slots__ = ("_masks",)

    def __init__(self, texts: Iterable[str]) -> None:
        """Raises `ConfigError` for what is neither an address nor a CIDR network."""
        masks: dict[tuple[int, int], set[int]] = {}
        for text in texts:
            try:
                network = ipaddress.ip_network(text, strict=False)
            except ValueError:
                raise ConfigError(f"{text!r} is neither an address nor a network like 192.0.2.0/24") from None
            octets = network.network_address.packed
            shift = 8 * len(octets) - network.prefixlen
            masks.setdefault((len(octets), shift), set()).add(int.from_bytes(octets, "big") >> shift)
        self._masks = tuple((size, shift, frozenset(prefixes)) for (size, shift), prefixes in masks.items())

    def __contains__(self, address: bytes) -> bool:
        """Whether packed octets lie in one of the networks; an `UNKNOWN` address lies in none."""
        address = unmapped(address)
        number = int.from_bytes(address, "big")
        return any(
            len(address) == size and number >> shift in prefixes for size, shift, prefixes in self._masks
        )


def unmapped(address: bytes) -> bytes:
    """A packed address, as IPv4 if it is one."""
    return address[12:] if len(address) == 16 and address.startswith(_MAPPED) else address


def packed_address(address: Any) -> bytes:
    """The octets of a socket's address; `UNKNOWN` if it is none."""
    try:
        return ipaddress.ip_address(str(address[0]).partition("%")[0]).packed
    except (ValueError, TypeError, IndexError):
        return UNKNOWN


@lru_cache(maxsize=1_024)
def networks(texts: tuple[str, ...]) -> Networks:
    """As `Networks`, kept for the next time. Raises `ConfigError`."""
    return Networks(texts)
