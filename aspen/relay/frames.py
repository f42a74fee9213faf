"""What a relay and its clients say to each other: one frame in each binary WebSocket message (core).

::

    relay → client   CHALLENGE  version u8 ‖ nonce (32) ‖ wants the cluster's key u8
    client → relay   PROOF      version u8 ‖ endpoint id (32) ‖ signature (64) ‖ MAC (32) ‖ relay's name
    relay → client   WELCOME    version u8 ‖ UDP port u16 (or 0) ‖ token (16)
    both             DATAGRAM   endpoint id (32) ‖ datagram      (whom it is for; whom it is from)
    relay → client   GONE       endpoint id (32)                 (nobody of that id is connected)
    relay → client   OBSERVED   port u16 ‖ host                  (where the token's datagram came from)
    relay → client   REFUSED    length of code u8 ‖ code ‖ reason; the connection ends

The first byte of each is its kind. Liveness is WebSocket's own ping and pong (RFC 6455 §5.5.2).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from aspen.errors import RelayError, invariant
from aspen.limits import RELAY_DATAGRAM_BYTES, RELAY_FRAME_BYTES, RELAY_NAME_BYTES

VERSION: Final = 1
NONCE_BYTES: Final = 32
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
MAC_BYTES: Final = 32
NO_MAC: Final = bytes(MAC_BYTES)

TOKEN_BYTES: Final = 16

_CHALLENGE, _PROOF, _WELCOME, _DATAGRAM, _GONE, _REFUSED, _OBSERVED = range(1, 8)
_CHALLENGE_BODY: Final = struct.Struct(f">BB{NONCE_BYTES}s?")
_PROOF_BODY: Final = struct.Struct(f">BB{KEY_BYTES}s{SIGNATURE_BYTES}s{MAC_BYTES}s")
_WELCOME_BODY: Final = struct.Struct(f">BBH{TOKEN_BYTES}s")
_OBSERVED_BODY: Final = struct.Struct(">BH")
_GONE_BODY: Final = struct.Struct(f">B{KEY_BYTES}s")
_DATAGRAM_KIND: Final = bytes((_DATAGRAM,))
_DATAGRAM_AT: Final = 1 + KEY_BYTES
_CODE_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Challenge:
    """Prove who you are."""

    nonce: bytes
    wants_key: bool
    """Whether the endpoint id may not be enough: the relay is for those who know a cookie."""
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Proof:
    """I hold this key, I mean this relay, and (unless the MAC is all zero) I know the cookie."""

    endpoint_id: bytes
    signature: bytes
    mac: bytes
    name: str
    """The relay's host and port, as the client dialled it."""
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Welcome:
    """You are in. What comes to the UDP port with the token, the relay tells from where."""

    udp_port: int
    """0 if it doesn't listen there."""
    token: bytes
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Datagram:
    peer: bytes
    """From a client: whom it is for. From the relay: whom it is from."""
    payload: bytes


@dataclass(frozen=True, slots=True)
class Gone:
    peer: bytes


@dataclass(frozen=True, slots=True)
class Observed:
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Refused:
    code: str
    reason: str


Frame = Challenge | Proof | Welcome | Datagram | Gone | Observed | Refused


def encode_datagram(peer: bytes, payload: bytes) -> bytes:
    """What `encode_frame` makes of a `Datagram`, without making one."""
    return _DATAGRAM_KIND + peer + payload


def encode_frame(frame: Frame) -> bytes:
    match frame:
        case Challenge(nonce, wants_key, version):
            return _CHALLENGE_BODY.pack(_CHALLENGE, version, nonce, wants_key)
        case Proof(endpoint_id, signature, mac, name, version):
            octets = name.encode()
            invariant(len(octets) <= RELAY_NAME_BYTES, "a relay's name is short")
            return _PROOF_BODY.pack(_PROOF, version, endpoint_id, signature, mac) + octets
        case Welcome(udp_port, token, version):
            return _WELCOME_BODY.pack(_WELCOME, version, udp_port, token)
        case Observed(host, port):
            return _OBSERVED_BODY.pack(_OBSERVED, port) + host.encode()
        case Datagram(peer, payload):
            return encode_datagram(peer, payload)
        case Gone(peer):
            return _GONE_BODY.pack(_GONE, peer)
        case Refused(code, reason):
            octets = code.encode()[:_CODE_BYTES]
            return bytes((_REFUSED, len(octets))) + octets + _text(reason)[: RELAY_FRAME_BYTES // 2]


def _text(reason: str) -> bytes:
    """A reason may quote what a client wrote, which need not be text at all."""
    return reason.encode("utf-8", "replace")


def decode_frame(data_untrusted: bytes) -> Frame:
    """Raises `RelayError` (`malformed`, `too_large`, `version`)."""
    if not data_untrusted:
        raise RelayError("malformed", "an empty frame")
    if len(data_untrusted) > RELAY_FRAME_BYTES:
        raise RelayError("too_large", f"a frame of {len(data_untrusted)} bytes")
    kind = data_untrusted[0]
    if kind == _DATAGRAM:
        return _datagram(data_untrusted)
    if kind in (_CHALLENGE, _PROOF, _WELCOME) and len(data_untrusted) > 1 and data_untrusted[1] != VERSION:
        raise RelayError("version", f"the other side speaks relay version {data_untrusted[1]}, not {VERSION}")
    try:
        if kind == _CHALLENGE:
            _, version, nonce, wants_key = _CHALLENGE_BODY.unpack(data_untrusted)
            return Challenge(nonce, wants_key, version)
        if kind == _PROOF:
            return _proof(data_untrusted)
        if kind == _WELCOME:
            _, version, udp_port, token = _WELCOME_BODY.unpack(data_untrusted)
            return Welcome(udp_port, token, version)
        if kind == _OBSERVED:
            _, port = _OBSERVED_BODY.unpack(data_untrusted[: _OBSERVED_BODY.size])
            return Observed(str(ip_address(data_untrusted[_OBSERVED_BODY.size :].decode())), port)
        if kind == _GONE:
            return Gone(_GONE_BODY.unpack(data_untrusted)[1])
        if kind == _REFUSED:
            end = 2 + data_untrusted[1]
            if len(data_untrusted) < end:
                raise RelayError("malformed", "a refusal that is cut off")
            return Refused(data_untrusted[2:end].decode(), data_untrusted[end:].decode("utf-8", "replace"))
    except (struct.error, IndexError, ValueError):  # UnicodeDecodeError is one
        raise RelayError("malformed", f"not a frame of kind {kind}") from None
    raise RelayError("malformed", f"no frame is of kind {kind}")


def _datagram(data_untrusted: bytes) -> Datagram:
    size = len(data_untrusted) - _DATAGRAM_AT
    if size < 1:
        raise RelayError("malformed", "a datagram without a payload")
    if size > RELAY_DATAGRAM_BYTES:
        raise RelayError("too_large", f"a datagram of {size} bytes, over {RELAY_DATAGRAM_BYTES}")
    return Datagram(data_untrusted[1:_DATAGRAM_AT], data_untrusted[_DATAGRAM_AT:])


def _proof(data_untrusted: bytes) -> Proof:
    size = _PROOF_BODY.size
    _, version, endpoint_id, signature, mac = _PROOF_BODY.unpack(data_untrusted[:size])
    name = data_untrusted[size:]
    if len(name) > RELAY_NAME_BYTES:
        raise RelayError("malformed", "a relay's name is never so long")
    return Proof(endpoint_id, signature, mac, name.decode(), version)
