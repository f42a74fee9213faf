"""How a relay tells a client from where its QUIC datagrams come into the world (shell).

A client sends the token it was given, by UDP, from its QUIC port; the relay answers over the WebSocket with
the address it came from. Behind a NAT that is an address at which others may reach it, once it knocks at
theirs too. Nothing is ever sent back by UDP, so nobody can be made to hear from here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

MAGIC: Final = b"\x00aspen relay probe\x00"
"""No QUIC packet begins with a zero byte: its fixed bit is set (RFC 9000 §17)."""


class Observer(asyncio.DatagramProtocol):
    """Hears probes. `seen` gets each token, and where it came from."""

    def __init__(self, seen: Callable[[bytes, tuple[str, int]], None]) -> None:
        self._seen = seen
        self._transport: asyncio.DatagramTransport | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Raises `OSError` if the port can't be had."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(host, port))
        self._transport = transport
        self.port = int(transport.get_extra_info("sockname")[1])

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if data.startswith(MAGIC):
            self._seen(data[len(MAGIC) :], (str(addr[0]).removeprefix("::ffff:"), int(addr[1])))


def probe(token: bytes) -> bytes:
    """The datagram that a client sends."""
    return MAGIC + token
