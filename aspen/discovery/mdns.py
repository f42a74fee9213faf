"""Multicast DNS (RFC 6762, RFC 6763): nodes on one link find each other by themselves.

Each node announces a service `_aspen._udp.local` and browses for others'. Its TXT record says whose it
is: the endpoint id, and a tag of the cluster. The tag is a hash of the gossip topic, which is itself
derived from the cookie: it tells clusters on one network apart and says nothing of the cookie, as long as
that can't be guessed. What is heard goes into the address book and proves nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
from collections.abc import Callable, Coroutine, Sequence
from typing import Final, Protocol

import structlog
from zeroconf import InterfaceChoice, IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from aspen.errors import IdentityError
from aspen.limits import MDNS_LOOKUP_MS, MDNS_LOOKUPS, MDNS_REFRESH_MS, MDNS_RETRY_MS
from aspen.net.reachable import interface_addresses
from aspen.z32 import decode_key, encode_key

log = structlog.get_logger("aspen.mdns")

SERVICE: Final = "_aspen._udp.local."
SOURCE: Final = "mdns"
_LABEL_CHARS: Final = 52  # an endpoint id is one label
_TAG_BYTES: Final = 8

Address = tuple[str, int]


class Addresses(Protocol):
    """What this needs of the address book."""

    def add(self, endpoint_id: bytes, address: Address, source: str) -> None: ...


def cluster_tag(topic: bytes) -> str:
    """What tells a cluster from others on the same link; 16 hexadecimal digits."""
    return hashlib.blake2b(topic, digest_size=_TAG_BYTES, person=b"aspen mdns").hexdigest()


class Mdns:
    """This node on the link."""

    def __init__(
        self,
        endpoint_id: bytes,
        topics: Callable[[], Sequence[bytes]],
        address_book: Addresses,
        addresses: Callable[[], Sequence[Address]],
        host: str,
    ) -> None:
        """`addresses` are this node's own, and `topics` its cluster's, the one to announce first; both are
        asked anew each time. `host` is what it is bound to."""
        self._endpoint_id = endpoint_id
        self._name = f"{encode_key(endpoint_id)}.{SERVICE}"
        self._topics = topics
        self._address_book = address_book
        self._addresses = addresses
        self._host = host
        self._announced: AsyncServiceInfo | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._lookups: set[str] = set()

    def start(self) -> None:
        """Begin; a network that has no multicast is tried again and holds up nobody."""
        self._start_task(self._run())

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._take_part()
                continue  # with other interfaces
            except OSError as error:
                log.warning("no multicast DNS here; trying again", reason=str(error))
            except Exception:
                log.exception("multicast DNS failed; trying again")
            await asyncio.sleep(MDNS_RETRY_MS / 1000)

    async def _take_part(self) -> None:
        """Announce and browse until cancelled, or until the machine has other addresses."""
        loopback = _is_loopback(self._host)
        interfaces = [self._host] if loopback else InterfaceChoice.All
        zeroconf = AsyncZeroconf(interfaces=interfaces, ip_version=IPVersion.V4Only)
        self._announced = None
        before = interface_addresses()
        try:
            browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[self._heard])
            try:
                while interface_addresses() == before:
                    await self._announce(zeroconf)
                    await asyncio.sleep(MDNS_REFRESH_MS / 1000)
            finally:
                await browser.async_cancel()
        finally:
            await zeroconf.async_close()

    async def _announce(self, zeroconf: AsyncZeroconf) -> None:
        """Announce this node, again if it has moved."""
        addresses = [(host, port) for host, port in self._addresses() if _is_ip(host)]
        if not addresses:
            return
        info = AsyncServiceInfo(
            SERVICE,
            self._name,
            port=addresses[0][1],
            parsed_addresses=[host for host, _ in addresses],
            properties={"v": "1", "cluster": cluster_tag(self._topics()[0])},
            server=f"{encode_key(self._endpoint_id)}.local.",
        )
        before = self._announced
        if before is None:
            await zeroconf.async_register_service(info, allow_name_change=False)
        elif _said(info) != _said(before):
            await zeroconf.async_update_service(info)
        self._announced = info

    def _heard(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        """A service came, or changed."""
        wanted = state_change is not ServiceStateChange.Removed and name not in self._lookups
        if wanted and name != self._name and len(self._lookups) < MDNS_LOOKUPS:
            self._lookups.add(name)
            self._start_task(self._look_up(zeroconf, service_type, name))

    async def _look_up(self, zeroconf: Zeroconf, service_type: str, name: str) -> None:
        try:
            endpoint_id = decode_key(name[:_LABEL_CHARS])
            info = AsyncServiceInfo(service_type, name)
            if not await info.async_request(zeroconf, MDNS_LOOKUP_MS):
                return
            tags = {cluster_tag(topic).encode() for topic in self._topics()}
            if info.properties.get(b"cluster") not in tags or not info.port:
                return
            for host in info.parsed_scoped_addresses(IPVersion.V4Only):
                self._address_book.add(endpoint_id, (host, info.port), SOURCE)
        except IdentityError:
            log.debug("not a node of ours", name=name)
        finally:
            self._lookups.discard(name)

    def _start_task(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _said(info: AsyncServiceInfo) -> tuple[list[str], int | None, bytes]:
    return info.parsed_addresses(), info.port, info.text


def _is_ip(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 4
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    return _is_ip(host) and ipaddress.ip_address(host).is_loopback
