"""What the relay's routes are, for the OpenAPI document (and for who reads this to learn the API)."""

from __future__ import annotations

from typing import Final

from aspen.http.openapi import BINARY, Answer, Body, Operation, Parameter
from aspen.limits import PKARR_FUTURE_MS, PKARR_PACKET_BYTES

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
    "Aspen-Applied-Index": "How far the replica is that answered.",
    "Aspen-Last-Contact-Ms": "How long ago it heard from a leader.",
    "Aspen-Known-Leader": "The leader's node id; 0 if none is known.",
}

PUT: Final = Operation(
    "Publish a packet",
    {204: Answer("The packet is replicated, or was already.")},
    {
        400: "The key, size, signature, timestamp or DNS message won't do; `error` says which. A timestamp "
        f"may be {PKARR_FUTURE_MS // 1_000} seconds ahead of the node's clock.",
        409: "A more recent packet is stored under this key.",
    },
    body=Body({RELAY_PAYLOAD: _PAYLOAD, SIGNED_PACKET: _PAYLOAD, "*/*": BINARY}),
    description="The packet is durable on a majority of the cluster when this is answered.",
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
    {404: "No packet is stored under this key."},
    tag="pkarr",
)
