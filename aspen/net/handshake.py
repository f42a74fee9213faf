"""Mutual authentication of two nodes over a fresh QUIC connection. Sans-IO: bytes in, bytes out.

TLS has proven the listener's identity key (the dialler pinned it), nothing else. Four messages on the
connection's first stream prove the rest, a challenge and response with both nonces in what is proven::

    dialler                                            listener
    HELLO(hello, endpoint id, nonce)        ──►
                                            ◄──        CHALLENGE(hello, nonce)
    PROOF(signature, MAC)                   ──►        … checks both, asks `admit`
      … checks the MAC, asks `admit`        ◄──        WELCOME(MAC)

The *transcript* is a hash over the application protocol (ALPN), both endpoint ids, HELLO and CHALLENGE.
The dialler's signature over it proves the dialler's identity key; each MAC, keyed from the cluster's
cookie and bound to its sender's role, proves the cookie. So
- a captured handshake is worthless: the other side's nonce is new each time;
- a proof made for one listener, one protocol or one role fits no other;
- the dialler proves the cookie first, to a listener whose key it already knows: a stranger who dials
  gets nothing it could guess the cookie from, nor does one who answers in a peer's place.

A protocol may be open to strangers (`Credentials` without a cookie): its MACs are keyed with nothing secret,
so that only the identity keys are proven, bound to the connection all the same.

The first field of HELLO and CHALLENGE is the protocol version and will stay so; whoever reads another
version than its own refuses. A refusal is a QUIC close whose reason is one of `REFUSAL_CODES`.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import blake3

from aspen.errors import HandshakeError
from aspen.identity import Authenticator, Cookies, EndpointId, Identity, verify
from aspen.limits import NET_HELLO_BYTES

COOKIE_CONTEXT: Final = "aspen 2026 quic handshake v1"
REFUSAL_CODES: Final = frozenset(
    {
        "wrong_cookie",
        "wrong_key",
        "node_id_claimed",
        "foreign_cluster",
        "not_admitted",
        "removed",
        "version",
        "malformed",
        "timeout",
        "too_many",
    }
)
CLUSTER_ID_BYTES: Final = 16
INCARNATION_BYTES: Final = 8
NONCE_BYTES: Final = 32

_TRANSCRIPT_CONTEXT: Final = b"aspen 2026 quic transcript v1"
_SIGNATURE_CONTEXT: Final = b"aspen 2026 quic dialler signature v1"
_NO_COOKIE_CONTEXT: Final = "aspen 2026 quic handshake without a cookie v1"
_DIALLER: Final = b"dialler"
_LISTENER: Final = b"listener"
_HELLO, _CHALLENGE, _PROOF, _WELCOME = 1, 2, 3, 4
_LENGTH: Final = struct.Struct(">H")
_HEAD: Final = struct.Struct(">BH")  # kind, protocol version: the fields no version may move
_HELLO_BODY: Final = struct.Struct(f">16sQ8s32s{NONCE_BYTES}s")
_CHALLENGE_BODY: Final = struct.Struct(f">16sQ8s{NONCE_BYTES}s")
_PROOF_BODY: Final = struct.Struct(">B64s32s")
_WELCOME_BODY: Final = struct.Struct(">B32s")

Admit = Callable[["Peer"], str | None]
"""Asked about a proven peer: None to let it in, else a refusal code."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What a node says of itself when it meets another."""

    protocol_version: int
    cluster_id: bytes
    """16 bytes, random at the cluster's initialisation; all zero on a node that has joined none."""
    node_id: int
    incarnation: bytes
    """8 bytes, random at each start of the process: tells a restarted peer from the one before."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A node at the other end, proven: it holds this identity key and knows the cookie."""

    endpoint_id: EndpointId
    node_id: int
    cluster_id: bytes
    incarnation: bytes


