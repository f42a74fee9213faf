"""Removing packets that nobody has published for long: a duty of the leader's housekeeper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from aspen.errors import invariant
from aspen.limits import PKARR_EXPIRE_MAX_MS, PKARR_EXPIRE_MIN_MS, PKARR_RENEW_PART
from aspen.state.packet_commands import ExpireResult, PacketsExpire
from aspen.state.ports import Proposer


class DuePackets(Protocol):
    """The packets of the local replica, by age."""

    def due(self, packets_before_ms: int, tombstones_before_ms: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """After they were last seen."""

    packets_ms: int
    tombstones_ms: int


class PacketExpiry:
    """`aspen.services.housekeeping.Duty`. Looks at the replica first, so that nothing due costs no log entry;
    removes a batch at a time, so that other writes pass between two."""

    name: Final = "packet expiry"

    def __init__(self, proposer: Proposer, packets: DuePackets, lifetimes: Lifetimes) -> None:
        self._proposer = proposer
        self._packets = packets
        self._lifetimes = lifetimes

    @property
    def interval_ms(self) -> int:
        shortest_ms = min(self._lifetimes.packets_ms, self._lifetimes.tombstones_ms)
        return min(max(shortest_ms // PKARR_RENEW_PART, PKARR_EXPIRE_MIN_MS), PKARR_EXPIRE_MAX_MS)

    async def run(self, now_ms: int, led_for_ms: int) -> bool:
        """Expire one batch, if any is due; say whether there is more. May raise `ProposalError`."""
        packets_before_ms = now_ms - self._lifetimes.packets_ms
        tombstones_before_ms = now_ms - self._lifetimes.tombstones_ms
        if not self._packets.due(packets_before_ms, tombstones_before_ms):
            return False
        result = await self._proposer.propose(PacketsExpire(packets_before_ms, tombstones_before_ms))
        invariant(isinstance(result, ExpireResult), "expiring was answered as if it were another command")
        return isinstance(result, ExpireResult) and result.more
