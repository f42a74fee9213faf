"""Where peers may be found: endpoint id → addresses, each with its source and age.

Every source of addresses writes here (configuration, tickets, a peer that dialled us, gossip, mDNS,
DNS, pkarr) and dialling reads only here. An address proves nothing: whoever answers there must still
prove the key that was dialled, so a false address costs one dial, never a wrong peer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from aspen.identity import EndpointId
from aspen.limits import ADDRESS_BOOK_PEERS, ADDRESSES_PER_PEER

Address = tuple[str, int]
"""Host (a name, or an IPv4 or IPv6 address) and UDP port."""

# Most trusted first. A source that isn't named here comes last.
SOURCES: Final = (
    "connected",
    "inbound",
    "manual",
    "ticket",
    "remembered",
    "membership",
    "gossip",
    "mdns",
    "bootstrap",
    "dns",
    "pkarr",
)
PROVEN: Final = frozenset({"connected", "inbound"})
"""What was told by the peer's own proof."""
# Where a peer was proven to be lately, on either kind of connection, is better than where it was before.
_RANK: Final = {source: 0 if source in PROVEN else rank for rank, source in enumerate(SOURCES)}


@dataclass(frozen=True, slots=True)
class KnownAddress:
    """One address of one peer, and why we think so."""

    address: Address
    sources: tuple[str, ...]
    """Who says so, the most trusted first."""
    seen_at: float
    """By the book's clock, in seconds."""

    @property
    def source(self) -> str:
        return self.sources[0]


def _rank(source: str) -> int:
    return _RANK.get(source, len(SOURCES))


def _order(known: KnownAddress) -> tuple[int, float]:
    return _rank(known.source), -known.seen_at


class AddressBook:
    """Addresses of peers, bounded in peers and in addresses a peer."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._peers: dict[EndpointId, list[KnownAddress]] = {}

    def add(self, endpoint_id: EndpointId, address: Address, source: str) -> None:
        """Remember an address; one that is known already becomes as young as this, and as trusted."""
        known = self._peers.get(endpoint_id)
        if known is None:
            if len(self._peers) >= ADDRESS_BOOK_PEERS:
                self._forget_one(_rank(source))
            if len(self._peers) >= ADDRESS_BOOK_PEERS:
                return
            known = self._peers[endpoint_id] = []
        address = (address[0], address[1])
        rest = [old for old in known if old.address != address]
        sources = {source, *(each for old in known if old.address == address for each in old.sources)}
        rest.append(KnownAddress(address, tuple(sorted(sources, key=_rank)), self._clock()))
        known[:] = sorted(rest, key=_order)[:ADDRESSES_PER_PEER]

    def replace(self, endpoint_id: EndpointId, addresses: Sequence[Address], source: str) -> None:
        """What a source says of a peer now is all that it says: addresses it told earlier are forgotten."""
        self.remove(endpoint_id, source)
        for address in addresses:
            self.add(endpoint_id, address, source)

    def remove(self, endpoint_id: EndpointId, source: str | None = None) -> None:
        """Forget a peer's addresses: all, or those that only one source tells of."""
        kept = []
        for known in self._peers.get(endpoint_id, ()) if source is not None else ():
            others = tuple(each for each in known.sources if each != source)
            if others:
                kept.append(KnownAddress(known.address, others, known.seen_at))
        if kept:
            self._peers[endpoint_id] = sorted(kept, key=_order)
        else:
            self._peers.pop(endpoint_id, None)

    def addresses(self, endpoint_id: EndpointId) -> list[Address]:
        """Where to dial a peer: the most trusted source first, within a source the newest."""
        return [known.address for known in self._peers.get(endpoint_id, ())]

    def known(self, endpoint_id: EndpointId) -> list[KnownAddress]:
        """The same with sources and ages, for people."""
        return list(self._peers.get(endpoint_id, ()))

    def peers(self) -> list[EndpointId]:
        return list(self._peers)

    def _forget_one(self, rank: int) -> None:
        """Make room for a source of `rank`: drop the peer known least reliably, if no better than that."""
        worst_id, worst = max(self._peers.items(), key=lambda item: _order(item[1][0]))
        if _order(worst[0])[0] >= rank:
            del self._peers[worst_id]
