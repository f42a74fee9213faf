"""Asking a DNS server what a key has published: TXT at `_iroh.<key>.<origin>`.

DNS hands out records, not the packet that they were signed in: what comes by this way is only as true as
the server and the path to it. It is good for finding where to dial, since whoever answers there must prove
the key; it is no packet, and never takes the place of one.
"""

from __future__ import annotations

from typing import Final

from aspen.dns.client import DnsClient, PlainDns
from aspen.dns.name import name_from_text
from aspen.dns.wire import TXT
from aspen.errors import ConfigError, DnsWireError
from aspen.pkarr.endpoint_info import LABEL, EndpointInfo, texts_at
from aspen.z32 import encode_key

DEFAULT_ORIGIN: Final = "dns.iroh.link"


class DnsSource:
    """One DNS server (or the system's), and the origin that keys stand under."""

    def __init__(self, origin: str = DEFAULT_ORIGIN, client: DnsClient | None = None) -> None:
        """No `client`: the servers of `/etc/resolv.conf`. Raises `ConfigError`."""
        self._origin = origin.strip(".")
        try:
            name_from_text(f"{LABEL}.{'y' * 52}.{self._origin}")
        except DnsWireError as error:
            raise ConfigError(f"not the origin of keys: {origin!r}: {error}") from None
        self._client = client or PlainDns()
        self.name = f"dns:{self._origin or '.'}"

    async def find_info(self, public_key: bytes) -> EndpointInfo | None:
        """What the records say, unverified; None if there are none. Raises `NetworkError`."""
        owner = f"{LABEL}.{encode_key(public_key)}"
        name = f"{owner}.{self._origin}" if self._origin else owner
        texts = texts_at(await self._client.ask(name_from_text(name), TXT), name)
        return EndpointInfo.of_attributes(texts) if texts else None
