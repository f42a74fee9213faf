"""Clients that write, read and publish all the while, and remember all they were told.

Keys are written and read by all clients, each value once; after some operations a key is left for a new
one, so that each history stays short enough to be judged. Publishers PUT signed packets under keys of
their own. A write counts as refused only if the node says that it was not proposed, or nothing was sent.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2] / "sim"))
sys.path.insert(0, str(Path(__file__).parents[2] / "e2e"))

from clients import Published, sign
from fault_runner.requests import Answer, Connection, NoAnswer, NotSent
from fault_runner.testbed import TOKEN, FaultyNode, Testbed
from raft_sim.history import History, Kind, Operation, Outcome, ReadMode

OPERATION_S: Final = 2.5
KEYS_AT_A_TIME: Final = 3
OPERATIONS_PER_KEY: Final = 200
OCTETS: Final = "application/octet-stream"
NOTHING_DONE: Final = frozenset({"no_leader", "not_leader", "overloaded", "no_room"})
PAUSE_S: Final = 0.02  # after a refusal

OTHER_KEYS: Final = 50
KEY_PREFIX: Final = "faults-"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass
class Told:
    """An answer of 200 that bears a revision: of the write, or of the state that was read."""

    operation: Operation
    node_id: int
    called_s: float
    ended_s: float
    revision: int
    changed: int


@dataclass
class PublishedKey:
    """What became of the packets under one key."""

    acknowledged: Published | None = None
    open: list[Published] = field(default_factory=list)
    """Tried since then, outcome unknown."""


class Workload:
    """The clients and what they know. Use on one event loop."""

    def __init__(
        self, bed: Testbed, rng: random.Random, clients: int, publishers: int, reads: str = "consistent"
    ) -> None:
        """`reads` is the consistency that reads ask for, but for a few that ask the leader."""
        self._bed = bed
        self._nodes = list(bed)
        self._rng = rng
        self._counts = (clients, publishers)
        self._reads = reads
        self.history = History()
        self.told: list[Told] = []
        self.packets: dict[str, PublishedKey] = defaultdict(PublishedKey)
        self.outcomes: Counter[str] = Counter()
        self.leader_id = 0
        self.uses: dict[int, int] = {}
        """Key → number of operations on it; keys in use and those left."""
        self._keys: list[int] = []
        self._next_key = 1
        self._next_value = 1
        self._tasks: list[asyncio.Task[None]] = []
        for _ in range(KEYS_AT_A_TIME):
            self._fresh_key()

    def start(self) -> None:
        clients, publishers = self._counts
        self._tasks = [asyncio.create_task(self._client(i)) for i in range(clients)]
        self._tasks += [asyncio.create_task(self._publisher()) for _ in range(publishers)]

    async def stop(self) -> None:
        """Let every client finish what it has begun."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    def _connections(self) -> dict[int, Connection]:
        return {node.node_id: Connection(node.host, node.http_port, TOKEN) for node in self._nodes}

    # --- keys and values ----------------------------------------------------------------------

    def _fresh_key(self) -> int:
        key, self._next_key = self._next_key, self._next_key + 1
        self._keys.append(key)
        self.uses[key] = 0
        return key

    def _some_key(self) -> int:
        key = self._rng.choice(self._keys)
        self.uses[key] += 1
        if self.uses[key] >= OPERATIONS_PER_KEY:
            self._keys.remove(key)
            self._fresh_key()
        return key

    async def _client(self, client: int) -> None:
        connections = self._connections()
        rng = self._rng
        try:
            while True:
                node = rng.choice(self._nodes)
                draw = rng.random()
                if draw < 0.45:
                    self._next_value += 1
                    operation = Operation(client, Kind.WRITE, self._some_key(), value=self._next_value)
                elif draw < 0.5:
                    await self._change_others(client, node, connections[node.node_id])
                    continue
                elif draw < 0.9 or not self.leader_id:
                    operation = Operation(client, Kind.READ, self._some_key())
                else:
                    operation = Operation(client, Kind.READ, self._some_key(), mode=ReadMode.LEADER)
                    node = next(node for node in self._nodes if node.node_id == self.leader_id)
                if not await self._operate(operation, node, connections[node.node_id]):
                    await asyncio.sleep(PAUSE_S)
        finally:
            for connection in connections.values():
                connection.close()

    async def _operate(self, operation: Operation, node: FaultyNode, connection: Connection) -> bool:
        """Do it, note what became of it; whether it succeeded."""
        path = f"/v1/kv/{KEY_PREFIX}{operation.key}"
        called_s = asyncio.get_running_loop().time()
        self.history.call(operation)
        try:
            if operation.kind is Kind.READ:
                mode = "leader" if operation.mode is ReadMode.LEADER else self._reads
                call = connection.request(
                    "GET", f"{path}?consistency={mode}", timeout_s=OPERATION_S, accept=OCTETS
                )
            else:
                call = connection.request("PUT", path, str(operation.value).encode(), timeout_s=OPERATION_S)
            answer = await call
        except NotSent:
            outcome, found = Outcome.REFUSED, 0
        except (NoAnswer, asyncio.CancelledError) as error:
            self._ended(operation, Outcome.UNKNOWN, 0)
            if isinstance(error, asyncio.CancelledError):
                raise
            return False
        else:
            outcome, found = self._outcome(operation, answer)
            if outcome is Outcome.OK:
                self._note(operation, node, called_s, answer)
        self._ended(operation, outcome, found)
        return outcome is Outcome.OK

    def _note(self, operation: Operation, node: FaultyNode, called_s: float, answer: Answer) -> None:
        changed = 1 if operation.kind is Kind.READ else json.loads(answer.body)["changed"]
        revision = int(answer.headers["aspen-revision"])
        ended_s = asyncio.get_running_loop().time()
        self.told.append(Told(operation, node.node_id, called_s, ended_s, revision, changed))

    async def _change_others(self, client: int, node: FaultyNode, connection: Connection) -> None:
        """Set or delete several keys at once, which no history is kept of but their revisions."""
        rng = self._rng
        keys = rng.sample(range(OTHER_KEYS), 3)
        operation = Operation(client, Kind.WRITE, -1, value=keys[0])
        called_s = asyncio.get_running_loop().time()
        try:
            if rng.random() < 0.5:
                value = rng.randbytes(rng.choice([0, 10, 3_000]))
                pairs = [{"key": _base64(b"other-%d" % key), "value": _base64(value)} for key in keys]
                body = json.dumps({"pairs": pairs}).encode()
                answer = await connection.request("POST", "/v1/kv", body, timeout_s=OPERATION_S)
            else:
                answer = await connection.request("DELETE", f"/v1/kv/other-{keys[0]}", timeout_s=OPERATION_S)
        except (NotSent, NoAnswer):
            self.outcomes["other unanswered"] += 1
            await asyncio.sleep(PAUSE_S)
            return
        if answer.status == 200:
            self._note(operation, node, called_s, answer)
        self.outcomes["other ok" if answer.status == 200 else "other refused"] += 1

    def _ended(self, operation: Operation, outcome: Outcome, found: int) -> None:
        self.history.end(operation, outcome, found)
        kind = "read" if operation.kind is Kind.READ else "write"
        self.outcomes[f"{kind} {outcome.value}"] += 1

    def _outcome(self, operation: Operation, answer: Answer) -> tuple[Outcome, int]:
        self.leader_id = int(answer.headers.get("aspen-known-leader", self.leader_id))
        if operation.kind is Kind.READ:
            if answer.status == 200:
                return Outcome.OK, int(answer.body)
            if answer.status == 404:
                return Outcome.OK, 0
            return Outcome.UNKNOWN, 0
        if answer.status == 200:
            return Outcome.OK, 0
        code = json.loads(answer.body)["error"]
        return (Outcome.REFUSED if code in NOTHING_DONE else Outcome.UNKNOWN), 0

    async def read_all(self) -> None:
        """One last read of every key ever used, through each node in turn."""
        connections = self._connections()
        for i, key in enumerate(self.uses):
            node = self._nodes[i % len(self._nodes)]
            operation = Operation(len(self._tasks), Kind.READ, key)
            await self._operate(operation, node, connections[node.node_id])
        for connection in connections.values():
            connection.close()

    # --- packets ------------------------------------------------------------------------------

    async def _publisher(self) -> None:
        connections = self._connections()
        rng = self._rng
        mine: list[Published] = []
        number = 0
        try:
            while True:
                number += 1
                again = rng.choice(mine).identity if mine and rng.random() < 0.3 else None
                packet = sign(f"number={number}", identity=again)
                if again is None:
                    mine.append(packet)
                node = rng.choice(self._nodes)
                await self._publish(packet, connections[node.node_id])
                await asyncio.sleep(PAUSE_S)
        finally:
            for connection in connections.values():
                connection.close()

    async def _publish(self, packet: Published, connection: Connection) -> None:
        key = self.packets[packet.z32]
        key.open.append(packet)  # until we hear better
        try:
            answer = await connection.request("PUT", packet.path, packet.payload, timeout_s=OPERATION_S)
        except (NotSent, NoAnswer):
            self.outcomes["packet unanswered"] += 1
            return
        if answer.status == 204:
            key.acknowledged, key.open = packet, []
            self.outcomes["packet ok"] += 1
        else:
            self.outcomes["packet refused"] += 1