class Credentials:
    """What every handshake of one node is made with."""

    __slots__ = ("admit", "hello", "identity", "macs", "strangers")

    def __init__(
        self, identity: Identity, cookies: Cookies | None, hello: Callable[[], Hello], admit: Admit
    ) -> None:
        """`cookies` None: peers prove their keys and nothing else."""
        self.identity = identity
        self.strangers = cookies is None
        self.macs: Sequence[Authenticator] = (
            [_no_secret] if cookies is None else cookies.authenticators(COOKIE_CONTEXT)
        )
        """The first is used to dial; a listener takes any, and answers with the same."""
        self.hello = hello
        self.admit = admit


class Handshake:
    """One side of one handshake. `peer` is set once both proofs have been checked, never before."""

    def __init__(self, credentials: Credentials, alpn: str, nonce: bytes) -> None:
        self.peer: Peer | None = None
        self._credentials = credentials
        self._alpn = alpn.encode()
        self._nonce = nonce
        self._hello = credentials.hello()
        self._buffer = b""

    def receive(self, data_untrusted: bytes) -> bytes:
        """Take bytes from the stream; return bytes to send. Raises `HandshakeError`."""
        self._buffer += data_untrusted
        reply = b""
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if not 0 < length <= NET_HELLO_BYTES:
                raise HandshakeError("malformed", "a handshake message of an impossible length")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            message, self._buffer = self._buffer[_LENGTH.size : end], self._buffer[end:]
            if self.peer is not None:
                raise HandshakeError("malformed", "a handshake message after the handshake")
            reply += self._message(message)
        return reply

    def _message(self, message_untrusted: bytes) -> bytes:
        raise NotImplementedError

    def _check_version(self, message_untrusted: bytes, kind: int) -> bytes:
        """The body of a HELLO or CHALLENGE whose kind and version are as they must be."""
        if len(message_untrusted) < _HEAD.size or message_untrusted[0] != kind:
            raise HandshakeError("malformed", "not the handshake message that comes next")
        _, version = _HEAD.unpack_from(message_untrusted)
        ours = self._hello.protocol_version
        if version != ours:
            raise HandshakeError("version", f"the peer speaks protocol version {version}, this node {ours}")
        return message_untrusted[_HEAD.size :]

    def _check_mac(
        self, known: Iterable[Authenticator], role: bytes, proven: bytes, mac_untrusted: bytes
    ) -> Authenticator:
        """The one of those known that the peer proved with."""
        matching = [mac for mac in known if hmac.compare_digest(mac(role + proven), mac_untrusted)]
        if not matching:
            raise HandshakeError("wrong_cookie", "the peer does not know this cluster's cookie")
        return matching[0]

    def _welcome(self, peer: Peer) -> None:
        """Let a proven peer in, unless the node has a reason not to."""
        if peer.endpoint_id == self._credentials.identity.endpoint_id:
            raise HandshakeError("wrong_key", "the peer holds this node's own identity key")
        reason = self._credentials.admit(peer)
        if reason is not None:
            code = reason if reason in REFUSAL_CODES else "not_admitted"
            raise HandshakeError(code, f"node {peer.node_id} is not admitted: {reason}")
        self.peer = peer


