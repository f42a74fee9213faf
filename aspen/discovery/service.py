"""Gossip over the node's endpoint (shell): the clock, the frames, and whom it tells.

Whoever proves the cookie may gossip, member or not: a newcomer learns where the cluster is before it
belongs to it. What is heard goes into the address book, where dialling looks; it proves nothing there
(whoever answers must prove the key that was dialled).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from aspen.discovery.gossip import Behind, GossipCore, GossipPorts, Heard, Told
from aspen.discovery.messages import decode_message, encode_message
from aspen.errors import GossipError
from aspen.limits import GOSSIP_TICK_MS
from aspen.z32 import encode_key

log = structlog.get_logger("aspen.gossip")

SOURCE: Final = "gossip"
TOPIC_CONTEXT: Final = "aspen 2026 gossip topic v1"
"""What the topic is derived from the cookie with."""

Address = tuple[str, int]


class Sender(Protocol):
    """What this needs of the endpoint's channel."""

    def send(self, endpoint_id: bytes, frames: Sequence[bytes]) -> bool: ...


class Addresses(Protocol):
    """What this needs of the address book."""

    def add(self, endpoint_id: bytes, address: Address, source: str) -> None: ...

    def replace(self, endpoint_id: bytes, addresses: Sequence[Address], source: str) -> None: ...


class ProvenPeer(Protocol):
    @property
    def endpoint_id(self) -> bytes: ...


class GossipService:
    """One node's gossip. Give `frame_received` and `peer_unreachable` to the channel."""

    def __init__(
        self,
        ports: GossipPorts,
        address_book: Addresses,
        on_behind: Callable[[bytes, int], None] = lambda endpoint_id, version: None,
    ) -> None:
        """`on_behind` hears who knows a newer membership, and its version."""
        self.core = GossipCore(ports, random.Random())  # noqa: S311  views and jitter, not secrecy
        self._address_book = address_book
        self._on_behind = on_behind
        self._sender: Sender | None = None
        self._task: asyncio.Task[None] | None = None
        self.malformed = 0
        """Messages that were none."""

    def start(self, sender: Sender) -> None:
        self._sender = sender
        self._task = asyncio.create_task(self._tick(), name="gossip")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def frame_received(self, peer: ProvenPeer, frame_untrusted: bytes) -> None:
        try:
            message = decode_message(frame_untrusted)
        except GossipError as error:
            self.malformed += 1
            log.info("not a gossip message", endpoint_id=encode_key(peer.endpoint_id), reason=str(error))
            return
        self.core.receive(peer.endpoint_id, message, _now_ms())
        self._pump()

    def peer_unreachable(self, endpoint_id: bytes) -> None:
        self.core.unreachable(endpoint_id)
        self._pump()

    def announce_soon(self) -> None:
        """This node has moved, or knows a newer membership."""
        self.core.announce_soon()

    async def _tick(self) -> None:
        while True:
            try:
                self.core.tick(_now_ms())
                self._pump()
            except Exception:
                log.exception("a turn of gossip failed")
            await asyncio.sleep(GOSSIP_TICK_MS / 1000)

    def _pump(self) -> None:
        """Tell what happened, then send: who was just heard of can be dialled."""
        for event in self.core.events():
            match event:
                case Heard(announcement):
                    addresses = announcement.addresses
                    self._address_book.replace(announcement.endpoint_id, addresses, SOURCE)
                case Told(peer):
                    for address in peer.addresses:
                        self._address_book.add(peer.endpoint_id, address, SOURCE)
                case Behind(endpoint_id, version):
                    self._on_behind(endpoint_id, version)
        frames: dict[bytes, list[bytes]] = {}
        for to, message in self.core.drain():
            frames.setdefault(to, []).append(encode_message(message))
        if self._sender is None:
            return
        for to, encoded in frames.items():
            self._sender.send(to, encoded)  # one that can't be reached is reported, and asked no more


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
