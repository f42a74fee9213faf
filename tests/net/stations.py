"""An endpoint that remembers what it heard, and a stranger who speaks QUIC but not our manners."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.events import StreamReset

from aspen.identity import Cookie, Cookies, Identity
from aspen.net.endpoint import ALPN_RAFT, AddressBook, Endpoint, FrameStream, Hello, Peer, Service
from aspen.net.handshake import Credentials, DiallerHandshake
from aspen.net.refusals import Refusals

COOKIE = "a cookie for tests only"
CLUSTER_ID = b"C" * 16


class Station:
    """An endpoint and everything it has heard."""

    def __init__(
        self,
        node_id: int,
        *,
        identity: Identity | None = None,
        cookie: str = COOKIE,
        cluster_id: bytes = CLUSTER_ID,
        version: int = 1,
        admit: Callable[[Peer], str | None] | None = None,
        idle_ms: int = 10_000,
        max_datagram_bytes: int | None = None,
        refusals: Refusals | None = None,
        on_stream: Callable[[Peer, FrameStream], Awaitable[None]] | None = None,
        on_refused: Callable[[bytes, str], None] | None = None,
        services: Sequence[Service] = (),
        relay: Carrier | None = None,
    ) -> None:
        self.identity = identity or Identity.generate()
        self.id = self.identity.endpoint_id
        self.hello = Hello(version, cluster_id, node_id, os.urandom(8))
        self.heard: asyncio.Queue[tuple[Peer, bytes]] = asyncio.Queue()
        self.unreachable: asyncio.Queue[bytes] = asyncio.Queue()
        self.opened: asyncio.Queue[tuple[Peer, FrameStream]] = asyncio.Queue()
        """Streams that peers opened; each lives until it is closed or the station is."""
        self.book = AddressBook()
        self.address = ("", 0)
        self.endpoint = Endpoint(
            identity=self.identity,
            cookies=Cookies(Cookie(cookie)),
            services=[
                Service(
                    alpn=ALPN_RAFT,
                    hello=lambda: self.hello,
                    admit=admit or self.same_cluster,
                    on_frame=lambda peer, frame: self.heard.put_nowait((peer, frame)),
                    on_unreachable=self.unreachable.put_nowait,
                    on_stream=on_stream or self._hold,
                    on_refused=on_refused or (lambda endpoint_id, code: None),
                ),
                *services,
            ],
            address_book=self.book,
            idle_ms=idle_ms,
            max_datagram_bytes=max_datagram_bytes,
            refusals=refusals,
            relays=None if relay is None else relay.serve(self),
        )
        self.channel = self.endpoint.channel(ALPN_RAFT)

    def same_cluster(self, peer: Peer) -> str | None:
        return None if peer.cluster_id == self.hello.cluster_id else "foreign_cluster"

    async def start(self, host: str, port: int) -> Station:
        self.address = await self.endpoint.start(host, port)
        return self

    async def _hold(self, peer: Peer, stream: FrameStream) -> None:
        self.opened.put_nowait((peer, stream))
        await asyncio.Event().wait()

    async def opens(self, other: Station, within_s: float = 10) -> tuple[FrameStream, FrameStream]:
        """A stream to `other`: this end and that."""
        async with asyncio.timeout(within_s):
            ours = await self.channel.open_stream(other.id)
            return ours, (await other.opened.get())[1]

    def streams(self) -> list[FrameStream]:
        """What is left of streams, on all connections."""
        connections = self.endpoint._transceiver.connections
        return [s for connection in connections for s in connection.streams._streams.values()]

    def knows(self, *others: Station) -> Station:
        for other in others:
            self.book.add(other.id, other.address, "manual")
        return self

    def send(self, other: Station, *frames: bytes) -> bool:
        return self.channel.send(other.id, frames)

    async def hears(self, within_s: float = 10) -> bytes:
        """The next frame."""
        async with asyncio.timeout(within_s):
            return (await self.heard.get())[1]

    async def loses(self, other: Station, within_s: float = 10) -> None:
        """Returns once `other` was reported unreachable."""
        async with asyncio.timeout(within_s):
            while await self.unreachable.get() != other.id:
                pass

    async def refuses(self, code: str, times: int = 1, within_s: float = 10) -> None:
        """Returns once `code` was counted so many times."""
        async with asyncio.timeout(within_s):
            while self.endpoint.refusals[code] < times:  # noqa: ASYNC110  a counter can't be awaited
                await asyncio.sleep(0.005)

    async def gets_through(self, other: Station, frame: bytes, within_s: float = 10) -> None:
        """Sends again and again, as Raft would, until there is a way."""
        async with asyncio.timeout(within_s):
            while not self.send(other, frame):  # noqa: ASYNC110  the wait between dials is what we wait for
                await asyncio.sleep(0.001)

    def paths(self) -> set[str]:
        """Of all proven connections: `direct`, or the relay's URL."""
        return {status.relay or "direct" for status in self.endpoint.connections()}

    async def moves(self, to: str, within_s: float = 30) -> None:
        """Returns once all connections go that way."""
        async with asyncio.timeout(within_s):
            while self.paths() != {to}:  # noqa: ASYNC110  connections can't be awaited from outside
                await asyncio.sleep(0.01)

    def kill(self) -> None:
        """End without a word, as a killed process does: the port is free, nobody was told."""
        transceiver = self.endpoint._transceiver
        assert transceiver._socket is not None
        assert transceiver._loop is not None
        transceiver._loop.remove_reader(transceiver._socket.fileno())
        transceiver._socket.close()
        transceiver._socket = None


