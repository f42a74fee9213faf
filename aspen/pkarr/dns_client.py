"""Asking a DNS server what a key has published: TXT at `_iroh.<key>.<origin>`.

DNS hands out records, not the packet that they were signed in: what comes by this way is only as true as
the server and the path to it. It is good for finding where to dial, since whoever answers there must prove
the key; it is no packet, and never takes the place of one.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aspen.dns.message import validate_message
from aspen.dns.name import HEADER_BYTES, name_from_text
from aspen.errors import ConfigError, DnsWireError, NetworkError
from aspen.limits import DNS_TCP_MESSAGE_BYTES, DNS_UDP_EDNS_BYTES, PKARR_DNS_MS, PKARR_DNS_TRIES
from aspen.pkarr.endpoint_info import LABEL, EndpointInfo, texts_at
from aspen.z32 import encode_key

DEFAULT_ORIGIN: Final = "dns.iroh.link"
RESOLV_CONF: Final = Path("/etc/resolv.conf")
_HEADER: Final = struct.Struct(">HHHHHH")
_RECURSION_DESIRED: Final = 0x0100
_TXT, _IN, _OPT = 16, 1, 41
_TRUNCATED: Final = 0x02
_RESPONSE: Final = 0x80
_NXDOMAIN: Final = 3

Server = tuple[str, int]


class DnsSource:
    """One DNS server (or the system's), and the origin that keys stand under."""

    def __init__(self, origin: str = DEFAULT_ORIGIN, servers: Sequence[Server] = ()) -> None:
        """`servers` are asked one after the other; none: those of `/etc/resolv.conf`.

        Raises `ConfigError`.
        """
        self._origin = origin.strip(".")
        try:
            name_from_text(f"{LABEL}.{'y' * 52}.{self._origin}")
        except DnsWireError as error:
            raise ConfigError(f"not the origin of keys: {origin!r}: {error}") from None
        self._servers = tuple(servers)
        self.name = f"dns:{self._origin or '.'}"

    async def find_info(self, public_key: bytes) -> EndpointInfo | None:
        """What the records say, unverified; None if there are none. Raises `NetworkError`."""
        owner = f"{LABEL}.{encode_key(public_key)}"
        name = f"{owner}.{self._origin}" if self._origin else owner
        message = await self._ask(name_from_text(name))
        texts = texts_at(message, name)
        return EndpointInfo.of_attributes(texts) if texts else None

    async def _ask(self, name: bytes) -> bytes:
        """A valid answer to the question for TXT at `name`."""
        reason = "no DNS server is known"
        servers: Sequence[Server] = self._servers or await asyncio.to_thread(system_servers)
        for _ in range(PKARR_DNS_TRIES):
            for server in servers:
                try:
                    return await self._ask_one(server, name)
                except (TimeoutError, OSError, DnsWireError) as error:
                    reason = f"{server[0]}:{server[1]}: {str(error) or 'no answer in time'}"
        raise NetworkError("dns_unreachable", reason)

    async def _ask_one(self, server: Server, name: bytes) -> bytes:
        identifier = secrets.randbits(16)
        question = name + struct.pack(">HH", _TXT, _IN)
        opt = b"\0" + struct.pack(">HHIH", _OPT, DNS_UDP_EDNS_BYTES, 0, 0)
        query = _HEADER.pack(identifier, _RECURSION_DESIRED, 1, 0, 0, 1) + question + opt
        async with asyncio.timeout(PKARR_DNS_MS / 1_000):
            reply = await _by_udp(server, query)
            if reply[2] & _TRUNCATED:
                reply = await _by_tcp(server, query)
        validate_message(reply)
        rcode = reply[3] & 0x0F
        if rcode not in (0, _NXDOMAIN):
            raise DnsWireError(f"the server answers with RCODE {rcode}")
        return reply


async def _by_udp(server: Server, query: bytes) -> bytes:
    """The first datagram from the server that answers the query."""
    loop = asyncio.get_running_loop()
    protocol = _Waiting(query)
    transport, _ = await loop.create_datagram_endpoint(lambda: protocol, remote_addr=server)
    try:
        transport.sendto(query)
        return await protocol.answer
    finally:
        transport.close()


async def _by_tcp(server: Server, query: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        length = int.from_bytes(await reader.readexactly(2), "big")
        reply = await reader.readexactly(min(length, DNS_TCP_MESSAGE_BYTES))
    except asyncio.IncompleteReadError:
        raise DnsWireError("the server ended the connection early") from None
    finally:
        writer.close()
    if not _answers(query, reply):
        raise DnsWireError("not an answer to the query")
    return reply


class _Waiting(asyncio.DatagramProtocol):
    def __init__(self, query: bytes) -> None:
        self._query = query
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        if not self.answer.done() and _answers(self._query, data):
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


def _answers(query: bytes, reply: bytes) -> bool:
    """Whether a message answers the query: its id, a response, its question (RFC 5452 §9.1)."""
    end = query.index(b"\0", HEADER_BYTES) + 5
    return (
        len(reply) >= end
        and reply[:2] == query[:2]
        and bool(reply[2] & _RESPONSE)
        and reply[HEADER_BYTES:end].lower() == query[HEADER_BYTES:end].lower()
    )


def system_servers(path: Path = RESOLV_CONF) -> list[Server]:
    """The `nameserver` lines of resolv.conf(5)."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    words = (line.split() for line in lines)
    return [(each[1], 53) for each in words if len(each) > 1 and each[0] == "nameserver"]


def parse_server(text: str) -> Server:
    """`192.0.2.1`, `192.0.2.1:5300`, `[2001:db8::1]:53`, `ns.example`. Raises `ConfigError`."""
    host, colon, port = text.rpartition(":")
    if text.count(":") > 1 and not text.startswith("["):
        host, colon, port = text, "", ""  # an IPv6 address without a port
    if not colon or text.endswith("]"):
        host, port = text, "53"
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ConfigError(f"not the address of a DNS server: {text!r} (as in 192.0.2.1:53)")
    return host, int(port)
