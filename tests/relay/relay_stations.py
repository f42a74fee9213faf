"""What tests of relays are made with: a well-behaved client, and one that says what it likes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp

from aspen.identity import Authenticator, Cookies, Identity
from aspen.relay.access import COOKIE_CONTEXT, prove
from aspen.relay.client import RelayClient
from aspen.relay.frames import Challenge, Frame, Proof, Refused, decode_frame, encode_frame
from aspen.relay.standalone import StandaloneRelay

COOKIE = "a cookie for tests of relays"


def macs(*cookies: str) -> Sequence[Authenticator]:
    """Of cookies, the one in use first."""
    return Cookies.of(cookies).authenticators(COOKIE_CONTEXT)


class Line:
    """A node's client of a relay, and what came by it."""

    client: RelayClient

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.id = identity.endpoint_id
        self.heard: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
        self.gone: asyncio.Queue[bytes] = asyncio.Queue()

    def receive(self, peer: bytes, datagram: bytes) -> None:
        self.heard.put_nowait((peer, datagram))

    async def connects(self, within_s: float = 30) -> None:
        async with asyncio.timeout(within_s):
            while not self.client.connected:  # noqa: ASYNC110  a flag can't be awaited
                await asyncio.sleep(0.005)

    async def fails(self, because: str, within_s: float = 30) -> None:
        async with asyncio.timeout(within_s):
            while because not in self.client.problem:  # noqa: ASYNC110  a text can't be awaited
                await asyncio.sleep(0.005)

    async def hears(self, within_s: float = 30) -> tuple[bytes, bytes]:
        async with asyncio.timeout(within_s):
            return await self.heard.get()

    async def reaches(self, other: Line, within_s: float = 30) -> None:
        """Sends until something arrives."""
        async with asyncio.timeout(within_s):
            while other.heard.empty():
                self.client.send(other.id, b"there?")
                await asyncio.sleep(0.02)


class Caller:
    """A WebSocket with a relay at the other end."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, name: str) -> None:
        self.socket = socket
        self.name = name

    @classmethod
    @asynccontextmanager
    async def connected(cls, address: tuple[str, int], host: str = "") -> AsyncIterator[Caller]:
        """`host` is what the request calls the relay, if that isn't its address."""
        name = "{}:{}".format(*address)
        async with (
            aiohttp.ClientSession(headers={"Host": host or name}) as session,
            session.ws_connect(f"ws://{name}/relay") as socket,
        ):
            yield cls(socket, host or name)

    async def says(self, frame: Frame | bytes) -> None:
        await self.socket.send_bytes(frame if isinstance(frame, bytes) else encode_frame(frame))

    async def hears(self, within_s: float = 30) -> Frame:
        async with asyncio.timeout(within_s):
            message = await self.socket.receive()
        assert message.type is aiohttp.WSMsgType.BINARY, message
        return decode_frame(message.data)

    async def challenged(self) -> Challenge:
        frame = await self.hears()
        assert isinstance(frame, Challenge)
        return frame

    async def proof(self, identity: Identity, cookie: str = COOKIE, name: str | None = None) -> Proof:
        """The proof that the relay asks for; it isn't sent yet."""
        challenge = await self.challenged()
        return prove(identity, challenge, name or self.name, macs(cookie))

    async def refused(self) -> str:
        """The code; the relay has closed the connection then."""
        frame = await self.hears()
        assert isinstance(frame, Refused), frame
        async with asyncio.timeout(30):
            assert (await self.socket.receive()).type is aiohttp.WSMsgType.CLOSE
        return frame.code


Relays = Callable[..., Awaitable[StandaloneRelay]]
Callers = Callable[..., Awaitable[Caller]]
Lines = Callable[..., Awaitable[Line]]
"""The fixtures `relay`, `caller` and `line`."""
