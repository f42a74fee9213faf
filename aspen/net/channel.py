"""One protocol over the node's endpoint: who may speak it, and how its frames get to their peer (shell).

Each node sends its frames on a connection it dialled itself: between two nodes there are two connections,
and neither side has to agree with the other which one to keep. How one is had, by which address and
through which relay, is the `Dialler`'s. Whoever has more to ask or to tell than a
frame opens a stream on the connection it dialled (`open_stream`).

A peer that was killed leaves a connection here that only time could tell from a slow one. Two things tell
sooner, once the peer is back: it dials us, and its new incarnation proves that our connection leads to the
old one; or it answers what we send there with a stateless reset. Either way we dial anew at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from aspen.identity import EndpointId
from aspen.limits import NET_CONNECTIONS, NET_DIAL_MS
from aspen.net.address_book import AddressBook
from aspen.net.connection import Connection, State
from aspen.net.dialler import Dialler
from aspen.net.handshake import REFUSAL_CODES, Hello, Peer
from aspen.net.link import Link
from aspen.net.refusals import Refusals
from aspen.net.relayed import Relays
from aspen.net.streams import FrameStream
from aspen.net.transceiver import Transceiver
from aspen.net.udp import plain
from aspen.z32 import encode_key

log = structlog.get_logger("aspen.net")

_ACCEPTED: Final = 2  # connections that one process of a peer may have to us
_RESET_AGE_S: Final = 0.5  # a younger connection that is forgotten again is redialled with the usual wait


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A protocol: its name, who may speak it, and who hears what."""

    alpn: str
    hello: Callable[[], Hello]
    admit: Callable[[Peer], str | None]
    """Asked about each proven peer; a refusal code or None."""
    open_to_strangers: bool = False
    """Whether a peer proves its key only, and not the cookie."""
    on_frame: Callable[[Peer, bytes], None] = _ignore
    on_unreachable: Callable[[EndpointId], None] = _ignore
    """Never called from inside `send`."""
    on_connected: Callable[[Peer], None] = _ignore
    """Of each connection that a peer dialled, before anything that comes on it."""
    on_stream: Callable[[Peer, FrameStream], Awaitable[None]] | None = None
    """Gets each stream that a peer opened, in a task of its own; when it returns the stream is closed, when
    it raises, cut. Without it no streams are taken."""
    on_refused: Callable[[EndpointId, str], None] = _ignore
    """Of each proven peer that refuses this node, and its code."""


