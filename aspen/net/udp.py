"""The UDP socket under the QUIC endpoint: opening it, and naming addresses as it names them."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from aspen.limits import NET_SOCKET_BUFFER_BYTES
from aspen.net.address_book import Address

SocketAddress = Any
"""What the socket calls an address: (host, port) for IPv4, four fields for IPv6."""


def open_udp(host: str, port: int) -> socket.socket:
    """A bound, non-blocking UDP socket. Raises `OSError`."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # A full buffer is lost datagrams, which QUIC takes for congestion.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NET_SOCKET_BUFFER_BYTES)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NET_SOCKET_BUFFER_BYTES)
        opened.bind(address)
    except OSError:
        opened.close()
        raise
    return opened


def numeric(family: int, address: Address) -> SocketAddress | None:
    """The socket's spelling of a numeric address, or None if the host is a name."""
    return _lookup(family, address, socket.AI_NUMERICHOST)


def resolve(family: int, address: Address) -> SocketAddress | None:
    """The socket's spelling of any address. Blocks on DNS: call it in a thread."""
    return _lookup(family, address, 0)


def _lookup(family: int, address: Address, flags: int) -> SocketAddress | None:
    if family == socket.AF_INET6:
        flags |= socket.AI_V4MAPPED
    try:
        found = socket.getaddrinfo(*address, family=family, type=socket.SOCK_DGRAM, flags=flags)
    except (OSError, UnicodeError):
        return None
    return found[0][4] if found else None


def received_from(address: SocketAddress) -> SocketAddress:
    """A sender's address as `numeric` spells it: without the name of the interface, whose number it has."""
    if len(address) == 4 and "%" in address[0]:
        return (address[0].partition("%")[0], *address[1:])
    return address


def plain(address: SocketAddress) -> Address:
    """A socket's address as people write it."""
    host = str(address[0])
    return host.removeprefix("::ffff:"), int(address[1])


def is_loopback(address: SocketAddress) -> bool:
    try:
        return ipaddress.ip_address(plain(address)[0]).is_loopback
    except ValueError:
        return False
