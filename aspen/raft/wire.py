"""Raft messages as bytes between nodes: one MessagePack array a message, strictly decoded. Sans-IO.

What a node says to itself has no business on the wire: local message types, local thread ids and nested
responses are refused, so that no peer can speak in the name of this node's own storage.
"""

from __future__ import annotations

from typing import Final

import msgspec

from aspen.decoding import UNDECODABLE
from aspen.errors import RaftWireError
from aspen.limits import RAFT_FRAME_BYTES
from aspen.raft.messages import LOCAL_APPLY_THREAD, LOCAL_TYPES, NO_NODE, Message

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Message, strict=True).decode


def encode_message(message: Message) -> bytes:
    """A frame to send. Raises `RaftWireError` for what may not be sent: local messages, oversize ones."""
    _check(message)
    frame = _encode(message)
    if len(frame) > RAFT_FRAME_BYTES:
        raise RaftWireError(f"a message of {len(frame)} bytes, over {RAFT_FRAME_BYTES}")
    return frame


def decode_message(frame_untrusted: bytes) -> Message:
    """The message in a frame. Raises `RaftWireError`."""
    if len(frame_untrusted) > RAFT_FRAME_BYTES:
        raise RaftWireError(f"a frame of {len(frame_untrusted)} bytes, over {RAFT_FRAME_BYTES}")
    try:
        message = _decode(frame_untrusted)
    except UNDECODABLE as error:
        raise RaftWireError(f"not a Raft message: {error}") from None
    _check(message)
    return message


def _check(message: Message) -> None:
    if message.type in LOCAL_TYPES:
        raise RaftWireError(f"{message.type.name} is said by a node to itself")
    if not _is_node(message.to) or not _is_node(message.sender):
        raise RaftWireError("the sender or the receiver of a message is not a node")
    if message.responses:
        raise RaftWireError("responses ride only inside a node")


def _is_node(node_id: int) -> bool:
    return NO_NODE < node_id < LOCAL_APPLY_THREAD
