"""How this server answers whatever is asked: names of itself, who may ask, how much it says, and what
it does while it is out of touch with its cluster."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from aspen.dns.name import name_from_text
from aspen.dns.networks import Networks
from aspen.errors import ConfigError
from aspen.limits import DNS_STRING_BYTES


class Staleness(Enum):
    """What a node says of its own age (design: consistency)."""

    FRESH = 0
    MARKED = 1
    """Out of touch: answers carry EDE 3 or 19 (RFC 8914 §4.4, §4.20)."""
    SILENT = 2
    """Out of touch: SERVFAIL with EDE 22 (RFC 8914 §4.23)."""


class Touch:
    """Whether this node is in touch with its cluster, for all who answer from one view."""

    __slots__ = ("staleness",)

    def __init__(self) -> None:
        self.staleness = Staleness.FRESH


class Policy(NamedTuple):
    nsid: bytes = b""
    """Sent to who asks for it (RFC 5001 §2.1); empty: not sent."""
    chaos: Mapping[bytes, bytes] = {}
    """Folded names of class CHAOS → the RDATA of their TXT record (RFC 4892)."""
    minimal: bool = False
    """Leave out additional records that an answer can do without."""
    clients: Networks | None = None
    """Who may ask at all; None: everybody."""


def compile_policy(
    *, nsid: str, version: str, identity: str, minimal_responses: bool, query_acl: tuple[str, ...]
) -> Policy:
    """Check and compile what an operator says. Raises `ConfigError`."""
    chaos = {}
    for text, names in (
        (version, ("version.bind", "version.server")),
        (identity, ("hostname.bind", "id.server")),
    ):
        octets = _octets(text)
        if octets:
            chaos.update({name_from_text(name): bytes((len(octets),)) + octets for name in names})
    return Policy(_octets(nsid), chaos, minimal_responses, Networks(query_acl) if query_acl else None)


def _octets(text: str) -> bytes:
    octets = text.encode()
    if len(octets) > DNS_STRING_BYTES:
        raise ConfigError(f"the text {text[:20]!r}… is longer than {DNS_STRING_BYTES} octets")
    return octets
