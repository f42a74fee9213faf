"""DNS discovery: where the cluster's nodes are, asked of a DNS server (shell).

Asked are, under each origin, `_aspen._udp` (SRV and TXT, RFC 2782), which tells of all nodes, and for nodes
that are known by their key and can't be reached, `_iroh.<key>`, as iroh endpoints publish themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

import structlog

from aspen.discovery.service_records import SERVICE, Address, read_nodes, read_places
from aspen.dns.client import DnsClient
from aspen.dns.name import name_from_text
from aspen.dns.wire import SRV, TXT
from aspen.errors import NetworkError
from aspen.limits import LOOKUP_MISSING
from aspen.pkarr.dns_client import DnsSource

log = structlog.get_logger("aspen.discovery")

SOURCE: Final = "dns"


class Learn(Protocol):
    """Takes an address of a node; whether it was new."""

    def __call__(self, endpoint_id: bytes, address: Address, source: str) -> bool: ...


class DnsDiscovery:
    """A source of `Lookups`."""

    name = SOURCE

    def __init__(
        self,
        client: DnsClient,
        origins: Sequence[str],
        missing: Callable[[], Iterable[bytes]],
        learn: Learn,
        knock: Callable[[Sequence[Address], str], Awaitable[bool]],
    ) -> None:
        """`missing` are the keys that can't be reached; `knock` asks at places for the key there."""
        self._client = client
        self._services = {origin: name_from_text(f"{SERVICE}.{origin}".rstrip(".")) for origin in origins}
        self._keys = [DnsSource(origin, client) for origin in origins]
        self._missing = missing
        self._learn = learn
        self._knock = knock
        self._silent = False

    async def look(self) -> bool:
        """Raises `NetworkError` if no question was answered."""
        missing = list(self._missing())[:LOOKUP_MISSING]
        asked = [self._ask_service(name) for name in self._services.values()]
        asked += [self._ask_key(source, key) for source in self._keys for key in missing]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        for failure in failed:
            if not isinstance(failure, NetworkError) or len(failed) == len(answers):
                raise failure
        told = [answer for answer in answers if not isinstance(answer, BaseException)]
        self._say_if_silent(any(count for count, _ in told))
        return any(new for _, new in told)

    async def _ask_service(self, name: bytes) -> tuple[int, bool]:
        """How many nodes there are, and whether anything is new."""
        nodes = read_nodes(await self._client.ask(name, TXT))
        new = [self._learn(n.endpoint_id, address, SOURCE) for n in nodes for address in n.addresses]
        if nodes:
            return len(nodes), any(new)
        places = read_places(await self._client.ask(name, SRV))
        return len(places), await self._knock(places, SOURCE) if places else False

    async def _ask_key(self, source: DnsSource, endpoint_id: bytes) -> tuple[int, bool]:
        info = await source.find_info(endpoint_id)
        if info is None:
            return 0, False
        new = [self._learn(endpoint_id, address, SOURCE) for address in info.addresses]
        return 1, any(new)

    def _say_if_silent(self, heard: bool) -> None:
        if not heard and not self._silent:
            log.warning(
                "the DNS server tells of no node: is its origin the one in iroh.dns_discovery_origin?",
                server=self._client.host,
                origins=list(self._services),
            )
        self._silent = not heard
