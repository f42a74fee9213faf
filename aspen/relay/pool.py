"""The relays that a node uses, as one way out (shell): the endpoint's `Relays`.

A node stays connected to all of them, so that whoever knows one can reach it there. Which relay a datagram
for a peer takes is decided with each dial; a relay that has just said it doesn't know the peer comes last.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aspen.identity import Authenticator, EndpointId, Identity
from aspen.limits import RELAY_GONE_MS, RELAY_GONE_PEERS, RELAY_URLS
from aspen.relay.access import RelayUrl
from aspen.relay.client import RelayClient
from aspen.relay.frames import Datagram, decode_frame
from aspen.relay.hub import Hub, Session


class Line(Protocol):
    """One relay."""

    @property
    def connected(self) -> bool: ...

    @property
    def problem(self) -> str: ...

    def send(self, peer: bytes, datagram: bytes) -> None: ...


class Fed(Protocol):
    """An endpoint."""

    def relayed(self, relay: str, endpoint_id: EndpointId, datagram_untrusted: bytes) -> None: ...

    def relays_changed(self) -> None: ...


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """For people."""

    url: str
    connected: bool
    problem: str
    """Why it isn't."""


class RelayPool:
    """See the module's docstring. `feed` it to an endpoint, and say what to `use`."""

    def __init__(self, identity: Identity, authenticators: Sequence[Authenticator]) -> None:
        self.receive: Callable[[str, EndpointId, bytes], None] = lambda relay, endpoint_id, datagram: None
        """Of each datagram: (relay, sender, datagram)."""
        self.changed: Callable[[], None] = lambda: None
        """A relay is connected that was not."""
        self.announced: Callable[[EndpointId], str | None] = lambda endpoint_id: None
        """The relay that a peer says it can be found at."""
        self._identity = identity
        self._authenticators = authenticators
        self._lines: dict[str, RelayClient] = {}
        self._own: tuple[str, LocalLine] | None = None
        self._gone: OrderedDict[tuple[str, EndpointId], float] = OrderedDict()
        self._ending: set[asyncio.Task[None]] = set()

    def feed(self, endpoint: Fed) -> None:
        """Let an endpoint have what comes."""
        self.receive, self.changed = endpoint.relayed, endpoint.relays_changed

    def use(self, urls: Sequence[RelayUrl]) -> None:
        """Be connected to these, the first ones of them; let go of the others."""
        own = None if self._own is None else self._own[0]
        wanted = {url.websocket: url for url in urls if url.websocket != own}
        wanted = dict(list(wanted.items())[:RELAY_URLS])
        for relay in self._lines.keys() - wanted.keys():
            task = asyncio.create_task(self._lines.pop(relay).stop())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        for relay, url in wanted.items():
            if relay not in self._lines:
                self._lines[relay] = self._client(url)
        self._lines = {relay: self._lines[relay] for relay in wanted}

    def attach(self, url: RelayUrl, hub: Hub) -> None:
        """Be a client of the relay in this process, which others know by `url`; it may change."""
        if self._own is not None and self._own[0] == url.websocket:
            return
        if self._own is not None:
            self._own[1].stop()
        self._own = (url.websocket, LocalLine(hub, self._identity.endpoint_id, self._receiver(url.websocket)))
        self.changed()

    async def stop(self) -> None:
        self.use(())
        if self._own is not None:
            self._own[1].stop()
            self._own = None
        await asyncio.gather(*self._ending, return_exceptions=True)

    def status(self) -> list[RelayStatus]:
        return [RelayStatus(relay, line.connected, line.problem) for relay, line in self._all()]

    @property
    def connected(self) -> list[RelayUrl]:
        """Relays of others that this node is connected to."""
        return [line.url for line in self._lines.values() if line.connected]

    @property
    def probes(self) -> list[tuple[tuple[str, int], bytes]]:
        """What to send from the QUIC port, and where to, for relays to see where it comes from."""
        return [line.probe for line in self._lines.values() if line.probe is not None]

    @property
    def observed(self) -> list[tuple[str, int]]:
        """Where relays see this node's QUIC port."""
        seen = [line.observed for line in self._lines.values() if line.connected and line.observed]
        return list(dict.fromkeys(seen))

    @property
    def home(self) -> str | None:
        """Where to tell others that this node is found."""
        return next((relay for relay, line in self._all() if line.connected), None)

    # --- what the endpoint needs ----------------------------------------------------------------

    def ways_to(self, endpoint_id: EndpointId) -> Sequence[str]:
        announced = self.announced(endpoint_id)
        now = time.monotonic()
        ways = [
            (now < self._gone.get((relay, endpoint_id), 0.0), relay != announced, relay)
            for relay, line in self._all()
            if line.connected
        ]
        return [relay for *_, relay in sorted(ways, key=lambda way: way[:2])]

    def send(self, relay: str, endpoint_id: EndpointId, datagram: bytes) -> None:
        line = self._own[1] if self._own is not None and self._own[0] == relay else self._lines.get(relay)
        if line is not None:
            line.send(endpoint_id, datagram)

    # --- inside -----------------------------------------------------------------------------------

    def _all(self) -> list[tuple[str, Line]]:
        own: list[tuple[str, Line]] = [] if self._own is None else [self._own]
        return [*own, *self._lines.items()]

    def _client(self, url: RelayUrl) -> RelayClient:
        relay = url.websocket
        client = RelayClient(
            url,
            self._identity,
            self._authenticators,
            self._receiver(relay),
            gone=lambda peer: self._note_gone(relay, peer),
            connected=lambda: self.changed(),
        )
        client.start()
        return client

    def _receiver(self, relay: str) -> Callable[[bytes, bytes], None]:
        def receive(peer: bytes, datagram: bytes) -> None:
            self._gone.pop((relay, peer), None)
            self.receive(relay, peer, datagram)

        return receive

    def _note_gone(self, relay: str, peer: EndpointId) -> None:
        self._gone[relay, peer] = time.monotonic() + RELAY_GONE_MS / 1000
        self._gone.move_to_end((relay, peer))
        if len(self._gone) > RELAY_GONE_PEERS:
            self._gone.popitem(last=False)


class LocalLine:
    """The relay in this process, without a WebSocket to it."""

    problem = ""

    def __init__(self, hub: Hub, own_id: EndpointId, receive: Callable[[bytes, bytes], None]) -> None:
        self._hub = hub
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._session: Session = hub.enter(own_id, self._wake)

    @property
    def connected(self) -> bool:
        return self._session.ended is None

    def send(self, peer: bytes, datagram: bytes) -> None:
        self._hub.forward(self._session, Datagram(peer, datagram), time.monotonic())

    def stop(self) -> None:
        self._hub.leave(self._session)

    def _wake(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._scheduled = False
        while (encoded := self._session.queue.pop()) is not None:
            frame = decode_frame(encoded)
            if isinstance(frame, Datagram):
                self._receive(frame.peer, frame.payload)
