"""Who may use a relay, and how a client proves it (core).

Whoever connects signs, with the key that its endpoint id is, the relay's random nonce and the relay's
name: a proof that was overheard is worth nothing later, nor at another relay. For that a relay must know
what it is called, and never believes it of a client: it was told, or it goes by the names in its
certificate and the address at which the client has reached it. Who holds a key may use an `open` relay;
otherwise the endpoint id must be on a list, or the client knows a cluster's cookie and shows so by a MAC
over the same and the signature. Its key is derived from the cookie with a context of its own.

A relay that is shown such a MAC could try cookies against it, as whoever holds a ticket can: a cookie is
to be long and random. A relay that doesn't ask for it is shown none.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from aspen.errors import ConfigError, RelayError
from aspen.identity import Authenticator, EndpointId, Identity, verify
from aspen.limits import RELAY_NAME_BYTES, RELAY_URL_CHARS
from aspen.relay.frames import NO_MAC, VERSION, Challenge, Proof

COOKIE_CONTEXT: Final = "aspen 2026 relay access v1"
PATH: Final = "/relay"
REMOVED: Final = "this endpoint id was removed from the cluster"
_SIGNED: Final = b"aspen 2026 relay proof v1\0"
_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_PORT: Final = re.compile(r":\d{1,5}\Z")
_PORTS: Final = {"ws": 80, "wss": 443}


@dataclass(frozen=True, slots=True)
class Access:
    """A relay's rules."""

    open: bool = False
    endpoint_ids: Collection[EndpointId] = ()
    """Those who may use it without knowing a cookie."""
    authenticators: Sequence[Authenticator] = ()
    """Of the cookies whose holders may use it; they may change."""
    names: Collection[str] = ()
    """What the relay was told that it is called, `host` or `host:port`, and then nothing else."""
    refuses: Callable[[EndpointId], bool] = lambda endpoint_id: False
    """Those who may not, whatever they prove."""

    @property
    def wants_key(self) -> bool:
        """Whether a client should show that it knows a cookie."""
        return not self.open and bool(self.authenticators)

    def check(self, proof_untrusted: Proof, nonce: bytes, own_names: Collection[str]) -> EndpointId:
        """The endpoint id that is proven, and may use this relay. Raises `RelayError`.

        `own_names` are what it goes by if it was told no names.
        """
        proof = proof_untrusted
        if not is_called(proof.name, self.names or own_names):
            raise RelayError(
                "wrong_name",
                f"the client means the relay {proof.name!r}, and this one doesn't know that it is called so: "
                "tell it (--name, or iroh.relay_server_url of a node)",
            )
        signed = _signed(nonce, proof.name)
        # The MAC first, where it decides: without the cookie nobody makes this relay verify a signature.
        if not self.open and proof.endpoint_id not in self.endpoint_ids:
            expected = [
                mac(_proven(proof.endpoint_id, signed, proof.signature)) for mac in self.authenticators
            ]
            if not any([hmac.compare_digest(each, proof.mac) for each in expected]):
                raise RelayError(
                    "not_allowed", "this relay is for others: no cookie or list lets this client in"
                )
        if not verify(proof.endpoint_id, signed, proof.signature):
            raise RelayError("wrong_key", "the client does not hold the key of its endpoint id")
        if self.refuses(proof.endpoint_id):
            raise RelayError("not_allowed", REMOVED)
        return proof.endpoint_id


def prove(
    identity: Identity, challenge: Challenge, name: str, authenticators: Sequence[Authenticator]
) -> Proof:
    """The answer to a relay's challenge; of the cookies it is the first that counts."""
    signed = _signed(challenge.nonce, name)
    signature = identity.sign(signed)
    mac = NO_MAC
    if challenge.wants_key and len(authenticators) > 0:
        mac = authenticators[0](_proven(identity.endpoint_id, signed, signature))
    return Proof(identity.endpoint_id, signature, mac, name)


@dataclass(frozen=True, slots=True)
class RelayUrl:
    """Where a relay is."""

    websocket: str
    """What is dialled."""
    name: str
    """Its host and port as the Host header spells them."""


def parse_relay_url(setting: str, text: str) -> RelayUrl:
    """Read `https://host[:port][/path]`; without a path it is `/relay`. Raises `ConfigError`."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ConfigError(f"{setting}: {text!r} is not a URL") from None
    host = (parts.hostname or "").lower()
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None or not host or len(text) > RELAY_URL_CHARS or not text.isascii():
        raise ConfigError(f"{setting}: {text!r} is not the URL of a relay, like https://relay.example.com")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(f"{setting}: the URL of a relay has no user, query or fragment")
    name = f"[{host}]" if ":" in host else host
    if port is not None and port != _PORTS[scheme]:
        name += f":{port}"
    if len(name) > RELAY_NAME_BYTES:
        raise ConfigError(f"{setting}: the relay's host name is too long")
    path = parts.path if parts.path not in ("", "/") else PATH
    return RelayUrl(f"{scheme}://{name}{path}", name)


def is_called(name_untrusted: str, names: Collection[str]) -> bool:
    """Whether a relay that goes by `names` is meant. One without a port is good for all ports of its host,
    and clients leave out the port of their scheme; a wildcard (`*.example.com`) is no name, for others may
    be called so too."""
    host, port = _parts(name_untrusted)
    ports = {"", port} if port else {"", *map(str, _PORTS.values())}
    return host != "" and any(own == host and own_port in ports for own, own_port in map(_parts, names))


def _parts(name: str) -> tuple[str, str]:
    """Host and port (empty if there is none); an address in the one spelling that it is compared by."""
    found = _PORT.search(name) if name.startswith("[") or name.count(":") == 1 else None
    host, port = (name, "") if found is None else (name[: found.start()], found.group()[1:])
    host = host.lower().strip("[]").rstrip(".")
    try:
        address = ip_address(host)
    except ValueError:
        return host, port
    mapped = address.ipv4_mapped if address.version == 6 else None
    return str(mapped or address), port


def _signed(nonce: bytes, name: str) -> bytes:
    return _SIGNED + bytes((VERSION,)) + nonce + name.encode()


def _proven(endpoint_id: EndpointId, signed: bytes, signature: bytes) -> bytes:
    return endpoint_id + signature + signed
