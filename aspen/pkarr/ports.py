"""What the relay and DNS need of the world outside the cluster, as a Protocol."""

from __future__ import annotations

from typing import Protocol

from aspen.pkarr.packet import SignedPacket


class Network(Protocol):
    """Where packets are looked up that the replica lacks, and made known to everybody: the DHT."""

    async def resolve(self, public_key: bytes, newer_than_us: int | None = None) -> SignedPacket | None:
        """The most recent packet that can be found, verified; None if nobody has one.

        With `newer_than_us`, only a packet with a higher timestamp counts. The answer, and that there is
        none, may come from memory. Raises `NetworkError` if too many lookups are under way, or if
        nobody could be asked.
        """
        ...

    async def publish(self, packet: SignedPacket) -> None:
        """Take a packet that was accepted here for publication; returns at once.

        It is published in its turn, and not at all if a more recent one comes first or too many wait.
        """
        ...
