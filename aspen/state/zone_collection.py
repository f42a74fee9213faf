"""The duty of removing what imports and deletions of zones left behind, in batches."""

from __future__ import annotations

from typing import ClassVar, Final

from aspen.limits import ZONE_COLLECT_MS, ZONE_STAGE_MS
from aspen.state.ports import Proposer
from aspen.state.zone_commands import ZoneCollect, ZoneResult
from aspen.state.zones import LmdbZones


class ZoneCollection:
    """`aspen.services.housekeeping.Duty`: contents out of use, and imports without a chunk for too long."""

    name: Final = "zone collection"
    interval_ms: ClassVar[int] = ZONE_COLLECT_MS

    def __init__(self, proposer: Proposer, zones: LmdbZones) -> None:
        self._proposer = proposer
        self._zones = zones

    async def run(self, now_ms: int, led_for_ms: int) -> bool:
        if not self._zones.has_garbage(now_ms - ZONE_STAGE_MS):
            return False
        result = await self._proposer.propose(ZoneCollect())
        return isinstance(result, ZoneResult) and result.more
