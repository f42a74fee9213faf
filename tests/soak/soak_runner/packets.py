"""Keys whose packets are published again and again, each time with the next number in it.

The number makes every answer judgeable: a node that said 204 to number 7 may answer DNS with 7 or more, never
less, and nobody may answer with one that was never published. Each key belongs to one publisher, which knows
what was acknowledged last and what it tried since.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

from clients import Published, now_us, sign
from cluster import NodeProcess
from fault_runner.requests import Connection, NoAnswer, NotSent
from fault_runner.testbed import TOKEN
from fault_runner.workload import NOTHING_DONE, PublishedKey
from soak_runner.measures import Measures
from soak_runner.places import Pace, Places

from aspen.identity import Identity
from aspen.pkarr.packet import SignedPacket

PUT_S: Final = 6.0
"""More than a node takes to say that it doesn't know (RAFT_PROPOSE_MS)."""
REFUSALS: Final = NOTHING_DONE | {"outcome_unknown"}
NUMBER: Final = re.compile(rb"number=(\d{9})")


class Key:
    """One key and its packets."""

    def __init__(self) -> None:
        first = sign("number=000000000")
        self.identity: Identity = first.identity
        self.z32 = first.z32
        self.name = first.name()
        self._message = SignedPacket.parse(first.identity.endpoint_id, first.payload).message
        self._at = self._message.index(b"000000000")
        self.tried = 0
        self.known = PublishedKey()
        self.floors: dict[NodeProcess, int] = {}
        """Node → the highest number that it acknowledged."""

    def next(self) -> tuple[int, Published]:
        self.tried += 1
        text = b"%09d" % self.tried
        message = self._message[: self._at] + text + self._message[self._at + len(text) :]
        packet = SignedPacket.sign(self.identity, message, now_us())
        return self.tried, Published(self.identity, packet.payload, (f'"number={text.decode()}"',))


class Publishers:
    """Some clients that publish, each keys of its own."""

    def __init__(self, places: Places, measures: Measures, keys: int, clients: int, per_s: float) -> None:
        self._places = places
        self._measures = measures
        self.keys = [Key() for _ in range(keys)]
        self._clients = clients
        self._per_s = per_s / clients

    async def run(self, until: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            for client in range(self._clients):
                group.create_task(self._publish(self.keys[client :: self._clients], until))

    async def _publish(self, keys: list[Key], until: asyncio.Event) -> None:
        connections: dict[NodeProcess, Connection] = {}
        pace = Pace(self._per_s)
        try:
            while not until.is_set():
                for key in keys:
                    await pace.turn()
                    if until.is_set():
                        break
                    node = self._places.pick()
                    if node not in connections:
                        connections[node] = Connection(node.host, node.http_port, TOKEN)
                    await self._put(key, node, connections[node])
        finally:
            for connection in connections.values():
                connection.close()

    async def _put(self, key: Key, node: NodeProcess, connection: Connection) -> None:
        number, packet = key.next()
        key.known.open.append(packet)  # until we hear better
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            answer = await connection.request("PUT", packet.path, packet.payload, timeout_s=PUT_S)
        except (NotSent, NoAnswer) as error:
            sent = isinstance(error, NoAnswer)
            self._measures.failed("PUT", "no answer" if sent else "no connection")
            self._places.avoid(node)
            return
        if answer.status == 204:
            self._measures.done("PUT", loop.time() - began)
            key.known.acknowledged, key.known.open = packet, []
            key.floors[node] = number
            return
        code = re.search(rb'"error":\s*"(\w+)"', answer.body)
        name = code[1].decode() if code else str(answer.status)
        self._measures.failed("PUT", name)
        if name in NOTHING_DONE:
            key.known.open.remove(packet)
        if answer.status != 503 or name not in REFUSALS:
            self._measures.problem(f"{node} answers a PUT with {answer.status} {answer.body[:200]!r}")

    def published(self) -> dict[str, PublishedKey]:
        return {key.z32: key.known for key in self.keys if key.tried}
