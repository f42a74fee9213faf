"""Which nodes clients ask: all that are to serve, less those that didn't answer a moment ago."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from cluster import NodeProcess

AVOIDED_S: Final = 1.0


class Places:
    """One for all clients, on one event loop."""

    def __init__(self, nodes: list[NodeProcess], rng: random.Random) -> None:
        self.nodes = nodes
        """Killed ones included: a client can't know."""
        self._rng = rng
        self._avoided: dict[NodeProcess, float] = {}

    def pick(self) -> NodeProcess:
        now = asyncio.get_running_loop().time()
        willing = [node for node in self.nodes if self._avoided.get(node, 0.0) <= now]
        return self._rng.choice(willing or self.nodes)

    def avoid(self, node: NodeProcess) -> None:
        self._avoided[node] = asyncio.get_running_loop().time() + AVOIDED_S

    def leave(self, node: NodeProcess) -> None:
        self.nodes.remove(node)
        self._avoided.pop(node, None)


class Pace:
    """Turns at a steady rate; who is late by more than a second lets the turns that were missed go."""

    def __init__(self, per_s: float) -> None:
        self._interval_s = 1 / per_s
        self._next: float | None = None

    async def turn(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._next is None or self._next < now - 1.0:
            self._next = now
        await asyncio.sleep(max(0.0, self._next - now))
        self._next += self._interval_s
