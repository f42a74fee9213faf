"""Bootstrap nodes: hosts that somebody wrote down, by name and without a key (shell).

A name is resolved anew each time, and all its addresses count, so one name may stand for many nodes (a
headless service of Kubernetes, say). Each is asked for its key, once; from then on it is dialled by that.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from aspen.discovery.dns_discovery import Learn
from aspen.discovery.service_records import Address
from aspen.errors import NetworkError
from aspen.limits import LOOKUP_KNOCKS, LOOKUP_NODES

SOURCE: Final = "bootstrap"


class Bootstrap:
    """A source of `Lookups`."""

    name = SOURCE

    def __init__(
        self,
        places: Sequence[Address],
        key_at: Callable[[Address], Awaitable[bytes | None]],
        connected: Callable[[], set[Address]],
        own_id: bytes,
        learn: Learn,
    ) -> None:
        """`connected` are the addresses of those who need not be asked again."""
        self._places = places
        self._key_at = key_at
        self._connected = connected
        self._own_id = own_id
        self._learn = learn
        self._room = asyncio.Semaphore(LOOKUP_KNOCKS)

    async def look(self) -> bool:
        return await self.knock(self._places, SOURCE)

    async def knock(self, places: Sequence[Address], source: str) -> bool:
        """Ask for the keys at all addresses of these hosts. Raises `NetworkError` if none can be found."""
        resolved = await asyncio.gather(*(_resolve(place) for place in places))
        found = dict.fromkeys(address for addresses in resolved for address in addresses)
        if not found and places:
            raise NetworkError("unresolved", f"no address for {', '.join(host for host, _ in places)}")
        known = self._connected()
        asked = [address for address in found if address not in known][:LOOKUP_NODES]
        return any(await asyncio.gather(*(self._ask(address, source) for address in asked)))

    async def _ask(self, address: Address, source: str) -> bool:
        async with self._room:
            endpoint_id = await self._key_at(address)
        if endpoint_id is None or endpoint_id == self._own_id:  # one list serves all nodes
            return False
        return self._learn(endpoint_id, address, source)


async def _resolve(place: Address) -> list[Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(*place, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return []
    return [(str(address[0]), int(address[1])) for _, _, _, _, address in found]
