"""Asking somebody else's DNS server: by UDP and TCP (RFC 1035 §4.2, RFC 7766), or by HTTPS (RFC 8484).

A reply counts only if it is a valid message that answers the very question that was asked (RFC 5452 §9.1).
Whatever it says is the server's word, and nothing more.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import aiohttp
from yarl import URL

from aspen.dns.message import validate_message
from aspen.dns.name import HEADER_BYTES
from aspen.errors import ConfigError, DnsWireError, NetworkError
from aspen.limits import DNS_ASK_MS, DNS_ASK_TRIES, DNS_TCP_MESSAGE_BYTES, DNS_UDP_EDNS_BYTES

RESOLV_CONF: Final = Path("/etc/resolv.conf")
DNS_PORT: Final = 53
_HEADER: Final = struct.Struct(">HHHHHH")
_RECURSION_DESIRED: Final = 0x0100
_IN, _OPT = 1, 41
_TRUNCATED: Final = 0x02
_RESPONSE: Final = 0x80
_NXDOMAIN: Final = 3
_MEDIA_TYPE: Final = "application/dns-message"

Server = tuple[str, int]


class DnsClient(Protocol):
    """Somebody who answers questions."""

    @property
    def host(self) -> str: ...

    async def ask(self, name: bytes, rrtype: int) -> bytes:
        """A valid answer (NXDOMAIN is one) to a question for a wire name. Raises `NetworkError`."""
        ...

    async def close(self) -> None: ...


class PlainDns:
    """Servers that are asked by UDP, and by TCP for what doesn't fit, one after the other."""

    def __init__(self, servers: Sequence[Server] = ()) -> None:
        """No servers: those of `/etc/resolv.conf`, read for every question."""
        self._servers = tuple(servers)
        self.host = servers[0][0] if servers else ""

    async def ask(self, name: bytes, rrtype: int) -> bytes:
        reason = "no DNS server is known"
        servers: Sequence[Server] = self._servers or await asyncio.to_thread(system_servers)
        for _ in range(DNS_ASK_TRIES):
            for server in servers:
                try:
                    return await _ask_one(server, name, rrtype)
                except (TimeoutError, OSError, DnsWireError) as error:
                    reason = f"{server[0]}:{server[1]}: {str(error) or 'no answer in time'}"
        raise NetworkError("dns_unreachable", reason)

    async def close(self) -> None:
        pass


class DohDns:
    """A server that is asked by HTTPS. Its certificate is verified as for any web site."""

    def __init__(self, url: str) -> None:
        self._url = URL(url)
        self.host = self._url.host or ""
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, name: bytes, rrtype: int) -> bytes:
        query = _query(0, name, rrtype)  # id 0: RFC 8484 §4.1
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DNS_ASK_MS / 1_000))
        try:
            async with self._session.post(
                self._url,
                data=query,
                headers={"Content-Type": _MEDIA_TYPE, "Accept": _MEDIA_TYPE},
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    raise NetworkError("dns_unreachable", f"{self._url} answers {response.status}")
                reply = await _bounded(response.content)
            return _checked(query, reply)
        except (TimeoutError, aiohttp.ClientError, OSError, DnsWireError) as error:
            reason = f"{self._url}: {str(error) or 'no answer in time'}"
            raise NetworkError("dns_unreachable", reason) from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


def system_servers(path: Path = RESOLV_CONF) -> list[Server]:
    """The `nameserver` lines of resolv.conf(5)."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    words = (line.split() for line in lines)
    return [(each[1], DNS_PORT) for each in words if len(each) > 1 and each[0] == "nameserver"]


def parse_server(text: str) -> Server:
    """`192.0.2.1`, `192.0.2.1:5300`, `[2001:db8::1]:53`, `ns.example`. Raises `ConfigError`."""
    host, colon, port = text.rpartition(":")
    if text.count(":") > 1 and not text.startswith("["):
        host, colon, port = text, "", ""  # an IPv6 address without a port
    if not colon or text.endswith("]"):
        host, port = text, str(DNS_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ConfigError(f"not the address of a DNS server: {text!r} (as in 192.0.2.1:53)")
    return host, int(port)


def _query(identifier: int, name: bytes, rrtype: int) -> bytes:
    opt = b"\0" + struct.pack(">HHIH", _OPT, DNS_UDP_EDNS_BYTES, 0, 0)
    question = name + struct.pack(">HH", rrtype, _IN)
    return _HEADER.pack(identifier, _RECURSION_DESIRED, 1, 0, 0, 1) + question + opt


async def _ask_one(server: Server, name: bytes, rrtype: int) -> bytes:
    query = _query(secrets.randbits(16), name, rrtype)
    async with asyncio.timeout(DNS_ASK_MS / 1_000):
        reply = await _by_udp(server, query)
        if reply[2] & _TRUNCATED:
            reply = await _by_tcp(server, query)
    return _checked(query, reply)


def _checked(query: bytes, reply_untrusted: bytes) -> bytes:
    """Raises `DnsWireError`."""
    if not _answers(query, reply_untrusted):
        raise DnsWireError("not an answer to the query")
    validate_message(reply_untrusted)
    rcode = reply_untrusted[3] & 0x0F
    if rcode not in (0, _NXDOMAIN):
        raise DnsWireError(f"the server answers with RCODE {rcode}")
    return reply_untrusted


def _answers(query: bytes, reply: bytes) -> bool:
    """Whether a message answers the query: its id, a response, its question (RFC 5452 §9.1)."""
    end = query.index(b"\0", HEADER_BYTES) + 5
    return (
        len(reply) >= end
        and reply[:2] == query[:2]
        and bool(reply[2] & _RESPONSE)
        and reply[HEADER_BYTES:end].lower() == query[HEADER_BYTES:end].lower()
    )


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
        return await reader.readexactly(min(length, DNS_TCP_MESSAGE_BYTES))
    except asyncio.IncompleteReadError:
        raise DnsWireError("the server ended the connection early") from None
    finally:
        writer.close()


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    """A body that is no longer than a message can be. Raises `DnsWireError`."""
    body = b""
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > DNS_TCP_MESSAGE_BYTES:
            raise DnsWireError("longer than a message can be")
    return body


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