class DiallerHandshake(Handshake):
    """The dialling side. It has checked that TLS proved `listener_id` before it starts."""

    def __init__(self, credentials: Credentials, alpn: str, nonce: bytes, listener_id: EndpointId) -> None:
        super().__init__(credentials, alpn, nonce)
        self._listener_id = listener_id
        own, hello = credentials.identity.endpoint_id, self._hello
        self._first = _HEAD.pack(_HELLO, hello.protocol_version) + _HELLO_BODY.pack(
            hello.cluster_id, hello.node_id, hello.incarnation, own, nonce
        )
        self._claimed: Peer | None = None
        self._proven = b""
        self._mac = credentials.macs[0]

    def start(self) -> bytes:
        """The first bytes to send."""
        return _framed(self._first)

    def _message(self, message_untrusted: bytes) -> bytes:
        if self._claimed is None:
            return self._challenged(message_untrusted)
        try:
            kind, mac = _WELCOME_BODY.unpack(message_untrusted)
        except struct.error:
            raise HandshakeError("malformed", "not a welcome") from None
        if kind != _WELCOME:
            raise HandshakeError("malformed", "not a welcome")
        self._check_mac([self._mac], _LISTENER, self._proven, mac)
        self._welcome(self._claimed)
        return b""

    def _challenged(self, message_untrusted: bytes) -> bytes:
        body = self._check_version(message_untrusted, _CHALLENGE)
        try:
            cluster_id, node_id, incarnation, _nonce = _CHALLENGE_BODY.unpack(body)
        except struct.error:
            raise HandshakeError("malformed", "not a challenge") from None
        self._claimed = Peer(self._listener_id, node_id, cluster_id, incarnation)
        identity = self._credentials.identity
        transcript = _transcript(
            self._alpn, identity.endpoint_id, self._listener_id, self._first, message_untrusted
        )
        signature = identity.sign(_SIGNATURE_CONTEXT + transcript)
        self._proven = transcript + signature
        mac = self._mac(_DIALLER + self._proven)
        return _framed(_PROOF_BODY.pack(_PROOF, signature, mac))


class ListenerHandshake(Handshake):
    """The side that was dialled."""

    def __init__(self, credentials: Credentials, alpn: str, nonce: bytes) -> None:
        super().__init__(credentials, alpn, nonce)
        self._claimed: Peer | None = None
        self._transcript = b""

    def _message(self, message_untrusted: bytes) -> bytes:
        if self._claimed is None:
            return self._greeted(message_untrusted)
        return self._proof(self._claimed, message_untrusted)

    def _greeted(self, message_untrusted: bytes) -> bytes:
        body = self._check_version(message_untrusted, _HELLO)
        try:
            cluster_id, node_id, incarnation, endpoint_id, _nonce = _HELLO_BODY.unpack(body)
        except struct.error:
            raise HandshakeError("malformed", "not a hello") from None
        self._claimed = Peer(endpoint_id, node_id, cluster_id, incarnation)
        hello = self._hello
        challenge = _HEAD.pack(_CHALLENGE, hello.protocol_version) + _CHALLENGE_BODY.pack(
            hello.cluster_id, hello.node_id, hello.incarnation, self._nonce
        )
        own = self._credentials.identity.endpoint_id
        self._transcript = _transcript(self._alpn, endpoint_id, own, message_untrusted, challenge)
        return _framed(challenge)

    def _proof(self, claimed: Peer, message_untrusted: bytes) -> bytes:
        try:
            kind, signature, mac = _PROOF_BODY.unpack(message_untrusted)
        except struct.error:
            raise HandshakeError("malformed", "not a proof") from None
        if kind != _PROOF:
            raise HandshakeError("malformed", "not a proof")
        # The MAC first: it is cheap, and without the cookie nobody makes this node verify a signature.
        proven = self._transcript + signature
        authenticator = self._check_mac(self._credentials.macs, _DIALLER, proven, mac)
        if not verify(claimed.endpoint_id, _SIGNATURE_CONTEXT + self._transcript, signature):
            raise HandshakeError("wrong_key", "the peer does not hold the identity key it named")
        self._welcome(claimed)
        return _framed(_WELCOME_BODY.pack(_WELCOME, authenticator(_LISTENER + proven)))


def _no_secret(message: bytes) -> bytes:
    """Stands where the cookie's MAC does, and proves nothing."""
    return blake3.blake3(message, derive_key_context=_NO_COOKIE_CONTEXT).digest()


def _framed(message: bytes) -> bytes:
    return _LENGTH.pack(len(message)) + message


def _transcript(alpn: bytes, dialler: bytes, listener: bytes, hello: bytes, challenge: bytes) -> bytes:
    """A hash over everything the two sides have agreed on, each part led by its length."""
    parts = (_TRANSCRIPT_CONTEXT, alpn, dialler, listener, hello, challenge)
    return blake3.blake3(b"".join(_LENGTH.pack(len(part)) + part for part in parts)).digest()
