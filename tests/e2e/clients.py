"""What talks to a node in these tests: a plain HTTP client, dnspython, and a maker of signed packets."""

from __future__ import annotations

import http.client
import json
import socket
import time
from dataclasses import dataclass
from typing import Any

import dns.flags
import dns.message
import dns.query
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from aspen.identity import Identity
from aspen.pkarr.packet import SignedPacket

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def http_request(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    timeout_s: float = 10.0,
    host: str = HOST,
) -> Answer:
    """One request over a connection of its own. Raises `OSError` or `HTTPException` if there is no answer."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def dns_query(
    port: int, name: str, rtype: str, *, tcp: bool = False, timeout_s: float = 2.0, host: str = HOST
) -> dns.message.Message:
    """Ask, and have dnspython, an independent decoder, read the answer whole (it refuses trailing bytes)."""
    query = dns.message.make_query(name, rtype)
    if tcp:
        return dns.query.tcp(query, host, timeout=timeout_s, port=port)
    return dns.query.udp(query, host, timeout=timeout_s, port=port)


def texts(message: dns.message.Message, rtype: str = "TXT") -> list[str]:
    """The data of the answer's records of one type, sorted, as dig prints them."""
    wanted = dns.rdatatype.from_text(rtype)
    return sorted(item.to_text() for rrset in message.answer if rrset.rdtype == wanted for item in rrset)


@dataclass(frozen=True)
class Published:
    """A packet ready to PUT, and what DNS must say once it is stored."""

    identity: Identity
    payload: bytes
    texts: tuple[str, ...]

    @property
    def z32(self) -> str:
        return self.identity.z32

    @property
    def path(self) -> str:
        return f"/pkarr/{self.z32}"

    def name(self, origin: str = "aspen.local") -> str:
        return f"_iroh.{self.z32}.{origin}".rstrip(".") + "."


_last_timestamp_us = 0


def now_us() -> int:
    """The time in microseconds, later at each call: of two packets the one made later must win."""
    global _last_timestamp_us
    _last_timestamp_us = max(_last_timestamp_us + 1, time.time_ns() // 1_000)
    return _last_timestamp_us


def sign(*texts: str, identity: Identity | None = None, more: tuple[str, ...] = ()) -> Published:
    """A packet with a TXT record at `_iroh`, and `more` records as `<owner> <type> <data>`.

    Owners are below the key; `@` is the key itself.
    """
    identity = identity or Identity.generate()
    message = dns.message.Message(id=0)
    message.flags = dns.flags.Flag(dns.flags.QR | dns.flags.AA)
    quoted = tuple(f'"{text}"' for text in texts)
    records = [f"_iroh TXT {text}" for text in quoted] + list(more)
    grouped: dict[tuple[str, str], list[str]] = {}
    for record in records:
        owner, rtype, data = record.split(" ", 2)
        grouped.setdefault((owner, rtype), []).append(data)
    for (owner, rtype), data in grouped.items():
        full = identity.z32 + "." if owner == "@" else f"{owner}.{identity.z32}."
        message.answer.append(dns.rrset.from_text(full, 30, "IN", rtype, *data))
    packet = SignedPacket.sign(identity, message.to_wire(), now_us())
    return Published(identity, packet.payload, tuple(sorted(quoted)))


def udp_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
