"""What gossiping nodes say to each other, and its encoding (MessagePack, tagged by kind).

The first group keeps the overlay (HyParView), the second broadcasts over it (Plumtree). A peer
is named with the addresses it was last known at, so that whoever hears of it can dial it.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from aspen.decoding import UNDECODABLE
from aspen.errors import GossipError
from aspen.limits import (
    ADDRESSES_PER_PEER,
    GOSSIP_ANNOUNCEMENT_BYTES,
    GOSSIP_IDS,
    GOSSIP_MESSAGE_BYTES,
    GOSSIP_SHUFFLE_PEERS,
    HOST_CHARS,
)

KEY_BYTES: Final = 32
MESSAGE_ID_BYTES: Final = 16

Key = Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
MessageId = Annotated[bytes, msgspec.Meta(min_length=MESSAGE_ID_BYTES, max_length=MESSAGE_ID_BYTES)]
Host = Annotated[str, msgspec.Meta(min_length=1, max_length=HOST_CHARS)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
Addresses = Annotated[tuple[tuple[Host, Port], ...], msgspec.Meta(max_length=ADDRESSES_PER_PEER)]
Hops = Annotated[int, msgspec.Meta(ge=0, le=255)]


class Peer(msgspec.Struct, frozen=True, array_like=True):
    """A node, and where it may be reached."""

    endpoint_id: Key
    addresses: Addresses = ()


Peers = Annotated[tuple[Peer, ...], msgspec.Meta(max_length=GOSSIP_SHUFFLE_PEERS)]


class Join(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Let me into the overlay."""

    peer: Peer


class ForwardJoin(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A node has joined; walk on with this, and let whoever it reaches at last be its neighbour."""

    peer: Peer
    hops_left: Hops


class Neighbour(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Be my neighbour. Urgent from one that has no other: it isn't refused."""

    peer: Peer
    urgent: bool


class NeighbourReply(msgspec.Struct, frozen=True, array_like=True, tag=4):
    accepted: bool


class Disconnect(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """We are no neighbours, or no longer."""


class Shuffle(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Some of the nodes that `origin` knows, for some of yours."""

    origin: Peer
    hops_left: Hops
    peers: Peers


class ShuffleReply(msgspec.Struct, frozen=True, array_like=True, tag=7):
    peers: Peers


class Gossip(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """A broadcast message itself."""

    message_id: MessageId
    payload: Annotated[bytes, msgspec.Meta(max_length=GOSSIP_ANNOUNCEMENT_BYTES)]


class IHave(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """Messages to be had from me. Without any it says that I am alive."""

    message_ids: Annotated[tuple[MessageId, ...], msgspec.Meta(max_length=GOSSIP_IDS)] = ()


class Graft(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """Send me those, and from now on send me messages themselves."""

    message_ids: Annotated[tuple[MessageId, ...], msgspec.Meta(max_length=GOSSIP_IDS)]


class Prune(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """I get messages by another way: from now on tell me only which you have."""


OverlayMessage = Join | ForwardJoin | Neighbour | NeighbourReply | Disconnect | Shuffle | ShuffleReply
BroadcastMessage = Gossip | IHave | Graft | Prune
Message = OverlayMessage | BroadcastMessage
KINDS: Final[dict[type[Message], str]] = {
    Join: "join",
    ForwardJoin: "forward_join",
    Neighbour: "neighbour",
    NeighbourReply: "neighbour_reply",
    Disconnect: "disconnect",
    Shuffle: "shuffle",
    ShuffleReply: "shuffle_reply",
    Gossip: "gossip",
    IHave: "i_have",
    Graft: "graft",
    Prune: "prune",
}
"""What they are called where they are counted."""

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[Message]] = msgspec.msgpack.Decoder(Message)


def encode_message(message: Message) -> bytes:
    return _ENCODER.encode(message)


def decode_message(data_untrusted: bytes) -> Message:
    """Raises `GossipError`."""
    if len(data_untrusted) > GOSSIP_MESSAGE_BYTES:
        raise GossipError("size", f"a gossip message of {len(data_untrusted)} bytes")
    try:
        return _DECODER.decode(data_untrusted)
    except UNDECODABLE as error:
        raise GossipError("malformed", f"not a gossip message: {error}") from None
