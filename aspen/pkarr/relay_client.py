"""A pkarr relay as its clients see it: `PUT` and `GET` of `<relay>/<key>` (https://pkarr.org, "Relays").

iroh's relays are named with their path (`https://dns.iroh.link/pkarr`), pkarr's are bare
(`https://relay.pkarr.org`); Aspen answers both. What a relay sends back is verified before anything is
made of it, and a relay that sends more than a packet is not listened to.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

import aiohttp
from yarl import URL

from aspen.errors import ConfigError, NetworkError, PacketError
from aspen.limits import CLIENT_CONNECT_MS, PKARR_PAYLOAD_BYTES, PKARR_RELAY_MS
from aspen.pkarr.packet import SignedPacket
from aspen.z32 import encode_key

_MEDIA_TYPE: Final = "application/pkarr.org/relays#payload"
_CONFLICT: Final = frozenset({409, 412})


class RelayClient:
    """Use as an async context manager. One relay, any number of keys."""

    def __init__(self, url: str, *, timeout_ms: int = PKARR_RELAY_MS) -> None:
        """Raises `ConfigError` if `url` is no HTTP URL."""
        self.url = parse_relay_url(url)
        self.name = str(self.url)
        self._timeout = aiohttp.ClientTimeout(
            total=timeout_ms / 1_000, sock_connect=min(CLIENT_CONNECT_MS, timeout_ms) / 1_000
        )
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def publish(self, packet: SignedPacket) -> SignedPacket | None:
        """None once the relay has accepted the packet; else the more recent packet that it has.

        Raises `NetworkError`: `relay_refused` (it never will), `relay_unreachable` or `relay_busy`
        (try later).
        """
        status, body = await self._request("PUT", packet.z32, packet.payload)
        if 200 <= status < 300:
            return None
        if status in _CONFLICT:
            stored = await self.find(packet.public_key)
            if stored is not None and stored.more_recent_than(packet):
                return stored
        raise self._error(status, body)

    async def find(self, public_key: bytes) -> SignedPacket | None:
        """The packet that the relay has under a key, verified. Raises `NetworkError`."""
        status, body = await self._request("GET", encode_key(public_key))
        if status == 404:
            return None
        if status != 200:
            raise self._error(status, body)
        try:
            return SignedPacket.parse(public_key, body)
        except PacketError as error:
            reason = f"{self.name} sent what is not the key's packet ({error.code}: {error})"
            raise NetworkError("relay_lied", reason) from None

    async def _request(self, method: str, key: str, payload: bytes | None = None) -> tuple[int, bytes]:
        if self._session is None:
            raise RuntimeError("use RelayClient as an async context manager")
        try:
            async with self._session.request(
                method,
                self.url / key,
                data=payload,
                headers={"Content-Type": _MEDIA_TYPE},
                allow_redirects=False,
            ) as response:
                return response.status, await response.content.read(PKARR_PAYLOAD_BYTES + 1)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            reason = f"{self.name} gave no answer: {str(error) or type(error).__name__}"
            raise NetworkError("relay_unreachable", reason) from None

    def _error(self, status: int, body: bytes) -> NetworkError:
        said = body[:200].decode("utf-8", "replace").strip()
        reason = f"{self.name} answered {status}" + (f": {said}" if said else "")
        if status == 429:
            return NetworkError("relay_busy", reason)
        return NetworkError("relay_refused" if 400 <= status < 500 else "relay_unreachable", reason)


def parse_relay_url(text: str) -> URL:
    """Raises `ConfigError`."""
    try:
        url = URL(text.strip().rstrip("/"))
        usable = url.scheme in ("http", "https") and bool(url.host) and not url.query and not url.fragment
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"not the URL of a pkarr relay: {text!r} (as in https://dns.iroh.link/pkarr)")
    return url
