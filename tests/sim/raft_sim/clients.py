"""Clients: each asks one thing after another of some node, and remembers what it was told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raft_sim.history import Kind, Operation, Outcome, ReadMode
from raft_sim.kernel import TICK
from raft_sim.machine import COMPARE_AND_SWAP, WRITE, encode_command

if TYPE_CHECKING:
    from raft_sim.node import Node
    from raft_sim.world import World

_SWEEP: Final = 3 * TICK
OPERATIONS: Final = 2_000
"""How many operations a history has at most."""


class Clients:
    """All clients of a world. Request ids are unique, and so are the values written: they are the ids."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._profile = world.profile
        self._random = world.kernel.stream("clients")
        self._active = True
        self._requests = 0
        self._seen: dict[int, int] = {}
        """What each key was last seen to hold, by any client: worth expecting in a swap."""

        self._waiting: dict[int, tuple[int, Operation]] = {}
        """By client: until when it waits for what."""

    def start(self) -> None:
        self._world.kernel.schedule(_SWEEP, self._on_sweep)
        for client in range(1, self._profile.clients + 1):
            self._think(client)

    def stop(self) -> None:
        self._active = False

    def _think(self, client: int) -> None:
        delay = int(self._profile.think * self._random.random() * 2)
        self._world.kernel.schedule(delay, self._ask, client)

    def _on_sweep(self, _: object, __: object) -> None:
        """Clients that have waited too long go away: what they asked for may still happen."""
        if not self._active:
            return
        self._world.kernel.schedule(_SWEEP, self._on_sweep)
        now = self._world.kernel.now
        for deadline, operation in list(self._waiting.values()):
            if deadline <= now:
                self._world.answered(operation, Outcome.UNKNOWN, 0)

    def ended(self, operation: Operation) -> None:
        """A client has its answer; it goes on to its next operation."""
        self._waiting.pop(operation.client, None)
        if operation.outcome is Outcome.OK:
            swapped = operation.kind is Kind.CAS and operation.swapped
            changed = operation.kind is Kind.WRITE or swapped
            self._seen[operation.key] = operation.value if changed else operation.found
        if operation.client and self._active:
            self._think(operation.client)

    def _ask(self, client: int, _: object = None) -> None:
        if not self._active or len(self._world.history.operations) >= OPERATIONS:
            return
        profile, chance = self._profile, self._random.random
        key = self._random.randrange(profile.keys)
        if chance() < profile.writes:
            kind = Kind.CAS if chance() < profile.swaps else Kind.WRITE
            node = self._pick_node()
            done = node is not None and self.write(client, key, node, kind)
        else:
            mode = ReadMode.LEADER if chance() < profile.leader_reads else ReadMode.READ_INDEX
            asks_leader = mode is ReadMode.LEADER or chance() < 0.4
            node = self._pick_leader() if asks_leader else self._pick_node()
            done = node is not None and self.read(client, key, node, mode)
        if not done:
            self._think(client)

    def _pick_node(self) -> Node | None:
        up = [node for node in self._world.nodes.values() if node.up]
        return self._random.choice(up) if up else None

    def _pick_leader(self) -> Node | None:
        """Anyone who thinks that it leads."""
        leaders = [node for node in self._world.nodes.values() if node.up and node.leads]
        return self._random.choice(leaders) if leaders else None

    def write(self, client: int, key: int, node: Node, kind: Kind = Kind.WRITE) -> Operation:
        self._requests = request_id = self._requests + 1
        expected = self._seen.get(key, 0)
        operation = Operation(client, kind, key, request_id=request_id, value=request_id, expected=expected)
        code = WRITE if kind is Kind.WRITE else COMPARE_AND_SWAP
        padding = self._random.randrange(self._profile.padding + 1)
        data = encode_command(request_id, code, key, request_id, expected, padding)
        self._call(operation, node)
        node.process.propose(operation, data)
        return operation

    def read(self, client: int, key: int, node: Node, mode: ReadMode = ReadMode.READ_INDEX) -> Operation:
        operation = Operation(client, Kind.READ, key, mode=mode)
        self._call(operation, node)
        node.process.read(operation)
        return operation

    def _call(self, operation: Operation, node: Node) -> None:
        self._world.history.call(operation)
        if operation.client:
            self._waiting[operation.client] = (self._world.kernel.now + self._profile.patience, operation)
        if self._world.tracing:
            self._world.trace("{} is asked {}", node.node_id, operation)
