"""How one protocol gets its connections: which address, how long before the relay, and when to move (shell).

A direct way is preferred. It is tried first; if it isn't there within a moment, the relay is tried beside it,
and whichever is proven first carries the frames. A link that goes through a relay keeps looking for a
direct way: soon and often at first, then more rarely, and at once when an address is new. A direct
connection that gets through takes over; the one through the relay stays until what was sent on it has
arrived. (RFC 8305 does the like for IPv6 and IPv4.)

Both sides of two NATs that do so at about the same time open the way for each other, since a datagram that
leaves lets the answers in, and every node sends from the port that others see it at.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

import structlog

from aspen.limits import (
    NET_DIAL_MS,
    NET_PROBE_TICK_MS,
    NET_RELAY_AFTER_MS,
    NET_RETIRE_MS,
)
from aspen.net.address_book import Address, AddressBook
from aspen.net.connection import Connection, State
from aspen.net.link import Link
from aspen.net.relayed import Relays, relay_address
from aspen.net.transceiver import Transceiver
from aspen.net.udp import SocketAddress, numeric, resolve
from aspen.z32 import encode_key

log = structlog.get_logger("aspen.net")

_TICK_S: Final = NET_PROBE_TICK_MS / 1000


class Dialler:
    """Makes connections for the links of one channel. Use from one event loop."""

    def __init__(
        self,
        alpn: str,
        transceiver: Transceiver,
        address_book: AddressBook,
        relays: Relays,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        failed: Callable[[Link], None],
    ) -> None:
        """`spawn` runs a task of the channel's. `failed` hears of a dial that ended before it began."""
        self._alpn = alpn
        self._transceiver = transceiver
        self._address_book = address_book
        self._relays = relays
        self._spawn = spawn
        self._failed = failed
        self._relayed: dict[Link, None] = {}
        """Links that look for a direct way."""
        self._retiring: dict[Connection, float] = {}
        """Connections that were replaced → when they end at the latest."""
        self._timer: asyncio.TimerHandle | None = None
        self._rng = random.Random()  # noqa: S311  jitter, not secrecy

    def is_dialled(self, link: Link) -> bool:
        """Whether there is a connection, or a dial in progress. Starts one unless it is too early."""
        if link.connection is not None or link.resolving:
            return True
        if self._transceiver.now() < link.retry_at or not self._transceiver.has_room:
            return False
        addresses = self._address_book.addresses(link.endpoint_id)
        if not addresses:
            return self._dial_relay(link)
        address = addresses[link.attempts % len(addresses)]
        link.attempts += 1
        self._dial(link, address)
        asyncio.get_running_loop().call_later(NET_RELAY_AFTER_MS / 1000, self.try_relay, link)
        return True

    def try_relay(self, link: Link) -> None:
        """Dial through a relay too, unless there is a connection already, or nobody wants one."""
        if not self._transceiver.is_running:
            return
        tried = link.connection
        wanted = link.resolving or (tried is not None and tried.state is not State.OPEN)
        if wanted and link.rival is None and (tried is None or not tried.is_relayed):
            self._dial_relay(link)

    def opened(self, link: Link, connection: Connection) -> bool:
        """A dialled connection is proven. Whether the link uses it from now on."""
        if connection is link.rival:
            other, link.connection, link.rival = link.connection, connection, None
            if other is not None:
                self._replaced(link, other, connection)
        elif connection is not link.connection:
            self._transceiver.drop(connection)
            return False
        elif link.rival is not None and not connection.is_relayed:
            self._transceiver.drop(link.rival)
            link.rival = None
        if connection.is_relayed:
            self._relayed[link] = None
            self._tick_soon()
        else:
            link.probe.rest()
            self._relayed.pop(link, None)
        return True

    def _replaced(self, link: Link, other: Connection, connection: Connection) -> None:
        if other.state is State.OPEN:
            self._retiring[other] = self._transceiver.now() + NET_RETIRE_MS / 1000
            self._tick_soon()
            log.info("peer has a direct path", endpoint_id=encode_key(link.endpoint_id), protocol=self._alpn)
        elif connection.is_relayed:
            link.rival = other  # the direct dial goes on: it takes over if it gets through
        else:
            self._transceiver.drop(other)

    def closed(self, link: Link, connection: Connection) -> bool:
        """A dialled connection is over. Whether the link has none left."""
        if connection is link.rival:
            link.rival = None
        elif connection is link.connection:
            link.connection, link.rival = link.rival, None
            self._relayed.pop(link, None)
            answered = connection.announced or connection.refused_by is not None
            if link.connection is None and not answered and not connection.is_relayed:
                self._dial_relay(link)
            return link.connection is None
        self._retiring.pop(connection, None)
        return False

    def abandon(self, link: Link) -> None:
        """Drop whatever leads to the peer: it is another process now."""
        for connection in (link.connection, link.rival):
            if connection is not None:
                self._transceiver.drop(connection)
        link.connection = link.rival = None
        self._relayed.pop(link, None)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def relays_changed(self, links: Iterable[Link]) -> None:
        """A relay is connected that was not."""
        for link in links:
            self.try_relay(link)

    # --- dialling ------------------------------------------------------------------------------

    def _dial(self, link: Link, address: Address) -> None:
        resolved = numeric(self._transceiver.family, address)
        if resolved is not None:
            self._dial_direct(link, resolved)
        else:
            link.resolving = True
            self._spawn(self._dial_name(link, address))

    async def _dial_name(self, link: Link, address: Address) -> None:
        lookup = asyncio.to_thread(resolve, self._transceiver.family, address)
        resolved: SocketAddress | None = None
        try:
            resolved = await asyncio.wait_for(lookup, NET_DIAL_MS / 1000)
        except TimeoutError:
            pass
        finally:
            link.resolving = False
        if resolved is not None:
            self._dial_direct(link, resolved)
        elif link.connection is None and not self._dial_relay(link):
            self._failed(link)

    def _dial_direct(self, link: Link, address: SocketAddress) -> None:
        """The first connection of a link, or one beside that through a relay."""
        if link.connection is None:
            link.connection = self._transceiver.dial(link.endpoint_id, address, self._alpn)
        elif link.connection.is_relayed and link.rival is None:
            link.rival = self._transceiver.dial(link.endpoint_id, address, self._alpn)

    def _dial_relay(self, link: Link) -> bool:
        ways = self._relays.ways_to(link.endpoint_id)
        if not ways or not self._transceiver.has_room:
            return False
        relay = ways[link.relay_attempts % len(ways)]
        link.relay_attempts += 1
        address = relay_address(relay, link.endpoint_id)
        connection = self._transceiver.dial(link.endpoint_id, address, self._alpn)
        if link.connection is None:
            link.connection = connection
        else:
            link.rival = connection
        return True

    # --- looking for something better ----------------------------------------------------------

    def _tick_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._transceiver.is_running:
            return
        now = self._transceiver.now()
        for connection, until in list(self._retiring.items()):
            if connection.is_idle or now >= until:
                del self._retiring[connection]
                self._transceiver.drop(connection)
        for link in list(self._relayed):
            if link.rival is None and not link.resolving and self._transceiver.has_room:
                addresses = self._address_book.addresses(link.endpoint_id)
                address = link.probe.next(addresses, now, self._rng)
                if address is not None:
                    self._dial(link, address)
        if self._relayed or self._retiring:
            self._tick_soon()