class Channel:
    """The connections of one service. Use from one event loop."""

    def __init__(
        self,
        service: Service,
        transceiver: Transceiver,
        address_book: AddressBook,
        relays: Relays,
        refusals: Refusals,
        own_id: EndpointId,
    ) -> None:
        self._service = service
        self._transceiver = transceiver
        self._address_book = address_book
        self._refusals = refusals
        self._own_id = own_id
        # What strangers do at will must not fill the log.
        self._say = log.debug if service.open_to_strangers else log.info
        self._on_frame = service.on_frame
        self._on_stream = service.on_stream
        self._links: dict[EndpointId, Link] = {}
        self._waiting: dict[Link, None] = {}
        self._accepted: dict[EndpointId, list[Connection]] = {}
        """Connections that a peer dialled, the newest last."""
        self._dialler = Dialler(service.alpn, transceiver, address_book, relays, self._start_task, self._lost)
        self._tasks: set[asyncio.Task[None]] = set()
        self._rng = random.Random()  # noqa: S311  jitter, not secrecy

    async def stop_tasks(self) -> None:
        """The first half of the end: nothing new is started."""
        self._dialler.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def forget_all(self) -> None:
        """The second half, after the transceiver stopped."""
        for link in self._links.values():
            link.turn_away("this node is stopping")
        self._links.clear()
        self._waiting.clear()
        self._accepted.clear()

    def send(self, endpoint_id: EndpointId, frames: Sequence[bytes]) -> bool:
        """Queue frames for a peer, in order; dials if need be. Never blocks.

        False means that nothing was queued: there is no way to the peer, or too much waits for it
        already. True promises nothing: the connection may be lost with frames on it.
        """
        link = self._link_to(endpoint_id)
        if link is None:
            return False
        if not self._dialler.is_dialled(link) or not link.offer(frames):
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
        return link is not None and self._dialler.is_dialled(link)

    async def open_stream(self, endpoint_id: EndpointId) -> FrameStream:
        """A stream to a peer, on the connection this node dialled; dials if need be. Close it when done.

        Raises `ConnectionError` when the peer can't be reached within `NET_DIAL_MS`, or has enough
        streams open to it already.
        """
        link = self._link_to(endpoint_id)
        if link is None or not self._dialler.is_dialled(link):
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

    def hang_up(self, endpoint_id: EndpointId) -> None:
        """End what this node dialled to a peer, with all that is on it."""
        link = self._links.get(endpoint_id)
        if link is not None:
            self._dialler.abandon(link)

    @property
    def accepted_peers(self) -> int:
        """Proven peers that have dialled this node and are connected."""
        return len(self._accepted)

    def recheck(self, admit: Callable[[Peer], str | None]) -> None:
        """End the connections of peers that were let in before, and would not be now."""
        for connection in list(self._transceiver.connections):
            if connection.alpn != self._service.alpn:
                continue
            code = None if connection.peer is None else admit(connection.peer)
            if code is not None and connection.peer is not None:
                code = code if code in REFUSAL_CODES else "not_admitted"
                connection.refuse(code, f"node {connection.peer.node_id} is not admitted any more")
                self._transceiver.mark(connection)

    def relays_changed(self) -> None:
        """A relay is connected that was not."""
        self._dialler.relays_changed(self._links.values())

    # --- dialling ------------------------------------------------------------------------------

    def _link_to(self, endpoint_id: EndpointId) -> Link | None:
        if not self._transceiver.is_running:
            return None
        link = self._links.get(endpoint_id)
        if link is None:
            if endpoint_id == self._own_id:
                return None
            if len(self._links) >= NET_CONNECTIONS:
                idle = next((link for link in self._links.values() if link.is_idle), None)
                if idle is None:
                    return None
                del self._links[idle.endpoint_id]
            link = self._links[endpoint_id] = Link(endpoint_id)
        return link

    def _start_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _lost(self, link: Link) -> None:
        link.lost(self._transceiver.now(), self._rng)
        self._report_unreachable(link)

    def _report_unreachable(self, link: Link) -> None:
        if link.report_due(self._transceiver.now()):
            asyncio.get_running_loop().call_soon(self._service.on_unreachable, link.endpoint_id)

    # --- what the transceiver tells ------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        peer = connection.peer
        assert peer is not None
        if not connection.is_relayed:
            self._learn_address(connection, peer, "connected" if connection.dialled else "inbound")
        self._say(
            "peer connected",
            node_id=peer.node_id,
            endpoint_id=encode_key(peer.endpoint_id),
            dialled=connection.dialled,
            protocol=connection.alpn,
            path=connection.relay or "direct",
        )
        if connection.dialled:
            link = self._links[peer.endpoint_id]
            if self._dialler.opened(link, connection):
                link.opened(connection)
                self._waiting[link] = None
        else:
            self._welcomed(connection, peer)
            self._service.on_connected(peer)

    def _learn_address(self, connection: Connection, peer: Peer, source: str) -> None:
        if connection.dialled or not self._service.open_to_strangers:  # else anyone could fill the book
            self._address_book.add(peer.endpoint_id, plain(connection.address), source)

    def moved(self, connection: Connection) -> None:
        """A peer that dialled us is elsewhere now. What we dialled leads to where it was."""
        peer = connection.peer
        assert peer is not None
        self._learn_address(connection, peer, "inbound")
        self._say("peer moved", node_id=peer.node_id, endpoint_id=encode_key(peer.endpoint_id))
        link = self._links.get(peer.endpoint_id)
        if link is not None and link.connection is not None and not link.connection.is_relayed:
            self._dialler.abandon(link)
            link.forgive()
            self._dialler.is_dialled(link)

    def _welcomed(self, connection: Connection, peer: Peer) -> None:
        """A peer has dialled us: it is alive, as the incarnation it names, at the address it came from."""
        self._keep_accepted(connection, peer)
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
            if known is None and connection.is_relayed and not ours.is_relayed:
                self._dialler.try_relay(link)  # it is there; whether directly, the dial will tell
                return
            # The connection leads to a process that is gone, or is knocking where nobody listened.
            self._dialler.abandon(link)
            if known is not None:
                link.drop_waiting()  # it was for that process
                self._report_unreachable(link)
        link.forgive()
        self._dialler.is_dialled(link)

    def _keep_accepted(self, connection: Connection, peer: Peer) -> None:
        """Beside the newest, one may stay on which the same process has something under way: it is moving
        from a relay to a direct path, and ends the other itself."""
        kept = self._accepted.setdefault(peer.endpoint_id, [])
        for older in list(kept):
            known = older.peer
            if known is None or known.incarnation != peer.incarnation or len(kept) >= _ACCEPTED:
                kept.remove(older)
                self._transceiver.drop(older)
        kept.append(connection)

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
            self._say("stream cut", node_id=peer.node_id, reason=str(error))
            stream.abort()
        except BaseException as error:
            stream.abort()
            if not isinstance(error, Exception):
                raise
            log.exception("a stream's receiver failed", node_id=peer.node_id)
        else:
            stream.close()

    def closed(self, connection: Connection) -> None:
        if connection.refusal is not None and connection.refused_by is not None:
            self._service.on_refused(connection.refused_by, connection.refusal[0])
        peer = connection.peer
        if peer is not None:
            self._say(
                "peer disconnected",
                node_id=peer.node_id,
                dialled=connection.dialled,
                protocol=connection.alpn,
            )
            self._forget_accepted(connection, peer)
        if connection.listener_id is not None:
            link = self._links.get(connection.listener_id)
            if link is not None and self._dialler.closed(link, connection):
                self._lost(link)
                if connection.was_reset and self._transceiver.now() - connection.opened_at > _RESET_AGE_S:
                    link.forgive()  # somebody with the peer's key is there: the peer, restarted
                    self._dialler.is_dialled(link)

    def _forget_accepted(self, connection: Connection, peer: Peer) -> None:
        kept = self._accepted.get(peer.endpoint_id, [])
        if connection in kept:
            kept.remove(connection)
            if not kept:
                del self._accepted[peer.endpoint_id]

    def flushing(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        for link in waiting:
            if link.flush() and link.connection is not None:
                self._transceiver.mark(link.connection)
