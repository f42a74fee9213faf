"""UDP sockets: several on one port, and replies from the very address that was asked.

Every worker has its own socket on the shared port (SO_REUSEPORT), bound by the node process, so a
worker that crashes loses neither port nor queue. A client drops a reply that comes from another
address than it asked; so a socket bound to a wildcard address learns each datagram's destination
(IP_PKTINFO, RFC 3542 §6.1 for IPv6) and names it as the source of the reply.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Sequence
from typing import Any, Final

from aspen.limits import DNS_BIND_MS, DNS_UDP_BUFFER_BYTES

Ancillary = list[tuple[int, int, bytes]]

# Python 3.11 has no name for this one on Linux.
_IP_PKTINFO: Final = getattr(socket, "IP_PKTINFO", 8)
_INFO_BYTES: Final = 20  # in6_pktinfo, the larger of the two
ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_INFO_BYTES) * 2
_MAPPED: Final = bytes(10) + b"\xff\xff"  # IPv4 in IPv6, RFC 4291 §2.5.5.2
_BIND_RETRY_S: Final = 0.05
_EPHEMERAL_TRIES: Final = 32


def bind_udp(host: str, port: int, count: int) -> list[socket.socket]:
    """Bind `count` UDP sockets (at least one) to the same address; port 0 picks a free one.

    Raises `OSError` if the port is taken, also by a process that would share it.
    """
    family, address = _resolve(host, port)
    shared = count > 1
    if shared and port:
        _wait_until_free(family, address)
    sockets: list[socket.socket] = []
    try:
        for _ in range(max(count, 1)):
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sockets.append(sock)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DNS_UDP_BUFFER_BYTES)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, DNS_UDP_BUFFER_BYTES)
            if _is_any(host):
                _enable_packet_info(sock)
            sock.bind(address)
            address = sock.getsockname()
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def adopt_udp(given: Sequence[socket.socket], count: int) -> list[socket.socket]:
    """Make sockets that others have bound what `bind_udp` makes: at least `count` of them. If fewer were
    given, they are shared: whoever reads first answers. Raises `OSError`."""
    for sock in given:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DNS_UDP_BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, DNS_UDP_BUFFER_BYTES)
        if is_wildcard(sock):
            _receive_packet_info(sock)
    return [*given, *(given[at % len(given)].dup() for at in range(len(given), count))]


def bind_udp_and_tcp(host: str, port: int, count: int) -> tuple[list[socket.socket], socket.socket]:
    """UDP sockets as `bind_udp`, and a TCP socket on the same port, not listening yet.

    For port 0, a port is picked that is free for both. Raises `OSError`.
    """
    for attempt in range(_EPHEMERAL_TRIES):
        udp = bind_udp(host, port, count)
        address = udp[0].getsockname()
        tcp = socket.socket(udp[0].family, socket.SOCK_STREAM)
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind(address)
        except OSError:
            for sock in (*udp, tcp):
                sock.close()
            if port or attempt == _EPHEMERAL_TRIES - 1:
                raise
        else:
            return udp, tcp
    raise OSError(errno.EADDRINUSE, "no port is free for both UDP and TCP")


def packed_address(host: str) -> bytes:
    """The octets of an address as sockets spell it; four for IPv4, also when mapped into IPv6."""
    if ":" not in host:
        return socket.inet_aton(host)
    octets = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return octets[12:] if octets.startswith(_MAPPED) else octets


def bind_tcp(host: str, port: int) -> socket.socket:
    """A TCP socket, not listening yet. On `::` it takes IPv4 too, as the UDP sockets do. Raises `OSError`."""
    family, address = _resolve(host, port)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and _is_any(host):
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def is_wildcard(sock: socket.socket) -> bool:
    """Whether a bound socket takes datagrams for any address of this machine."""
    return _is_any(sock.getsockname()[0])


def reply_source(received: Ancillary) -> Ancillary:
    """What to send a reply with, so that it leaves from the address a datagram came in at."""
    for level, kind, info in received:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            # in_pktinfo: interface (4), local address (4), header's destination (4). Only the
            # local address is named: the way back is the routing table's business.
            return [(level, kind, bytes(4) + info[4:8] + bytes(4))]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            # in6_pktinfo: address (16), interface (4). A link-local address means nothing without.
            link_local = info[0] == 0xFE and info[1] & 0xC0 == 0x80
            return [(level, kind, info if link_local else info[:16] + bytes(4))]
    return []


def _enable_packet_info(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET6:
        # One socket for both families; IPv4 shows as mapped addresses, in packet info too.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    _receive_packet_info(sock)


def _receive_packet_info(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def _is_any(host: str) -> bool:
    return host in ("", "0.0.0.0", "::")  # noqa: S104 -- recognised here, not bound


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    flags = socket.AI_PASSIVE | socket.AI_NUMERICSERV
    family, _, _, _, address = socket.getaddrinfo(
        host or None, port, family=0 if host else socket.AF_INET, type=socket.SOCK_DGRAM, flags=flags
    )[0]
    return family, address


def _wait_until_free(family: socket.AddressFamily, address: Any) -> None:
    """Raise `OSError` if someone else is bound here; SO_REUSEPORT alone would share with them.

    The workers of a node that was just killed get a moment to end.
    """
    deadline = time.monotonic() + DNS_BIND_MS / 1_000
    while True:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(address)
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise
        time.sleep(_BIND_RETRY_S)