class Carrier:
    """A relay without a network: whom it serves is in this process, and it remembers what it carried."""

    URL = "wss://relay.example.com/relay"

    def __init__(self) -> None:
        self.carried: list[bytes] = []
        self.works = True
        self._stations: dict[bytes, Station] = {}

    def serve(self, station: Station) -> CarrierSide:
        self._stations[station.id] = station
        return CarrierSide(self, station.id)

    def carry(self, sender: bytes, to: bytes, datagram: bytes) -> None:
        self.carried.append(datagram)
        if self.works and to in self._stations:
            endpoint = self._stations[to].endpoint
            asyncio.get_running_loop().call_soon(endpoint.relayed, self.URL, sender, datagram)


class CarrierSide:
    """What one station has of a `Carrier`."""

    def __init__(self, carrier: Carrier, own_id: bytes) -> None:
        self._carrier = carrier
        self._own_id = own_id

    def ways_to(self, endpoint_id: bytes) -> Sequence[str]:
        return [Carrier.URL] if self._carrier.works else []

    def send(self, relay: str, endpoint_id: bytes, datagram: bytes) -> None:
        assert relay == Carrier.URL
        self._carrier.carry(self._own_id, endpoint_id, datagram)


class Stranger:
    """A QUIC client that sends whatever a test wants, on any stream."""

    def __init__(self, protocol: QuicConnectionProtocol) -> None:
        self.protocol = protocol
        self.received: asyncio.Queue[bytes] = asyncio.Queue()
        self.resets: asyncio.Queue[int] = asyncio.Queue()
        """Streams that the other side cut."""

        def event_received(event: object) -> None:
            if isinstance(event, StreamReset):
                self.resets.put_nowait(event.stream_id)
            data = getattr(event, "data", None)
            if data:
                self.received.put_nowait(data)

        protocol.quic_event_received = event_received

    async def joins(self, target: Station) -> None:
        """Prove to be a member of the cluster."""
        hello = Hello(1, CLUSTER_ID, 9, os.urandom(8))
        credentials = Credentials(
            Identity.generate(), Cookies(Cookie(COOKIE)), lambda: hello, lambda peer: None
        )
        handshake = DiallerHandshake(credentials, "aspen-raft/1", os.urandom(32), target.id)
        self.write(0, handshake.start())
        self.write(0, handshake.receive(await self.reads()))
        handshake.receive(await self.reads())

    def write(self, stream_id: int, data: bytes) -> None:
        self.protocol._quic.send_stream_data(stream_id, data)
        self.protocol.transmit()

    async def reads(self, within_s: float = 10) -> bytes:
        async with asyncio.timeout(within_s):
            return await self.received.get()

    async def closed_by_peer(self, within_s: float = 10) -> str:
        """Why the other side closed the connection."""
        async with asyncio.timeout(within_s):
            await self.protocol.wait_closed()
        event = self.protocol._quic._close_event
        assert event is not None
        return event.reason_phrase
