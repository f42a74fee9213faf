"""What harms the cluster: one fault after the other from each of two sides, processes and network.

Each fault picks its victims, does its harm, holds it for a while and takes it back; `Injected` says what
was done. Half the time the leader is among the victims, for that is where it hurts.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from itertools import permutations
from typing import Final

from fault_runner.shim import FailingSyncs
from fault_runner.switch import Conditions
from fault_runner.testbed import NEEDS_NETWORK, FaultyNode, Testbed

BETWEEN_S: Final = (0.2, 1.2)
HALT_S: Final = 6.0
CLOCK_S: Final = (0.05, 0.5, 5.0, 60.0, 290.0)
"""How far clocks step, either way. Packets signed more than 300 s ahead of a node's clock are refused."""

CUT: Final = Conditions(cut=True)


@dataclass(frozen=True)
class Injected:
    fault: str
    what: str
    began_s: float
    """Since the run began."""
    held_s: float


@dataclass(frozen=True)
class NoSync:
    """A node could make nothing durable between these moments (of the loop's clock)."""

    node_id: int
    began_s: float
    ended_s: float
    halted: bool


class Nemesis:
    """Injects faults until it is cancelled. Use on one event loop."""

    def __init__(self, bed: Testbed, rng: random.Random, faults: Sequence[str]) -> None:
        self._bed = bed
        self._nodes = list(bed)
        self._rng = rng
        self._began = time.monotonic()
        self.injected: list[Injected] = []
        self.without_sync: list[NoSync] = []
        self.ended_alone: list[str] = []
        acts: dict[str, Callable[[], Awaitable[str]]] = {
            "kill": self.kill,
            "stop": self.stop,
            "transfer": self.transfer,
            "disk": self.disk,
            "fsync": self.fsync,
            "clock": self.clock,
            "partition": self.partition,
            "delay": self.delay,
            "loss": self.loss,
        }
        self._of_processes = [(name, acts[name]) for name in faults if name not in NEEDS_NETWORK]
        self._of_network = [(name, acts[name]) for name in faults if name in NEEDS_NETWORK]

    async def run(self) -> None:
        """Until cancelled. What is being injected then is for `Testbed.heal` to take back."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            for side in (self._of_processes, self._of_network):
                if side:
                    tasks.create_task(self._inject(side))

    async def _watch(self) -> None:
        """Notice nodes that end by themselves; start them again, lest the run be about nothing else."""
        while True:
            await asyncio.sleep(0.1)
            for node in self._nodes:
                if not node.alive and not node.may_end:
                    code = node.process and node.process.returncode
                    self.ended_alone.append(f"{node} ended by itself with {code}: {node.log()[-600:]}")
                    node.start()

    async def _inject(self, faults: Sequence[tuple[str, Callable[[], Awaitable[str]]]]) -> None:
        waiting: list[tuple[str, Callable[[], Awaitable[str]]]] = []
        while True:
            await asyncio.sleep(self._rng.uniform(*BETWEEN_S))
            if not waiting:  # each of them once, in any order, then again
                waiting = self._rng.sample(faults, len(faults))
            name, act = waiting.pop()
            began = time.monotonic()
            what = await act()
            held = time.monotonic() - began
            self.injected.append(Injected(name, what, began - self._began, held))

    # --- victims ------------------------------------------------------------------------------

    async def _leader(self) -> FaultyNode | None:
        return await asyncio.to_thread(self._bed.leading)

    async def _victim(self) -> FaultyNode:
        leader = await self._leader() if self._rng.random() < 0.5 else None
        return leader or self._rng.choice(self._nodes)

    async def _victims(self) -> list[FaultyNode]:
        """Mostly one; now and then several, or all."""
        count = self._rng.choice([1, 1, 1, 1, 2, len(self._nodes)])
        if count == 1:
            return [await self._victim()]
        return self._rng.sample(self._nodes, count)

    async def _hold(self, shortest_s: float, longest_s: float) -> None:
        await asyncio.sleep(self._rng.uniform(shortest_s, longest_s))

    # --- processes ----------------------------------------------------------------------------

    async def kill(self) -> str:
        victims = [node for node in await self._victims() if node.alive]
        for node in victims:
            node.shoot()  # all of them, before anyone is waited for
        for node in victims:
            await asyncio.to_thread(node.kill)
        await self._hold(0.1, 1.5)
        for node in victims:
            node.start()
        return _names(victims)

    async def stop(self) -> str:
        victims = [node for node in await self._victims() if node.alive]
        for node in victims:
            node.pause()
        await self._hold(0.05, 2.0)
        for node in victims:
            node.resume()
        return _names(victims)

    async def transfer(self) -> str:
        """Not a fault, but the same upset on request: another is to lead."""
        asked, wanted = await self._victim(), self._rng.choice(self._nodes)
        body = json.dumps({"node_id": wanted.node_id, "timeout_ms": 1_000}).encode()
        try:
            answer = await asyncio.to_thread(
                asked.request, "POST", "/v1/cluster/transfer-leader", body, timeout_s=2.0
            )
        except (OSError, HTTPException):
            return f"to {wanted}: {asked} does not answer"
        return f"to {wanted}: {asked} says {'done' if answer.status == 200 else answer.json['error']}"

    async def disk(self) -> str:
        node = await self._victim()
        assert node.disk is not None
        await asyncio.to_thread(node.disk.fill)
        await self._hold(1.0, 3.0)
        await asyncio.to_thread(node.disk.make_room)
        return str(node)

    async def fsync(self) -> str:
        """Until the node has halted, as it must at its first write; then its disk is whole again."""
        node = await self._victim()
        if not node.alive:
            return f"{node} (was down)"
        failing = self._rng.choice([FailingSyncs.ALL, FailingSyncs.ROOT])
        loop = asyncio.get_running_loop()
        began = loop.time()
        node.fail_syncs(failing)
        await asyncio.to_thread(node.ended_within, HALT_S)
        self.without_sync.append(NoSync(node.node_id, began, loop.time(), not node.alive))
        if node.alive:  # no write came its way
            node.fail_syncs(FailingSyncs.NONE)
            return f"{node} (nothing to sync)"
        await self._hold(0.0, 1.0)
        node.fail_syncs(FailingSyncs.NONE)
        node.start()
        return f"{node} ({failing.name.lower()})"

    async def clock(self) -> str:
        """A step that stays until the next one."""
        node = await self._victim()
        assert node.page is not None
        offset_s = self._rng.choice(CLOCK_S) * self._rng.choice([-1, 1])
        node.page.step_clock(offset_s)
        return f"{node} to {offset_s:+g} s"

    # --- network ------------------------------------------------------------------------------

    async def _conditions(self, conditions: dict[tuple[int, int], Conditions]) -> None:
        assert self._bed.switch is not None
        self._bed.switch.set(conditions)
        await self._hold(0.3, 3.0)
        self._bed.switch.heal()

    def _links(self) -> list[tuple[int, int]]:
        return list(permutations([node.node_id for node in self._nodes], 2))

    async def partition(self) -> str:
        name, cut = self._rng.choice(PARTITIONS)
        first = (await self._victim()).node_id
        rest = [node.node_id for node in self._nodes if node.node_id != first]
        self._rng.shuffle(rest)
        ids = [first, *rest]
        await self._conditions({link: CUT for link in self._links() if cut(ids, *link)})
        return f"{name}, {ids}"

    async def delay(self) -> str:
        delay_ms = self._rng.choice([2, 20, 60, 150])
        jitter_ms = self._rng.choice([0, delay_ms, 4 * delay_ms])
        where, links = await self._somewhere()
        await self._conditions(dict.fromkeys(links, Conditions(delay_ms=delay_ms, jitter_ms=jitter_ms)))
        return f"{where}: {delay_ms} ms and up to {jitter_ms} ms more"

    async def loss(self) -> str:
        loss = self._rng.choice([0.02, 0.1, 0.3, 0.6])
        duplicate = self._rng.choice([0.0, 0.2])
        where, links = await self._somewhere()
        await self._conditions(dict.fromkeys(links, Conditions(loss=loss, duplicate=duplicate)))
        return f"{where}: {loss:.0%} lost, {duplicate:.0%} twice"

    async def _somewhere(self) -> tuple[str, list[tuple[int, int]]]:
        if self._rng.random() < 0.5:
            return "everywhere", self._links()
        victim = await self._victim()
        return f"around {victim}", [link for link in self._links() if victim.node_id in link]


Cuts = Callable[[list[int], int, int], bool]
"""Whether a link from one node to another is cut, given all ids with the victim first."""

PARTITIONS: Final[tuple[tuple[str, Cuts], ...]] = (
    ("one alone", lambda ids, source, target: ids[0] in (source, target)),
    ("one deaf", lambda ids, source, target: target == ids[0]),
    ("one mute", lambda ids, source, target: source == ids[0]),
    ("one link", lambda ids, source, target: {source, target} == set(ids[:2])),
    ("one link one way", lambda ids, source, target: (source, target) == (ids[0], ids[1])),
    (
        "halves",
        lambda ids, source, target: (
            (ids.index(source) < len(ids) / 2) is not (ids.index(target) < len(ids) / 2)
        ),
    ),
    (
        "a ring",  # each hears its neighbours only; of three, each hears the next only
        lambda ids, source, target: (
            (ids.index(target) - ids.index(source)) % len(ids)
            not in ((1, len(ids) - 1) if len(ids) > 3 else (1,))
        ),
    ),
    ("all alone", lambda ids, source, target: True),
)


def _names(nodes: Sequence[FaultyNode]) -> str:
    return ", ".join(map(str, nodes)) or "nobody was there"
