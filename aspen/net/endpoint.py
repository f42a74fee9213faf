"""The node's QUIC endpoint: who is at the other end of each connection, and how frames get there (shell).

It dials from the port it listens on, so a peer learns from an accepted connection where to dial back.
Each node sends its frames on a connection it dialled itself: between two nodes there are two connections,
and neither side has to agree with the other which one to keep. Whoever has more to ask or to tell than a
frame opens a stream on the connection it dialled (`open_stream`).

A peer that was killed leaves a connection here that only time could tell from a slow one. Two things tell
sooner, once the peer is back: it dials us, and its new incarnation proves that our connection leads to the
old one; or it answers what we send there with a stateless reset. Either way we dial anew at once.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from aspen.identity import Cookie, EndpointId, Identity
from aspen.limits import NET_CONNECTIONS, NET_DIAL_MS, NET_IDLE_MS
from aspen.net.address_book import Address, AddressBook
from aspen.net.connection import Connection, State
from aspen.net.handshake import REFUSAL_CODES, Credentials, Hello, Peer
from aspen.net.link import Link
from aspen.net.refusals import Refusals
from aspen.net.streams import FrameStream
from aspen.net.transceiver import Transceiver
from aspen.net.udp import SocketAddress, numeric, plain, resolve
from aspen.z32 import encode_key

__all__ = ["ALPN_RAFT", "AddressBook", "ConnectionStatus", "Endpoint", "FrameStream", "Hello", "Peer"]

log = structlog.get_logger("aspen.net")

ALPN_RAFT: Final = "aspen-raft/1"
_RESET_AGE_S: Final = 0.5  # a younger connection that is forgotten again is redialled with the usual wait


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """One proven connection, for people."""

    endpoint_id: EndpointId
    node_id: int
    dialled: bool
    address: Address
    rtt_ms: float
    age_s: float


class Endpoint:
    """See the module's docstring. Use from one event loop."""

    def __init__(
        self,
        *,
        identity: Identity,
        cookie: Cookie,
        hello: Callable[[], Hello],
        admit: Callable[[Peer], str | None],
        address_book: AddressBook,
        on_frame: Callable[[Peer, bytes], None],
        on_unreachable: Callable[[EndpointId], None],
        on_connected: Callable[[Peer], None] = lambda peer: None,
        on_stream: Callable[[Peer, FrameStream], Awaitable[None]] | None = None,
        on_refused: Callable[[EndpointId, str], None] | None = None,
        idle_ms: int = NET_IDLE_MS,
        max_datagram_bytes: int | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        """`admit` is asked about each proven peer and returns a refusal code or None.

        `on_unreachable` is never called from inside `send`. `on_connected` hears of each connection that a
        peer dialled, before anything that comes on it. `on_stream` gets each stream that a peer
        opened, in a task of its own; when it returns the stream is closed, when it raises, cut. Without
        it no streams are taken. `on_refused` hears of each proven peer that refuses this node, and its
        code. `max_datagram_bytes` None means what fits every path (1200), and much more on loopback.
        """
        self.identity = identity
        self.address_book = address_book
        self._on_frame = on_frame
        self._on_unreachable = on_unreachable
        self._on_connected = on_connected
        self._on_stream = on_stream
        self._on_refused = on_refused
        self._refusals = refusals or Refusals(lambda: self._transceiver.now())
        self._links: dict[EndpointId, Link] = {}
        self._waiting: dict[Link, None] = {}
        self._accepted: dict[EndpointId, Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._rng = random.Random()  # noqa: S311  jitter, not secrecy
        credentials = Credentials(identity, cookie, hello, admit)
        self._transceiver = Transceiver(self, identity, credentials, ALPN_RAFT, idle_ms, max_datagram_bytes)

    @property
    def refusals(self) -> Counter[str]:
        """Refused peers by code."""
        return self._refusals.counts

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Bind and serve; the bound address. Raises `OSError`."""
        return self._transceiver.start(host, port)

    async def close(self) -> None:
        """Say goodbye to every peer and release the port."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._transceiver.stop()
        for link in self._links.values():
            link.turn_away("this node is stopping")
        self._links.clear()
        self._waiting.clear()
        self._accepted.clear()

    def connections(self) -> list[ConnectionStatus]:
        """Every proven connection."""
        if not self._transceiver.is_running:
            return []
        now = self._transceiver.now()
        return [
            ConnectionStatus(
                endpoint_id=peer.endpoint_id,
                node_id=peer.node_id,
                dialled=connection.dialled,
                address=plain(connection.address),
                rtt_ms=connection.quic.rtt_s * 1000,
                age_s=now - connection.opened_at,
            )
            for connection in self._transceiver.connections
            if (peer := connection.peer) is not None
        ]

    def send(self, endpoint_id: EndpointId, frames: Sequence[bytes]) -> bool:
        """Queue frames for a peer, in order; dials if need be. Never blocks.

        False means that nothing was queued: there is no way to the peer, or too much waits for it
        already. True promises nothing: the connection may be lost with frames on it.
        """
        link = self._link_to(endpoint_id)
        if link is None:
            return False
        if not self._is_dialled(link) or not link.offer(frames):
            self._report_unreachable(link)
            return False
        self._waiting[link] = None
        self._transceiver.flush_soon()
        return True

    def dial(self, endpoint_id: EndpointId) -> bool:
        """Make sure a connection to a peer exists or is on its way, without sending anything.

        A node that starts dials the peers it knows, so that they learn of its new incarnation.
        """
        link = self._link_to(endpoint_id)
        return link is not None and self._is_dialled(link)

    async def open_stream(self, endpoint_id: EndpointId) -> FrameStream:
        """A stream to a peer, on the connection this node dialled; dials if need be. Close it when done.

        Raises `ConnectionError` when the peer can't be reached within `NET_DIAL_MS`, or has enough
        streams open to it already.
        """
        link = self._link_to(endpoint_id)
        if link is None or not self._is_dialled(link):
            raise ConnectionError("there is no way to the peer")
        connection = link.connection
        if connection is None or connection.state is not State.OPEN:
            opener: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
            link.openers.append(opener)
            try:
                connection = await asyncio.wait_for(opener, NET_DIAL_MS / 1000)
            except TimeoutError:
                raise ConnectionError("the peer did not answer in time") from None
            finally:
                if opener in link.openers:
                    link.openers.remove(opener)
        return connection.streams.open()

    def recheck(self, admit: Callable[[Peer], str | None]) -> None:
        """End the connections of peers that were let in before, and would not be now."""
        for connection in list(self._transceiver.connections):
            code = None if connection.peer is None else admit(connection.peer)
            if code is not None and connection.peer is not None:
                code = code if code in REFUSAL_CODES else "not_admitted"
                connection.refuse(code, f"node {connection.peer.node_id} is not admitted any more")
                self._transceiver.mark(connection)

    # --- dialling ------------------------------------------------------------------------------

    def _link_to(self, endpoint_id: EndpointId) -> Link | None:
        if not self._transceiver.is_running:
            return None
        link = self._links.get(endpoint_id)
        if link is None:
            if endpoint_id == self.identity.endpoint_id:
                return None
            if len(self._links) >= NET_CONNECTIONS:
                idle = next((link for link in self._links.values() if link.is_idle), None)
                if idle is None:
                    return None
                del self._links[idle.endpoint_id]
            link = self._links[endpoint_id] = Link(endpoint_id)
        return link

    def _is_dialled(self, link: Link) -> bool:
        """Whether there is a connection, or a dial in progress. Starts one unless it is too early."""
        if link.connection is not None or link.resolving:
            return True
        if self._transceiver.now() < link.retry_at or not self._transceiver.has_room:
            return False
        addresses = self.address_book.addresses(link.endpoint_id)
        if not addresses:
            return False
        address = addresses[link.attempts % len(addresses)]
        link.attempts += 1
        resolved = numeric(self._transceiver.family, address)
        if resolved is not None:
            link.connection = self._transceiver.dial(link.endpoint_id, resolved)
        else:
            link.resolving = True
            self._start_task(self._dial_name(link, address))
        return True

    def _start_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _dial_name(self, link: Link, address: Address) -> None:
        lookup = asyncio.to_thread(resolve, self._transceiver.family, address)
        resolved: SocketAddress | None = None
        try:
            resolved = await asyncio.wait_for(lookup, NET_DIAL_MS / 1000)
        except TimeoutError:
            pass
        finally:
            link.resolving = False
        if link.connection is not None or self._links.get(link.endpoint_id) is not link:
            return
        if resolved is None:
            self._lost(link)
        else:
            link.connection = self._transceiver.dial(link.endpoint_id, resolved)

    def _lost(self, link: Link) -> None:
        link.lost(self._transceiver.now(), self._rng)
        self._report_unreachable(link)

    def _report_unreachable(self, link: Link) -> None:
        if link.report_due(self._transceiver.now()):
            asyncio.get_running_loop().call_soon(self._on_unreachable, link.endpoint_id)

    # --- what the transceiver tells ------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        peer = connection.peer
        assert peer is not None
        source = "connected" if connection.dialled else "inbound"
        self.address_book.add(peer.endpoint_id, plain(connection.address), source)
        log.info(
            "peer connected",
            node_id=peer.node_id,
            endpoint_id=encode_key(peer.endpoint_id),
            dialled=connection.dialled,
        )
        if connection.dialled:
            link = self._links[peer.endpoint_id]
            link.opened(connection)
            self._waiting[link] = None
        else:
            self._welcomed(connection, peer)
            self._on_connected(peer)

    def _welcomed(self, connection: Connection, peer: Peer) -> None:
        """A peer has dialled us: it is alive, as the incarnation it names, at the address it came from."""
        older = self._accepted.get(peer.endpoint_id)
        self._accepted[peer.endpoint_id] = connection
        if older is not None:
            self._transceiver.drop(older)
        link = self._links.get(peer.endpoint_id)
        if link is None:
            return
        ours = link.connection
        if ours is not None:
            known = ours.peer
            if known is None and not ours.quic.is_unstarted:
                return  # both sides dial at the same time; ours is on its way
            if known is not None and known.incarnation == peer.incarnation:
                return
            # The connection leads to a process that is gone, or is knocking where nobody listened.
            self._transceiver.drop(ours)
            link.connection = None
            if known is not None:
                self._report_unreachable(link)
        link.forgive()
        self._is_dialled(link)

    def received(self, connection: Connection, frames: list[bytes]) -> None:
        peer = connection.peer
        assert peer is not None
        for frame in frames:
            self._on_frame(peer, frame)

    def accepted(self, connection: Connection, stream: FrameStream) -> None:
        peer = connection.peer
        assert peer is not None
        if self._on_stream is None:
            stream.abort()
        else:
            self._start_task(self._serve(self._on_stream, peer, stream))

    async def _serve(
        self, on_stream: Callable[[Peer, FrameStream], Awaitable[None]], peer: Peer, stream: FrameStream
    ) -> None:
        try:
            await on_stream(peer, stream)
        except ConnectionError as error:
            log.info("stream cut", node_id=peer.node_id, reason=str(error))
            stream.abort()
        except BaseException as error:
            stream.abort()
            if not isinstance(error, Exception):
                raise
            log.exception("a stream's receiver failed", node_id=peer.node_id)
        else:
            stream.close()

    def closed(self, connection: Connection) -> None:
        if connection.refusal is not None:
            code, reason = connection.refusal
            host, port = plain(connection.address)
            self._refusals.note(code, reason, peer=f"{host}:{port}", dialled=connection.dialled)
            if connection.refused_by is not None and self._on_refused is not None:
                self._on_refused(connection.refused_by, code)
        peer = connection.peer
        if peer is not None:
            log.info("peer disconnected", node_id=peer.node_id, dialled=connection.dialled)
            if self._accepted.get(peer.endpoint_id) is connection:
                del self._accepted[peer.endpoint_id]
        if connection.listener_id is not None:
            link = self._links.get(connection.listener_id)
            if link is not None and link.connection is connection:
                self._lost(link)
                if connection.was_reset and self._transceiver.now() - connection.opened_at > _RESET_AGE_S:
                    link.forgive()  # somebody with the peer's key is there: the peer, restarted
                    self._is_dialled(link)

    def turned_away(self, code: str, address: SocketAddress) -> None:
        host, port = plain(address)
        self._refusals.note(code, "too many connections", peer=f"{host}:{port}", dialled=False)

    def flushing(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        for link in waiting:
            if link.flush() and link.connection is not None:
                self._transceiver.mark(link.connection)
