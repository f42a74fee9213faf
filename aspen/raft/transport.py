"""Raft messages over the node's endpoint: who is which node, and what is dropped (shell).

Raft is built on a network that loses, so nothing here retries: a message that can't leave now is dropped,
and the core hears that the member is unreachable. A message is taken only if it speaks in the name of the
node whose key and node id were proven on the connection, and is addressed to this node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from aspen.errors import RaftWireError
from aspen.raft.messages import Message, MessageType
from aspen.raft.snapshots import FrameStream
from aspen.raft.wire import decode_message, encode_message

log = structlog.get_logger("aspen.raft.transport")


class ProvenPeer(Protocol):
    """Who is at the other end, as the connection's handshake proved it."""

    @property
    def node_id(self) -> int: ...

    @property
    def incarnation(self) -> bytes: ...


class FrameSender(Protocol):
    """What this needs of the endpoint."""

    def send(self, endpoint_id: bytes, frames: Sequence[bytes]) -> bool:
        """Queue frames in order; False if they were not. Never blocks, never calls back."""
        ...

    def dial(self, endpoint_id: bytes) -> bool: ...

    async def open_stream(self, endpoint_id: bytes) -> FrameStream:
        """Raises `ConnectionError`."""
        ...


class RaftTransport:
    """Implements the driver's `Transport`; give `frame_received`, `peer_unreachable` and
    `peer_connected` to the endpoint."""

    def __init__(
        self,
        endpoint: FrameSender,
        node_id: int,
        endpoint_of: Callable[[int], bytes | None],
        on_message: Callable[[Message], None],
        on_unreachable: Callable[[int], None],
        on_restarted: Callable[[int], None],
    ) -> None:
        """`on_restarted` hears of a member that is another process than when it was met before.
        `endpoint_of` names the endpoint id of a member, None if it isn't known."""
        self.dropped: Counter[str] = Counter()
        """Messages that went no further, by cause."""
        self._endpoint = endpoint
        self._node_id = node_id
        self._endpoint_of = endpoint_of
        self._on_message = on_message
        self._on_unreachable = on_unreachable
        self._on_restarted = on_restarted
        self._incarnations: dict[int, bytes] = {}
        self._node_of: dict[bytes, int] = {}

    def send(self, messages: Sequence[Message]) -> None:
        """Send messages to other members, those for one member together and in order. Never blocks."""
        by_node: dict[int, list[bytes]] = {}
        for message in messages:
            try:
                frame = encode_message(message)
            except RaftWireError as error:
                self.dropped["unencodable"] += 1
                log.error("message not sent", type=message.type.name, to=message.to, reason=str(error))
                continue
            by_node.setdefault(message.to, []).append(frame)
        for node_id, frames in by_node.items():
            endpoint_id = self._endpoint_of(node_id)
            if endpoint_id is None:
                self.dropped["unknown_node"] += len(frames)
                continue
            self._node_of[endpoint_id] = node_id
            if not self._endpoint.send(endpoint_id, frames):
                self.dropped["unreachable"] += len(frames)

    def greet(self, node_ids: Sequence[int]) -> None:
        """Connect to members before there is anything to say. After a start this makes them drop the
        connections they still hold to the process before."""
        for node_id in node_ids:
            endpoint_id = self._endpoint_of(node_id)
            if endpoint_id is not None and node_id != self._node_id:
                self._node_of[endpoint_id] = node_id
                self._endpoint.dial(endpoint_id)

    async def open_stream(self, node_id: int) -> FrameStream:
        """A stream to a member, for what is too long for a message. Raises `ConnectionError`."""
        endpoint_id = self._endpoint_of(node_id)
        if endpoint_id is None:
            raise ConnectionError(f"node {node_id} is not a member")
        return await self._endpoint.open_stream(endpoint_id)

    def frame_received(self, peer: ProvenPeer, frame_untrusted: bytes) -> None:
        """The endpoint's `on_frame`."""
        try:
            message = decode_message(frame_untrusted)
        except RaftWireError as error:
            if not self.dropped["malformed"]:
                log.error("malformed frame", node_id=peer.node_id, reason=str(error))
            self.dropped["malformed"] += 1
            return
        if message.to != self._node_id:
            self.dropped["misaddressed"] += 1
        elif message.sender != peer.node_id and message.type is not MessageType.TRANSFER_LEADER:
            # A forwarded TRANSFER_LEADER names as its sender the node that is to lead.
            self.dropped["wrong_sender"] += 1
        else:
            self._on_message(message)

    def peer_unreachable(self, endpoint_id: bytes) -> None:
        """The endpoint's `on_unreachable`."""
        node_id = self._node_of.get(endpoint_id)
        if node_id is not None:
            self._on_unreachable(node_id)

    def peer_connected(self, peer: ProvenPeer) -> None:
        """The endpoint's `on_connected`."""
        before = self._incarnations.get(peer.node_id)
        self._incarnations[peer.node_id] = peer.incarnation
        if before is not None and before != peer.incarnation:
            self._on_restarted(peer.node_id)
