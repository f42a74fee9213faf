"""Keeping accepted packets in the DHT, whose nodes forget an item after two hours (BEP 44).

The node that accepts a packet publishes it at once; the leader, and only the leader, sees to it that all
packets are published again every hour. It goes through the table in the order of keys, so many a turn that
the pace of publication (`DHT_PUBLISH_PER_S`) is not outrun. With more packets than an hour has room for, a
round takes longer, and says so. A new leader begins its round anew: publishing twice does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from aspen.errors import PacketError
from aspen.limits import DHT_PUBLISH_PER_S, DHT_REPUBLISH_MS, DHT_REPUBLISH_TURN_MS
from aspen.pkarr.packet import SignedPacket
from aspen.pkarr.ports import Network

log = structlog.get_logger("aspen.pkarr.republish")

_PER_TURN = DHT_PUBLISH_PER_S * DHT_REPUBLISH_TURN_MS // 1_000


class LivePackets(Protocol):
    """The packets of the local replica, in the order of their keys."""

    def payloads(self, after: bytes, limit: int) -> Sequence[tuple[bytes, bytes]]:
        """(public key, payload) of packets under keys beyond `after`; tombstones left out.

        Fewer than `limit` mean that there are no more.
        """
        ...


class Queue(Network, Protocol):
    """A network that says how much it has to publish still."""

    @property
    def waiting(self) -> int: ...


class DhtRepublish:
    """A duty of the leader's (`aspen.services.housekeeping.Duty`)."""

    name = "dht-republish"
    interval_ms = DHT_REPUBLISH_TURN_MS

    def __init__(self, network: Queue, packets: LivePackets, *, period_ms: int = DHT_REPUBLISH_MS) -> None:
        self._network = network
        self._packets = packets
        self._period_ms = period_ms
        self._after: bytes | None = None
        """The last key of a round under way."""
        self._round_began_ms: int | None = None
        self._led_for_ms = 0

    async def run(self, now_ms: int, led_for_ms: int) -> bool:
        if led_for_ms < self._led_for_ms:  # another reign: others may have published meanwhile
            self._after = self._round_began_ms = None
        self._led_for_ms = led_for_ms
        if self._after is None:
            began_ms = self._round_began_ms
            if began_ms is not None and now_ms - began_ms < self._period_ms:
                return False
            self._after, self._round_began_ms = b"", now_ms
        if self._network.waiting >= _PER_TURN:
            return False  # what was accepted just now goes first
        page = self._packets.payloads(self._after, _PER_TURN)
        for public_key, payload in page:
            self._after = public_key
            try:
                packet = SignedPacket.parse(public_key, payload)
            except PacketError as error:
                log.error("a stored packet doesn't verify", key=public_key.hex(), reason=str(error))
            else:
                await self._network.publish(packet)
        if len(page) < _PER_TURN:
            took_ms = now_ms - (self._round_began_ms or now_ms)
            if took_ms > self._period_ms:
                log.warning("republishing takes longer than its period", took_s=took_ms // 1_000)
            self._after = None
        return False
