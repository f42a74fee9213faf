"""One who watches all packets from node to node, and must be told of every change once and in order."""

from __future__ import annotations

import asyncio
import json
from typing import Final

from fault_runner.testbed import TOKEN
from fault_runner.workload import PublishedKey
from soak_runner.measures import Measures
from soak_runner.places import Places

from aspen.client import NodeClient
from aspen.errors import ClientError

KIND: Final = "watch of packets"
PAUSE_S: Final = 0.2
CAUGHT_UP_S: Final = 30.0


class PacketWatch:
    """Use on one event loop."""

    def __init__(self, places: Places, measures: Measures) -> None:
        self._places = places
        self._measures = measures
        self._index = 0
        """Of the newest event, or of what the newest `progress` says has been told."""
        self._newest_us: dict[str, int] = {}
        self.events = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            node = self._places.pick()
            query = {"from": str(self._index + 1)} if self._index else {}
            try:
                async with NodeClient(node.addr, token=TOKEN) as client:
                    await self._follow(client, query)
            except ClientError as error:
                self._measures.failed(KIND, error.code)
                if error.code == "compacted":
                    self._measures.problem(f"{node} has forgotten what a watch of {self._index} has to tell")
                self._places.avoid(node)
            await asyncio.sleep(PAUSE_S)

    async def _follow(self, client: NodeClient, query: dict[str, str]) -> None:
        name = ""
        async for line in client.stream("/v1/packets/watch/all", query):
            if line.startswith(b"event: "):
                name = line[7:].decode()
            elif line.startswith(b"data: "):
                told = json.loads(line[6:])
                if name == "end":
                    self._measures.failed(KIND, told["error"])
                    return
                self._take(name, told)

    def _take(self, name: str, told: dict[str, object]) -> None:
        index = told["index"]
        assert isinstance(index, int)
        if name == "progress":
            self._index = max(self._index, index)
            return
        if index <= self._index:
            self._measures.problem(f"the watch of packets tells {index} after {self._index}")
        self._index = index
        self.events += 1
        for z32 in told["keys"]:  # type: ignore[attr-defined]
            stamp = told["timestamp_us"]
            assert isinstance(stamp, int)
            if stamp <= self._newest_us.get(z32, 0):
                self._measures.problem(f"the watch of packets tells an older packet of {z32} after a newer")
            self._newest_us[z32] = stamp

    async def missed(self, packets: dict[str, PublishedKey], index: int) -> str | None:
        """Once all nodes have applied `index`: which acknowledged packet it was not told of, if any."""
        try:
            async with asyncio.timeout(CAUGHT_UP_S):
                while self._index < index:  # noqa: ASYNC110  as it comes
                    await asyncio.sleep(0.05)
        except TimeoutError:
            return f"it has come to {self._index}, not to {index}"
        for z32, key in packets.items():
            if key.acknowledged is None:
                continue
            stamp = int.from_bytes(key.acknowledged.payload[64:72], "big")
            if self._newest_us.get(z32, 0) < stamp:
                return f"it was not told of the packet of {z32} of {stamp}"
        return None
