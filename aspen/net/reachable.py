"""Where others can reach a socket of this machine, asked anew each time: machines move (shell)."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

import ifaddr

from aspen.limits import ADDRESSES_PER_PEER
from aspen.net.address_book import Address

_PROBES: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Addresses of documentation (RFC 5737, RFC 3849): routed like the rest of the world, nobody's."""


def reachable_addresses(bound: Address) -> tuple[Address, ...]:
    """Where others may reach a socket bound there.

    A wildcard stands for the addresses that this machine would speak to the world from; where no way
    leads to the world, for those of all its interfaces.
    """
    host, port = bound
    if not host:
        return ()
    try:
        if not ipaddress.ip_address(host).is_unspecified:
            return ((host, port),)
    except ValueError:
        return ((host, port),)
    families = _PROBES if ":" in host else _PROBES[:1]
    found = [each for family, probe in families if (each := _sending_address(family, probe)) is not None]
    hosts = found or interface_addresses(ipv6=":" in host) or ["127.0.0.1"]
    return tuple((each, port) for each in hosts[:ADDRESSES_PER_PEER])


def _sending_address(family: socket.AddressFamily, towards: str) -> str | None:
    """The address with which this machine sends towards another; nothing is sent to find out."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((towards, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def interface_addresses(*, ipv6: bool = False) -> list[str]:
    """Of all interfaces, what others on the same link can use."""
    found = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            address = ipaddress.ip_address(text)
            usable = not (address.is_loopback or address.is_link_local or address.is_unspecified)
            if usable and (address.version == 4 or ipv6):
                found.append(text)
    return found
