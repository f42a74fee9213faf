"""Finding what a key has published: by relays, by the DHT, by DNS; the most recent packet wins.

All sources are asked at once and all are waited for, within a time: a source that is quick and behind the
others must not win. Packets are verified, whoever sends them. DNS has no packets; what it says counts only
where nobody has one, and is marked as unverified.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import structlog

from aspen.errors import NetworkError
from aspen.limits import PKARR_RESOLVE_MS
from aspen.pkarr.dht import DhtClient
from aspen.pkarr.dns_client import DnsSource
from aspen.pkarr.endpoint_info import EndpointInfo
from aspen.pkarr.packet import SignedPacket

log = structlog.get_logger("aspen.pkarr.resolver")

T = TypeVar("T")


class Source(Protocol):
    """Where packets are: a relay, the DHT."""

    @property
    def name(self) -> str: ...

    async def find(self, public_key: bytes) -> SignedPacket | None:
        """A verified packet; None if there is none. Raises `NetworkError`."""
        ...


class Resolution(NamedTuple):
    """What was found of a key."""

    packet: SignedPacket | None
    """The most recent one; None if nobody has one."""
    info: EndpointInfo | None
    """How the key's endpoint can be reached: from the packet, or else from DNS."""
    source: str
    """Whose answer this is; empty if there is none."""
    failures: tuple[str, ...]
    """What kept sources from answering."""

    @property
    def verified(self) -> bool:
        return self.packet is not None


class DhtSource:
    """The DHT as a source, and as a target of publications."""

    name = "dht"

    def __init__(self, client: DhtClient) -> None:
        self._client = client

    async def find(self, public_key: bytes) -> SignedPacket | None:
        found = await self._client.get(public_key)
        if not found.nodes_answered:
            raise NetworkError("network_unreachable", "no node of the DHT answers")
        return found.packet

    async def publish(self, packet: SignedPacket) -> SignedPacket | None:
        """None once nodes have stored it; else the more recent one that is there. Raises `NetworkError`."""
        stored = await self._client.put(packet)
        if stored.newer is None and not stored.nodes:
            said = ", ".join(dict.fromkeys(stored.refusals)) or "none answers"
            raise NetworkError("network_unreachable", f"no node of the DHT took the packet: {said}")
        return stored.newer


class Resolver:
    """Resolves keys by several sources."""

    def __init__(
        self, sources: Sequence[Source], dns: Sequence[DnsSource] = (), *, timeout_ms: int = PKARR_RESOLVE_MS
    ) -> None:
        self._sources = tuple(sources)
        self._dns = tuple(dns)
        self._timeout_s = timeout_ms / 1_000

    async def resolve(self, public_key: bytes) -> Resolution:
        """Never raises: a source that fails is a line in `failures`."""
        failures: list[str] = []
        asked = [self._asked(each.name, each.find, public_key, failures) for each in self._sources]
        asked_dns = [self._asked(each.name, each.find_info, public_key, failures) for each in self._dns]
        packets, infos = await asyncio.gather(asyncio.gather(*asked), asyncio.gather(*asked_dns))
        best: tuple[SignedPacket, str] | None = None
        for source, packet in zip(self._sources, packets, strict=True):
            if packet is not None and (best is None or packet.more_recent_than(best[0])):
                best = packet, source.name
        if best is not None:
            return Resolution(best[0], EndpointInfo.of_packet(best[0]), best[1], tuple(failures))
        for dns, info in zip(self._dns, infos, strict=True):
            if info is not None:
                return Resolution(None, info, dns.name, tuple(failures))
        return Resolution(None, None, "", tuple(failures))

    async def _asked(
        self, name: str, find: Callable[[bytes], Awaitable[T | None]], key: bytes, failures: list[str]
    ) -> T | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await find(key)
        except TimeoutError:
            failures.append(f"{name}: no answer in {self._timeout_s:g} seconds")
        except NetworkError as error:
            failures.append(f"{name}: {error}")
        return None
