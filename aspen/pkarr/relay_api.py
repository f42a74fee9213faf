"""What the relay's routes are, for the OpenAPI document (and for who reads this to learn the API)."""

from __future__ import annotations

from typing import Final

import msgspec

from aspen.http.openapi import BINARY, JSON, Answer, Body, Operation, Parameter
from aspen.http.sse import EVENT_STREAM
from aspen.limits import PKARR_PACKET_BYTES

SIGNED_PACKET: Final = "application/x-pkarr-signed-packet"
RELAY_PAYLOAD: Final = "application/pkarr.org/relays#payload"

KEY: Final = Parameter(
    "key",
    "An Ed25519 public key in z-base-32, lower case.",
    # 52 characters are 260 bits: the last one holds one bit of the key and four of zero padding.
    {"type": "string", "pattern": "^[ybndrfg8ejkmcpqxot1uwisza345h769]{51}[yo]$"},
    where="path",
)
_PAYLOAD: Final = {
    "type": "string",
    "format": "binary",
    "description": f"Signature (64 bytes), timestamp (8 bytes, big-endian microseconds), DNS message "
    f"(up to {PKARR_PACKET_BYTES} bytes).",
}
_CACHING: Final = {
    "ETag": "Strong, exact to the microsecond.",
    "Last-Modified": "The signer's timestamp.",
    "Cache-Control": "The least TTL of the packet's records, within bounds.",
    "Aspen-Source": "`replica`, or `network` for what was found in the DHT and isn't replicated.",
    "Aspen-Applied-Index": "How far the replica is that answered.",
    "Aspen-Last-Contact-Ms": "How long ago it heard from a leader.",
    "Aspen-Known-Leader": "The leader's node id; 0 if none is known.",
}

PUT: Final = Operation(
    "Publish a packet",
    {204: Answer("The packet is replicated, or was already.")},
    {
        400: "The key, size, signature, timestamp or DNS message won't do; `error` says which.",
        403: "The relay's lists don't let this key publish.",
        409: "A more recent packet is stored under this key, or was deleted.",
        412: "A packet later than `If-Unmodified-Since` is stored.",
        429: "Too many packets from this address, under this key, or in all.",
        507: "The relay has no room for more keys.",
    },
    parameters=(
        Parameter(
            "If-Unmodified-Since",
            "Compare and swap: only if no later packet is stored (a date means its whole second).",
            where="header",
        ),
    ),
    body=Body({RELAY_PAYLOAD: _PAYLOAD, SIGNED_PACKET: _PAYLOAD, "*/*": BINARY}),
    description="The packet is durable on a majority of the cluster when this is answered. A packet without "
    "answers unpublishes the key.",
    tag="pkarr",
)
GET: Final = Operation(
    "Resolve a key",
    {
        200: Answer(
            "The packet. The type is that of the path, or of `Accept`.",
            {SIGNED_PACKET: _PAYLOAD, RELAY_PAYLOAD: _PAYLOAD},
            _CACHING,
        ),
        304: Answer("The client has it already (`If-None-Match`, `If-Modified-Since`).", headers=_CACHING),
    },
    {404: "There is no packet under this key.", 429: "Too many lookups from this address."},
    (
        Parameter(
            "policy",
            "Where to look: in the replica only, there first, or in the network (DHT).",
            {"type": "string", "enum": ["CacheOnly", "CacheFirst", "NetworkOnly"], "default": "CacheFirst"},
        ),
    ),
    tag="pkarr",
)

_EVENTS: Final = {
    200: Answer(
        "Server-sent events `stored`, `unpublished`, `deleted`, `expired`: JSON with `index`, `keys` and, "
        "unless they expired, `timestamp_us`. `progress` says up to which index everything is told; `end` is "
        "the last event, and says why as an error does.",
        {EVENT_STREAM: {"type": "string"}},
    )
}
_GONE: Final = {410: "Changes since `from` may be forgotten: look at the packets, then watch from now."}
_FROM: Final = (
    Parameter(
        "from",
        "The first log index to be told of; from now on if it isn't given.",
        {"type": "integer", "minimum": 0, "maximum": 2**62},
    ),
    Parameter(
        "Last-Event-ID",
        "The last event that was seen: goes on after it, whatever `from` says.",
        {"type": "string", "pattern": "^[0-9]{1,18}$"},
        where="header",
    ),
)
WATCH_KEY: Final = Operation(
    "Watch a key",
    _EVENTS,
    {**_GONE, 429: "Too many streams to this address."},
    (Parameter("key", KEY.description, KEY.schema, required=True), *_FROM),
    tag="pkarr",
)
WATCH_ALL: Final = Operation("Watch all keys", _EVENTS, _GONE, _FROM, tag="packets")


class PacketField(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of a payload: where it stands, in octets, and what it says."""

    offset: int
    size: int
    name: str
    value: str
    problem: str = ""
    """What is wrong with it; left out if nothing is."""


class PacketInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is stored under a key."""

    key: str
    timestamp_us: int
    """The signer's."""
    last_seen_ms: int
    """When it was last published, by the leader's clock then."""
    state: str
    """`live`, `expired` (and about to be removed), `unpublished` by its owner or `deleted`."""
    payload: bytes
    """Empty if it was deleted."""
    fields: tuple[PacketField, ...] = ()
    """Of the payload, in order, if asked for. The signature's has a problem if it isn't the key's."""


class ListedKeys(msgspec.Struct, frozen=True):
    """Keys on a list, each with the reason given for it."""

    keys: dict[str, str]


SHOW: Final = Operation(
    "What is stored under a key",
    {200: Answer("Tombstones included.", {JSON: PacketInfo})},
    {404: "Nothing is stored."},
    (
        Parameter(
            "fields",
            "Verify the signature once more and decode every field.",
            {"type": "string", "enum": ["true", "false"]},
        ),
    ),
    tag="packets",
)
DELETE: Final = Operation(
    "Delete a packet",
    {204: Answer("It is gone from all members. Neither it nor an older one can be published again.")},
    {404: "There is no packet under this key."},
    tag="packets",
)


def list_operations(name: str, effect: str) -> tuple[Operation, dict[str, Operation]]:
    """Of a list of keys: GET of the whole, PUT and DELETE of one key."""
    whole = Operation(f"The keys that are {name}", {200: Answer(effect, {JSON: ListedKeys})}, tag="packets")
    text = {"type": "string", "description": "A reason, in UTF-8; may be empty."}
    one = {
        "PUT": Operation(
            f"Put a key on the list of those {name}",
            {204: Answer(effect)},
            body=Body({"text/plain": text, "*/*": BINARY}, required=False),
            tag="packets",
        ),
        "DELETE": Operation(
            f"Take a key off the list of those {name}",
            {204: Answer("It is off the list.")},
            {404: "It was not on the list."},
            tag="packets",
        ),
    }
    return whole, one
