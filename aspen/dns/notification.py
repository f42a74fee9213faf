"""NOTIFY messages (RFC 1996): telling a secondary that a zone has changed, and whom to tell.

A target is the text of a zone's setting: an address, perhaps a port, perhaps the TSIG key to sign
with: `192.0.2.1`, `192.0.2.1:5353`, `2001:db8::1`, `[2001:db8::1]:5353`, `192.0.2.1#transfer.example`.
"""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple

from aspen.dns.name import HEADER_BYTES
from aspen.dns.transfer import Record
from aspen.dns.wire import CLASS_IN, FLAG_AA, FLAG_QR, OPCODE_MASK, SOA
from aspen.dns.writer import Records, Writer
from aspen.errors import ConfigError
from aspen.limits import DNS_UDP_PLAIN_BYTES

OPCODE: Final = 4 << 3
"""NOTIFY, as it stands in octet 2."""
_PORT: Final = 53
_QUESTION: Final = SOA.to_bytes(2, "big") + CLASS_IN.to_bytes(2, "big")


class Target(NamedTuple):
    host: str
    """An address, IPv4 or IPv6."""
    port: int
    key: str | None
    """Name of the TSIG key to sign with."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_target(text: str) -> Target:
    """Raises `ConfigError`."""
    where, separator, key = text.strip().partition("#")
    host, port = where, str(_PORT)
    if where.startswith("["):
        host, _, rest = where[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else port if not rest else ""
    elif where.count(":") == 1:
        host, _, port = where.partition(":")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ConfigError(
            f"{text!r} is not a secondary: ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT, then #KEY to sign"
        ) from None
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65_536):
        raise ConfigError(f"{text!r} has no port from 1 to 65535")
    if separator and not key:
        raise ConfigError(f"{text!r} names no key after #")
    return Target(str(address), int(port), key or None)


def notify_message(message_id: int, soa: Record) -> bytes:
    """RFC 1996 §3.7: the question is the zone's SOA; the answer section hints at the new one."""
    question = soa.owner + _QUESTION
    writer = Writer(question, DNS_UDP_PLAIN_BYTES)
    hint = writer.add(Records(soa.owner, soa.rrtype, soa.ttl, (soa.rdata,), 1))
    head = message_id.to_bytes(2, "big") + bytes((OPCODE | FLAG_AA, 0))
    counts = b"\x00\x01" + (b"\x00\x01" if hint else b"\x00\x00") + bytes(4)
    return head + counts + writer.finish()


def answers_notify(reply_untrusted: bytes, message: bytes) -> bool:
    """Whether a datagram is an answer to this NOTIFY (RFC 1996 §4.7)."""
    return (
        len(reply_untrusted) >= HEADER_BYTES
        and reply_untrusted[:2] == message[:2]
        and bool(reply_untrusted[2] & FLAG_QR)
        and reply_untrusted[2] & OPCODE_MASK == OPCODE
    )
