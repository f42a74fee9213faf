"""Whose key is it that answers at an address? A QUIC handshake that is given up once TLS has told (shell).

For addresses that somebody wrote down without a key. Nothing is said or proven to whoever answers, and what
it shows is a hint like any other: the node that has the key must still be dialled by it, and prove the rest.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted

from aspen.identity import EndpointId, Identity
from aspen.limits import NET_DATAGRAM_BYTES, NET_DIAL_MS
from aspen.net.address_book import Address
from aspen.net.quic_internals import QuicPipe, ResetTokens, dialler_configuration


async def key_at(address: Address, alpn: str) -> EndpointId | None:
    """The key of the node that answers at a numeric address; None if none does in time."""
    loop = asyncio.get_running_loop()
    knocking = _Knocking(address, alpn)
    try:
        transport, _ = await loop.create_datagram_endpoint(
            lambda: knocking, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(NET_DIAL_MS / 1_000):
            return await knocking.key
    except TimeoutError:
        return None
    finally:
        knocking.give_up()
        transport.close()


class _Knocking(asyncio.DatagramProtocol):
    """One connection that gets no further than TLS."""

    def __init__(self, address: Address, alpn: str) -> None:
        self._loop = asyncio.get_running_loop()
        self.key: asyncio.Future[EndpointId | None] = self._loop.create_future()
        self._address = address
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.DatagramTransport | None = None
        configuration = dialler_configuration(alpn, NET_DIAL_MS / 1_000, NET_DATAGRAM_BYTES)
        # Nobody will ask for a reset of this connection: any identity will do.
        self._quic = QuicPipe(configuration, reset_tokens=ResetTokens(Identity.generate()))

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._quic.connect(self._address, self._loop.time())
        self._go_on()

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        self._handle(lambda: self._quic.receive_datagram(data, addr, self._loop.time()))

    def give_up(self) -> None:
        """Say goodbye to whoever is there."""
        if self._timer is not None:
            self._timer.cancel()
        self._quic.close()
        self._send()

    def _timer_fired(self) -> None:
        self._handle(lambda: self._quic.handle_timer(self._loop.time()))

    def _handle(self, step: Callable[[], None]) -> None:
        try:
            step()
            self._go_on()
        except Exception:
            self._end(None)  # aioquic met bytes that it was not written for; that is the sender's doing

    def _go_on(self) -> None:
        while (event := self._quic.next_event()) is not None:
            if isinstance(event, HandshakeCompleted):
                self._end(self._quic.certified_key)
            elif isinstance(event, ConnectionTerminated):
                self._end(None)
        self._send()
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._quic.get_timer()
        if deadline is not None and not self.key.done():
            self._timer = self._loop.call_at(deadline, self._timer_fired)

    def _send(self) -> None:
        if self._transport is not None:
            for datagram, address in self._quic.datagrams_to_send(self._loop.time()):
                self._transport.sendto(datagram, address)

    def _end(self, key: EndpointId | None) -> None:
        if not self.key.done():
            self.key.set_result(key)
