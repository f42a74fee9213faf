"""Who a request comes from, if proxies stand between (RFC 7239; `X-Forwarded-For`).

Anyone can write these headers. So they count only if the connection comes from a proxy that the
configuration trusts, and are read from the right: each trusted proxy vouches for the one before it,
and the first address that isn't a trusted proxy's is the client.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from aspen.errors import ConfigError
from aspen.http.routing import Request
from aspen.limits import RATE_LIMIT_PEERS

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

# A `for` parameter of a `Forwarded` element, its value a token or a quoted string (RFC 7239 §4).
_FOR: Final = re.compile(r'(?:^|;)\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^;,\s"]*)\s*(?=;|$)', re.IGNORECASE)


def parse_networks(texts: Sequence[str], setting: str) -> tuple[Network, ...]:
    """Read CIDRs; a bare address is itself alone. Raises `ConfigError` naming the setting."""
    try:
        return tuple(ip_network(text.strip()) for text in texts)
    except ValueError as error:
        raise ConfigError(f"{setting}: {error}") from None


class ClientAddress:
    """Finds the client's address."""

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def of(self, request: Request) -> str:
        """The client's IP address as text; the connection's peer if nobody else is believed."""
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        if not isinstance(peer, tuple):
            return "0.0.0.0"  # noqa: S104  (an address nobody has: the connection is gone)
        address = parse_address(peer[0])
        if address is None or not self._trusts(address):
            return str(address or peer[0])
        for hop in _hops(request):
            before = parse_address(hop)
            if before is None:  # "unknown", hidden, or nonsense: the proxy that says so is all we know
                break
            address = before
            if not self._trusts(address):
                break
        return str(address)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _hops(request: Request) -> Iterator[str]:
    """The addresses that proxies wrote, the nearest first."""
    forwarded = request.headers.getall("Forwarded", ())
    if forwarded:
        for element in reversed(_elements(", ".join(forwarded))):
            match = _FOR.search(element)
            yield match[1] if match is not None else "unknown"
    else:
        listed = ",".join(request.headers.getall("X-Forwarded-For", ()))
        yield from (part for part in reversed(listed.split(",")))


def _elements(text: str) -> list[str]:
    """Split at commas outside quoted strings."""
    elements, quoted, start = [], False, 0
    for position, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            elements.append(text[start:position])
            start = position + 1
    return [element.strip() for element in (*elements, text[start:])]


@lru_cache(RATE_LIMIT_PEERS)
def parse_address(text_untrusted: str) -> Address | None:
    """An address, perhaps quoted, in brackets, or with a port."""
    text = text_untrusted.strip().strip('"').strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        ip = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip
